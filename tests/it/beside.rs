//! Programs in and beside members: steps of srun, exec, shell, and jobs that are attended from their submission on.

use std::process::Stdio;

use dure_proto::v1::{JobPhase, Signals};
use dure_tests::cluster::Cluster;
use dure_tests::drafts::{await_file, script};
use dure_tests::process::naming;
use dure_tests::setup::{Setup, Who};
use dure_tests::wait::{soon, until_some};
use tokio::io::AsyncWriteExt;

const TRAINER: &str = env!("CARGO_BIN_EXE_stand-in-trainer");

#[tokio::test]
async fn a_program_beside_a_member_has_its_streams_and_its_place() {
    let mut cluster = Cluster::start(crate::DURE, Setup { nodes: 2, ..Setup::default() }).await;
    // As a service manager starts them: each leads a session without a terminal.
    cluster.put_all_behind(&["setsid".to_owned()]);
    for node in 0..2 {
        cluster.kill_agent(node);
        cluster.start_agent(node);
    }
    cluster.ready().await;
    let caller = cluster.caller(Who::Ana);
    let go = cluster.path("go");
    let id = caller.submit(script("fusion", 2, 4, &await_file(&go))).await;
    caller.phase(id, JobPhase::Running).await;
    let job = id.to_string();
    let text = "cat; echo \"$DURE_JOB_ID/$DURE_MEMBER $CUDA_VISIBLE_DEVICES\" >&2; exit 7";
    let mut exec = cluster.command(Who::Ana, &["exec", &job, "--member", "1", "--", "/bin/sh", "-c", text]);
    let mut child = exec.stdin(Stdio::piped()).spawn().expect("dure starts");
    let mut input = child.stdin.take().expect("it is piped");
    // More than the windows, both ways, so that each side must wait for the other.
    let sent: String = (0..100_000).map(|number| format!("{number}\n")).collect();
    let bytes = sent.clone().into_bytes();
    let feeding = tokio::spawn(async move { input.write_all(&bytes).await });
    let output = soon("the program ends", child.wait_with_output()).await.expect("it ends");
    feeding.await.expect("no panic").expect("all of it was read");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(7), "{err}");
    assert!(out == sent, "{} of {} bytes came back", out.len(), sent.len());
    assert!(err.starts_with(&format!("{job}/1 GPU-")), "{err}");
    let text = "tty > /dev/null && stty size && echo $TERM";
    let said = cluster.dure(Who::Ana, &["exec", "--terminal", &job, "--", "/bin/sh", "-c", text]).await;
    assert!(said.code == 0 && said.out.starts_with("24 80\r\n"), "{said:?}");
    let refused = cluster.dure(Who::Bo, &["exec", &job, "--", "true"]).await;
    assert!(refused.code == 1 && refused.err.contains("may not run programs beside"), "{refused:?}");
    let missing = cluster.dure(Who::Ana, &["exec", &job, "--member", "2", "--", "true"]).await;
    assert!(missing.code == 1 && missing.err.contains("the members are 0 to 1"), "{missing:?}");
    // A shell reads what is typed and ends with the member.
    let mut shell = cluster.command(Who::Ana, &["shell", &job]).stdin(Stdio::piped()).spawn().expect("dure starts");
    let mut typed = shell.stdin.take().expect("it is piped");
    let mark = cluster.path("typed");
    typed.write_all(format!("echo $DURE_MEMBER > {}\n", mark.display()).as_bytes()).await.expect("it is read");
    until_some("the shell has done it", || async { mark.metadata().ok().filter(|meta| meta.len() > 0) }).await;
    std::fs::write(&go, "").expect("writes");
    assert_eq!(caller.ended(id).await.phase(), JobPhase::Completed);
    soon("the shell ends with its member", shell.wait()).await.expect("it ends");
    let late = cluster.dure(Who::Ana, &["exec", &job, "--", "true"]).await;
    assert!(late.code == 1 && late.err.contains("does not run"), "{late:?}");
}

