//! `dure token create`: a secret for its holder, and an entry for the scheduler's token file.
//!
//! The secret is printed once, on standard output, and kept nowhere; the file holds only its digest.

use std::{fs, io::Write, path::PathBuf};

use clap::{Args, Subcommand};
use dure_scheduler::auth::token::{self, RevokedEntry, TokenEntry};
use jiff::Timestamp;

use crate::{failure::Failure, show::Out, span::UserSpan, when};

/// Tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token
    Create(CreateArgs),
    /// Refuse a node's certificate from now on: it was stolen, or the node is another's
    Revoke(RevokeArgs),
}

/// Whose certificate.
#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// The node
    #[arg(value_name = "NODE")]
    node: String,
    /// Add the entry to this token file; without it the entry is printed
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Whose token it is.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dure token create --user kim --role member --missions fusion --file tokens.toml > kim.token
  dure token create --user joiner --role agent --node 'gpu-*' --one-time --file tokens.toml > join.token")]
pub(crate) struct CreateArgs {
    /// Who holds it
    #[arg(long)]
    user: String,
    /// pd, member, operator, auditor or agent
    #[arg(long, value_parser = ["pd", "member", "operator", "auditor", "agent"])]
    role: String,
    /// The missions of a pd or a member
    #[arg(long, value_delimiter = ',', value_name = "MISSION,..")]
    missions: Vec<String>,
    /// The node of an agent, or a prefix: gpu-*
    #[arg(long)]
    node: Option<String>,
    /// Good for so long
    #[arg(long, value_name = "SPAN")]
    expires: Option<UserSpan>,
    /// For an agent: joins one node and is spent then
    #[arg(long)]
    one_time: bool,
    /// Add the entry to this token file; without it the entry is printed on standard error
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(command: TokenCommand, out: Out) -> Result<(), Failure> {
    match command {
        TokenCommand::Create(args) => create(&args, out),
        TokenCommand::Revoke(args) => revoke(args, out),
    }
}

/// Certificates that are signed in the second after this are good again.
fn revoke(args: RevokeArgs, out: Out) -> Result<(), Failure> {
    let now =
        Timestamp::from_second(Timestamp::now().as_second() + 1).map_err(|err| Failure::Failed(err.to_string()))?;
    let before = now.to_string().parse().map_err(|err| Failure::Failed(format!("{now}: {err}")))?;
    let entry = RevokedEntry { node: args.node.clone(), before }.to_toml();
    let entry = entry.map_err(|err| Failure::Usage(err.to_string()))?;
    let Some(path) = &args.file else { return out.text(&entry) };
    append(path, &entry)?;
    out.line(&format!(
        "certificates of {} from before {now} are refused; its session ends with its next word",
        args.node
    ))
}

fn create(args: &CreateArgs, out: Out) -> Result<(), Failure> {
    let created = token::create().map_err(|err| Failure::Failed(err.to_string()))?;
    let entry = entry(args, &created.digest.to_string(), when::now_ms())?;
    match &args.file {
        Some(path) => append(path, &entry)?,
        None => eprint!("add this to the scheduler's token file:\n\n{entry}\n"),
    }
    out.line(&created.token)
}

/// The entry of the token file.
fn entry(args: &CreateArgs, digest: &str, now_ms: u64) -> Result<String, Failure> {
    let expires = args.expires.map(|span| -> Result<_, Failure> {
        let far = || Failure::Usage(format!("--expires {span}: too far away"));
        let end = i64::try_from(now_ms.saturating_add(span.0)).map_err(|_| far())?;
        let end = Timestamp::from_second(end / 1_000).map_err(|_| far())?;
        end.to_string().parse().map_err(|_| far())
    });
    let entry = TokenEntry {
        sha256: digest.to_owned(),
        user: args.user.clone(),
        role: args.role.clone(),
        missions: args.missions.clone(),
        node: args.node.clone(),
        expires: expires.transpose()?,
        one_time: args.one_time,
    };
    entry.to_toml().map_err(|err| Failure::Usage(err.to_string()))
}

/// Adds the entry; the scheduler reads the file again by itself.
fn append(path: &PathBuf, entry: &str) -> Result<(), Failure> {
    let named = |err: std::io::Error| Failure::Failed(format!("--file {}: {err}", path.display()));
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).map_err(named)?;
    // One write: a reader sees all of the entry or nothing of it.
    file.write_all(format!("\n{entry}").as_bytes()).and_then(|()| file.sync_data()).map_err(named)
}

#[cfg(test)]
mod tests {
    use dure_scheduler::auth::Tokens;

    use super::*;

    fn args(role: &str, missions: &[&str], node: Option<&str>) -> CreateArgs {
        CreateArgs {
            user: "kim".to_owned(),
            role: role.to_owned(),
            missions: missions.iter().map(|name| (*name).to_owned()).collect(),
            node: node.map(str::to_owned),
            expires: Some(UserSpan(86_400_000)),
            one_time: false,
            file: None,
        }
    }

    #[test]
    fn what_is_created_is_known_to_the_scheduler() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("tokens.toml");
        let mut secrets = Vec::new();
        for (role, missions, node) in [("member", &["fusion"][..], None), ("agent", &[], Some("gpu-*"))] {
            let created = token::create().expect("random bytes");
            let entry = entry(&args(role, missions, node), &created.digest.to_string(), when::now_ms()).expect("good");
            append(&path, &entry).expect("writes");
            secrets.push(created.token);
        }
        let tokens = Tokens::load(&path, &dir.path().join("spent")).expect("reads");
        let roles: Vec<_> =
            secrets.iter().map(|secret| tokens.find(secret).map(|identity| identity.role.name())).collect();
        assert_eq!(roles, [Ok("member"), Ok("agent")]);
    }

    #[test]
    fn a_revoked_certificate_is_refused_and_a_later_one_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("tokens.toml");
        let before = dure_core::units::Time(when::now_ms());
        let revoke = |node: &str| revoke(RevokeArgs { node: node.to_owned(), file: Some(path.clone()) }, Out::plain());
        revoke("gpu-1").expect("writes");
        assert!(revoke("gpu-*").expect_err("one node").text().contains("revoked[0].node"));
        let tokens = Tokens::load(&path, &dir.path().join("spent")).expect("reads");
        let later = dure_core::units::Time(before.0 + 5_000);
        assert!(tokens.check_node("gpu-1", before).is_err() && tokens.check_node("gpu-1", later).is_ok());
        assert!(tokens.check_node("gpu-2", before).is_ok());
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_is_written() {
        let refused = |args: &CreateArgs| entry(args, &"0".repeat(64), 0).expect_err("refused").text();
        assert!(refused(&args("member", &[], None)).contains("missions"));
        assert!(refused(&args("agent", &[], None)).contains("node"));
    }
}
