//! The journal on a disk that fails: every crash, every torn tail, every flipped bit.

use std::io;
use std::path::Path;

use proptest::prelude::*;

use super::*;

const FOLDER: &str = "/state";

/// Small files, so that everything happens often.
const SMALL: Options =
    Options { segment_bytes: 600, batch_bytes_max: 400, compact_ratio: 2, compact_bytes_min: 600 };

type Records = Vec<Vec<u8>>;
type Opened = Result<(Journal<Simulated>, Recovery, Records), JournalError>;

fn open(disk: &Simulated) -> Opened {
    let mut records = Records::new();
    let replay = |record: &[u8]| records.push(record.to_vec());
    let (journal, recovery) = Journal::open_on(disk.clone(), Path::new(FOLDER), SMALL, replay)?;
    assert_eq!(recovery.records + recovery.snapshot_records, records.len() as u64);
    Ok((journal, recovery, records))
}

fn file(disk: &Simulated, name: &str) -> (PathBuf, Vec<u8>) {
    let path = Path::new(FOLDER).join(name);
    let bytes = disk.read(&path).unwrap();
    (path, bytes)
}

const FIRST: &str = "segment-0000000000000001";

/// Commits of these sizes, of records that tell their number; returns the records, and the offset in the
/// segment where each commit begins, and where the last ends.
fn commits(journal: &mut Journal<Simulated>, sizes: &[usize]) -> (Records, Vec<usize>) {
    let (mut records, mut starts) = (Records::new(), vec![journal.offset as usize]);
    for size in sizes {
        for _ in 0..*size {
            let record = format!("record {}", records.len()).into_bytes();
            journal.append(&record).unwrap();
            records.push(record);
        }
        journal.commit().unwrap();
        starts.push(journal.offset as usize);
    }
    (records, starts)
}

#[test]
fn a_tail_truncated_at_any_byte_loses_only_what_was_behind() {
    let disk = Simulated::new(1);
    let (mut journal, ..) = open(&disk).unwrap();
    let (records, _) = commits(&mut journal, &[1, 2, 3]);
    let (path, bytes) = file(&disk, FIRST);
    let mut ends = vec![HEADER_BYTES];
    for record in &records {
        ends.push(ends[ends.len() - 1] + format::FRAME_BYTES + record.len());
    }
    assert_eq!(ends.last(), Some(&bytes.len()));
    for zeros in [0, 1, 100] {
        for len in 0..bytes.len() {
            let copy = disk.copy();
            let mut torn = bytes[..len].to_vec();
            torn.resize(len + zeros, 0);
            copy.write(&path, &torn);
            if len < HEADER_BYTES {
                let sentence = open(&copy).unwrap_err().to_string();
                assert!(sentence.contains(FIRST) && sentence.contains("restore"), "{sentence}");
                continue;
            }
            let whole = ends.iter().filter(|end| **end <= len).count() - 1;
            let (mut journal, recovery, found) = open(&copy).unwrap();
            assert_eq!(found, records[..whole]);
            let used = len - bytes[..len].iter().rev().take_while(|byte| **byte == 0).count();
            match recovery.cut {
                Some(cut) => {
                    assert_eq!(cut.offset as usize, ends[whole]);
                    assert_eq!((cut.sequence, cut.whole), (whole as u64 + 1, 0));
                    assert_eq!(cut.bytes as usize, used - ends[whole]);
                    assert!(cut.to_string().contains("cut"), "{cut}");
                }
                None => assert!(used <= ends[whole], "{len} bytes, {zeros} zeros"),
            }
            journal.append(b"goes on").unwrap();
            journal.commit().unwrap();
            drop(journal);
            let (_, recovery, found) = open(&copy).unwrap();
            assert_eq!((found.len(), recovery.cut), (whole + 1, None));
        }
    }
}