#[tokio::test]
async fn an_attended_job_shows_its_output_and_ends_with_its_exit_code() {
    let cluster = Cluster::start(crate::DURE, Setup { nodes: 2, ..Setup::default() }).await;
    let text = "echo here is $RANK; echo trouble >&2; test $RANK = 1 || sleep 0.3; exit 3";
    let said = cluster.dure(Who::Ana, &["run", "-A", "fusion", "--nodes", "2", "--", "/bin/sh", "-c", text]).await;
    assert_eq!(said.code, 3, "{said:?}");
    let mut lines: Vec<&str> = said.out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["0: here is 0", "1: here is 1"], "{said:?}");
    assert!(
        said.err.contains("is queued") && said.err.contains("1: trouble") && said.err.contains("failed"),
        "{said:?}"
    );
    let said = cluster.dure(Who::Ana, &["run", "-A", "fusion", "--", "echo", "alone"]).await;
    assert_eq!((said.code, said.out.as_str()), (0, "alone\n"), "{said:?}");
}

#[tokio::test]
async fn a_batch_scripts_srun_starts_its_tasks_over_the_allocation() {
    let cluster = Cluster::start(crate::DURE, Setup { nodes: 2, ..Setup::default() }).await;
    let caller = cluster.caller(Who::Ana);
    let steps = cluster.path("steps");
    let text = format!(
        "cd {0}\nsrun -n4 --gpus-per-task=2 sh -c 'echo $SLURM_PROCID $SLURM_LOCALID $SLURM_NTASKS $CUDA_VISIBLE_DEVICES > all.$SLURM_PROCID'\n\
         srun -N1 -n1 sh -c 'echo $DURE_MEMBER >> one'\n\
         srun -l echo labelled > label.$RANK\n\
         scontrol show hostnames $SLURM_JOB_NODELIST > hosts.$RANK\n\
         srun sh -c 'exit 5'; test $? = 5",
        steps.display()
    );
    std::fs::create_dir(&steps).expect("a folder");
    let mut spec = script("fusion", 2, 4, &text);
    spec.shape.as_mut().expect("it has one").distinct_nodes = true;
    let job = caller.ended(caller.submit(spec).await).await;
    assert_eq!(job.phase(), JobPhase::Completed, "{job:#?}");
    let read = |name: &str| std::fs::read_to_string(steps.join(name)).unwrap_or_else(|err| panic!("{name}: {err}"));
    let mut gpus = std::collections::BTreeSet::new();
    for rank in 0..4 {
        let line = read(&format!("all.{rank}"));
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[..3], [rank.to_string(), (rank % 2).to_string(), "4".to_owned()], "{line}");
        gpus.extend(words[3].split(',').map(str::to_owned));
    }
    assert_eq!(gpus.len(), 8, "no GPU is seen by two tasks");
    assert_eq!(read("one"), "0\n", "a step on one node runs once");
    assert_eq!([read("label.0"), read("label.1")], ["0: labelled\n", "1: labelled\n"]);
    assert_eq!(read("hosts.1").lines().count(), 2);
}

#[tokio::test]
async fn a_gang_over_eight_agents_meets_and_resumes_from_its_checkpoint_after_a_preemption() {
    let more = "[[tenant]]\nname = \"bulk\"\nquota = 36\n";
    let cluster = Cluster::start(crate::DURE, Setup { nodes: 8, more, ..Setup::default() }).await;
    let (ana, op) = (cluster.caller(Who::Ana), cluster.caller(Who::Op));
    let folder = cluster.path("train");
    std::fs::create_dir(&folder).expect("a folder");
    let go = cluster.path("go");
    // Half of every node inside its quota, the other half for a gang that mostly borrows: the cluster is full.
    let mut bulk = script("bulk", 8, 4, &await_file(&go));
    bulk.shape.as_mut().expect("it has one").distinct_nodes = true;
    let bulk = op.submit(bulk).await;
    op.phase(bulk, JobPhase::Running).await;
    let mut train = script("solar", 8, 4, &format!("exec {TRAINER} {}", folder.display()));
    train.shape.as_mut().expect("it has one").distinct_nodes = true;
    train.grace_ms = 30_000;
    let signals = Signals { stop: 10, stop_ms: 20_000, ..Signals::default() };
    train.payload.as_mut().expect("it has one").signals = Some(signals);
    let gang = ana.submit(train).await;
    let begun = |attempt: u32, rank: u32| {
        let text = std::fs::read_to_string(folder.join(format!("begun.{attempt}.{rank}"))).ok()?;
        text.parse::<u64>().ok()
    };
    until_some("all eight have met", || async { (0..8).all(|rank| begun(1, rank) == Some(0)).then_some(()) }).await;
    // What fusion has a right to is taken back from the borrower.
    let claim = ana.submit(script("fusion", 3, 4, "sleep 0.2")).await;
    assert_eq!(ana.ended(claim).await.phase(), JobPhase::Completed);
    let resumed = |rank: u32| begun(2, rank).filter(|step| *step > 0);
    until_some("all eight go on", || async { (0..8).all(|rank| resumed(rank).is_some()).then_some(()) }).await;
    let saved = std::fs::read_to_string(folder.join("checkpoint.0")).expect("it was saved");
    let saved: u64 = saved.parse().expect("a step");
    let steps: Vec<_> = (0..8).filter_map(resumed).collect();
    assert_eq!(steps, [saved; 8], "all go on from the step that the first has reported");
    std::fs::write(folder.join("finish"), "").expect("writes");
    let job = ana.ended(gang).await;
    assert_eq!((job.phase(), job.attempts), (JobPhase::Completed, 2), "{job:#?}");
    std::fs::write(&go, "").expect("writes");
    assert_eq!(op.ended(bulk).await.phase(), JobPhase::Completed);
}

