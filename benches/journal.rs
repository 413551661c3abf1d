//! How fast records become durable, and come back: the journal, the plain version (one write and one
//! fdatasync a record), and redb, an embedded store, at the same job on the same disk.
//!
//! The folder comes from `JOURNAL_BENCH_FOLDER`, else the target folder: a real disk, unlike `/tmp` on many
//! machines. Every run ends by opening what was written and comparing it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use pushplane::clock::Clock;
use pushplane::journal::{Journal, Options};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

const RECORD_BYTES: usize = 100;
const BATCHES: [u64; 4] = [1, 16, 256, 4096];
/// Recovered records.
const MANY: u64 = 1_000_000;
const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");

/// Commits measured of each batch; one makes files ready before.
fn commits() -> u64 {
    if std::env::args().any(|arg| arg == "--bench") { 250 } else { 3 }
}

fn record(n: u64) -> [u8; RECORD_BYTES] {
    let mut record = [0x5a; RECORD_BYTES];
    record[..8].copy_from_slice(&n.to_le_bytes());
    record
}

fn check(n: u64, found: &[u8]) {
    assert_eq!(found, record(n), "record {n}");
}

/// Who keeps records.
trait Keeper: Sized {
    const NAME: &'static str;
    fn create(folder: &Path) -> Self;
    /// Keeps these records, durably when it returns.
    fn keep(&mut self, first: u64, count: u64);
    /// Opens again what was kept and looks at every record; how many.
    fn recover(folder: &Path) -> u64;
}

impl Keeper for Journal {
    const NAME: &'static str = "journal";

    fn create(folder: &Path) -> Self {
        Self::open(folder, Options::default(), |_| {}).unwrap().0
    }

    fn keep(&mut self, first: u64, count: u64) {
        for n in first..first + count {
            self.append(&record(n)).unwrap();
        }
        self.commit().unwrap();
    }

    fn recover(folder: &Path) -> u64 {
        let mut count = 0;
        let (_journal, recovery) = Self::open(folder, Options::default(), |found| {
            check(count, found);
            count += 1;
        })
        .unwrap();
        assert_eq!((recovery.records, recovery.cut), (count, None));
        count
    }
}

/// The plain version.
struct Plain {
    file: File,
}

impl Keeper for Plain {
    const NAME: &'static str = "plain";

    fn create(folder: &Path) -> Self {
        fs::create_dir(folder).unwrap();
        Self { file: File::create(folder.join("records")).unwrap() }
    }

    fn keep(&mut self, first: u64, count: u64) {
        for n in first..first + count {
            self.file.write_all(&record(n)).unwrap();
            self.file.sync_data().unwrap();
        }
    }

    fn recover(folder: &Path) -> u64 {
        let mut bytes = Vec::new();
        File::open(folder.join("records")).unwrap().read_to_end(&mut bytes).unwrap();
        let records = (0..).zip(bytes.chunks(RECORD_BYTES));
        records.map(|(n, found)| check(n, found)).count() as u64
    }
}

impl Keeper for Database {
    const NAME: &'static str = "redb";

    fn create(folder: &Path) -> Self {
        fs::create_dir(folder).unwrap();
        Self::create(folder.join("records")).unwrap()
    }

    fn keep(&mut self, first: u64, count: u64) {
        let transaction = self.begin_write().unwrap();
        {
            let mut table = transaction.open_table(TABLE).unwrap();
            for n in first..first + count {
                table.insert(n, record(n).as_slice()).unwrap();
            }
        }
        transaction.commit().unwrap();
    }

    fn recover(folder: &Path) -> u64 {
        let database = Self::open(folder.join("records")).unwrap();
        let table = database.begin_read().unwrap().open_table(TABLE).unwrap();
        let rows = (0..).zip(table.iter().unwrap());
        rows.map(|(n, row)| check(n, row.unwrap().1.value())).count() as u64
    }
}

