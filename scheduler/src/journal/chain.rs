//! The hash chain: what makes a lost, changed or reordered batch visible.
//!
//! In: batches in order, or the rows they were stored as. Out: rows to store, and findings for whatever does not
//! follow. Pure: it reads no file and no clock, and it never repairs.

use sha2::{Digest, Sha256};

use super::{Batch, Finding, Head, StoreId};

/// Most findings one check reports: enough to see the extent, few enough to read.
pub const MAX_FINDINGS: usize = 16;

/// SHA-256 over a batch and the hash before it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash(pub [u8; 32]);

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", hex::encode(&self.0[..8]))
    }
}

/// A batch as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) batch: Batch,
    /// CRC-32 of the numbers and the payload: cheap enough for every read.
    pub(crate) crc: u32,
    pub(crate) prev_hash: Hash,
    pub(crate) hash: Hash,
}

/// The head of an empty store: its hash is that of the store's id, so that no two stores share a chain.
pub fn genesis(store_id: StoreId) -> Head {
    let mut sha = Sha256::new();
    sha.update(b"dure journal 1");
    sha.update(store_id.0);
    Head { seq: 0, hash: Hash(sha.finalize().into()), epoch: 0 }
}

/// The checksum a stored batch carries.
pub(crate) fn crc(batch: &Batch) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&batch.first_seq.to_le_bytes());
    crc.update(&batch.count.to_le_bytes());
    crc.update(&batch.epoch.to_le_bytes());
    crc.update(&batch.payload);
    crc.finalize()
}

/// SHA-256(prev_hash || first_seq || count || epoch || payload), numbers little-endian.
fn link(prev: Hash, batch: &Batch) -> Hash {
    let mut sha = Sha256::new();
    sha.update(prev.0);
    sha.update(batch.first_seq.to_le_bytes());
    sha.update(batch.count.to_le_bytes());
    sha.update(batch.epoch.to_le_bytes());
    sha.update(&batch.payload);
    Hash(sha.finalize().into())
}

/// What a batch is stored beside itself, when it follows `head`: its checksum, and the head after it.
pub(crate) fn seal(head: &Head, batch: &Batch) -> (u32, Head) {
    let after = Head { seq: batch.last_seq(), hash: link(head.hash, batch), epoch: batch.epoch };
    (crc(batch), after)
}

/// How much of a row is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Checksum, contiguity and the stored links: for every read.
    Checksum,
    /// The hash too, computed anew: before leading, in backups and scrubs.
    Hash,
}

/// Follows rows in order and collects what does not hold. It goes on after a fault, so that the whole extent is known.
#[derive(Debug, Clone)]
pub(crate) struct ChainCheck {
    start: Head,
    head: Head,
    /// False while the start is only a position: the first row's predecessor is not known then.
    linked: bool,
    depth: Depth,
    pub(crate) findings: Vec<Finding>,
    pub(crate) batches: u64,
}

impl ChainCheck {
    /// Expects the row that follows `head`.
    pub(crate) fn after(head: Head, depth: Depth) -> Self {
        ChainCheck { start: head, head, linked: true, depth, findings: Vec::new(), batches: 0 }
    }

    /// Expects a row that starts at `first_seq`, whatever its predecessor was.
    pub(crate) fn from_position(first_seq: u64, depth: Depth) -> Self {
        let head = Head { seq: first_seq.saturating_sub(1), hash: Hash([0; 32]), epoch: 0 };
        ChainCheck { start: head, head, linked: false, depth, findings: Vec::new(), batches: 0 }
    }

    /// Where it began.
    pub(crate) fn start(&self) -> Head {
        self.start
    }

    /// The end of what was followed.
    pub(crate) fn head(&self) -> Head {
        self.head
    }

    /// Takes the next row; what is wrong with it becomes a finding.
    pub(crate) fn follow(&mut self, row: &Row) {
        let batch = &row.batch;
        let next = self.head.seq + 1;
        if batch.first_seq > next {
            self.find(Finding::Missing { from: next, to: batch.first_seq - 1, proof: "later positions exist" });
        }
        if let Some(why) = self.fault(row) {
            self.find(Finding::Broken { from: batch.first_seq, to: batch.last_seq(), why });
        }
        self.head = Head { seq: batch.last_seq(), hash: row.hash, epoch: batch.epoch };
        self.linked = true;
        self.batches += 1;
    }