#[tokio::test]
async fn the_script_of_a_batch_job_runs_once_and_srun_takes_its_steps_to_every_member() {
    let cluster = Cluster::start(crate::DURE, Setup { nodes: 2, ..Setup::default() }).await;
    let caller = cluster.caller(Who::Ana);
    let steps = cluster.path("steps");
    std::fs::create_dir(&steps).expect("a folder");
    let text = format!(
        "#!/bin/sh\n#SBATCH -A fusion -N 2 --gpus-per-node=4 -t 5\ncd {0}\necho $SLURM_PROCID >> script\n\
         export LR=0.1\n\
         srun -n4 --gpus-per-task=2 sh -c 'echo $SLURM_PROCID $SLURM_LOCALID $LR $CUDA_VISIBLE_DEVICES > all.$SLURM_PROCID'\n\
         srun -l -n2 sh -c 'echo labelled $DURE_MEMBER $SLURM_STEP_ID' > label\n\
         echo typed | srun -N1 -n1 cat > input\n\
         srun -n2 sh -c 'exit 5'; echo $? > code\n\
         srun -K -n2 sh -c 'test $SLURM_PROCID = 0 && exit 6; sleep 600'; echo $? > killed\n\
         host=$(sed -n 2p $DURE_HOSTFILE | cut -d' ' -f1)\n\
         $OMPI_MCA_plm_rsh_agent -x $host echo reached '$DURE_MEMBER' > rsh\n\
         srun -n2 sh -c 'sleep 600 & exec sleep 600' &\nsleep 0.5\nexit 0\n",
        steps.display()
    );
    let script = cluster.path("batch.sh");
    std::fs::write(&script, text).expect("writes");
    let said = cluster.dure(Who::Ana, &["submit", "--parsable", &script.display().to_string()]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let job = caller.ended(said.out.trim().parse().expect("an id")).await;
    assert_eq!(job.phase(), JobPhase::Completed, "{job:#?}");
    let read = |name: &str| std::fs::read_to_string(steps.join(name)).unwrap_or_else(|err| panic!("{name}: {err}"));
    assert_eq!(read("script"), "0\n", "the script ran once, on the first member");
    let mut gpus = std::collections::BTreeSet::new();
    for rank in 0..4 {
        let line = read(&format!("all.{rank}"));
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[..3], [rank.to_string(), (rank % 2).to_string(), "0.1".to_owned()], "{line}");
        gpus.extend(words[3].split(',').map(str::to_owned));
    }
    assert_eq!(gpus.len(), 8, "no GPU is seen by two tasks");
    let label = read("label");
    let mut lines: Vec<&str> = label.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["0: labelled 0 1", "1: labelled 1 1"], "steps are numbered");
    assert_eq!([read("input"), read("code"), read("killed")], ["typed\n", "5\n", "6\n"], "a step ends as srun says");
    assert!(read("rsh").starts_with("reached "), "mpirun's shell reaches the other members");
    // The last step was left running: it ended with the script.
    for node in ["n0", "n1"] {
        let left = naming(&cluster.path("agents").join(node).join("members"));
        assert!(left.is_empty(), "left over on {node}: {left:?}");
    }
}

