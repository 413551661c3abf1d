//! Opening: which files there are, what they hold, and whether a crash can have left them so.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Weak;

use super::disk::Disk;
use super::error::{Cut, JournalError, Recovery};
use super::format::{self, FRAME_BYTES, HEADER_BYTES, Header, Kind, RECORD_BYTES_MAX};
use super::{Journal, Options, aside, draw_id, path_of, write_new};

/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;

const REMEDY: &str = "restore the folder from a copy, or move it away to begin without what it held";

type Replay<'a> = &'a mut dyn FnMut(&[u8]);

/// The journal's files in a folder, ascending.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Names {
    segments: Vec<u64>,
    snapshots: Vec<u64>,
    unfinished: Vec<String>,
}

impl Names {
    pub(super) fn read<D: Disk>(disk: &D, folder: &Path) -> io::Result<Self> {
        let number = |name: &str, before: &str| {
            let digits = name.strip_prefix(before)?;
            u64::from_str_radix(digits, 16).ok().filter(|number| format!("{number:016x}") == digits)
        };
        let mut names = Self::default();
        for name in disk.list(folder)? {
            if let Some(number) = number(&name, "segment-") {
                names.segments.push(number);
            } else if let Some(number) = number(&name, "snapshot-") {
                names.snapshots.push(number);
            } else if let Some(whole) = name.strip_suffix(".tmp")
                && (number(whole, "segment-").is_some() || number(whole, "snapshot-").is_some())
            {
                names.unfinished.push(name);
            }
        }
        names.segments.sort_unstable();
        names.snapshots.sort_unstable();
        Ok(names)
    }

    /// Removes what the snapshot of this number stands for; returns how many files would not go.
    pub(super) fn remove_older<D: Disk>(&self, disk: &D, folder: &Path, number: u64) -> usize {
        let older = |kind, numbers: &[u64]| -> usize {
            let paths = numbers.iter().filter(|older| **older < number).map(|n| path_of(folder, kind, *n));
            paths.filter(|path| disk.remove(path).is_err()).count()
        };
        older(Kind::Segment, &self.segments) + older(Kind::Snapshot, &self.snapshots)
    }
}

fn io_error(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.to_owned();
    move |error| JournalError::Io { path, action, error }
}

fn refused<T>(
    file: &Path,
    offset: u64,
    expected: impl Into<String>,
    found: impl Into<String>,
) -> Result<T, JournalError> {
    Err(JournalError::Refused {
        file: file.to_owned(),
        offset,
        expected: expected.into(),
        found: found.into(),
        remedy: REMEDY.to_owned(),
    })
}

/// A file, read from its beginning through a window.
struct Reader<'a, D: Disk> {
    disk: &'a D,
    path: PathBuf,
    file: D::File,
    window: Vec<u8>,
    /// Consumed bytes of the window.
    at: usize,
    /// Filled bytes of the window.
    filled: usize,
    /// Offset in the file of the window's first byte.
    start: u64,
    ended: bool,
}

impl<'a, D: Disk> Reader<'a, D> {
    fn open(disk: &'a D, path: PathBuf, window: Vec<u8>) -> Result<Self, JournalError> {
        let file = disk.open(&path).map_err(io_error(&path, "open"))?;
        Ok(Self { disk, path, file, window, at: 0, filled: 0, start: 0, ended: false })
    }

    fn offset(&self) -> u64 {
        self.start + self.at as u64
    }

    /// What lies ahead: at least `bytes`, unless the file ends before.
    fn ahead(&mut self, bytes: usize) -> Result<&[u8], JournalError> {
        if self.filled - self.at < bytes && !self.ended {
            self.fill(bytes)?;
        }
        Ok(&self.window[self.at..self.filled])
    }

    #[cold]
    fn fill(&mut self, bytes: usize) -> Result<(), JournalError> {
        self.window.copy_within(self.at..self.filled, 0);
        self.start += self.at as u64;
        self.filled -= self.at;
        self.at = 0;
        let room = bytes.max(READ_BYTES + RECORD_BYTES_MAX + FRAME_BYTES);
        if self.window.len() < room {
            self.window.resize(room, 0);
        }
        while self.filled < bytes {
            let offset = self.start + self.filled as u64;
            let read = self
                .disk
                .read_at(&self.file, &mut self.window[self.filled..], offset)
                .map_err(io_error(&self.path, "read"))?;
            self.filled += read;
            if read == 0 {
                self.ended = true;
                break;
            }
        }
        Ok(())
    }

