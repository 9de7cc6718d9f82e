//! Old logs and working folders: how long they stay.
//!
//! Comes in: the state folder. Goes out: the same with at most `KEPT_MEMBERS` members' logs and folders, newest first.
//! This part must never touch what belongs to a member that still has a lease.

use std::{fs, io, path::Path, time::SystemTime};

/// Members whose logs and working folders are kept, counted per kind.
pub const KEPT_MEMBERS: usize = 2_000;

/// Removes the oldest logs and working folders of members that have no lease any more.
pub fn prune(state_dir: &Path) -> io::Result<()> {
    prune_to(state_dir, KEPT_MEMBERS)
}

fn prune_to(state_dir: &Path, keep: usize) -> io::Result<()> {
    for folder in ["logs", "work"] {
        let mut entries = ended(state_dir, folder)?;
        if entries.len() <= keep {
            continue;
        }
        entries.sort();
        for (_, name) in &entries[..entries.len() - keep] {
            let path = state_dir.join(folder).join(name);
            let removed =
                if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            match removed {
                Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Entries of members without a lease, with their age.
fn ended(state_dir: &Path, folder: &str) -> io::Result<Vec<(SystemTime, String)>> {
    let entries = match fs::read_dir(state_dir.join(folder)) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !state_dir.join("members").join(&name).exists() {
            found.push((entry.metadata()?.modified()?, name));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_and_those_with_a_lease_stay() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for folder in ["logs", "work", "members/1.1.0"] {
            fs::create_dir_all(dir.path().join(folder)).expect("makes it");
        }
        for job in 1..=5_u64 {
            for folder in ["work", "logs"] {
                let path = dir.path().join(folder).join(format!("{job}.1.0"));
                fs::create_dir(&path).expect("makes it");
                let age = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(job);
                fs::File::open(&path).and_then(|dir| dir.set_modified(age)).expect("sets the time");
            }
        }
        prune_to(dir.path(), 2).expect("prunes");
        let left = |folder: &str| {
            let entries = fs::read_dir(dir.path().join(folder)).expect("reads");
            let mut names: Vec<String> =
                entries.map(|entry| entry.expect("reads").file_name().into_string().expect("UTF-8")).collect();
            names.sort();
            names
        };
        for folder in ["logs", "work"] {
            assert_eq!(left(folder), ["1.1.0", "4.1.0", "5.1.0"], "the newest two and the one with a lease");
        }
    }
}
