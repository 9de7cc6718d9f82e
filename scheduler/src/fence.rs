//! The fence command: asks something that can switch a node off (its BMC, say) about lost nodes.
//!
//! In: nodes that are lost with work on them. Out: the same word that an operator gives by `confirm-dead`, but only when the
//! command ended with 0 and printed exactly the word `dead`. Anything else, and a command that takes too long, proves
//! nothing; it is asked again later. The command is run with a clean environment, never by a shell, and never for a node
//! that is not lost.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dure_core::input::Input;
use dure_core::node::Contact;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::auth::Caller;
use crate::config::FenceConfig;
use crate::handle::Handle;

/// How often lost nodes are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Commands at once: a switch that fails takes many nodes with it.
const MAX_AT_ONCE: usize = 16;
/// Bytes of the command's output that are read; the word is shorter.
const MAX_OUTPUT: u64 = 4096;
/// The only word that is believed.
const DEAD: &str = "dead";
/// The command's whole environment beside its arguments.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Looks after lost nodes until the word to stop.
pub async fn keep(config: FenceConfig, handle: Handle, mut stopping: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(MAX_AT_ONCE));
    let (done, mut dones) = mpsc::channel::<String>(MAX_AT_ONCE);
    // When each node was last asked about; none while the command runs.
    let mut asked: BTreeMap<String, Option<Instant>> = BTreeMap::new();
    loop {
        tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => return,
            Some(node) = dones.recv() => {
                asked.insert(node, Some(Instant::now()));
                continue;
            }
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let Ok((lost, _)) = handle.read(|cluster, _| lost_nodes(cluster)).await else { continue };
        asked.retain(|node, at| at.is_none() || lost.contains(node));
        for node in lost {
            let is_due = match asked.get(&node) {
                None => true,
                Some(None) => false,
                Some(Some(at)) => at.elapsed() >= Duration::from_millis(config.again_after.0),
            };
            let Some(place) = is_due.then(|| places.clone().try_acquire_owned().ok()).flatten() else { continue };
            asked.insert(node.clone(), None);
            let (config, handle, done) = (config.clone(), handle.clone(), done.clone());
            tokio::spawn(async move {
                fence(&config, &handle, &node).await;
                drop(place);
                // Nobody listens any more when the leadership is over.
                drop(done.send(node).await);
            });
        }
    }
}

/// Lost nodes on which something may still run.
fn lost_nodes(cluster: &dure_core::Cluster) -> Vec<String> {
    let lost = cluster.nodes().iter().filter(|node| node.contact == Contact::Lost && !node.residents.is_empty());
    lost.map(|node| node.name.to_string()).collect()
}

async fn fence(config: &FenceConfig, handle: &Handle, node: &str) {
    tracing::warn!(node, "the node is lost: the fence command is asked");
    match ask(config, node).await {
        Ok(()) => {
            // Refused when the node has come back meanwhile: then its agent knows better.
            let confirm = Input::ConfirmDead { node: node.into() };
            match handle.mutate(Caller::scheduler("fence command"), confirm, None, Vec::new(), |_, _| ()).await {
                Ok(_) => tracing::warn!(node, "the fence command has proven the node dead"),
                Err(err) => tracing::warn!(node, error = %err, "the node was fenced, but is not taken for dead"),
            }
        }
        Err(why) => tracing::error!(node, why, "the fence command has proven nothing"),
    }
}

/// Runs the command once; `Ok` only when it has said that the node is dead.
async fn ask(config: &FenceConfig, node: &str) -> Result<(), String> {
    let (program, args) = config.command.split_first().ok_or("there is no command")?;
    let mut command = Command::new(program);
    command.args(args).arg(node).env_clear().env("PATH", PATH).process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|err| format!("{program}: {err}"))?;
    let group = child.id();
    match tokio::time::timeout(Duration::from_millis(config.timeout.0), answer(&mut child)).await {
        Ok(Ok((code, said))) => verdict(code, &said),
        Ok(Err(err)) => Err(err.to_string()),
        Err(_) => {
            // Whatever it has started ends with it: an answer that comes later must not be waited for by anybody.
            let group = group.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
            let _ = group.map(|group| kill_process_group(group, Signal::KILL));
            Err(format!("no answer within {}", config.timeout))
        }
    }
}

async fn answer(child: &mut Child) -> std::io::Result<(Option<i32>, Vec<u8>)> {
    let mut said = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_OUTPUT).read_to_end(&mut said).await?;
    }
    Ok((child.wait().await?.code(), said))
}

/// Believes the exact word with exit code 0, and nothing else.
fn verdict(code: Option<i32>, said: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(said);
    match code {
        Some(0) if text.strip_suffix('\n').unwrap_or(&text) == DEAD => Ok(()),
        Some(0) => Err(format!("it said {:?}, only {DEAD:?} counts", text.chars().take(80).collect::<String>())),
        Some(code) => Err(format!("it ended with {code}")),
        None => Err("a signal ended it".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use dure_core::units::Span;

    use super::*;

    #[test]
    fn only_the_word_with_exit_code_zero_is_believed() {
        assert_eq!(verdict(Some(0), b"dead\n"), Ok(()));
        assert_eq!(verdict(Some(0), b"dead"), Ok(()));
        for (code, said) in [
            (Some(1), &b"dead\n"[..]),
            (None, b"dead\n"),
            (Some(0), b""),
            (Some(0), b"not dead\n"),
            (Some(0), b"dead\n\n"),
            (Some(0), b"Dead\n"),
            (Some(0), b" dead\n"),
            (Some(0), b"dead\nreally\n"),
            (Some(0), b"\xff\n"),
        ] {
            assert!(verdict(code, said).is_err(), "{code:?} {said:?}");
        }
    }

    fn shell(script: &str) -> FenceConfig {
        let command = ["/bin/sh", "-c", script, "fence"].map(str::to_owned).to_vec();
        FenceConfig { command, timeout: Span(2_000), again_after: Span(1_000) }
    }

    #[tokio::test]
    async fn the_command_gets_the_node_and_a_clean_environment_and_a_time_limit() {
        assert_eq!(ask(&shell("test $1 = n7 && test -z \"$HOME\" && echo dead"), "n7").await, Ok(()));
        assert!(ask(&shell("test $1 = n7 && echo dead"), "n8").await.is_err());
        let began = Instant::now();
        let late = ask(&FenceConfig { timeout: Span(200), ..shell("sleep 30; echo dead") }, "n7").await;
        assert!(late.expect_err("too late").contains("no answer within"));
        assert!(began.elapsed() < Duration::from_secs(20));
        let absent = FenceConfig { command: vec!["/nonexistent".to_owned()], ..shell("") };
        assert!(ask(&absent, "n7").await.expect_err("absent").contains("/nonexistent"));
    }
}
