//! Prolog and epilog: programs of the site, before a member begins and after it has ended.
//!
//! Comes in: a program and facts about the member. Goes out: whether it succeeded in time. It runs with the shim's rights,
//! so its environment is fixed: names and numbers that were checked, and nothing that a job has chosen.

use std::{
    io,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::proc;

/// Where hooks find programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Between two looks at a hook.
const LOOK: Duration = Duration::from_millis(5);

/// The site's programs and what they are told.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct Hooks {
    pub(crate) prolog: Vec<String>,
    pub(crate) epilog: Vec<String>,
    pub(crate) limit_ms: u64,
    pub(crate) env: Vec<(String, String)>,
}

impl Hooks {
    /// Before the member begins; the error says why it must not.
    pub(super) fn before(&self) -> Result<(), String> {
        run("prolog", &self.prolog, &self.env, self.limit())
    }

    /// After the last of its processes has ended.
    pub(super) fn after(&self) -> Result<(), String> {
        run("epilog", &self.epilog, &self.env, self.limit())
    }

    fn limit(&self) -> Duration {
        Duration::from_millis(self.limit_ms)
    }
}

/// Runs a program to its end, or to its limit.
fn run(name: &str, argv: &[String], env: &[(String, String)], limit: Duration) -> Result<(), String> {
    let Some((program, args)) = argv.split_first() else { return Ok(()) };
    let failed = |err: io::Error| format!("the node's {name} {program}: {err}");
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", PATH)
        .envs(env.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let since = Instant::now();
    loop {
        match child.try_wait().map_err(failed)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(format!("the node's {name} {program} failed: {status}")),
            None if since.elapsed() >= limit => {
                if let Some(group) = proc::pid(child.id()) {
                    proc::signal_group(group, Signal::KILL);
                }
                // It was killed: it ends.
                let _ = child.wait();
                return Err(format!("the node's {name} {program} took longer than {} s", limit.as_secs()));
            }
            None => sleep(LOOK),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_has_a_clean_environment_and_a_limit() {
        let sh = |text: &str| ["/bin/sh", "-c", text].map(str::to_owned).to_vec();
        let env = [("DURE_JOB_ID".to_owned(), "7".to_owned())];
        let run = |text: &str, ms| run("prolog", &sh(text), &env, Duration::from_millis(ms));
        assert_eq!(run("test \"$DURE_JOB_ID\" = 7 && test $(env | grep -vc '^PWD\\|^_\\|^SHLVL') = 2", 10_000), Ok(()));
        assert!(run("exit 3", 10_000).expect_err("fails").contains("prolog /bin/sh failed: exit status: 3"));
        assert!(run("sleep 1000 & sleep 1000", 50).expect_err("is slow").contains("took longer than 0 s"));
        assert!(super::run("epilog", &["/nowhere".to_owned()], &env, Duration::ZERO).is_err());
    }
}
