//! A wall clock that jumps, for processes of their own: `libfaketime` before them, steered by a file.
//!
//! In: how far it is off. Out: what goes before a command, so that its process reads the wall clock so; the monotonic clock is
//! left alone, as it is when somebody sets a node's clock.

use std::path::{Path, PathBuf};

/// Where distributions put the library.
const LIBRARIES: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
];

/// The clock.
#[derive(Debug)]
pub struct WallClock {
    library: &'static str,
    file: PathBuf,
}

impl WallClock {
    /// One that is right; none where the library is not installed.
    ///
    /// # Panics
    /// When its file cannot be written.
    pub fn right(dir: &Path) -> Option<Self> {
        let library = LIBRARIES.into_iter().find(|library| Path::new(library).is_file())?;
        let clock = Self { library, file: dir.join("wall-clock") };
        clock.set(0);
        Some(clock)
    }

    /// From now on it is so many seconds ahead, or behind.
    ///
    /// # Panics
    /// When its file cannot be written.
    pub fn set(&self, ahead: i64) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{ahead:+}\n")).expect("the clock's file is written");
        // At once: nobody reads half of it.
        std::fs::rename(&new, &self.file).expect("the clock's file is put in place");
    }

    /// What goes before a command.
    pub fn enter(&self) -> Vec<String> {
        let words = [
            "env".to_owned(),
            format!("LD_PRELOAD={}", self.library),
            format!("FAKETIME_TIMESTAMP_FILE={}", self.file.display()),
            "FAKETIME_NO_CACHE=1".to_owned(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        ];
        words.into()
    }
}
