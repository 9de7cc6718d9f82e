//! History equals journal: however often the filling is cut short, and wherever it goes on from.

use std::path::Path;

use dure_core::Cluster;
use dure_core::ids::Seq;
use dure_core::units::Time;
use proptest::collection::vec;
use proptest::prelude::*;
use rusqlite::Connection;

use super::*;
use crate::auth::Visible;
use crate::journal::{Batch, FoundSnapshot, JournalError, ReadLimit, Snapshot};
use crate::random_turns::{RandomTurns, small_policy};
use crate::record::{CallRecord, encode_snapshot, encode_with_calls};
use crate::source::{Source, Turns};

/// A journal in memory, of which so much is durable, and so much kept.
#[derive(Clone, Default)]
struct Shelf {
    batches: Vec<Batch>,
    snapshots: Vec<Snapshot>,
    durable: usize,
    kept_from: u64,
}

impl Source for Shelf {
    fn last_position(&self) -> Result<Seq, JournalError> {
        Ok(Seq(self.batches[..self.durable].last().map_or(0, Batch::last_seq)))
    }

    fn batches_from(&self, from: Seq, limit: ReadLimit) -> Result<Vec<Batch>, JournalError> {
        if from.0 < self.kept_from {
            return Err(JournalError::Truncated { kept_from: self.kept_from });
        }
        let all = self.batches[..self.durable].iter().filter(|batch| batch.last_seq() >= from.0);
        Ok(all.take(limit.batches.min(7)).cloned().collect())
    }

    fn sound_snapshot(&self) -> Result<FoundSnapshot, JournalError> {
        Ok(FoundSnapshot { snapshot: self.snapshot_up_to(Seq(u64::MAX))?, damaged: Vec::new() })
    }

    fn snapshot_up_to(&self, seq: Seq) -> Result<Option<Snapshot>, JournalError> {
        let head = self.last_position()?.0.min(seq.0);
        Ok(self.snapshots.iter().rfind(|found| found.seq <= head && found.seq + 1 >= self.kept_from).cloned())
    }

    fn beginning(&self) -> Result<Option<Snapshot>, JournalError> {
        Ok(self.snapshots.iter().find(|found| found.seq + 1 == self.kept_from).cloned())
    }
}

/// A random life of a cluster, with a snapshot now and then. The state at its end.
fn journal(seed: u64, turns: usize) -> (Shelf, Cluster) {
    journal_parting(seed, turns, usize::MAX)
}

/// The same life up to a turn, and from then on another: the journal was restored as it was there, an hour later.
fn journal_parting(seed: u64, turns: usize, parting: usize) -> (Shelf, Cluster) {
    let (mut shelf, mut turns_of, mut seq) = (Shelf::default(), RandomTurns::new(seed, 4, small_policy()), 0);
    for number in 0..turns {
        if number == parting {
            turns_of.roll(2);
            turns_of.now = turns_of.now + dure_core::units::Span(3_600_000);
        }
        let events = if number == 0 { turns_of.opening() } else { turns_of.turn() };
        if events.is_empty() {
            continue;
        }
        let user = format!("user-{}", turns_of.roll(3)).into();
        let call = CallRecord { user, method: "Jobs/Cancel".into(), events: 1, ..CallRecord::default() };
        let calls = vec![call; turns_of.roll(3) as usize];
        let payload = encode_with_calls(turns_of.now, &events, &calls);
        shelf.batches.push(Batch { first_seq: seq + 1, count: events.len() as u32, epoch: 1, payload });
        seq += events.len() as u64;
        if number % 40 == 39 {
            let bytes = encode_snapshot(&turns_of.cluster, Seq(seq), turns_of.now).expect("it is small");
            shelf.snapshots.push(Snapshot { seq, created_ms: turns_of.now.0, bytes });
        }
        // Days pass, so that usage is spread over some.
        turns_of.now = turns_of.now + dure_core::units::Span(turns_of.roll(4) * 900_000);
    }
    shelf.durable = shelf.batches.len();
    (shelf, turns_of.cluster)
}

fn historian(dir: &Path) -> Historian {
    let store = HistoryStore::open(&HistoryStore::path_in(dir), "store").expect("it opens");
    Historian::new(store, Retention::standard(), Refusals::default()).expect("it goes on")
}

