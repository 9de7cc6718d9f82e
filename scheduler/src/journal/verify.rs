//! What is proven before a journal may lead, or a copy may be called a backup.
//!
//! In: a read-only connection, the anchor, the highest position an agent obeyed. Out: the proven facts and head, or
//! `Damaged` with every finding (bounded). It reads only: what is damaged must stay as it is for whoever looks at it.

use std::path::Path;

use rusqlite::Connection;

use super::anchor::Anchor;
use super::chain::{ChainCheck, Depth, genesis};
use super::schema::{Facts, base, each_row, head_at, read_facts};
use super::snapshot::{Content, newest};
use super::{Finding, Head, JournalError, MAX_SEQ};

/// How far back the chain is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// From the newest sound snapshot on: what recovery will read.
    SinceSnapshot,
    /// From the first event.
    Whole,
}

/// What was proven.
#[derive(Debug, Clone)]
pub(crate) struct Proven {
    pub(crate) facts: Facts,
    pub(crate) head: Head,
    /// Newer snapshots that were passed over because they do not hold.
    pub(crate) damaged_snapshots: Vec<u64>,
    /// Batches whose hashes were computed anew.
    pub(crate) batches: u64,
}

/// Proves a store: its facts, its chain, and that it reaches the anchor and the witness.
pub(crate) fn verify_store(
    dir: &Path,
    conn: &Connection,
    anchor: &Anchor,
    witness: Option<u64>,
    extent: Extent,
) -> Result<Proven, JournalError> {
    let facts = read_facts(dir, conn)?.ok_or_else(|| JournalError::facts(dir, "the store's facts are missing"))?;
    if facts.store_id != anchor.store_id {
        let why = format!("the anchor is of store {:?}, the database of store {:?}", anchor.store_id, facts.store_id);
        return Err(JournalError::facts(dir, why));
    }
    let snapshots = match extent {
        Extent::SinceSnapshot => newest(dir, conn, Content::CheckOnly, MAX_SEQ)?,
        Extent::Whole => Default::default(),
    };
    let base = base(conn).map_err(|err| JournalError::sqlite(dir, "reading the base", 0, &err))?;
    let first = base.unwrap_or(genesis(facts.store_id));
    let start = snapshots.found.map_or(first, |(stored, _)| stored.head);
    let mut check = ChainCheck::after(start, Depth::Hash);
    follow_rows(dir, conn, &mut check)?;
    check_known_head(dir, conn, &mut check, start, "does not match the snapshot of its position")?;
    if anchor.head.seq > check.head().seq {
        let (from, to) = (check.head().seq + 1, anchor.head.seq);
        check.find(Finding::Missing { from, to, proof: "the anchor has seen them" });
    } else {
        check_known_head(dir, conn, &mut check, anchor.head, "does not match the anchor")?;
    }
    if let Some(finding) = witness.and_then(|witness| Finding::behind_witness(check.head().seq, witness)) {
        check.find(finding);
    }
    if !check.findings.is_empty() {
        return Err(JournalError::damaged(dir, check.findings));
    }
    Ok(Proven { facts, head: check.head(), damaged_snapshots: snapshots.damaged, batches: check.batches })
}

/// Follows every stored row after the check's start; a file that cannot be read on becomes a finding.
fn follow_rows(dir: &Path, conn: &Connection, check: &mut ChainCheck) -> Result<(), JournalError> {
    let start = check.head().seq;
    let outcome = each_row(conn, start + 1, |row| {
        if row.batch.last_seq() > start {
            check.follow(&row);
        }
        true
    });
    let Err(err) = outcome else { return Ok(()) };
    match JournalError::sqlite(dir, "reading the batches", check.head().seq, &err) {
        JournalError::Damaged { findings, .. } => {
            findings.into_iter().for_each(|finding| check.find(finding));
            Ok(())
        }
        other => Err(other),
    }
}

/// Compares the stored head at a known position with what is known of it from elsewhere.
fn check_known_head(
    dir: &Path,
    conn: &Connection,
    check: &mut ChainCheck,
    known: Head,
    why: &'static str,
) -> Result<(), JournalError> {
    if known.seq == 0 || known == check.start() {
        return Ok(());
    }
    let stored = head_at(conn, known.seq).map_err(|err| JournalError::sqlite(dir, "reading a head", 0, &err))?;
    if stored != Some(known) {
        check.find(Finding::Broken { from: known.seq, to: known.seq, why });
    }
    Ok(())
}