#[test]
fn every_flipped_bit_is_seen_cut_in_the_last_commit_and_refused_before() {
    let disk = Simulated::new(1);
    let (mut journal, ..) = open(&disk).unwrap();
    let (records, starts) = commits(&mut journal, &[1, 2, 3]);
    let (path, bytes) = file(&disk, FIRST);
    let last = starts[starts.len() - 2];
    for bit in 0..bytes.len() * 8 {
        let copy = disk.copy();
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        copy.write(&path, &flipped);
        match open(&copy) {
            Ok((_, recovery, found)) => {
                let cut = recovery.cut.unwrap();
                assert!(bit / 8 >= last, "bit {bit}: {cut}");
                assert!(found.len() >= 3 && found == records[..found.len()]);
                assert_eq!((cut.offset + cut.bytes) as usize, bytes.len());
                assert!(cut.sequence + cut.whole <= records.len() as u64);
            }
            Err(error) => {
                assert!(matches!(error, JournalError::Refused { .. }), "bit {bit}: {error}");
                assert!(bit / 8 < last, "bit {bit}: {error}");
            }
        }
    }
}

#[test]
fn after_a_proper_close_every_flipped_bit_of_a_record_is_refused() {
    let disk = Simulated::new(1);
    let (mut journal, ..) = open(&disk).unwrap();
    let (records, starts) = commits(&mut journal, &[1, 2]);
    journal.close().unwrap();
    let (_, recovery, found) = open(&disk).unwrap();
    assert_eq!((found, recovery.records, recovery.cut), (records, 3, None));
    let (path, bytes) = file(&disk, FIRST);
    for bit in 0..starts[2] * 8 {
        let copy = disk.copy();
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        copy.write(&path, &flipped);
        assert!(matches!(open(&copy), Err(JournalError::Refused { .. })), "bit {bit}");
    }
}

/// A journal of a snapshot and three segments; its records.
fn compacted(disk: &Simulated) -> Records {
    let (mut journal, ..) = open(disk).unwrap();
    commits(&mut journal, &[4, 4]);
    let mut snapshot = journal.begin_snapshot().unwrap();
    let live: Records = (0..5).map(|n| format!("live {n}").into_bytes()).collect();
    for record in &live {
        snapshot.append(record).unwrap();
    }
    journal.finish_snapshot(snapshot.finish().unwrap());
    let (records, _) = commits(&mut journal, &[9; 6]);
    assert_eq!(journal.number, 4);
    live.into_iter().chain(records).collect()
}

#[test]
fn damage_before_the_last_segment_is_refused_with_its_place() {
    let disk = Simulated::new(1);
    let records = compacted(&disk);
    disk.kill();
    assert_eq!(open(&disk).unwrap().2, records);
    disk.kill();
    for name in ["segment-0000000000000002", "segment-0000000000000003", "snapshot-0000000000000002"] {
        let (path, bytes) = file(&disk, name);
        for bit in 0..bytes.len() * 8 {
            let copy = disk.copy();
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            copy.write(&path, &flipped);
            let sentence = open(&copy).unwrap_err().to_string();
            let place = sentence.contains(name) || sentence.contains("another journal");
            assert!(place && sentence.contains("restore"), "bit {bit}: {sentence}");
        }
        for len in 0..bytes.len() {
            let copy = disk.copy();
            copy.write(&path, &bytes[..len]);
            let error = open(&copy).unwrap_err();
            assert!(matches!(error, JournalError::Refused { .. }), "{len} bytes: {error}");
        }
        let copy = disk.copy();
        copy.remove(&path).unwrap();
        let error = open(&copy).unwrap_err();
        assert!(matches!(error, JournalError::Refused { .. }), "{error}");
    }
    let copy = disk.copy();
    for name in ["segment-0000000000000003", "segment-0000000000000004"] {
        copy.remove(&Path::new(FOLDER).join(name)).unwrap();
    }
    assert!(open(&copy).is_ok(), "the end of a journal that lost whole files cannot be told");
}