/// Everything that is in it, but for the numbers that SQLite gives.
fn told(dir: &Path) -> Vec<String> {
    let db = Connection::open(HistoryStore::path_in(dir)).expect("it opens");
    let mut all = Vec::new();
    for table in ["meta", "ends", "gaps", "jobs", "attempts", "evictions", "usage", "charged", "quota_changes", "audit"]
    {
        let mut statement = db.prepare(&format!("SELECT * FROM {table}")).expect("it is there");
        let skip = usize::from(table == "audit");
        let columns = statement.column_count();
        let mut rows = statement.query([]).expect("it reads");
        let from = all.len();
        while let Some(row) = rows.next().expect("it reads") {
            let values: Vec<String> =
                (skip..columns).map(|at| format!("{:?}", row.get_ref(at).expect("a value"))).collect();
            all.push(format!("{table}: {}", values.join(", ")));
        }
        all[from..].sort();
    }
    all
}

fn whole(shelf: &Shelf) -> Vec<String> {
    let dir = tempfile::tempdir().expect("a folder");
    catch_up(&mut historian(dir.path()), shelf, small_policy()).expect("it is filled");
    told(dir.path())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Filled in one go, or piece by piece with a crash after any of them: the same rows.
    #[test]
    fn a_history_that_was_cut_short_is_the_same(seed in 1..u64::MAX, cuts in vec((0.0..1.0f64, any::<bool>()), 1..6)) {
        let (shelf, _) = journal(seed, 120);
        let dir = tempfile::tempdir().expect("a folder");
        let mut ends: Vec<(usize, bool)> =
            cuts.iter().map(|(part, crash)| ((shelf.batches.len() as f64 * part) as usize, *crash)).collect();
        ends.sort_unstable();
        for (durable, crash) in ends {
            let part = Shelf { durable, ..shelf.clone() };
            let mut filling = historian(dir.path());
            catch_up(&mut filling, &part, small_policy()).expect("it is filled");
            if crash {
                // What the follower had seen beyond that, and not written, is lost with the process.
                let mut more = part.clone();
                more.durable = shelf.batches.len().min(durable + 9);
                feed(&mut filling, &more);
            }
        }
        catch_up(&mut historian(dir.path()), &shelf, small_policy()).expect("it is filled");
        prop_assert_eq!(told(dir.path()), whole(&shelf));
    }
}

/// As the follower does it: seen turn by turn, written when much waits.
fn feed(historian: &mut Historian, shelf: &Shelf) {
    let mut cluster = Cluster::new(small_policy());
    for turn in Turns::from(shelf, Seq(1)) {
        let turn = turn.expect("it decodes");
        let see = &mut |cluster: &Cluster, seq: u64, event: &dure_core::event::Event| {
            historian.see(cluster, seq, turn.time, event);
        };
        crate::recover::apply_seen(&mut cluster, turn.time, turn.first_seq, &turn.events, see).expect("it fits");
        historian.turn(&turn).expect("it is written");
    }
}

fn count(dir: &Path, sql: &str) -> i64 {
    let db = Connection::open(HistoryStore::path_in(dir)).expect("it opens");
    db.query_row(sql, [], |row| row.get(0)).expect("it counts")
}

#[test]
fn the_sums_are_those_of_the_state() {
    let (shelf, cluster) = journal(11, 300);
    let dir = tempfile::tempdir().expect("a folder");
    catch_up(&mut historian(dir.path()), &shelf, small_policy()).expect("it is filled");
    let days = count(dir.path(), "SELECT sum(own_gpu_ms + borrowed_gpu_ms) FROM usage");
    assert!(days > 0);
    assert_eq!(days, count(dir.path(), "SELECT sum(own_gpu_ms + borrowed_gpu_ms) FROM attempts"));
    assert!(count(dir.path(), "SELECT count(DISTINCT day) FROM usage") > 1);
    // What ended is in the rows; what runs has not been counted since its attempt began.
    let total: u64 = cluster.tenants()[0].total.own.0 + cluster.tenants()[0].total.borrowed.0;
    let running = |job: &&dure_core::job::Job| job.phase.is_active();
    let open: u64 = cluster.jobs().iter().filter(running).map(|job| job.usage.own.0 + job.usage.borrowed.0).sum();
    let charged = count(dir.path(), "SELECT ifnull(sum(own_gpu_ms + borrowed_gpu_ms), 0) FROM charged");
    assert!(days as u64 <= total && total <= days as u64 + open, "{days} {total} {open} {charged}");
    let ended = cluster.jobs().iter().filter(|job| job.ended_at.is_some()).count() as i64;
    let kept = count(dir.path(), "SELECT count(*) FROM jobs");
    assert!(kept >= ended && kept > 0, "{kept} {ended}");
    assert!(count(dir.path(), "SELECT count(*) FROM quota_changes WHERE what LIKE 'quota %'") > 0);
}