fn folder_bytes(folder: &Path) -> u64 {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

fn durable<K: Keeper>(lab: &Path, clock: Clock, batch: u64) {
    let folder = lab.join(format!("{}-{batch}", K::NAME));
    let mut keeper = K::create(&folder);
    let (warm, commits) = (1, commits());
    keeper.keep(0, batch);
    let mut taken_ns: Vec<u64> = Vec::new();
    for commit in warm..warm + commits {
        let start = clock.now();
        keeper.keep(commit * batch, batch);
        taken_ns.push(clock.now().mono_ns - start.mono_ns);
    }
    drop(keeper);
    assert_eq!(K::recover(&folder), (warm + commits) * batch);
    let total_ns: u64 = taken_ns.iter().sum();
    taken_ns.sort_unstable();
    let at = |part: f64| taken_ns[(taken_ns.len() as f64 * part) as usize] as f64 / 1e3;
    println!(
        "{:8} {batch:>6} {:>12.0} {:>10.1} {:>10.1} {:>10.1}",
        K::NAME,
        (commits * batch) as f64 / (total_ns as f64 / 1e9),
        at(0.5),
        at(0.99),
        folder_bytes(&folder) as f64 / ((warm + commits) * batch) as f64,
    );
    fs::remove_dir_all(folder).unwrap();
}

fn recovered<K: Keeper>(lab: &Path, clock: Clock, many: u64) {
    let folder = lab.join(format!("{}-many", K::NAME));
    let mut keeper = K::create(&folder);
    let batch = 4000;
    for commit in 0..many / batch {
        keeper.keep(commit * batch, batch);
    }
    drop(keeper);
    let mut best_ns = u64::MAX;
    for _ in 0..5 {
        let start = clock.now();
        assert_eq!(K::recover(&folder), many);
        best_ns = best_ns.min(clock.now().mono_ns - start.mono_ns);
    }
    println!(
        "{:8} {many} records in {:.0} ms, {:.0} ns a record, {:.1} bytes a record",
        K::NAME,
        best_ns as f64 / 1e6,
        best_ns as f64 / many as f64,
        folder_bytes(&folder) as f64 / many as f64
    );
    fs::remove_dir_all(folder).unwrap();
}

fn compacted(lab: &Path, clock: Clock, many: u64) {
    let folder = lab.join("journal-compacted");
    let mut journal = <Journal as Keeper>::create(&folder);
    for commit in 0..many / 4000 {
        journal.keep(commit * 4000, 4000);
    }
    let start = clock.now();
    let mut snapshot = journal.begin_snapshot().unwrap();
    let begun = clock.now();
    for n in 0..many {
        snapshot.append(&record(n)).unwrap();
    }
    journal.finish_snapshot(snapshot.finish().unwrap());
    let written = clock.now();
    drop(journal);
    let mut count = 0;
    let (_journal, recovery) = Journal::open(&folder, Options::default(), |found| {
        check(count, found);
        count += 1;
    })
    .unwrap();
    let read_ns = clock.now().mono_ns - written.mono_ns;
    assert_eq!((recovery.snapshot_records, recovery.records), (many, 0));
    println!(
        "journal  snapshot of {many} records: begun in {:.1} ms, written in {:.0} ms, read back in {:.0} ms",
        (begun.mono_ns - start.mono_ns) as f64 / 1e6,
        (written.mono_ns - begun.mono_ns) as f64 / 1e6,
        read_ns as f64 / 1e6
    );
    fs::remove_dir_all(folder).unwrap();
}

fn main() {
    let parent = std::env::var_os("JOURNAL_BENCH_FOLDER")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let lab = tempfile::tempdir_in(parent).unwrap();
    let clock = Clock::start();
    println!(
        "who       batch records/s dur.   p50 us     p99 us  bytes/rec   (records of {RECORD_BYTES} bytes)"
    );
    durable::<Plain>(lab.path(), clock, 1);
    for batch in BATCHES {
        durable::<Journal>(lab.path(), clock, batch);
        durable::<Database>(lab.path(), clock, batch);
    }
    let many = if commits() > 3 { MANY } else { 8000 };
    println!("recovery, every record looked at, warm page cache, best of 5:");
    recovered::<Journal>(lab.path(), clock, many);
    recovered::<Database>(lab.path(), clock, many);
    compacted(lab.path(), clock, many);
}
