//! The kernel's log: faults that NVML's events do not tell, or not before it is too late to ask NVML.
//!
//! Comes in: /dev/kmsg, or a file in its place. Goes out: XIDs by the bus id of their GPU, from now on.
//! A node whose log cannot be read is judged without it. This part must never wait.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rustix::fs::OFlags;

use super::links::same_bus;

/// Records taken at one look.
const MAX_RECORDS: usize = 256;
/// The longest record of the kernel.
const MAX_RECORD: usize = 8_192;
/// "GPU has fallen off the bus", where the driver says it in words.
const FALLEN_OFF: u64 = 79;

pub(super) struct KernelLog {
    file: Option<File>,
}

impl KernelLog {
    /// What was written before is no news.
    pub(super) fn open(path: &Path) -> Self {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let open = || {
            let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
            file.seek(SeekFrom::End(0)).map(|_| file)
        };
        Self { file: if path.as_os_str().is_empty() { None } else { open().ok() } }
    }

    /// XIDs since the last look, by the position of their GPU in `bus_ids`.
    pub(super) fn take(&mut self, bus_ids: &[String]) -> HashMap<usize, Vec<u64>> {
        let mut found: HashMap<usize, Vec<u64>> = HashMap::new();
        let Some(file) = &mut self.file else { return found };
        let mut record = vec![0; MAX_RECORD];
        for _ in 0..MAX_RECORDS {
            // A record that was overwritten meanwhile is an error, and the next read goes on after it.
            let count = match file.read(&mut record) {
                Ok(0) => break,
                Ok(count) => count,
                Err(err) if err.kind() == std::io::ErrorKind::BrokenPipe => continue,
                Err(_) => break,
            };
            for line in String::from_utf8_lossy(&record[..count]).lines() {
                let Some((bus, xid)) = parse(line) else { continue };
                if let Some(gpu) = bus_ids.iter().position(|own| same_bus(own, &bus)) {
                    found.entry(gpu).or_default().push(xid);
                }
            }
        }
        found
    }
}

/// `NVRM: Xid (PCI:0000:3b:00): 79, pid=...`, or `NVRM: GPU at PCI:0000:3b:00 has fallen off the bus`.
fn parse(line: &str) -> Option<(String, u64)> {
    let (_, words) = line.split_once("NVRM: ")?;
    if let Some((_, rest)) = words.split_once("Xid (PCI:") {
        let (bus, rest) = rest.split_once("): ")?;
        let code: String = rest.chars().take_while(char::is_ascii_digit).collect();
        return Some((with_function(bus), code.parse().ok()?));
    }
    if words.contains("fallen off the bus") {
        let (_, rest) = words.split_once("PCI:")?;
        let bus = rest.split([' ', ')']).next()?.trim_end_matches(':');
        return Some((with_function(bus), FALLEN_OFF));
    }
    None
}

/// The kernel leaves the function out that NVML writes.
fn with_function(bus: &str) -> String {
    if bus.contains('.') { bus.to_owned() } else { format!("{bus}.0") }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn faults_are_found_by_the_bus_of_their_gpu() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("kmsg");
        std::fs::write(&path, "4,1,2,-;NVRM: Xid (PCI:0000:3b:00): 48, of the past\n").expect("writes");
        let mut log = KernelLog::open(&path);
        let buses = ["00000000:3B:00.0".to_owned(), "00000000:5E:00.0".to_owned()];
        assert!(log.take(&buses).is_empty());
        let mut file = OpenOptions::new().append(true).open(&path).expect("opens");
        let lines = "4,3,4,-;NVRM: Xid (PCI:0000:5e:00): 79, pid=1, name=x, GPU has fallen off the bus.\n\
                     6,4,5,-;usb 1-1: new device\n4,5,6,-;NVRM: GPU at PCI:0000:3b:00: GPU has fallen off the bus.\n";
        file.write_all(lines.as_bytes()).expect("writes");
        let found = log.take(&buses);
        assert_eq!((found.get(&0), found.get(&1)), (Some(&vec![79]), Some(&vec![79])));
        assert!(KernelLog::open(Path::new("/nowhere")).take(&buses).is_empty());
    }
}