#[test]
fn what_the_journal_forgot_is_a_gap_and_what_is_old_goes() {
    let (mut shelf, _) = journal(11, 300);
    let base = shelf.snapshots[1].seq;
    shelf.kept_from = base + 1;
    let dir = tempfile::tempdir().expect("a folder");
    catch_up(&mut historian(dir.path()), &shelf, small_policy()).expect("it is filled");
    assert_eq!(count(dir.path(), "SELECT to_seq FROM gaps WHERE from_seq = 1"), base as i64);
    assert!(count(dir.path(), "SELECT count(*) FROM usage") > 0 && count(dir.path(), "SELECT count(*) FROM jobs") > 0);
    let late = Connection::open(HistoryStore::path_in(dir.path())).expect("it opens");
    let next_day = shelf.snapshots[1].created_ms + 401 * DAY_MS;
    late.execute("UPDATE meta SET seq = seq - 1", []).expect("it is set");
    drop(late);
    let mut historian = historian(dir.path());
    let head = shelf.last_position().expect("it has an end");
    let turn = crate::source::DurableBatch {
        first_seq: head.0 + 1,
        epoch: dure_core::ids::Epoch(1),
        time: Time(next_day + 100 * DAY_MS),
        events: vec![dure_core::event::Event::JobForgotten { job: dure_core::ids::JobId(1) }],
        calls: Vec::new(),
    };
    historian.turn(&turn).expect("it is taken");
    historian.write().expect("it is written");
    assert_eq!(count(dir.path(), "SELECT count(*) FROM jobs"), 0);
    assert!(count(dir.path(), "SELECT count(*) FROM usage") > 0, "usage is kept for longer");
}

#[test]
fn answers_are_pages_of_what_the_caller_may_see() {
    let (shelf, _) = journal(11, 300);
    let dir = tempfile::tempdir().expect("a folder");
    let refusals = Refusals::default();
    let store = HistoryStore::open(&HistoryStore::path_in(dir.path()), "store").expect("it opens");
    let mut filling = Historian::new(store, Retention::standard(), refusals.clone()).expect("it goes on");
    catch_up(&mut filling, &shelf, small_policy()).expect("it is filled");
    let ana = crate::auth::Caller { user: "ana".into(), role: "member", ..Default::default() };
    for _ in 0..3 {
        refusals.count(&ana, tonic::Code::PermissionDenied, "no", 1_700_000_000_000);
        filling.write().expect("it is written");
    }
    let reader = HistoryReader::open(dir.path()).expect("it opens");
    let all =
        Filter { visible: Visible::All, tenant: String::new(), user: String::new(), job: 0, since_ms: 0, until_ms: 0 };
    let (mut seen, mut from) = (Vec::new(), 0);
    loop {
        let (rows, more) = reader.jobs(&all, Page { size: 7, from }).expect("it reads");
        from += rows.len() as u64;
        seen.extend(rows);
        if !more {
            break;
        }
    }
    assert_eq!(seen.len() as i64, count(dir.path(), "SELECT count(*) FROM jobs"));
    assert!(seen.windows(2).all(|two| two[0].ended_ms >= two[1].ended_ms), "the last one first");
    let own = Filter { visible: Visible::Missions(vec!["fusion".into()]), ..all.clone() };
    let (fusion, _) = reader.attempts(&own, Page { size: 1000, from: 0 }).expect("it reads");
    assert!(!fusion.is_empty() && fusion.iter().all(|row| row.tenant.starts_with("fusion/")));
    let none = Filter { visible: Visible::Missions(Vec::new()), ..all.clone() };
    assert!(reader.jobs(&none, Page { size: 10, from: 0 }).expect("it reads").0.is_empty());
    let refused = AuditFilter { refused: true, ..AuditFilter::default() };
    let (rows, _) = reader.audit(&all, &refused, Page { size: 10, from: 0 }).expect("it reads");
    assert_eq!((rows.len(), rows[0].count, rows[0].refused.as_str()), (1, 3, "PERMISSION_DENIED"));
    let by = UsageFilter { by_day: false, by_user: false };
    let (usage, _) = reader.usage(&all, by, Page { size: 100, from: 0 }).expect("it reads");
    let sum: u64 = usage.iter().filter_map(|row| row.total).map(|total| total.own_gpu_ms + total.borrowed_gpu_ms).sum();
    assert_eq!(sum as i64, count(dir.path(), "SELECT sum(own_gpu_ms + borrowed_gpu_ms) FROM usage"));
    reader.copy_to(&dir.path().join("copy.sqlite")).expect("it is copied");
    assert_eq!(reader.reach().expect("it reads").seq, shelf.last_position().expect("it has an end").0);
}