    /// The header, which must be that of this file.
    fn header(&mut self, kind: Kind, number: u64, id: Option<u64>) -> Result<Header, JournalError> {
        let parsed = Header::parse(self.ahead(HEADER_BYTES)?);
        let header = match parsed {
            Ok(header) => header,
            Err((offset, expected, found)) => return refused(&self.path, offset, expected, found),
        };
        if (header.kind, header.number) != (kind, number) {
            let found = format!("{:?} {:016x}", header.kind, header.number);
            return refused(&self.path, 12, format!("{kind:?} {number:016x}, as it is named"), found);
        }
        if let Some(id) = id
            && header.id != id
        {
            let found = format!("{:016x}: a file of another journal", header.id);
            return refused(&self.path, 32, format!("identity {id:016x}"), found);
        }
        self.at += HEADER_BYTES;
        Ok(header)
    }

    /// Everything from here on.
    fn rest(&mut self) -> Result<&[u8], JournalError> {
        let length = self.disk.len(&self.file).map_err(io_error(&self.path, "measure"))?;
        let rest = usize::try_from(length.saturating_sub(self.offset())).unwrap_or(usize::MAX);
        self.ahead(rest)
    }
}

/// Reads a snapshot to its end mark.
fn snapshot<D: Disk>(
    reader: &mut Reader<'_, D>,
    id: u64,
    replay: Replay<'_>,
) -> Result<(u64, u64), JournalError> {
    let mut records = 0;
    loop {
        let offset = reader.offset();
        let ahead = reader.ahead(FRAME_BYTES + RECORD_BYTES_MAX)?;
        let (expected, found) = match format::parse(ahead, id) {
            Ok(record) if record.sequence != records => {
                (format!("record {records}"), format!("record {}", record.sequence))
            }
            Ok(record) if record.mark => match ahead.len() - record.size() {
                0 => return Ok((records, offset + record.size() as u64)),
                behind => ("the end of the file".to_owned(), format!("{behind} bytes or more behind it")),
            },
            Ok(record) => {
                let size = record.size();
                replay(record.payload);
                reader.at += size;
                records += 1;
                continue;
            }
            Err(fault) => (format!("record {records}"), fault.to_string()),
        };
        return refused(&reader.path, offset, expected, found);
    }
}

/// Where the last segment ends, and what the end is made of.
struct End {
    offset: u64,
    /// The last commit's first byte.
    commit: u64,
    next: u64,
    cut: Option<Cut>,
}

/// Reads a segment, whose first record is `next`.
fn segment<D: Disk>(
    reader: &mut Reader<'_, D>,
    id: u64,
    mut next: u64,
    last: bool,
    recovery: &mut Recovery,
    replay: Replay<'_>,
) -> Result<End, JournalError> {
    let mut commit = HEADER_BYTES as u64;
    let fault = loop {
        let offset = reader.offset();
        let ahead = reader.ahead(FRAME_BYTES + RECORD_BYTES_MAX)?;
        if ahead.is_empty() {
            return Ok(End { offset, commit, next, cut: None });
        }
        let record = match format::parse(ahead, id) {
            Ok(record) => record,
            Err(fault) => break fault,
        };
        if record.sequence != next {
            let found = format!("record {}", record.sequence);
            return refused(&reader.path, offset, format!("record {next}"), found);
        }
        commit = offset.saturating_sub(u64::from(record.back));
        let size = record.size();
        if !record.mark {
            replay(record.payload);
            recovery.records += 1;
            recovery.bytes += size as u64;
        }
        next += 1;
        reader.at += size;
    };
    let offset = reader.offset();
    let path = reader.path.clone();
    let rest = reader.rest()?;
    let Some(bytes) = rest.iter().rposition(|byte| *byte != 0).map(|at| at + 1) else {
        return Ok(End { offset, commit, next, cut: None });
    };
    if !last {
        return refused(
            &path,
            offset,
            format!("record {next}, for a later segment follows"),
            fault.to_string(),
        );
    }
    let mut whole = 0;
    let mut at = FRAME_BYTES;
    while at < bytes {
        let ahead = &rest[at..];
        // A whole record has a sequence number that can be reached from here.
        let plausible = format::peek(ahead).is_some_and(|(length, sequence)| {
            length <= ahead.len() && sequence > next && sequence - next <= (at / FRAME_BYTES) as u64
        });
        match plausible.then(|| format::parse(ahead, id)) {
            Some(Ok(record)) if record.back as usize >= at => {
                whole += u64::from(!record.mark);
                at += record.size();
            }
            Some(Ok(record)) => {
                let found = format!(
                    "{fault}, and behind it record {} at offset {}, written when this was durable",
                    record.sequence,
                    offset + at as u64
                );
                return refused(&path, offset, format!("record {next}"), found);
            }
            _ => at += 1,
        }
    }
    let cut = Cut { file: path, offset, bytes: bytes as u64, sequence: next, whole, why: fault };
    Ok(End { offset, commit, next, cut: Some(cut) })
}

