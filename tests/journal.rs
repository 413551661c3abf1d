//! The journal on real files: what is committed is found again, what is torn is cut, what is damaged is
//! refused; and a process killed at any moment loses nothing that it acknowledged.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

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
