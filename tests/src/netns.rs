//! A network namespace of its own behind a pair of interfaces: a link that goes down, and routes that lead nowhere.
//!
//! In: nothing. Out: a namespace in which programs are started, reached at one address, which reaches this side at two.
//! Everything is gone with the handle, and what a killed test left behind with the next one.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::process::lives;

/// Namespaces of this process so far.
static NAMESPACES: AtomicU32 = AtomicU32::new(0);
/// Names begin so; then comes the process that made it, and its number.
const PREFIX: &str = "dure-it";
/// Networks of eight addresses in 198.18.0.0/15, which is kept for tests of networks (RFC 2544).
const NETWORKS: u32 = 1 << 14;

/// A namespace.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    /// The interfaces: here, and in it.
    here: String,
    there: String,
    /// The first address of its network.
    network: u32,
}

fn ip(args: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(args).output().map_err(|err| format!("ip: {err}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("ip {}: {}", args.join(" "), said.trim())) }
}

impl Namespace {
    /// Makes one; none, with the reason in the test's output, where this process may not or iproute2 is not installed.
    pub fn create() -> Option<Self> {
        Self::sweep();
        let (pid, number) = (std::process::id(), NAMESPACES.fetch_add(1, Ordering::Relaxed));
        let network = (198 << 24 | 18 << 16) + (pid.wrapping_mul(8).wrapping_add(number) % NETWORKS) * 8;
        let name = format!("{PREFIX}-{pid}-{number}");
        let made = Self { name, here: format!("du{pid}h{number}"), there: format!("du{pid}t{number}"), network };
        match made.make() {
            Ok(()) => Some(made),
            Err(why) => {
                println!("skipped: no network namespace can be made: {why}");
                None
            }
        }
    }

    /// Removes what processes that are gone have left.
    fn sweep() {
        let output = Command::new("ip").args(["netns", "list"]).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        for name in text.lines().filter_map(|line| line.split(' ').next()) {
            let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').nth(1)?.parse().ok());
            if pid.is_some_and(|pid| !lives(pid)) {
                // Its interfaces go with it; another test may have been faster.
                let _ = ip(&["netns", "del", name]);
            }
        }
    }

    fn make(&self) -> Result<(), String> {
        let (name, here, there) = (&self.name, &self.here, &self.there);
        ip(&["netns", "add", name])?;
        ip(&["link", "add", here, "type", "veth", "peer", "name", there, "netns", name])?;
        ip(&["addr", "add", &format!("{}/29", self.outside()), "dev", here])?;
        ip(&["addr", "add", &format!("{}/29", self.outside_too()), "dev", here])?;
        ip(&["-n", name, "addr", "add", &format!("{}/29", self.inside()), "dev", there])?;
        ip(&["link", "set", here, "up"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        ip(&["-n", name, "link", "set", there, "up"])
    }

    fn address(&self, number: u32) -> String {
        std::net::Ipv4Addr::from(self.network + number).to_string()
    }

    /// This side's address.
    pub fn outside(&self) -> String {
        self.address(1)
    }

    /// Another address of this side.
    pub fn outside_too(&self) -> String {
        self.address(3)
    }

    /// The address of what runs in it.
    pub fn inside(&self) -> String {
        self.address(2)
    }

    /// What goes before a command that is to run in it.
    pub fn enter(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.name].map(str::to_owned).to_vec()
    }

    /// Takes the cable out, or puts it back. This side's addresses stay.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn plug(&self, plugged: bool) {
        let how = if plugged { "up" } else { "down" };
        ip(&["-n", &self.name, "link", "set", &self.there, how]).expect("the link is ours");
    }

    /// From now on nothing comes from inside to one of this side's addresses; the other way is open.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn mute(&self, outside: &str, muted: bool) {
        let (how, to) = (if muted { "add" } else { "del" }, format!("{outside}/32"));
        ip(&["-n", &self.name, "route", how, "blackhole", &to]).expect("routes of the namespace are ours");
    }

    /// From now on nothing gets inside; the other way is open.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn deafen(&self, deaf: bool) {
        let (how, to) = (if deaf { "add" } else { "del" }, format!("{}/32", self.inside()));
        ip(&["route", how, "blackhole", &to]).expect("this process may change routes, or there were no namespace");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What was never made cannot be removed. A route that leads nowhere belongs to no interface.
        let _ = ip(&["route", "del", "blackhole", &format!("{}/32", self.inside())]);
        let _ = ip(&["link", "del", &self.here]);
        let _ = ip(&["netns", "del", &self.name]);
    }
}