#[tokio::test]
async fn a_step_is_refused_to_whom_the_member_is_not() {
    let cluster = Cluster::start(crate::DURE, Setup { nodes: 1, ..Setup::default() }).await;
    let caller = cluster.caller(Who::Ana);
    let go = cluster.path("go");
    let said = cluster.path("said");
    // Under the name of a member that does not run, the agent starts nothing.
    let text = format!(
        "DURE_MEMBER=7 srun -n1 true 2>> {0}; DURE_JOB_ID=999 srun -n1 true 2>> {0}; touch {1}",
        said.display(),
        go.display()
    );
    let mut spec = script("fusion", 1, 1, &text);
    spec.payload.as_mut().expect("it has one").batch = true;
    let job = caller.ended(caller.submit(spec).await).await;
    assert_eq!(job.phase(), JobPhase::Completed, "{job:#?}");
    let said = std::fs::read_to_string(&said).expect("it was refused");
    assert_eq!(said.matches("does not run on node n0").count(), 2, "{said}");
}

#[tokio::test]
async fn steps_are_listed_with_who_started_them_and_how_they_ended() {
    let cluster = Cluster::start(crate::DURE, Setup { nodes: 2, ..Setup::default() }).await;
    let caller = cluster.caller(Who::Ana);
    let go = cluster.path("go");
    let text = format!(
        "srun -J warm-up -n2 true\nsrun -n2 sh -c 'exit $((SLURM_PROCID * 5))'\nsrun -n1 -N1 sleep 600 &\n{}",
        await_file(&go)
    );
    let mut spec = script("fusion", 2, 4, &text);
    spec.payload.as_mut().expect("it has one").batch = true;
    let batch = caller.submit(spec).await;
    // Where every member runs the script, each runs its own part of the step.
    let own = caller.submit(script("fusion", 2, 1, "srun -J part sh -c 'exit $SLURM_PROCID'")).await;
    caller.ended(own).await;
    let steps = |id: u64| {
        let cluster = &cluster;
        async move {
            let said = cluster.dure(Who::Ana, &["--output", "json", "job", &id.to_string(), "--steps"]).await;
            let answer: serde_json::Value =
                serde_json::from_str(&said.out).unwrap_or_else(|err| panic!("{err}: {said:?}"));
            answer["steps"].as_array().cloned().unwrap_or_default()
        }
    };
    let running = until_some("the third step runs", || async {
        Some(steps(batch).await).filter(|steps| steps.len() == 3 && steps[1]["phase"] == "STEP_PHASE_FAILED")
    });
    let running = running.await;
    let brief = |step: &serde_json::Value| {
        let words = ["name", "user", "phase"].map(|word| step[word].as_str().unwrap_or_default().to_owned());
        (words, step["exit_code"].as_i64(), step["programs"].as_array().map_or(0, Vec::len))
    };
    let step = |words: [&str; 3], code, programs| (words.map(str::to_owned), code, programs);
    assert_eq!(brief(&running[0]), step(["warm-up", "ana", "STEP_PHASE_COMPLETED"], Some(0), 2));
    assert_eq!(brief(&running[1]), step(["sh", "ana", "STEP_PHASE_FAILED"], Some(5), 2));
    assert_eq!(brief(&running[2]), step(["sleep", "ana", "STEP_PHASE_RUNNING"], None, 1));
    // A program of an operator is told from the steps of the job's user.
    let id = batch.to_string();
    let said = cluster.dure(Who::Op, &["exec", &id, "--", "sh", "-c", "exit 3"]).await;
    assert_eq!(said.code, 3, "{said:?}");
    let fourth = steps(batch).await.pop().expect("it is there");
    assert_eq!(
        (brief(&fourth), fourth["number"].is_null()),
        (step(["sh", "op", "STEP_PHASE_FAILED"], Some(3), 1), true)
    );
    std::fs::write(&go, "").expect("writes");
    caller.ended(batch).await;
    let cut = until_some("the third step is over", || async {
        steps(batch).await.into_iter().nth(2).filter(|step| step["phase"] != "STEP_PHASE_RUNNING")
    });
    assert_eq!(brief(&cut.await).0[2], "STEP_PHASE_CUT_OFF");
    let parts = steps(own).await;
    assert_eq!(parts.len(), 1, "one step of two members: {parts:#?}");
    assert_eq!(brief(&parts[0]), step(["part", "ana", "STEP_PHASE_FAILED"], Some(1), 2));
    let shown = cluster.dure(Who::Ana, &["job", &id, "--steps"]).await;
    assert!(shown.out.contains("warm-up") && shown.out.contains("member 1 on n0: code 5"), "{shown:?}");
    let other = caller.submit(script("solar", 1, 1, "true")).await.to_string();
    let refused = cluster.dure(Who::Bo, &["job", &other, "--steps"]).await;
    assert!(refused.code == 1 && refused.err.contains("may not see jobs of"), "{refused:?}");
}
