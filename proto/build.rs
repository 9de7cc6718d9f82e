//! Compiles the .proto files with protox, so that no protoc is needed on the machine.

use std::path::{Path, PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("proto");
    let files: Vec<PathBuf> = [
        "dure/v1/common.proto",
        "dure/v1/jobs.proto",
        "dure/v1/tenants.proto",
        "dure/v1/nodes.proto",
        "dure/v1/agents.proto",
        "dure/journal/v1/journal.proto",
    ]
    .iter()
    .map(|file| root.join(file))
    .collect();
    println!("cargo:rerun-if-changed=proto");
    let set = protox::compile(&files, [root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("dure.bin"), set.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(set)?;
    Ok(())
}
