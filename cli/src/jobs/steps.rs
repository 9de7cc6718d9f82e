//! `dure job JOB --steps`: what runs, or has run, beside the members of a job.

use dure_proto::v1::{self, Step, StepPhase, StepProgram, StepsRequest, StepsResponse, jobs_client::JobsClient};

use crate::{
    context::{Authed, Context},
    failure::Failure,
    show::Out,
    span, when,
};

/// Shows the steps of one job.
pub(super) async fn show(
    client: &mut JobsClient<Authed>,
    job_id: u64,
    context: &Context,
    out: Out,
) -> Result<(), Failure> {
    let answer = client.steps(StepsRequest { job_id }).await.map_err(|status| context.refused(status))?.into_inner();
    out.answer("StepsResponse", &answer, || table(&answer, when::now_ms(), out))
}

fn table(answer: &StepsResponse, now_ms: u64, out: Out) -> String {
    if answer.steps.is_empty() {
        return "no steps: nothing was started beside its members since this scheduler leads".to_owned();
    }
    let mut rows =
        out.table(&["step>", "attempt>", "name", "user", "members", "phase", "code>", "started", "ran>", "end"]);
    for step in &answer.steps {
        let ran = if step.ended_ms > 0 { step.ended_ms } else { now_ms }.saturating_sub(step.started_ms);
        rows.row([
            step.number.map_or("exec".to_owned(), |number| number.to_string()),
            step.attempt.to_string(),
            step.name.clone(),
            step.user.clone(),
            members(&step.programs),
            phase(step.phase()).to_owned(),
            step.exit_code.map_or("-".to_owned(), |code| code.to_string()),
            when::shown(step.started_ms),
            span::human(ran),
            ends(step),
        ]);
    }
    let mut text = rows.text();
    if answer.left_out > 0 {
        text.push_str(&format!("{} that ended before are not remembered\n", answer.left_out));
    }
    text
}

/// Ranks, runs of them as `0-3`.
fn members(programs: &[StepProgram]) -> String {
    let mut ranks: Vec<u32> = programs.iter().map(|program| program.member).collect();
    ranks.sort_unstable();
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for rank in ranks {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == rank => *last = rank,
            _ => runs.push((rank, rank)),
        }
    }
    let shown = |(first, last): (u32, u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    runs.into_iter().map(shown).collect::<Vec<_>>().join(",")
}

/// What is known of the programs that did not end with 0.
fn ends(step: &Step) -> String {
    let bad = |program: &&StepProgram| matches!(program.phase(), StepPhase::Failed | StepPhase::CutOff);
    let end = |program: &StepProgram| {
        let code = program.exit_code.map_or_else(|| phase(program.phase()).to_owned(), |code| format!("code {code}"));
        let why = if program.error.is_empty() { String::new() } else { format!(", {}", program.error) };
        format!("member {} on {}: {code}{why}", program.member, program.node)
    };
    step.programs.iter().filter(bad).map(end).collect::<Vec<_>>().join("; ")
}

fn phase(phase: StepPhase) -> &'static str {
    match phase {
        v1::StepPhase::Unspecified => "-",
        v1::StepPhase::Running => "running",
        v1::StepPhase::Completed => "completed",
        v1::StepPhase::Failed => "failed",
        v1::StepPhase::CutOff => "cut off",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_one_line_with_the_ends_that_were_not_good() {
        let program = |member: u32, code: i32| {
            let phase = if code == 0 { StepPhase::Completed } else { StepPhase::Failed };
            let node = format!("n{member}");
            StepProgram { member, node, phase: phase.into(), exit_code: Some(code), error: String::new() }
        };
        let step = Step {
            number: Some(3),
            attempt: 1,
            name: "python".to_owned(),
            user: "kim".to_owned(),
            phase: StepPhase::Failed.into(),
            started_ms: 1_000,
            ended_ms: 61_000,
            exit_code: Some(5),
            programs: vec![program(2, 0), program(0, 0), program(1, 5), program(5, 0)],
        };
        let text = table(&StepsResponse { steps: vec![step], left_out: 2 }, 0, Out::plain());
        assert!(text.contains("3        1  python  kim   0-2,5    failed     5"), "{text}");
        assert!(text.contains("1m") && text.contains("member 1 on n1: code 5"), "{text}");
        assert!(text.ends_with("2 that ended before are not remembered\n"), "{text}");
    }
}