#[test]
fn an_older_snapshot_stands_in_only_with_all_segments_since() {
    let disk = Simulated::new(1);
    let (mut journal, ..) = open(&disk).unwrap();
    let (mut records, _) = commits(&mut journal, &[4, 4]);
    let older = file(&disk, FIRST);
    let mut snapshot = journal.begin_snapshot().unwrap();
    for record in &records {
        snapshot.append(record).unwrap();
    }
    journal.finish_snapshot(snapshot.finish().unwrap());
    records.extend(commits(&mut journal, &[2]).0);
    drop(journal);
    let (path, mut bytes) = file(&disk, "snapshot-0000000000000002");
    bytes[60] ^= 1;
    disk.write(&path, &bytes);
    assert!(open(&disk.copy()).is_err());
    disk.write(&older.0, &older.1);
    let (_, recovery, found) = open(&disk).unwrap();
    assert_eq!(found, records);
    assert_eq!(recovery.passed_over.len(), 1);
    assert!(recovery.passed_over[0].contains("snapshot-0000000000000002"), "{recovery:?}");
}

#[test]
fn a_payload_cannot_pose_as_a_record() {
    let disk = Simulated::new(1);
    let (mut journal, ..) = open(&disk).unwrap();
    // What a record of a later commit would look like to somebody who does not know the identity.
    let mut forged = Vec::new();
    Record { sequence: 2, back: 0, mark: false, payload: b"forged" }.write(journal.id ^ 1, &mut forged);
    journal.append(&forged).unwrap();
    journal.commit().unwrap();
    drop(journal);
    let (path, mut bytes) = file(&disk, FIRST);
    bytes[HEADER_BYTES] ^= 1;
    disk.write(&path, &bytes);
    let (_, recovery, found) = open(&disk).unwrap();
    assert_eq!((found.len(), recovery.cut.unwrap().whole), (0, 0));
}

#[test]
fn a_failed_write_or_sync_stops_the_journal() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        for operation in 0..2 {
            let disk = Simulated::new(operation);
            let (mut journal, ..) = open(&disk).unwrap();
            let (mut records, _) = commits(&mut journal, &[2, 2]);
            records.push(b"lost or not".to_vec());
            journal.append(&records[4]).unwrap();
            disk.fail_at(disk.operations() + operation, Failure::Error(kind));
            let error = journal.commit().unwrap_err();
            assert_eq!(error.kind(), kind);
            assert!(error.to_string().contains("page cache cannot be trusted"), "{error}");
            assert!(journal.is_poisoned());
            let operations = disk.operations();
            for _ in 0..2 {
                assert_eq!(journal.commit().unwrap_err().kind(), kind);
                assert!(journal.append(b"more").is_err());
                assert!(journal.begin_snapshot().is_err());
            }
            assert_eq!((disk.operations(), journal.durable()), (operations, 5));
            disk.kill();
            let (_, _, found) = open(&disk).unwrap();
            assert!(found.len() >= 4 && found == records[..found.len()]);
            // What was replayed once was made durable by that, whatever the failed sync left.
            disk.lose_power();
            assert_eq!(open(&disk).unwrap().2, found);
        }
    }
}

#[test]
fn a_snapshot_that_cannot_be_written_harms_nothing() {
    for operation in 0..12 {
        let disk = Simulated::new(operation);
        let (mut journal, ..) = open(&disk).unwrap();
        let (mut records, _) = commits(&mut journal, &[3]);
        disk.fail_at(disk.operations() + operation, Failure::Error(io::ErrorKind::StorageFull));
        let written = journal.begin_snapshot().and_then(|mut snapshot| {
            records.iter().try_for_each(|record| snapshot.append(record))?;
            snapshot.finish()
        });
        if let Ok(finished) = written {
            journal.finish_snapshot(finished);
        }
        if journal.append(b"more").is_ok() && journal.commit().is_ok() {
            records.push(b"more".to_vec());
            let mut snapshot = journal.begin_snapshot().unwrap();
            assert_eq!(journal.begin_snapshot().unwrap_err().kind(), io::ErrorKind::ResourceBusy);
            records.iter().try_for_each(|record| snapshot.append(record)).unwrap();
            journal.finish_snapshot(snapshot.finish().unwrap());
        }
        disk.lose_power();
        assert_eq!(open(&disk).unwrap().2, records, "operation {operation}");
    }
}

