//! Rules of the tree that no compiler checks: what lies on top, how long a file may be, what the core may know.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file past this is split by meaning.
const MAX_LINES: usize = 700;
/// A function past this is split by meaning.
const MAX_FUNCTION_LINES: usize = 70;
/// A test's expectation and a table of samples are data: they may be longer.
const MAX_TEST_FUNCTION_LINES: usize = 100;
/// All crates that the core may rest on, directly or not.
const CORE_MAY_USE: [&str; 8] =
    ["dure-core", "petgraph", "smallvec", "fixedbitset", "indexmap", "equivalent", "hashbrown", "foldhash"];
/// What lies on top and is not hidden.
const TOP_LEVEL: [&str; 12] = [
    "ARCHITECTURE.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "agent",
    "cli",
    "deploy",
    "proto",
    "rust-toolchain.toml",
    "scheduler",
    "tests",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the workspace").to_owned()
}

/// Whether a source lies in a folder or file of tests.
fn holds_tests(path: &Path) -> bool {
    let inside = path.strip_prefix(root()).unwrap_or(path);
    inside.components().any(|part| part.as_os_str().to_string_lossy().starts_with("tests"))
}

/// The Rust files that git knows or would take, relative to the root.
fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["agent", "cli", "proto", "scheduler", "tests"].iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the workspace can be read") {
            let path = entry.expect("an entry can be read").path();
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != "target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 50, "the walk finds the sources");
    found
}

#[test]
fn the_top_level_is_what_it_is_said_to_be() {
    let allowed: BTreeSet<_> = TOP_LEVEL.iter().map(ToString::to_string).collect();
    let visible: BTreeSet<_> = fs::read_dir(root())
        .expect("the root can be read")
        .map(|entry| entry.expect("an entry can be read").file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.') && name != "target")
        .collect();
    let extra: Vec<_> = visible.difference(&allowed).collect();
    let missing: Vec<_> = allowed.difference(&visible).collect();
    assert!(extra.is_empty() && missing.is_empty(), "extra {extra:?}, missing {missing:?}");
}

#[test]
fn files_and_functions_stay_readable() {
    let mut long = Vec::new();
    for path in sources() {
        let text = fs::read_to_string(&path).expect("a source can be read");
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() > MAX_LINES {
            long.push(format!("{}: {} lines", path.display(), lines.len()));
        }
        let is_test = holds_tests(&path);
        let most = if is_test { MAX_TEST_FUNCTION_LINES } else { MAX_FUNCTION_LINES };
        for (start, name, length) in functions(&lines) {
            if length > most {
                long.push(format!("{}:{}: fn {name} has {length} lines", path.display(), start + 1));
            }
        }
    }
    assert!(long.is_empty(), "split these by meaning:\n{}", long.join("\n"));
}

/// Start, name and length of each function: from its line to the brace that closes it at the same indentation.
fn functions<'a>(lines: &[&'a str]) -> Vec<(usize, &'a str, usize)> {
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        let seen_by = ["pub ", "pub(crate) ", "pub(super) "].iter().find_map(|prefix| code.strip_prefix(prefix));
        let bare = seen_by.unwrap_or(code);
        let is_function = ["fn ", "async fn ", "const fn ", "unsafe fn "].iter().any(|prefix| bare.starts_with(prefix));
        if !is_function {
            continue;
        }
        let name = code.split("fn ").nth(1).and_then(|rest| rest.split(['(', '<']).next()).unwrap_or("");
        let close = format!("{}}}", " ".repeat(indent));
        // A signature without a body, or a body on one line, closes nothing.
        let end = (start + 1..lines.len()).find(|at| lines[*at] == close || lines[*at].ends_with("-> ();"));
        let one_line = code.ends_with('}') || code.ends_with(';');
        if let (Some(end), false) = (end, one_line) {
            found.push((start, name, end - start + 1));
        }
    }
    found
}

