//! Words for what the API says in numbers.

use dure_proto::v1::{Job, JobPhase, MigSlice, NodeState};

/// The phase of a job as users read and write it.
pub(crate) fn name(phase: JobPhase) -> &'static str {
    match phase {
        JobPhase::Unspecified => "unknown",
        JobPhase::Held => "held",
        JobPhase::Pending => "pending",
        JobPhase::Launching => "launching",
        JobPhase::Running => "running",
        JobPhase::Stopping => "stopping",
        JobPhase::AwaitingProof => "awaiting proof",
        JobPhase::Completed => "completed",
        JobPhase::Failed => "failed",
        JobPhase::Cancelled => "cancelled",
        JobPhase::TimedOut => "timed out",
        JobPhase::Array => "array",
    }
}

/// All phases but the unspecified one.
pub(crate) const ALL: [JobPhase; 11] = [
    JobPhase::Held,
    JobPhase::Pending,
    JobPhase::Launching,
    JobPhase::Running,
    JobPhase::Stopping,
    JobPhase::AwaitingProof,
    JobPhase::Completed,
    JobPhase::Failed,
    JobPhase::Cancelled,
    JobPhase::TimedOut,
    JobPhase::Array,
];

/// Reads a phase; `timed-out` and `timed_out` will do.
pub(crate) fn parse(text: &str) -> Result<JobPhase, String> {
    let wanted = text.to_lowercase().replace(['-', '_'], " ");
    ALL.into_iter().find(|phase| name(*phase) == wanted).ok_or_else(|| {
        let all: Vec<String> = ALL.iter().map(|phase| name(*phase).replace(' ', "-")).collect();
        format!("{text:?} is no phase: one of {}", all.join(", "))
    })
}

/// True when nothing more happens to a job.
pub(crate) fn ended(phase: JobPhase) -> bool {
    match phase {
        JobPhase::Completed | JobPhase::Failed | JobPhase::Cancelled | JobPhase::TimedOut => true,
        JobPhase::Unspecified
        | JobPhase::Held
        | JobPhase::Pending
        | JobPhase::Launching
        | JobPhase::Running
        | JobPhase::Stopping
        | JobPhase::AwaitingProof
        | JobPhase::Array => false,
    }
}

/// How a job ended, where there is more to say: " (exit code 3)".
pub(crate) fn how(job: &Job) -> String {
    match (job.exit_code, job.signal) {
        (_, Some(signal)) => format!(" (signal {signal})"),
        (Some(code), None) if code != 0 => format!(" (exit code {code})"),
        _ => String::new(),
    }
}

/// The state of a node.
pub(crate) fn node_state(state: NodeState) -> &'static str {
    match state {
        NodeState::Unspecified => "unknown",
        NodeState::Ready => "ready",
        NodeState::Suspect => "suspect",
        NodeState::Lost => "lost",
    }
}

/// GPUs of a member: `0,1`, `0 (0.250)`, `0 (1g.10gb at 4)`.
pub(crate) fn gpus(gpus: &[u32], milli: u32, mig: Option<&MigSlice>) -> String {
    let list = gpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    match mig {
        Some(mig) => format!("{list} ({} at {})", mig.profile, mig.first_slice),
        None if milli > 0 => format!("{list} (0.{milli:03})"),
        None => list,
    }
}

/// The gang in one word: `4x8`, `8+8+4`.
pub(crate) fn shape(job: &Job) -> String {
    match &job.shape {
        None => job.gpus.to_string(),
        Some(shape) if !shape.mig_profile.is_empty() => format!("{}x{}", shape.members, shape.mig_profile),
        Some(shape) if shape.gpu_milli > 0 => format!("{}x0.{:03}", shape.members, shape.gpu_milli),
        Some(shape) if shape.unequal.is_empty() => format!("{}x{}", shape.members, shape.gpus_per_member),
        Some(shape) => shape.unequal.iter().map(ToString::to_string).collect::<Vec<_>>().join("+"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_read_as_they_are_shown() {
        for phase in ALL {
            assert_eq!(parse(name(phase)), Ok(phase));
            assert_eq!(parse(&name(phase).replace(' ', "-").to_uppercase()), Ok(phase));
        }
        assert!(parse("asleep").expect_err("no phase").contains("timed-out"));
    }
}
