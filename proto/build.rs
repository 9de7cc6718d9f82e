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
        "dure/v1/bookings.proto",
        "dure/v1/agents.proto",
        "dure/v1/schedulers.proto",
        "dure/v1/history.proto",
        "dure/v1/forecasts.proto",
        "dure/journal/v1/journal.proto",
        "dure/journal/v1/replicated.proto",
    ]
    .iter()
    .map(|file| root.join(file))
    .collect();
    println!("cargo:rerun-if-changed=proto");
    let set = protox::compile(&files, [root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("dure.bin"), set.encode_to_vec())?;
    // Ordered maps: equal messages are encoded to equal bytes.
    let mut code = tonic_prost_build::configure().btree_map(".");
    // The large and rare kinds would make every record as large as themselves.
    for large in ["job_submitted", "node_joined", "node_changed", "node_restored", "job_restored"] {
        code = code.boxed(format!(".dure.journal.v1.Record.event.{large}"));
    }
    code.compile_fds(set)?;
    // Of etcd only the client is needed, and it is no interface of ours.
    let etcd = protox::compile([root.join("etcd/rpc.proto")], [root])?;
    tonic_prost_build::configure().build_server(false).bytes(".").compile_fds(etcd)?;
    Ok(())
}