#[test]
fn compaction_is_suggested_by_ratio_and_never_twice() {
    let disk = Simulated::new(1);
    let (mut journal, ..) = open(&disk).unwrap();
    assert!(!journal.should_compact());
    commits(&mut journal, &[9, 9, 9]);
    assert!(journal.should_compact());
    let mut snapshot = journal.begin_snapshot().unwrap();
    assert!(!journal.should_compact());
    for _ in 0..20 {
        snapshot.append(&[1; 20]).unwrap();
    }
    commits(&mut journal, &[1]);
    journal.finish_snapshot(snapshot.finish().unwrap());
    let (segments, snapshot) = journal.disk_bytes();
    assert!(!journal.should_compact() && segments < 200 && snapshot == 48 + 20 * 44 + 24);
    while !journal.should_compact() {
        commits(&mut journal, &[1]);
    }
    let before = journal.disk_bytes();
    assert!(before.0 >= 2 * before.1);
    drop(journal);
    assert_eq!(open(&disk).unwrap().0.disk_bytes(), before);
}

/// What a caller does.
#[derive(Clone, Debug)]
enum Step {
    Append(usize),
    Commit,
    BeginSnapshot,
    SnapshotSome(usize),
    FinishSnapshot,
    GiveUpSnapshot,
    Close,
    Kill,
    LosePower,
    /// Power goes off, or an operation fails, this many operations from now.
    Fail(u64, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0_usize..150).prop_map(Step::Append),
        8 => Just(Step::Commit),
        2 => Just(Step::BeginSnapshot),
        4 => (1_usize..20).prop_map(Step::SnapshotSome),
        2 => Just(Step::FinishSnapshot),
        1 => Just(Step::GiveUpSnapshot),
        1 => Just(Step::Close),
        1 => Just(Step::Kill),
        1 => Just(Step::LosePower),
        2 => (0_u64..30, any::<bool>()).prop_map(|(after, power)| Step::Fail(after, power)),
    ]
}

/// A caller whose state is simply every record ever appended, beside what it must find again.
struct Caller {
    disk: Simulated,
    journal: Option<Journal<Simulated>>,
    snapshot: Option<(Snapshot<Simulated>, usize, usize)>,
    records: Records,
    committed: usize,
    drawn: u64,
}

impl Caller {
    fn new(seed: u64) -> Self {
        let disk = Simulated::new(seed);
        let mut caller =
            Self { disk, journal: None, snapshot: None, records: Records::new(), committed: 0, drawn: 0 };
        caller.reopen();
        caller
    }

    /// Opens the journal, if need be after power comes back: everything committed is there, in order, and
    /// nothing that was never appended.
    fn reopen(&mut self) {
        self.journal = None;
        self.snapshot = None;
        for _ in 0..20 {
            match open(&self.disk) {
                Ok((journal, recovery, found)) => {
                    assert!(found.len() >= self.committed, "{} of {}", found.len(), self.committed);
                    assert_eq!(found, self.records[..found.len()]);
                    assert!(recovery.passed_over.is_empty());
                    self.committed = found.len();
                    self.records = found;
                    self.journal = Some(journal);
                    return;
                }
                Err(JournalError::Refused { .. }) => panic!("{}", open(&self.disk).unwrap_err()),
                Err(_) => self.disk.lose_power(),
            }
        }
        panic!("never opened");
    }

