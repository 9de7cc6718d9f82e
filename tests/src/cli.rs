//! The command line of the binary under test.

use std::process::{Output, Stdio};

use tokio::process::Command;

use crate::cluster::Cluster;
use crate::setup::Who;
use crate::wait::soon;

/// What a command came to.
#[derive(Clone, Debug)]
pub struct Said {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Cluster {
    /// `dure ARGS` of the cluster's user; killed with the handle.
    pub fn command(&self, who: Who, args: &[&str]) -> Command {
        let mut command = Command::new(self.binary());
        command.args(args).env("DURE_SERVER", self.server()).env("XDG_CONFIG_HOME", self.path("no-config"));
        command.env("DURE_TOKEN_FILE", self.path(&format!("{who:?}.token")));
        if self.authority().is_file() {
            command.env("DURE_CA", self.authority());
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Runs `dure ARGS` to its end.
    ///
    /// # Panics
    /// When it does not start, or does not end.
    pub async fn dure(&self, who: Who, args: &[&str]) -> Said {
        let output = soon(&format!("dure {args:?}"), self.command(who, args).output()).await;
        Said::from(output.expect("dure starts"))
    }
}