#[test]
fn the_core_rests_on_small_data_crates_alone() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--locked",
            "-p",
            "dure-core",
            "-e",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8_lossy(&output.stdout);
    let crates: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(crates.contains("petgraph"), "the tree is read right: {crates:?}");
    let strangers: Vec<_> = crates.iter().filter(|name| !CORE_MAY_USE.contains(name)).collect();
    assert!(strangers.is_empty(), "the core must not rest on {strangers:?}");
}

#[test]
fn the_core_knows_no_clock_no_io_and_no_chance() {
    let forbidden = [
        "std::time",
        "std::fs",
        "std::net",
        "std::env",
        "std::thread",
        "std::process",
        "std::io",
        "HashMap",
        "HashSet",
        "tokio",
        "serde",
        "tracing::",
        "rand::",
        "f32",
        "f64",
    ];
    let core = root().join("scheduler/core/src");
    let mut found = Vec::new();
    for path in sources().into_iter().filter(|path| path.starts_with(&core)) {
        let is_test = holds_tests(&path);
        let text = fs::read_to_string(&path).expect("a source can be read");
        let code = text.split("#[cfg(test)]").next().unwrap_or("");
        for (at, line) in code.lines().enumerate() {
            let line = line.split("//").next().unwrap_or("");
            if let Some(word) = forbidden.iter().find(|word| line.contains(**word) && !is_test) {
                found.push(format!("{}:{}: {word}", path.display(), at + 1));
            }
        }
    }
    assert!(found.is_empty(), "the core must not know:\n{}", found.join("\n"));
    let lints = fs::read_to_string(root().join("scheduler/core/.clippy.toml")).expect("the core has lints of its own");
    for banned in ["SystemTime", "Instant", "HashMap", "HashSet", "thread::spawn"] {
        assert!(lints.contains(banned), "the core's lints ban {banned}");
    }
}

#[test]
fn nothing_is_left_undone_in_silence() {
    let marks = [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("FIX", "ME"), concat!("#[ig", "nore")];
    let mut found = Vec::new();
    for path in sources() {
        let text = fs::read_to_string(&path).expect("a source can be read");
        for (at, line) in text.lines().enumerate() {
            if let Some(mark) = marks.iter().find(|mark| line.contains(**mark)) {
                found.push(format!("{}:{}: {mark}", path.display(), at + 1));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn arrows_between_crates_point_one_way() {
    let allowed: [(&str, &[&str]); 5] = [
        ("proto/Cargo.toml", &[]),
        ("scheduler/core/Cargo.toml", &[]),
        ("scheduler/replay/Cargo.toml", &["dure-core"]),
        ("scheduler/Cargo.toml", &["dure-core", "dure-replay", "dure-proto"]),
        ("agent/Cargo.toml", &["dure-proto"]),
    ];
    for (manifest, may_use) in allowed {
        let text = fs::read_to_string(root().join(manifest)).expect("a manifest can be read");
        let dependencies = text.split("[dependencies]").nth(1).unwrap_or("").split("\n[").next().unwrap_or("");
        for line in dependencies.lines().filter(|line| line.starts_with("dure")) {
            let name = line.split(['.', ' ', '=']).next().unwrap_or("");
            assert!(may_use.contains(&name), "{manifest} must not depend on {name}");
        }
    }
}

/// The table of faults names tests: a test that was renamed or deleted is missed there.
#[test]
fn the_table_of_faults_names_tests_that_exist() {
    let table = fs::read_to_string(root().join("tests/FAULTS.md")).expect("the table can be read");
    let all: String = sources().iter().map(|path| fs::read_to_string(path).unwrap_or_default()).collect();
    let named = table.split('`').skip(1).step_by(2).filter(|name| name.matches('_').count() > 2);
    let (mut seen, mut missing) = (0, Vec::new());
    for name in named {
        seen += 1;
        if !all.contains(&format!("fn {name}(")) {
            missing.push(name);
        }
    }
    assert!(seen > 40, "the table names tests: {seen}");
    assert!(missing.is_empty(), "FAULTS.md names tests that do not exist: {missing:?}");
}
