//! What goes wrong, as the user is told, and the exit code of it.
//!
//! Comes in: the server's status with its rich details, or what failed here. Goes out: what is wrong, which field, the
//! remedy, and 1 (refused or failed), 2 (usage) or 3 (the server cannot be reached). Nothing is printed here.

use std::{error::Error, fmt::Write as _};

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line (or a script) asks for something that cannot be: exit code 2.
    Usage(String),
    /// The server refused it: exit code 1.
    Refused(Box<Status>),
    /// It failed here: exit code 1.
    Failed(String),
    /// Nothing that speaks Dure's API answers there: exit code 3.
    Unreachable {
        /// The address that was tried.
        server: String,
        /// What the network said.
        why: String,
    },
    /// Whoever read our output has stopped reading: not an error to show.
    OutputClosed,
}

impl Failure {
    /// The exit code of the process.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::Usage(_) => 2,
            Failure::Refused(_) | Failure::Failed(_) => 1,
            Failure::Unreachable { .. } => 3,
            Failure::OutputClosed => 0,
        }
    }

    /// A failure from what the server (or the way to it) said.
    pub(crate) fn from_status(status: Status, server: &str) -> Self {
        // A status with a cause was made on this side: the server never answered.
        match status.source() {
            Some(cause) => Failure::Unreachable { server: server.to_owned(), why: root(cause) },
            None => Failure::Refused(Box::new(status)),
        }
    }

    /// What the user reads, without a newline at the end.
    pub(crate) fn text(&self) -> String {
        match self {
            Failure::Usage(why) | Failure::Failed(why) => format!("error: {why}"),
            Failure::Refused(status) => refused(status),
            Failure::Unreachable { server, why } => unreachable(server, why),
            Failure::OutputClosed => String::new(),
        }
    }
}

/// The innermost cause: the one that names what the network did.
pub(crate) fn root(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

fn refused(status: &Status) -> String {
    let details = status.get_error_details();
    let mut text = format!("error: {}", one_line(status));
    let mut line = |name: &str, value: &str| {
        let _ = write!(text, "\n  {name}: {value}");
    };
    for violation in details.bad_request().map_or(&[][..], |bad| &bad.field_violations) {
        line("field", &violation.field);
        if !status.message().contains(&violation.description) {
            line("remedy", &violation.description);
        }
    }
    // What the message says already is not said twice.
    let said = |description: &str| status.message().contains(description);
    for violation in details.precondition_failure().map_or(&[][..], |failed| &failed.violations) {
        if !said(&violation.description) {
            line("unmet", &format!("{}: {}", violation.subject, violation.description));
        }
    }
    for violation in details.quota_failure().map_or(&[][..], |failed| &failed.violations) {
        if !said(&violation.description) {
            line("limit", &format!("{}: {}", violation.subject, violation.description));
        }
    }
    if let Some(retry) = details.retry_info().and_then(|info| info.retry_delay) {
        line(
            "remedy",
            &format!("try again in {}", crate::span::human(u64::try_from(retry.as_millis()).unwrap_or(u64::MAX))),
        );
    }
    if let Some(remedy) = remedy_of(status.code()) {
        line("remedy", remedy);
    }
    text
}

fn one_line(status: &Status) -> String {
    if status.message().is_empty() { status.code().description().to_owned() } else { status.message().to_owned() }
}

/// What helps against a code, whoever sent it and whatever it says.
fn remedy_of(code: Code) -> Option<&'static str> {
    match code {
        Code::Unauthenticated => Some("name the file with your token: --token-file FILE, or DURE_TOKEN_FILE"),
        Code::Unimplemented => Some("the server is older than this program: see the versions with dure --version"),
        _ => None,
    }
}

fn unreachable(server: &str, why: &str) -> String {
    format!(
        "error: cannot reach the scheduler at {server}: {why}\n  \
         remedy: is it running there (dure dev starts a whole cluster here)? is the address right (--server URL, \
         DURE_SERVER)? https:// needs --ca FILE when the scheduler signs its own certificate"
    )
}

impl From<std::io::Error> for Failure {
    fn from(err: std::io::Error) -> Self {
        Failure::Failed(err.to_string())
    }
}

#[cfg(test)]
mod tests;