    fn fault(&self, row: &Row) -> Option<&'static str> {
        let batch = &row.batch;
        let contiguous = batch.first_seq == self.head.seq + 1;
        if batch.count == 0 || batch.last_seq() >= super::MAX_SEQ {
            return Some("impossible positions");
        }
        if batch.first_seq <= self.head.seq {
            return Some("overlaps the batch before it");
        }
        if row.crc != crc(batch) {
            return Some("checksum does not match");
        }
        if contiguous && self.linked && row.prev_hash != self.head.hash {
            return Some("does not continue the batch before it");
        }
        if batch.epoch < self.head.epoch {
            return Some("epoch goes back");
        }
        if self.depth == Depth::Hash && row.hash != link(row.prev_hash, batch) {
            return Some("hash does not match");
        }
        None
    }

    pub(crate) fn find(&mut self, finding: Finding) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: u64) -> (Head, Vec<Row>) {
        let start = genesis(StoreId([7; 16]));
        let mut head = start;
        let rows = (0..n)
            .map(|i| {
                let batch = Batch { first_seq: head.seq + 1, count: 3, epoch: 1, payload: vec![i as u8; 10] };
                let prev_hash = head.hash;
                let (crc, after) = seal(&head, &batch);
                head = after;
                Row { batch, crc, prev_hash, hash: after.hash }
            })
            .collect();
        (start, rows)
    }

    fn findings(start: Head, rows: &[Row], depth: Depth) -> Vec<Finding> {
        let mut check = ChainCheck::after(start, depth);
        rows.iter().for_each(|row| check.follow(row));
        check.findings
    }

    #[test]
    fn a_whole_chain_has_no_findings() {
        let (start, rows) = rows(5);
        assert_eq!(findings(start, &rows, Depth::Hash), vec![]);
        let mut check = ChainCheck::from_position(7, Depth::Hash);
        rows[2..].iter().for_each(|row| check.follow(row));
        assert_eq!((check.findings, check.head.seq), (vec![], 15));
    }

    #[test]
    fn a_missing_batch_is_named_by_its_positions() {
        let (start, mut rows) = rows(5);
        rows.remove(2);
        let missing = Finding::Missing { from: 7, to: 9, proof: "later positions exist" };
        assert_eq!(findings(start, &rows, Depth::Hash), vec![missing]);
    }

    #[test]
    fn every_changed_field_is_found_at_both_depths() {
        let (start, good) = rows(4);
        let changes: [fn(&mut Row); 6] = [
            |row| row.batch.payload[3] ^= 1,
            |row| row.batch.epoch += 1,
            |row| row.batch.count += 1,
            |row| row.crc ^= 4,
            |row| row.prev_hash.0[0] ^= 1,
            |row| row.hash.0[31] ^= 1,
        ];
        for (i, change) in changes.iter().enumerate() {
            for depth in [Depth::Checksum, Depth::Hash] {
                let mut rows = good.clone();
                change(&mut rows[1]);
                assert!(!findings(start, &rows, depth).is_empty(), "change {i} at {depth:?}");
            }
        }
    }

    #[test]
    fn a_rewritten_batch_with_a_fitting_checksum_is_found_by_its_hash() {
        let (start, mut rows) = rows(4);
        rows[3].batch.payload[0] ^= 1;
        rows[3].crc = crc(&rows[3].batch);
        assert_eq!(findings(start, &rows, Depth::Checksum), vec![]);
        assert_eq!(
            findings(start, &rows, Depth::Hash),
            vec![Finding::Broken { from: 10, to: 12, why: "hash does not match" }]
        );
    }

    #[test]
    fn findings_are_bounded() {
        let (start, mut rows) = rows(100);
        rows.iter_mut().for_each(|row| row.crc ^= 1);
        assert_eq!(findings(start, &rows, Depth::Hash).len(), MAX_FINDINGS);
    }
}
