//! Builds the fake NVML library from its dependency-free source and hands its path to `fake.rs`, which embeds it: so
//! one `cargo build` is enough, on a node without any GPU software.

use std::{env, path::PathBuf, process::Command};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("libfake-nvml.so");
    let rustc = env::var_os("RUSTC").expect("cargo sets RUSTC");
    let mut command = Command::new(rustc);
    command
        .args(["--crate-name", "fake_nvml", "--crate-type", "cdylib", "--edition", "2024"])
        .args(["-C", "opt-level=3", "-C", "panic=abort", "-C", "strip=symbols", "--cap-lints", "warn"])
        .args(["--target", &env::var("TARGET").expect("cargo sets TARGET")])
        .arg("-o")
        .arg(&out)
        .arg("fake-nvml/src/lib.rs");
    let status = command.status().expect("rustc can be started");
    assert!(status.success(), "the fake NVML library does not compile: see above");
    println!("cargo:rerun-if-changed=fake-nvml/src");
    println!("cargo:rustc-env=DURE_FAKE_NVML={}", out.display());
}
