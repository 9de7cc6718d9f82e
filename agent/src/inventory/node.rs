//! CPU, memory and load as the kernel shows them.
//!
//! Comes in: /proc. Goes out: numbers; 0 where the kernel says nothing.

use std::{fs, thread::available_parallelism};

pub(super) fn cpu_milli() -> u64 {
    available_parallelism().map_or(0, |cpus| cpus.get() as u64 * 1_000)
}

pub(super) fn memory_mib() -> u64 {
    meminfo_mib("MemTotal:")
}

pub(super) fn memory_free_mib() -> u64 {
    meminfo_mib("MemAvailable:")
}

/// Runnable processes over the last minute, in thousandths.
pub(super) fn load_milli() -> u32 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = text.split_ascii_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0);
    (load * 1_000.0) as u32
}

fn meminfo_mib(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1_024
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_of_this_node_is_read() {
        assert!(super::cpu_milli() >= 1_000);
        assert!(super::memory_mib() > super::memory_free_mib());
    }
}
