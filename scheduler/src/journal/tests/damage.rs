//! Damaged files: either every acknowledged batch reads back as it was, or the store refuses to lead. Never silence.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::*;

/// In each of four files: 1,000 in all.
const FLIPS: usize = 250;
const DB: &str = "journal.db";
const WAL: &str = "journal.db-wal";
const SHM: &str = "journal.db-shm";

/// A store as a closed or a killed scheduler leaves it, and what it had acknowledged.
struct Left {
    disk: Disk,
    seq: u64,
}

/// `kill -9` leaves the files as the page cache has them: a copy of a live directory is the same.
fn killed() -> Left {
    let live = Disk::new();
    let mut engine = live.lead();
    append(&mut *engine, 150);
    while engine.maintain(None).expect("moves the log, so that it starts over") {}
    append(&mut *engine, 100);
    let disk = Disk::new();
    copy_dir(live.dir(), disk.dir());
    Left { seq: engine.head().seq, disk }
}

fn closed() -> Left {
    let disk = Disk::new();
    let mut engine = disk.lead();
    append(&mut *engine, 250);
    let seq = engine.close().expect("closed").seq;
    Left { disk, seq }
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Whole,
    Refused,
    Silent(String),
}

/// Opens a damaged copy and reads everything that was acknowledged.
fn outcome(dir: &Path, seq: u64) -> Outcome {
    let engine = match EmbeddedEngine::open(dir, OpenOptions::default()) {
        Ok(engine) => engine,
        Err(err) if err.is_damage() => return Outcome::Refused,
        Err(err) => return Outcome::Silent(format!("refused for the wrong reason: {err}")),
    };
    let batches = match read_all(&engine) {
        Ok(batches) => batches,
        Err(err) if err.is_damage() => return Outcome::Refused,
        Err(err) => return Outcome::Silent(format!("unreadable for the wrong reason: {err}")),
    };
    let mut next = 1;
    for batch in batches {
        if batch != batch_at(next, batch.epoch) {
            return Outcome::Silent(format!("wrong batch at {next}"));
        }
        if next.is_multiple_of(3) {
            match engine.read_blob(blob_at(next).id()) {
                Ok(Some(bytes)) if bytes == blob_at(next).bytes() => {}
                Ok(_) => return Outcome::Silent(format!("wrong or no blob at {next}")),
                Err(err) if err.is_damage() => return Outcome::Refused,
                Err(err) => return Outcome::Silent(format!("unreadable blob for the wrong reason: {err}")),
            }
        }
        next = batch.last_seq() + 1;
    }
    if next <= seq { Outcome::Silent(format!("ends before {next} of {seq}")) } else { Outcome::Whole }
}

fn damaged(left: &Left, damage: impl FnOnce(&Path)) -> Outcome {
    let copy = Disk::new();
    copy_dir(left.disk.dir(), copy.dir());
    damage(copy.dir());
    outcome(copy.dir(), left.seq)
}

