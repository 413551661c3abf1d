//! The bytes of a file's header and of a record, as the room's first file draws them.

use std::fmt;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Longest record, bytes.
pub const RECORD_BYTES_MAX: usize = 64 << 10;

/// Bytes before the first record of a file.
pub(super) const HEADER_BYTES: usize = 48;
/// Bytes before a record's payload.
pub(super) const FRAME_BYTES: usize = 24;
const MAGIC: [u8; 8] = *b"PPJRNL\0\0";
/// Changes with every change of the layout.
const FORMAT: u32 = 1;
/// In a length: not a record but the mark of a proper end.
const MARK: u32 = 1 << 31;

/// What a file holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Records in the order of their commits.
    Segment = 1,
    /// All live records as of the first record of the segment of the same number.
    Snapshot = 2,
}

/// The first bytes of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// The file's number, also in its name.
    pub(super) number: u64,
    /// Sequence number of the first record of the segment of this number.
    pub(super) first: u64,
    /// Drawn once for the journal: keys every checksum, so that no payload can pose as a record, and
    /// no file of another journal as one of this.
    pub(super) id: u64,
}

/// Little-endian words at fixed offsets; what is not there reads as zero.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes)
}

impl Header {
    pub(super) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[12..16].copy_from_slice(&(self.kind as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.id.to_le_bytes());
        let checksum = xxh3_64(&bytes[..40]);
        bytes[40..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a header; an error names the offset, what stands there by rights, and what was found.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, (u64, String, String)> {
        let Some(bytes) = bytes.get(..HEADER_BYTES) else {
            return Err((
                bytes.len() as u64,
                format!("a header of {HEADER_BYTES} bytes"),
                format!("a file of {} bytes", bytes.len()),
            ));
        };
        if bytes[..8] != MAGIC {
            let found = format!("{:?}", bytes[..8].escape_ascii().to_string());
            return Err((0, format!("{:?}", MAGIC.escape_ascii().to_string()), found));
        }
        let format = u32_at(bytes, 8);
        if format != FORMAT {
            return Err((8, format!("format {FORMAT}"), format!("format {format}")));
        }
        let (checksum, found) = (xxh3_64(&bytes[..40]), u64_at(bytes, 40));
        if checksum != found {
            return Err((40, format!("a checksum of {checksum:#018x}"), format!("{found:#018x}")));
        }
        let kind = match u32_at(bytes, 12) {
            1 => Kind::Segment,
            2 => Kind::Snapshot,
            other => return Err((12, "kind 1 or 2".to_owned(), format!("kind {other}"))),
        };
        Ok(Self { kind, number: u64_at(bytes, 16), first: u64_at(bytes, 24), id: u64_at(bytes, 32) })
    }
}

/// Why there is no good record at an offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The file ends within the 24 bytes before a payload.
    ShortHeader,
    /// The file ends within the payload.
    ShortPayload,
    /// Zeros where a record should begin.
    Zeros,
    /// A length beyond [`RECORD_BYTES_MAX`].
    Length(u32),
    /// The checksum does not belong to length, position in the commit, sequence number and payload.
    Checksum,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ShortHeader => f.write_str("short header"),
            Self::ShortPayload => f.write_str("short payload"),
            Self::Zeros => f.write_str("zero fill"),
            Self::Length(length) => write!(f, "impossible length {length}"),
            Self::Checksum => f.write_str("bad checksum"),
        }
    }
}

/// A record as it stands in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Record<'a> {
    /// Sequence number.
    pub(super) sequence: u64,
    /// Bytes from the beginning of the commit that wrote it.
    pub(super) back: u32,
    /// Not a record: the mark of a proper end.
    pub(super) mark: bool,
    pub(super) payload: &'a [u8],
}

impl Record<'_> {
    /// Bytes in the file.
    pub(super) fn size(&self) -> usize {
        FRAME_BYTES + self.payload.len()
    }

    /// Adds the record's bytes.
    pub(super) fn write(&self, id: u64, out: &mut Vec<u8>) {
        let start = out.len();
        let length = self.payload.len() as u32 | if self.mark { MARK } else { 0 };
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&self.back.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(self.payload);
        let checksum = xxh3_64_with_seed(&out[start + 8..], id);
        out[start..start + 8].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// What the first bytes say before they are checked: the payload's length and the sequence number.
pub(super) fn peek(bytes: &[u8]) -> Option<(usize, u64)> {
    let frame = bytes.get(..FRAME_BYTES)?;
    let length = (u32_at(frame, 8) & !MARK) as usize;
    (length <= RECORD_BYTES_MAX).then(|| (length, u64_at(frame, 16)))
}

/// The record that begins here.
pub(super) fn parse(bytes: &[u8], id: u64) -> Result<Record<'_>, Fault> {
    let Some(frame) = bytes.get(..FRAME_BYTES) else {
        return Err(if bytes.iter().all(|byte| *byte == 0) { Fault::Zeros } else { Fault::ShortHeader });
    };
    if frame == [0; FRAME_BYTES] {
        return Err(Fault::Zeros);
    }
    let word = u32_at(frame, 8);
    let length = (word & !MARK) as usize;
    if length > RECORD_BYTES_MAX {
        return Err(Fault::Length(word));
    }
    let size = FRAME_BYTES + length;
    let Some(record) = bytes.get(..size) else { return Err(Fault::ShortPayload) };
    if xxh3_64_with_seed(&record[8..], id) != u64_at(record, 0) {
        return Err(Fault::Checksum);
    }
    Ok(Record {
        sequence: u64_at(frame, 16),
        back: u32_at(frame, 12),
        mark: word & MARK != 0,
        payload: &record[FRAME_BYTES..],
    })
}