/// The files that a recovery begins with.
#[derive(Clone, Copy)]
struct Base {
    /// Of the first segment.
    number: u64,
    snapshot: bool,
}

pub(super) fn open<D: Disk>(
    disk: D,
    folder: &Path,
    options: Options,
    replay: Replay<'_>,
) -> Result<(Journal<D>, Recovery), JournalError> {
    disk.create_folder(folder).map_err(io_error(folder, "create the folder"))?;
    let lock_path = folder.join("lock");
    let lock = disk.lock(&lock_path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => {
            let owner = error.get_ref().map(ToString::to_string).unwrap_or_default();
            JournalError::Locked { path: lock_path.clone(), owner }
        }
        _ => JournalError::Io { path: lock_path.clone(), action: "lock", error },
    })?;
    let names = Names::read(&disk, folder).map_err(io_error(folder, "list"))?;
    for name in &names.unfinished {
        let path = folder.join(name);
        disk.remove(&path).map_err(io_error(&path, "remove"))?;
    }
    if names.segments.is_empty() && names.snapshots.is_empty() {
        let journal = create(disk, folder, options, lock)?;
        return Ok((journal, Recovery::default()));
    }

    let mut recovery = Recovery::default();
    let (base, id, mut first) = choose(&disk, folder, &names, &mut recovery)?;
    let mut window = Vec::new();
    let mut snapshot_bytes = 0;
    if base.snapshot {
        let path = path_of(folder, Kind::Snapshot, base.number);
        let mut reader = Reader::open(&disk, path, window)?;
        reader.header(Kind::Snapshot, base.number, Some(id))?;
        let (records, bytes) = snapshot(&mut reader, id, replay)?;
        recovery.snapshot_records = records;
        recovery.bytes += bytes;
        snapshot_bytes = bytes;
        window = reader.window;
    }
    let last = names.segments.last().copied().unwrap_or(base.number).max(base.number);
    let mut segments_bytes = 0;
    for number in base.number..=last {
        let path = path_of(folder, Kind::Segment, number);
        if names.segments.binary_search(&number).is_err() {
            return refused(&path, 0, "a segment", "no such file");
        }
        let mut reader = Reader::open(&disk, path.clone(), window)?;
        let header = reader.header(Kind::Segment, number, Some(id))?;
        if header.first != first {
            let expected = format!("first record {first}, the one after those before");
            return refused(&path, 24, expected, format!("first record {}", header.first));
        }
        let end = segment(&mut reader, id, first, number == last, &mut recovery, replay)?;
        first = end.next;
        segments_bytes += end.offset;
        if number < last {
            window = reader.window;
            continue;
        }
        settle(&mut reader, folder, &end)?;
        names.remove_older(&disk, folder, base.number);
        recovery.cut = end.cut;
        let file = reader.file;
        let journal = Journal {
            folder: folder.to_owned(),
            options,
            _lock: lock,
            id,
            number,
            file,
            offset: end.offset,
            batch: Vec::new(),
            next: end.next,
            pending: end.next,
            commits: 0,
            segments_bytes,
            snapshot_bytes,
            writing: Weak::new(),
            poison: None,
            disk,
        };
        return Ok((journal, recovery));
    }
    // Not reached: the loop's last turn returns.
    refused(folder, 0, "a segment", "none")
}