    fn take(&mut self, step: &Step) -> io::Result<()> {
        let Some(mut journal) = self.journal.take() else { return Ok(()) };
        match step {
            Step::Append(len) => {
                self.drawn += 1;
                let mut record = self.drawn.to_le_bytes().to_vec();
                record.resize(8 + len, self.drawn as u8);
                self.records.push(record);
                journal.append(&self.records[self.records.len() - 1])?;
            }
            Step::Commit => {
                journal.commit()?;
                self.committed = self.records.len();
            }
            Step::BeginSnapshot if self.snapshot.is_none() => {
                let snapshot = journal.begin_snapshot()?;
                self.committed = self.records.len();
                self.snapshot = Some((snapshot, 0, self.records.len()));
            }
            Step::SnapshotSome(some) => {
                if let Some((snapshot, at, end)) = &mut self.snapshot {
                    let to = (*at + some).min(*end);
                    self.records[*at..to].iter().try_for_each(|record| snapshot.append(record))?;
                    *at = to;
                }
            }
            Step::FinishSnapshot => {
                if let Some((mut snapshot, at, end)) = self.snapshot.take() {
                    self.records[at..end].iter().try_for_each(|record| snapshot.append(record))?;
                    journal.finish_snapshot(snapshot.finish()?);
                }
            }
            Step::GiveUpSnapshot => self.snapshot = None,
            Step::Close => {
                self.snapshot = None;
                journal.close()?;
                self.committed = self.records.len();
                self.reopen();
                return Ok(());
            }
            Step::Kill => {
                self.disk.kill();
                self.reopen();
                return Ok(());
            }
            Step::LosePower => {
                self.disk.lose_power();
                self.reopen();
                return Ok(());
            }
            Step::Fail(after, power) => {
                let failure = if *power { Failure::Power } else { Failure::Error(io::ErrorKind::Other) };
                self.disk.fail_at(self.disk.operations() + after, failure);
            }
            Step::BeginSnapshot => {}
        }
        self.journal = Some(journal);
        Ok(())
    }

    fn run(&mut self, steps: &[Step]) {
        for step in steps {
            if self.take(step).is_err() {
                self.reopen();
            }
        }
        self.disk.lose_power();
        self.reopen();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everything_committed_is_found_after_any_crash(
        seed in any::<u64>(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        Caller::new(seed).run(&steps);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), keep in 0_usize..200) {
        let disk = Simulated::new(1);
        let (mut journal, ..) = open(&disk).unwrap();
        commits(&mut journal, &[2, 2]);
        drop(journal);
        let (path, mut file) = file(&disk, FIRST);
        file.truncate(keep);
        file.extend_from_slice(&bytes);
        disk.write(&path, &file);
        let _ = open(&disk);
    }
}

#[test]
fn power_lost_before_any_operation_of_a_whole_life_loses_nothing() {
    let life: Vec<Step> = [
        Step::Append(50),
        Step::Append(100),
        Step::Commit,
        Step::BeginSnapshot,
        Step::SnapshotSome(1),
        Step::Append(30),
        Step::Commit,
        Step::FinishSnapshot,
        Step::Append(140),
        Step::Commit,
    ]
    .into_iter()
    .cycle()
    .take(60)
    .collect();
    let mut caller = Caller::new(0);
    caller.run(&life);
    let operations = caller.disk.operations();
    assert!(operations > 100, "{operations}");
    for at in 0..operations {
        for (seed, power) in [(1, true), (2, true), (3, true), (4, false), (5, false)] {
            let disk = Simulated::new(seed);
            let failure = if power { Failure::Power } else { Failure::Error(io::ErrorKind::Other) };
            disk.fail_at(at, failure);
            let mut caller = Caller {
                disk,
                journal: None,
                snapshot: None,
                records: Records::new(),
                committed: 0,
                drawn: 0,
            };
            caller.reopen();
            caller.run(&life);
        }
    }
}
