//! A small file system of its own, where this process may mount one.

use std::path::Path;
use std::process::Command;

/// A tmpfs; gone with the handle.
#[derive(Debug)]
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Of so many bytes; none when this process may not mount.
    ///
    /// # Panics
    /// When there is no temporary folder.
    pub fn mount(bytes: u64) -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("dure-disk-").tempdir().expect("a temporary folder");
        let options = format!("size={bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir.path()).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(dir))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Makes it larger.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn grow(&self, bytes: u64) {
        let options = format!("remount,size={bytes}");
        let status = Command::new("mount").args(["-o", &options]).arg(self.path()).status().expect("mount runs");
        assert!(status.success(), "the tmpfs grows");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What is still open on it keeps it until then.
        drop(Command::new("umount").arg("-l").arg(self.path()).status());
    }
}