#[test]
fn stops_for_others_for_drains_and_for_lost_nodes_are_rows() {
    let found = (1..12).any(|seed| {
        let (shelf, _) = journal(seed, 120);
        let dir = tempfile::tempdir().expect("a folder");
        catch_up(&mut historian(dir.path()), &shelf, small_policy()).expect("it is filled");
        count(dir.path(), "SELECT count(*) FROM evictions WHERE tenant <> '' AND user <> ''") > 0
    });
    assert!(found, "twelve lives without one");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// The journal is restored from a backup: the history, which is ahead of it or has gone another way, is as one of that
    /// journal from the beginning. Also where the journal does not reach back to its beginning any more.
    #[test]
    fn a_history_of_another_past_becomes_the_journals(
        seed in 1..u64::MAX, parting in 45..110usize, lost in 1..60usize, gained in 0..60usize, is_cut in any::<bool>()
    ) {
        let (old, _) = journal(seed, parting + lost);
        let (mut restored, _) = journal_parting(seed, parting + gained, parting);
        let dir = tempfile::tempdir().expect("a folder");
        catch_up(&mut historian(dir.path()), &old, small_policy()).expect("it is filled");
        let expected = whole(&restored);
        // Its beginning lies before the parting: a backup begins where its journal did.
        let common = old.snapshots.first().filter(|first| restored.snapshots.first() == Some(*first));
        if let Some(base) = common.filter(|_| is_cut) {
            restored.kept_from = base.seq + 1;
        }
        catch_up(&mut historian(dir.path()), &restored, small_policy()).expect("it is filled");
        prop_assert_eq!(told(dir.path()), expected);
    }
}

#[test]
fn a_history_that_is_ahead_or_of_another_turn_is_known_for_what_it_is() {
    use super::rewind::{Parted, parted};
    let (shelf, _) = journal(11, 60);
    let head = shelf.last_position().expect("it has an end");
    let last = shelf.batches.last().expect("there is one");
    let time = crate::source::DurableBatch::decode(last).expect("it decodes").time;
    let look = |at: u64, time: Time| parted(&shelf, head, Seq(at), time).expect("it reads");
    assert_eq!(look(head.0, time), None);
    assert_eq!(look(head.0, Time(0)), None, "an older version did not say it");
    assert_eq!(look(head.0 + 1, Time(0)), Some(Parted::Ahead { at: head.0 + 1, head: head.0 }));
    assert_eq!(look(head.0, Time(time.0 + 1)), Some(Parted::Other { at: head.0 }));
    assert_eq!(look(last.first_seq - 1, time), Some(Parted::Other { at: last.first_seq - 1 }));
    let cut = Shelf { kept_from: head.0 + 1, ..shelf.clone() };
    let unknown = parted(&cut, head, head, Time(1)).expect("it reads");
    assert_eq!(unknown, None, "the journal cannot tell any more");
    let words = Parted::Ahead { at: 9, head: 7 }.to_string();
    assert_eq!(words, "it ends at position 9, and the journal at 7");
}

#[test]
fn a_history_of_another_store_is_set_aside_and_not_lost() {
    let (shelf, _) = journal(11, 120);
    let dir = tempfile::tempdir().expect("a folder");
    catch_up(&mut historian(dir.path()), &shelf, small_policy()).expect("it is filled");
    let jobs = count(dir.path(), "SELECT count(*) FROM jobs");
    let path = HistoryStore::path_in(dir.path());
    let other = HistoryStore::open(&path, "another").expect("it opens");
    assert_eq!((other.position(), count(dir.path(), "SELECT count(*) FROM jobs")), (Seq(0), 0));
    let aside = Connection::open(path.with_file_name("history.aside.sqlite")).expect("it opens");
    let kept: i64 = aside.query_row("SELECT count(*) FROM jobs", [], |row| row.get(0)).expect("it counts");
    assert!(kept == jobs && jobs > 0, "{kept} {jobs}");
}