fn create<D: Disk>(
    disk: D,
    folder: &Path,
    options: Options,
    lock: D::Lock,
) -> Result<Journal<D>, JournalError> {
    let header = Header { kind: Kind::Segment, number: 1, first: 1, id: draw_id() };
    let path = path_of(folder, Kind::Segment, 1);
    let file = write_new(&disk, &aside(&path), &header.to_bytes()).map_err(io_error(&path, "create"))?;
    disk.rename(&aside(&path), &path).map_err(io_error(&path, "name"))?;
    disk.sync_folder(folder).map_err(io_error(folder, "sync"))?;
    Ok(Journal {
        disk,
        folder: folder.to_owned(),
        options,
        _lock: lock,
        id: header.id,
        number: 1,
        file,
        offset: HEADER_BYTES as u64,
        batch: Vec::new(),
        next: 1,
        pending: 1,
        commits: 0,
        segments_bytes: HEADER_BYTES as u64,
        snapshot_bytes: 0,
        writing: Weak::new(),
        poison: None,
    })
}

/// Makes durable what was just replayed, and cuts what was not.
fn settle<D: Disk>(reader: &mut Reader<'_, D>, folder: &Path, end: &End) -> Result<(), JournalError> {
    let (disk, path) = (reader.disk, &reader.path);
    if end.cut.is_some() {
        disk.set_len(&reader.file, end.offset).map_err(io_error(path, "cut"))?;
    }
    let mut bytes = vec![0; (end.offset - end.commit) as usize];
    let mut read = 0;
    while read < bytes.len() {
        let at = end.commit + read as u64;
        match disk.read_at(&reader.file, &mut bytes[read..], at).map_err(io_error(path, "read"))? {
            0 => return refused(path, at, "what was there a moment ago", "the end of the file"),
            more => read += more,
        }
    }
    if !bytes.is_empty() {
        disk.write_at(&reader.file, &bytes, end.commit).map_err(io_error(path, "write"))?;
    }
    disk.sync(&reader.file).map_err(io_error(path, "sync"))?;
    disk.sync_folder(folder).map_err(io_error(folder, "sync"))
}

/// The newest base that leads somewhere: its number, the journal's identity, and the number of the first
/// record after it.
fn choose<D: Disk>(
    disk: &D,
    folder: &Path,
    names: &Names,
    recovery: &mut Recovery,
) -> Result<(Base, u64, u64), JournalError> {
    let mut bases: Vec<Base> =
        names.snapshots.iter().map(|number| Base { number: *number, snapshot: true }).collect();
    if names.segments.first() == Some(&1) || bases.is_empty() {
        bases.insert(0, Base { number: 1, snapshot: false });
    }
    // Older ones serve only while every segment since is there.
    let reaches = |base: &Base| match names.segments.last() {
        Some(last) => (base.number..=*last).all(|number| names.segments.binary_search(&number).is_ok()),
        None => false,
    };
    let (newest, older) =
        bases.split_last().map_or((None, &[][..]), |(newest, older)| (Some(*newest), older));
    let candidates: Vec<Base> =
        newest.into_iter().chain(older.iter().rev().copied().filter(reaches)).collect();
    let mut refusal = None;
    for base in &candidates {
        let kind = if base.snapshot { Kind::Snapshot } else { Kind::Segment };
        let path = path_of(folder, kind, base.number);
        if !base.snapshot && names.segments.first() != Some(&1) {
            let found = match names.segments.first() {
                Some(number) => format!("nothing before {}", path_of(folder, kind, *number).display()),
                None => "nothing".to_owned(),
            };
            return refused(&path, 0, "the first segment, or a snapshot", found);
        }
        let whole = Reader::open(disk, path, Vec::new()).and_then(|mut reader| {
            let header = reader.header(kind, base.number, None)?;
            // Read twice only where something could stand in for it.
            if base.snapshot && candidates.len() > 1 {
                snapshot(&mut reader, header.id, &mut |_| {})?;
            }
            Ok(header)
        });
        match whole {
            Ok(header) => {
                recovery.passed_over.extend(refusal.map(|refusal: JournalError| refusal.to_string()));
                return Ok((*base, header.id, header.first));
            }
            Err(error @ JournalError::Io { .. }) => return Err(error),
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    match refusal {
        Some(refusal) => Err(refusal),
        None => refused(folder, 0, "a snapshot or a segment", "neither"),
    }
}
