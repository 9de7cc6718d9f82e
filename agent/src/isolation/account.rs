//! From the user who submitted a job to an account of this node.
//!
//! Comes in: the user's name as the scheduler has proven it. Goes out: user id, groups, home; or why there is none.
//! Asked through getent(1), so that accounts of a directory service count. This part must never give an account below
//! the lowest user id that is allowed, nor one that was found under another name.

use std::{
    io::Read as _,
    path::PathBuf,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::config::IsolationConfig;

/// The longest name of an account (LOGIN_NAME_MAX allows more; useradd does not).
const MAX_NAME: usize = 32;
/// How long a directory service may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// An account of this node.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: PathBuf,
    pub(crate) shell: String,
}

/// The account of `user`.
pub(super) fn resolve(config: &IsolationConfig, user: &str) -> Result<Account, String> {
    let name = config.users.get(user).map_or(user, String::as_str);
    let refuse = |why: &str| {
        Err(format!("user \"{user}\" cannot run here as account \"{name}\": {why}; see [isolation.users] of the agent"))
    };
    if !is_name(name) {
        return refuse("that is no name of an account");
    }
    let Some(passwd) = getent("passwd", name)? else { return refuse("there is no such account on this node") };
    let Some(mut account) = parse_passwd(&passwd) else { return refuse("its entry cannot be read") };
    if account.name != name {
        return refuse("the account was found under another name");
    }
    if account.uid < config.min_uid {
        return refuse(&format!("its user id {} is below isolation.min_uid = {}", account.uid, config.min_uid));
    }
    account.groups = getent("initgroups", name)?.map(|line| parse_groups(&line)).unwrap_or_default();
    if !account.groups.contains(&account.gid) {
        account.groups.push(account.gid);
    }
    Ok(account)
}

/// A name that getent cannot take for a number or an option.
fn is_name(name: &str) -> bool {
    let first = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    first && name.len() <= MAX_NAME && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

/// `name:x:uid:gid:comment:home:shell`.
fn parse_passwd(line: &str) -> Option<Account> {
    let fields: Vec<&str> = line.trim_end().split(':').collect();
    let [name, _, uid, gid, _, home, shell] = fields[..] else { return None };
    Some(Account {
        name: name.to_owned(),
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        groups: Vec::new(),
        home: PathBuf::from(home),
        shell: shell.to_owned(),
    })
}

/// `name    gid gid gid`.
fn parse_groups(line: &str) -> Vec<u32> {
    line.split_ascii_whitespace().skip(1).filter_map(|gid| gid.parse().ok()).collect()
}

/// The first line of the answer; none: there is no such entry.
fn getent(database: &str, key: &str) -> Result<Option<String>, String> {
    let failed = |why: String| format!("getent {database} {key}: {why}");
    let mut child = Command::new("getent")
        .args([database, key])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|err| failed(err.to_string()))?;
    let since = Instant::now();
    let status = loop {
        match child.try_wait().map_err(|err| failed(err.to_string()))? {
            Some(status) => break status,
            None if since.elapsed() > DEADLINE => {
                // What it holds is given up with it.
                let _ = child.kill().and_then(|()| child.wait());
                return Err(failed("no answer within 10 s: the directory service hangs".to_owned()));
            }
            None => sleep(Duration::from_millis(2)),
        }
    };
    let mut text = String::new();
    if let Some(mut out) = child.stdout.take() {
        out.read_to_string(&mut text).map_err(|err| failed(err.to_string()))?;
    }
    Ok(if status.success() { text.lines().next().map(str::to_owned) } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(min_uid: u32) -> IsolationConfig {
        let users = [("ana", "nobody"), ("odd", "0"), ("dash", "-h")];
        let users = users.map(|(user, account)| (user.to_owned(), account.to_owned())).into();
        IsolationConfig { users, min_uid, ..IsolationConfig::default() }
    }

    #[test]
    fn a_user_is_mapped_and_what_is_no_account_is_refused() {
        let account = resolve(&config(1_000), "ana").expect("nobody is everywhere");
        assert_eq!((account.name.as_str(), account.groups.contains(&account.gid)), ("nobody", true));
        let refusal = |user: &str| resolve(&config(1_000), user).expect_err("refused");
        assert!(refusal("root").contains("its user id 0 is below isolation.min_uid = 1000"));
        assert!(refusal("odd").contains("that is no name of an account"));
        assert!(refusal("dash").contains("that is no name of an account"));
        assert!(refusal("no-such-user-here").contains("there is no such account on this node"));
    }

    #[test]
    fn entries_are_read_as_getent_writes_them() {
        let account = parse_passwd("kim:x:1007:100:Kim,,:/home/kim:/bin/bash\n").expect("an entry");
        assert_eq!((account.uid, account.gid, account.home), (1007, 100, PathBuf::from("/home/kim")));
        assert_eq!(parse_passwd("kim:x:1007"), None);
        assert_eq!(parse_groups("kim                   100 27 1007\n"), [100, 27, 1007]);
    }
}
