//! Doing something as the member's user, and coming back.
//!
//! Comes in: an account and what to do. Goes out: its result. The shim has one thread, so the change holds for all of it;
//! the real user stays the shim's own, so that nobody else may signal or trace it meanwhile.

use std::io;

use rustix::{
    fs::{Gid, Uid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use crate::isolation::account::Account;

/// Runs `act` with the rights of `account` on files; as we are, without one.
pub(super) fn acting_as<T>(account: Option<&Account>, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let Some(account) = account else { return act() };
    let groups: Vec<Gid> = account.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let own_groups = rustix::process::getgroups()?;
    let (own_uid, own_gid) = (rustix::process::geteuid(), rustix::process::getegid());
    set_thread_groups(&groups)?;
    let done = set_thread_res_gid(None, Gid::from_raw(account.gid), None)
        .and_then(|()| set_thread_res_uid(None, Uid::from_raw(account.uid), None))
        .map_err(io::Error::from)
        .and_then(|()| act());
    // A shim that cannot come back must not go on: it would watch its member with the rights of that member.
    set_thread_res_uid(None, own_uid, None)
        .and_then(|()| set_thread_res_gid(None, own_gid, None))
        .and_then(|()| set_thread_groups(&own_groups))
        .expect("the saved user may always come back");
    done
}
