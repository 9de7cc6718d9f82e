//! The messages of Dure, generated from `proto/dure`: nothing is written by hand here.

/// The public API and the agents' stream.
#[allow(clippy::all)]
pub mod v1 {
    tonic::include_proto!("dure.v1");
}

/// The records of the journal and of its snapshots.
pub mod journal {
    /// Version 1: decodes for ever.
    #[allow(clippy::all)]
    pub mod v1 {
        tonic::include_proto!("dure.journal.v1");
    }
}

/// The part of etcd's API that the replicated journal speaks; the client only.
#[allow(clippy::all)]
pub mod etcd {
    tonic::include_proto!("etcdserverpb");
}

/// The files of Dure above as an encoded `FileDescriptorSet`, for reflection and for the test of the permission table.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dure.bin"));