fn flip(path: &Path, at: u64, bit: u32) {
    let file = File::options().read(true).write(true).open(path).expect("there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("inside");
    byte[0] ^= 1 << bit;
    file.write_all_at(&byte, at).expect("written");
}

fn size(path: PathBuf) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

/// Flips one bit at each of many places of a file; answers with (whole, refused).
fn flips(left: &Left, file: &str, seed: u64) -> (usize, usize) {
    let bytes = size(left.disk.dir().join(file));
    assert!(bytes > 4096, "{file} has {bytes} bytes");
    let mut random = Random(seed);
    let (mut whole, mut refused) = (0, 0);
    for _ in 0..FLIPS {
        // Every fourth flip near the end, where the newest batches are.
        let span = if random.below(4) == 0 { bytes.min(8192) } else { bytes };
        let (at, bit) = (bytes - span + random.below(span), random.below(8) as u32);
        match damaged(left, |dir| flip(&dir.join(file), at, bit)) {
            Outcome::Whole => whole += 1,
            Outcome::Refused => refused += 1,
            Outcome::Silent(how) => panic!("{file}, byte {at} of {bytes}, bit {bit}: {how}"),
        }
    }
    (whole, refused)
}

#[test]
fn no_flipped_bit_of_a_closed_store_goes_unnoticed() {
    let (whole, refused) = flips(&closed(), DB, 1);
    println!("closed, database: {whole} whole, {refused} refused");
    assert!(refused > FLIPS / 2, "most of the file is batches: {refused}");
}

#[test]
fn no_flipped_bit_of_a_killed_store_goes_unnoticed() {
    let left = killed();
    for (file, seed) in [(DB, 2), (WAL, 3), (SHM, 4)] {
        let (whole, refused) = flips(&left, file, seed);
        println!("killed, {file}: {whole} whole, {refused} refused");
        // The index of the log is made anew from the log: damage to it is no damage.
        assert!(whole + refused == FLIPS && (refused > 0) == (file != SHM));
    }
}

#[test]
fn a_flipped_header_byte_never_goes_unnoticed() {
    for left in [closed(), killed()] {
        for at in 0..100 {
            let outcome = damaged(&left, |dir| flip(&dir.join(DB), at, (at % 8) as u32));
            assert!(!matches!(outcome, Outcome::Silent(_)), "byte {at}: {outcome:?}");
        }
    }
}

#[test]
fn cut_zeroed_and_missing_files_never_go_unnoticed() {
    let cut = |path: PathBuf, bytes: u64| {
        let file = File::options().write(true).open(&path).expect("there");
        file.set_len(size(path).saturating_sub(bytes)).expect("cut");
    };
    let zero = |path: PathBuf| {
        let file = File::options().write(true).open(&path).expect("there");
        let bytes = size(path).min(4096);
        let at = file.metadata().expect("there").len() - bytes;
        file.write_all_at(&vec![0; bytes as usize], at).expect("zeroed");
    };
    for (left, files) in [(closed(), &[DB][..]), (killed(), &[DB, WAL])] {
        for file in files {
            for bytes in [37, 4096, 5000, 40_000, u64::MAX] {
                let outcome = damaged(&left, |dir| cut(dir.join(file), bytes));
                assert!(!matches!(outcome, Outcome::Silent(_)), "{file} cut by {bytes}: {outcome:?}");
            }
            let outcome = damaged(&left, |dir| zero(dir.join(file)));
            assert!(!matches!(outcome, Outcome::Silent(_)), "{file} zeroed at the end: {outcome:?}");
            let outcome = damaged(&left, |dir| fs::remove_file(dir.join(file)).expect("removed"));
            assert_eq!(outcome, Outcome::Refused, "{file} removed");
        }
    }
}

/// A chain that is cut off cleanly is sound in itself: only the anchor knows.
#[test]
fn a_chain_shorter_than_the_anchor_names_what_is_missing() {
    let left = closed();
    let keep = 200;
    let conn = rusqlite::Connection::open(left.disk.dir().join(DB)).expect("opens");
    conn.execute("DELETE FROM batches WHERE first_seq > ?1", [keep]).expect("deleted");
    let head = schema::last_head(&conn).expect("readable").expect("there").seq;
    drop(conn);
    let err = EmbeddedEngine::open(left.disk.dir(), OpenOptions::default()).expect_err("shorter");
    let missing = Finding::Missing { from: head + 1, to: left.seq, proof: "the anchor has seen them" };
    assert_eq!(err, JournalError::damaged(left.disk.dir(), vec![missing]));
    // Refusing changes nothing: the same answer again.
    let again = EmbeddedEngine::open(left.disk.dir(), OpenOptions::default()).expect_err("still shorter");
    assert_eq!(err, again);
}

#[test]
fn a_missing_and_a_rewritten_batch_are_both_named() {
    let left = closed();
    let conn = rusqlite::Connection::open(left.disk.dir().join(DB)).expect("opens");
    let firsts: Vec<u64> = read_all(&*left.disk.lead()).expect("readable").iter().map(|b| b.first_seq).collect();
    let (gone, bad) = (firsts[20] as i64, firsts[30] as i64);
    conn.execute("DELETE FROM batches WHERE first_seq = ?1", [gone]).expect("deleted");
    conn.execute("UPDATE batches SET payload = zeroblob(length(payload)) WHERE first_seq = ?1", [bad]).expect("set");
    drop(conn);
    let err = EmbeddedEngine::open(left.disk.dir(), OpenOptions::default()).expect_err("broken");
    let text = err.to_string();
    assert!(text.contains(&format!("positions {gone} to {} are missing", firsts[21] - 1)), "{text}");
    assert!(text.contains(&format!("positions {bad} to {} are broken", firsts[31] - 1)), "{text}");
}

#[test]
fn a_torn_anchor_opens_by_its_other_slot_and_a_lost_one_refuses() {
    let left = killed();
    let anchor = anchor::ANCHOR_FILE;
    for slot in [0, 4096] {
        let outcome = damaged(&left, |dir| flip(&dir.join(anchor), slot + 20, 3));
        assert_eq!(outcome, Outcome::Whole, "slot {slot}");
    }
    let both = damaged(&left, |dir| {
        flip(&dir.join(anchor), 20, 3);
        flip(&dir.join(anchor), 4096 + 20, 3);
    });
    assert_eq!(both, Outcome::Refused);
    let gone = damaged(&left, |dir| fs::remove_file(dir.join(anchor)).expect("removed"));
    assert_eq!(gone, Outcome::Refused);
    let other = closed();
    let foreign = damaged(&left, |dir| {
        fs::copy(other.disk.dir().join(anchor), dir.join(anchor)).map(drop).expect("copied");
    });
    assert_eq!(foreign, Outcome::Refused);
}

/// What a power cut may leave: a commit that nobody was told of, whole or torn, and an anchor from before it.
#[test]
fn an_unacknowledged_tail_just_opens_whole_or_torn() {
    for cut in [0, 1, 37, 5000] {
        let live = Disk::new();
        let mut engine = live.lead();
        append(&mut *engine, 20);
        let acked = engine.head().seq;
        let disk = Disk::new();
        fs::copy(live.dir().join(anchor::ANCHOR_FILE), disk.dir().join("older")).expect("copied");
        let batch = Batch { payload: bytes_of(acked + 1, 20_000), ..batch_at(acked + 1, engine.epoch()) };
        let head = engine.append(&[batch], &[]).expect("appended").seq;
        copy_dir(live.dir(), disk.dir());
        fs::rename(disk.dir().join("older"), disk.dir().join(anchor::ANCHOR_FILE)).expect("replaced");
        let log = disk.dir().join(WAL);
        File::options().write(true).open(&log).and_then(|f| f.set_len(size(log) - cut)).expect("cut");
        let engine = disk.lead();
        assert_eq!(engine.head().seq, if cut == 0 { head } else { acked }, "cut by {cut}");
    }
}

#[test]
fn a_log_cut_anywhere_in_the_last_two_batches_loses_nothing_that_was_acknowledged() {
    let live = Disk::new();
    let mut engine = live.lead();
    append(&mut *engine, 6);
    let (log, anchor) = (live.dir().join(WAL), live.dir().join(anchor::ANCHOR_FILE));
    let older = fs::read(&anchor).expect("the anchor");
    let mut ends = vec![(size(log.clone()), engine.head().seq)];
    for _ in 0..2 {
        append(&mut *engine, 1);
        ends.push((size(log.clone()), engine.head().seq));
    }
    let left = Disk::new();
    copy_dir(live.dir(), left.dir());
    let acked = engine.head().seq;
    let (from, to) = (ends[0].0, ends[2].0);
    let mut counted = 0;
    for at in from..=to {
        for is_acknowledged in [true, false] {
            let copy = Disk::new();
            copy_dir(left.dir(), copy.dir());
            File::options().write(true).open(copy.dir().join(WAL)).and_then(|file| file.set_len(at)).expect("cut");
            if is_acknowledged {
                let expected = if at == to { Outcome::Whole } else { Outcome::Refused };
                assert_eq!(outcome(copy.dir(), acked), expected, "cut at {at} of {from}..={to}");
            } else {
                // As if nobody had been told: the anchor is from before.
                fs::write(copy.dir().join(anchor::ANCHOR_FILE), &older).expect("replaced");
                let whole = ends.iter().rfind(|(end, _)| *end <= at).expect("the first ends at the first cut").1;
                assert_eq!(copy.lead().head().seq, whole, "cut at {at} of {from}..={to}");
            }
            counted += 1;
        }
    }
    println!("{counted} cuts");
    assert_eq!(counted, 2 * (to - from + 1), "every byte, whatever a checksum covers");
}

#[test]
fn a_witness_that_comes_later_is_checked_too() {
    let disk = Disk::new();
    let mut engine = disk.lead();
    append(&mut *engine, 3);
    let head = engine.head();
    assert_eq!(check_witness(disk.dir(), &head, head.seq), Ok(()));
    let missing = Finding::Missing { from: head.seq + 1, to: head.seq + 4, proof: "an agent obeyed them" };
    let expected = JournalError::damaged(disk.dir(), vec![missing]);
    assert_eq!(check_witness(disk.dir(), &head, head.seq + 4), Err(expected));
}

#[test]
fn the_making_of_a_store_can_be_cut_short() {
    let disk = Disk::new();
    drop(disk.lead());
    // Before the anchor there is a database that nobody has led on.
    let conn = rusqlite::Connection::open(disk.dir().join(DB)).expect("opens");
    conn.execute("DELETE FROM facts", []).expect("deleted");
    drop(conn);
    fs::remove_file(disk.dir().join(anchor::ANCHOR_FILE)).expect("removed");
    let mut engine = disk.lead();
    append(&mut *engine, 3);
    let empty = Disk::new();
    File::create(empty.dir().join(DB)).expect("an empty file");
    append(&mut *empty.lead(), 3);
}

#[test]
fn a_damaged_snapshot_falls_back_to_the_older_one_and_says_so() {
    let disk = Disk::new();
    let mut engine = disk.lead();
    let mut seqs = Vec::new();
    for round in 1..=2u64 {
        append(&mut *engine, 20);
        seqs.push(engine.head().seq);
        let bytes = bytes_of(round, SNAPSHOT_CHUNK_BYTES + 100);
        engine.put_snapshot(&Snapshot { seq: engine.head().seq, created_ms: round, bytes }).expect("written");
    }
    append(&mut *engine, 20);
    let seq = engine.close().expect("closed").seq;

    let conn = rusqlite::Connection::open(disk.dir().join(DB)).expect("opens");
    conn.execute("UPDATE snapshot_chunks SET bytes = zeroblob(100) WHERE seq = ?1 AND part = 1", [seqs[1] as i64])
        .expect("set");
    drop(conn);
    let mut engine = disk.lead();
    let found = engine.newest_snapshot().expect("readable");
    assert_eq!(found.damaged, vec![seqs[1]]);
    assert_eq!(found.snapshot.expect("the older one").seq, seqs[0]);
    assert_whole(&*engine, seq);
    let newer = Snapshot { seq, created_ms: 3, bytes: vec![1; 10] };
    engine.put_snapshot(&newer).expect("written");
    while engine.maintain(None).expect("housekeeping") {}
    assert_eq!(engine.newest_snapshot().expect("readable").snapshot, Some(newer));
    drop(engine);
    assert_eq!(JournalReader::open(disk.dir()).expect("opens").verify_all().expect("sound").snapshots, 2);
}

#[test]
fn a_replaced_lock_file_is_noticed() {
    let disk = Disk::new();
    let engine = EmbeddedEngine::open(disk.dir(), OpenOptions::default()).expect("opens");
    fs::remove_file(disk.dir().join("lock")).expect("removed");
    let (sender, reports) = std::sync::mpsc::channel();
    let writer = JournalWriter::start(Box::new(engine), WriterLimits::default(), move |report| {
        drop(sender.send(report));
    })
    .expect("a thread");
    let report = reports.recv_timeout(std::time::Duration::from_secs(20)).expect("noticed within seconds");
    assert!(matches!(report, Report::Failed(JournalError::LeadershipLost { .. })), "{report:?}");
    assert!(writer.close().is_err());
}
