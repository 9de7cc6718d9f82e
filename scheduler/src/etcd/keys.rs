//! The keys of the store: what lies where. Numbers are written in 16 hexadecimal digits, so that keys sort as they do.

use crate::journal::BlobId;

/// A range of keys: from `key` up to but not including `end`; exactly `key` when `end` is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first key.
    pub key: Vec<u8>,
    /// The first key that does not belong to it.
    pub end: Vec<u8>,
}

impl Range {
    /// Exactly this key.
    pub fn one(key: Vec<u8>) -> Self {
        Self { key, end: Vec::new() }
    }

    /// Every key that begins so.
    pub fn under(prefix: Vec<u8>) -> Self {
        let mut end = prefix.clone();
        if let Some(last) = end.last_mut() {
            *last += 1; // every prefix here ends in '/'
        }
        Self { key: prefix, end }
    }
}

/// Makes keys.
#[derive(Clone, Debug)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// Of the store under this prefix.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.trim_end_matches('/').to_owned() }
    }

    fn named(&self, name: &str) -> Vec<u8> {
        format!("{}/{name}", self.prefix).into_bytes()
    }

    /// Everything of this store.
    pub fn all(&self) -> Range {
        Range::under(self.named(""))
    }

    /// Where the journal was moved; nobody leads on what was left.
    pub fn moved(&self) -> Vec<u8> {
        self.named("moved")
    }

    /// Who leads.
    pub fn leader(&self) -> Vec<u8> {
        self.named("leader")
    }

    /// What a process says of itself while it stands by.
    pub fn standing(&self, instance: &str) -> Vec<u8> {
        self.named(&format!("standing/{instance}"))
    }

    /// All that stand by.
    pub fn all_standing(&self) -> Range {
        Range::under(self.named("standing/"))
    }

    /// What the store is.
    pub fn facts(&self) -> Vec<u8> {
        self.named("facts")
    }

    /// The end of the journal.
    pub fn head(&self) -> Vec<u8> {
        self.named("head")
    }

    /// The entry whose first event has this position.
    pub fn entry(&self, first_seq: u64) -> Vec<u8> {
        self.named(&format!("batch/{first_seq:016x}"))
    }

    /// Entries whose first event lies in `from..to`.
    pub fn entries(&self, from: u64, to: u64) -> Range {
        Range { key: self.entry(from), end: self.entry(to) }
    }

    /// The position in an entry's key.
    pub fn position_of(&self, entry: &[u8]) -> Option<u64> {
        let digits = entry.strip_prefix(&*self.named("batch/"))?;
        u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    }

    /// One part of an entry that is too large for one value.
    pub fn part(&self, first_seq: u64, index: u32) -> Vec<u8> {
        self.named(&format!("part/{first_seq:016x}/{index:08x}"))
    }

    /// The parts of entries whose first event lies in `from..to`.
    pub fn parts(&self, from: u64, to: u64) -> Range {
        Range { key: self.part(from, 0), end: self.part(to, 0) }
    }

    /// One chunk of a blob.
    pub fn blob_chunk(&self, id: BlobId, index: u32) -> Vec<u8> {
        self.named(&format!("blob/{id}/{index:08x}"))
    }

    /// The chunks of a blob.
    pub fn blob(&self, id: BlobId) -> Range {
        Range::under(self.named(&format!("blob/{id}/")))
    }

    /// All blobs.
    pub fn blobs(&self) -> Range {
        Range::under(self.named("blob/"))
    }

    /// The blobs after this one.
    pub fn blobs_after(&self, after: Option<BlobId>) -> Range {
        let all = self.blobs();
        Range { key: after.map_or(all.key, |id| self.blob(id).end), end: all.end }
    }

    /// The blob whose chunk has this key.
    pub fn blob_of(&self, chunk: &[u8]) -> Option<BlobId> {
        let rest = chunk.strip_prefix(&*self.named("blob/"))?;
        let mut id = [0; 16];
        hex::decode_to_slice(rest.get(..32)?, &mut id).ok()?;
        Some(BlobId(id))
    }

    /// A visible snapshot.
    pub fn snapshot(&self, seq: u64) -> Vec<u8> {
        self.named(&format!("snapshot/{seq:016x}"))
    }

    /// All visible snapshots.
    pub fn snapshots(&self) -> Range {
        Range::under(self.named("snapshot/"))
    }

    /// One chunk of a snapshot.
    pub fn snapshot_chunk(&self, seq: u64, index: u32) -> Vec<u8> {
        self.named(&format!("chunk/{seq:016x}/{index:08x}"))
    }

    /// The chunks of a snapshot.
    pub fn snapshot_chunks(&self, seq: u64) -> Range {
        Range::under(self.named(&format!("chunk/{seq:016x}/")))
    }

    /// The chunks of all snapshots.
    pub fn all_snapshot_chunks(&self) -> Range {
        Range::under(self.named("chunk/"))
    }

    /// The snapshot whose chunk has this key.
    pub fn snapshot_of(&self, chunk: &[u8]) -> Option<u64> {
        let rest = chunk.strip_prefix(&*self.named("chunk/"))?;
        u64::from_str_radix(std::str::from_utf8(rest.get(..16)?).ok()?, 16).ok()
    }

    /// The authority that signs the nodes' certificates: a digest of its own.
    pub fn authority(&self) -> Vec<u8> {
        self.named("authority")
    }

    /// A one-time token that was spent.
    pub fn spent_token(&self, digest: &str) -> Vec<u8> {
        self.named(&format!("spent/{digest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_their_numbers_and_read_back() {
        let keys = Keys::new("/dure/");
        assert_eq!(keys.leader(), b"/dure/leader");
        assert!(keys.entry(9) < keys.entry(10) && keys.entry(255) < keys.entry(256));
        assert_eq!(keys.position_of(&keys.entry(4711)), Some(4711));
        assert_eq!(keys.position_of(&keys.head()), None);
        let id = BlobId::of(b"x");
        assert_eq!(keys.blob_of(&keys.blob_chunk(id, 3)), Some(id));
        assert_eq!(keys.snapshot_of(&keys.snapshot_chunk(77, 3)), Some(77));
        let range = keys.blob(id);
        assert!(range.key < keys.blob_chunk(id, 9) && keys.blob_chunk(id, 9) < range.end);
        assert!(keys.entries(5, 9).end == keys.entry(9));
    }
}
