//! The journal on real files: what is committed is found again, what is torn is cut, what is damaged is
//! refused; and a process killed at any moment loses nothing that it acknowledged.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use pushplane::journal::{Journal, JournalError, Options, RECORD_BYTES_MAX, Recovery};

type Opened = Result<(Journal, Recovery, Vec<Vec<u8>>), JournalError>;

fn open_with(folder: &Path, options: Options) -> Opened {
    let mut records = Vec::new();
    let (journal, recovery) = Journal::open(folder, options, |record| records.push(record.to_vec()))?;
    Ok((journal, recovery, records))
}

fn open(folder: &Path) -> Opened {
    open_with(folder, Options::default())
}

fn lab() -> (tempfile::TempDir, PathBuf) {
    let lab = tempfile::tempdir().unwrap();
    let folder = lab.path().join("state");
    (lab, folder)
}

#[test]
fn what_is_committed_is_found_again_in_order() {
    let (_lab, folder) = lab();
    let (mut journal, recovery, found) = open(&folder).unwrap();
    assert_eq!((recovery, found.len()), (Recovery::default(), 0));
    let records: Vec<Vec<u8>> = vec![b"one".to_vec(), Vec::new(), vec![7; RECORD_BYTES_MAX], vec![0; 100]];
    for (n, record) in (1..).zip(&records) {
        assert_eq!(journal.append(record).unwrap(), n);
        if n == 2 {
            journal.commit().unwrap();
            assert_eq!((journal.durable(), journal.next()), (3, 3));
        }
    }
    assert_eq!((journal.durable(), journal.next()), (3, 5));
    journal.commit().unwrap();
    journal.commit().unwrap();
    assert!(journal.append(&vec![0; RECORD_BYTES_MAX + 1]).is_err());
    journal.append(b"never committed").unwrap();
    drop(journal);
    for _ in 0..2 {
        let (_journal, recovery, found) = open(&folder).unwrap();
        assert_eq!(found, records);
        assert_eq!((recovery.records, recovery.snapshot_records, recovery.cut), (4, 0, None));
    }
}

#[test]
fn only_the_owner_reads_the_state() {
    let (_lab, folder) = lab();
    let (mut journal, ..) = open(&folder).unwrap();
    journal.append(b"secret").unwrap();
    let mut snapshot = journal.begin_snapshot().unwrap();
    snapshot.append(b"secret").unwrap();
    journal.finish_snapshot(snapshot.finish().unwrap());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    let files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 3, "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[test]
fn one_process_at_a_time() {
    let (_lab, folder) = lab();
    let (journal, ..) = open(&folder).unwrap();
    let error = open(&folder).unwrap_err();
    let sentence = error.to_string();
    assert!(matches!(error, JournalError::Locked { .. }), "{sentence}");
    assert!(
        sentence.contains("state/lock") && sentence.contains(&std::process::id().to_string()),
        "{sentence}"
    );
    drop(journal);
    open(&folder).unwrap();
}

/// Small files: a life of milliseconds sees many of them.
const SMALL: Options =
    Options { segment_bytes: 4096, batch_bytes_max: 1 << 20, compact_ratio: 2, compact_bytes_min: 20_000 };

fn range(numbers: &Range<u64>) -> Vec<u8> {
    let mut record = numbers.start.to_le_bytes().to_vec();
    record.extend_from_slice(&numbers.end.to_le_bytes());
    record.resize(16 + (numbers.start % 100) as usize, 0xa5);
    record
}

/// Opens a journal of ranges of numbers, which must follow each other from 0: how far they go.
fn open_ranges(folder: &Path) -> (Journal, Recovery, u64) {
    let mut end = 0;
    let opened = Journal::open(folder, SMALL, |record| {
        let word = |at: usize| u64::from_le_bytes(record[at..at + 8].try_into().unwrap());
        assert_eq!(word(0), end, "a record is missing, doubled or out of order");
        assert_eq!(record, range(&(word(0)..word(8))));
        end = word(8);
    });
    let (journal, recovery) = opened.unwrap_or_else(|error| panic!("{error}"));
    (journal, recovery, end)
}

const FOLDER: &str = "PUSHPLANE_JOURNAL_FOLDER";

/// Not a test of its own: what [`a_killed_process_loses_nothing_acknowledged`] runs and kills. Commits
/// batches of numbers for ever, says so, and compacts on another thread meanwhile.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let (mut journal, _, mut end) = open_ranges(Path::new(&folder));
    let mut out = std::io::stdout().lock();
    let mut compaction: Option<thread::JoinHandle<_>> = None;
    for turn in 1.. {
        for _ in 0..turn % 7 + 1 {
            journal.append(&range(&(end..end + 1))).unwrap();
            end += 1;
        }
        journal.commit().unwrap();
        writeln!(out, "durable {end}").unwrap();
        if compaction.as_ref().is_some_and(thread::JoinHandle::is_finished) {
            journal.finish_snapshot(compaction.take().unwrap().join().unwrap());
        }
        if journal.should_compact() && compaction.is_none() {
            let mut snapshot = journal.begin_snapshot().unwrap();
            let halves = [0..end / 2, end / 2..end];
            compaction = Some(thread::spawn(move || {
                halves.iter().for_each(|half| snapshot.append(&range(half)).unwrap());
                snapshot.finish().unwrap()
            }));
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_acknowledged() {
    let folders = [tempfile::tempdir().ok(), tempfile::tempdir_in("/dev/shm").ok()];
    let folders: Vec<_> = folders.into_iter().flatten().collect();
    let (mut cuts, mut snapshots, mut acknowledged) = (0, 0, vec![0; folders.len()]);
    for round in 0..150_u64 {
        let which = round as usize % folders.len();
        let folder = folders[which].path();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(FOLDER, folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let reader = thread::spawn(move || {
            let (mut line, mut last) = (String::new(), 0);
            while lines.read_line(&mut line).unwrap() > 0 {
                // A line without its end was not said.
                if let Some(number) = line.strip_prefix("durable ").and_then(|rest| rest.strip_suffix('\n')) {
                    last = number.parse().unwrap();
                }
                line.clear();
            }
            last
        });
        // From before the journal is open to many commits later.
        thread::sleep(Duration::from_micros(round * 7919 % 30_000 + 1000));
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged[which] = reader.join().unwrap().max(acknowledged[which]);
        let (_journal, recovery, end) = open_ranges(folder);
        assert!(end >= acknowledged[which], "{end} of {} after round {round}", acknowledged[which]);
        cuts += u64::from(recovery.cut.is_some());
        snapshots += u64::from(recovery.snapshot_records > 0);
    }
    println!("acknowledged {acknowledged:?}; {cuts} tails cut; {snapshots} recoveries from a snapshot");
    assert!(acknowledged.iter().all(|number| *number > 0));
}
