//! The file formats: pcap (micro- and nanoseconds, either byte order, the "modified" variant) and
//! pcapng, as frames.
//!
//! Blocks are delimited here, so that every place in the file is known and a bad block can be
//! stepped over; what is in them is taken apart by the `pcap-parser` crate.
//!
//! **Damage.** A frame or block counts only when something that can be one follows it, or the file's
//! end. Where lengths cannot be, bytes are missing or have been written over, reading goes on at the
//! next place where a frame or block surely starts: in pcap three headers in a row that can be such and
//! are of one time, in pcapng a known type and a length that stands at both ends. A stretch without damage costs a look at
//! sixteen bytes a frame; so does a frame from a pipe not come before the header of the next.

use std::fmt;
use std::io::{self, Read};
use std::ops::Range;

use pcap_parser::traits::PcapNGPacketBlock;
use pcap_parser::{
    Block, InterfaceDescriptionBlock, OptionCode, PcapHeader, parse_block_be, parse_block_le,
    parse_pcap_frame, parse_pcap_frame_be, parse_pcap_frame_modified, parse_pcap_header,
};

use super::packed::Input;

/// The longest block of a file that is read, in bytes. A length beyond it is damage.
pub const MAX_BLOCK_BYTES: usize = 16 << 20;
/// The longest frame that capture programs write unless the file's snapshot length says more.
const USUAL_SNAPLEN: usize = 262_144;
const BUFFER_BYTES: usize = 256 << 10;
const DAY_S: u32 = 86_400;
/// How a pcap file starts: with times in microseconds, in nanoseconds, and with longer headers.
const PCAP_MAGIC: [u32; 3] = [0xA1B2_C3D4, 0xA1B2_3C4D, 0xA1B2_CD34];
const PCAP_HEADER_BYTES: usize = 24;
/// Interfaces of a section that are remembered.
const MAX_INTERFACES: usize = 1 << 16;
/// Places of damage that are remembered.
const MAX_DAMAGE: usize = 16;

/// Why a file is no capture.
#[derive(Debug)]
pub enum CaptureError {
    /// It could not be read.
    Io(io::Error),
    /// It starts like no capture; what was found.
    NoCapture(String),
}

impl fmt::Display for CaptureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot be read: {error}"),
            Self::NoCapture(found) => write!(f, "expected a pcap or pcapng file, found {found}"),
        }
    }
}

impl std::error::Error for CaptureError {}

impl From<io::Error> for CaptureError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// One fault of a file: where, and what.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Damage {
    /// Where in the file, unpacked, the block starts, in bytes.
    pub offset: u64,
    /// Frames read before it.
    pub after_frame: u64,
    /// What is wrong, and what was done.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}, after frame {}: {}", self.offset, self.after_frame, self.what)
    }
}

/// A frame in the buffer of [`Frames`].
#[derive(Clone, Debug)]
pub(super) struct Frame {
    /// Nanoseconds since 1970, if the file says.
    pub(super) time_ns: Option<u64>,
    /// Link type; `None` when the frame's interface is not described.
    pub(super) link: Option<u16>,
    /// Where [`Frames::bytes`] finds it.
    pub(super) place: Range<usize>,
    /// Whether the capture program cut it.
    pub(super) cut: bool,
}

#[derive(Clone, Copy, Debug)]
enum Format {
    Pcap(Pcap),
    PcapNg { big_endian: bool },
}

/// What a pcap file says of all its frames.
#[derive(Clone, Copy, Debug)]
struct Pcap {
    big_endian: bool,
    /// Longer headers, of kernels before 2000.
    modified: bool,
    nanoseconds: bool,
    link: u16,
    /// The longest frame that is believed.
    longest: usize,
}

impl Pcap {
    /// What a file's header says.
    fn of(header: &PcapHeader) -> Self {
        let snaplen = (header.snaplen as usize).min(MAX_BLOCK_BYTES);
        Self {
            big_endian: header.is_bigendian(),
            modified: header.is_modified_format(),
            nanoseconds: header.is_nanosecond_precision(),
            // The upper half says whether frames end in a checksum, which IP's length drops.
            link: header.network.0 as u16,
            longest: snaplen.max(USUAL_SNAPLEN),
        }
    }

    /// Bytes in front of a frame.
    const fn header(&self) -> usize {
        if self.modified { 24 } else { 16 }
    }
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    link: u16,
    snaplen: u32,
    /// `if_tsresol`: decimal digits of a second, or binary ones with the top bit.
    resolution: u8,
    /// `if_tsoffset`, seconds.
    offset_s: i64,
}

impl Interface {
    fn time_ns(&self, high: u32, low: u32) -> u64 {
        let units = u128::from(high) << 32 | u128::from(low);
        let digits = u32::from(self.resolution & 0x7F);
        let ns = if self.resolution & 0x80 != 0 {
            (units * 1_000_000_000).checked_shr(digits).unwrap_or(0)
        } else if digits <= 9 {
            units * 10u128.pow(9 - digits)
        } else {
            10u128.checked_pow(digits - 9).map_or(0, |unit| units / unit)
        };
        let ns = ns as i128 + i128::from(self.offset_s) * 1_000_000_000;
        ns.clamp(0, i128::from(u64::MAX)) as u64
    }
}

/// Reads a file's frames, one at a time.
pub(super) struct Frames<R> {
    input: Input<R>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Where in the file `start` is.
    offset: u64,
    /// Nothing more is read: the input ended, failed, or holds nothing behind its damage.
    ended: bool,
    /// Why the input could not be read further, until it is told.
    failure: Option<io::Error>,
    format: Format,
    interfaces: Vec<Interface>,
    /// When the last frames of a pcap file were captured, the last one first, seconds since 1970.
    seconds: [Option<u32>; 2],
    frames: u64,
    damage: Vec<Damage>,
    damages: u64,
}

impl<R: Read> Frames<R> {
    /// Reads the file's first bytes.
    pub(super) fn new(input: R) -> Result<Self, CaptureError> {
        let mut frames = Self {
            input: Input::new(input)?,
            buffer: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
            offset: 0,
            ended: false,
            failure: None,
            format: Format::PcapNg { big_endian: false },
            interfaces: Vec::new(),
            seconds: [None; 2],
            frames: 0,
            damage: Vec::new(),
            damages: 0,
        };
        frames.fill(24);
        if let Some(error) = frames.failure.take() {
            return Err(error.into());
        }
        let first = &frames.buffer[frames.start..frames.end];
        match *first {
            [] => return Err(CaptureError::NoCapture("an empty file".into())),
            [0x0A, 0x0D, 0x0D, 0x0A, ..] => return Ok(frames),
            [0xFD, b'7', b'z', ..] | [b'B', b'Z', b'h', ..] | [0x04, 0x22, 0x4D, 0x18, ..] => {
                return Err(CaptureError::NoCapture(
                    "a file compressed by other than gzip or zstd; unpack it first".into(),
                ));
            }
            _ => {}
        }
        match parse_pcap_header(first) {
            Ok((_, header)) => {
                frames.format = Format::Pcap(Pcap::of(&header));
                frames.consume(header.size());
                Ok(frames)
            }
            Err(error) if error.is_incomplete() => {
                Err(CaptureError::NoCapture(format!("{} bytes, which hold no file header", first.len())))
            }
            Err(_) => {
                let first = &first[..first.len().min(4)];
                Err(CaptureError::NoCapture(format!("a file that starts with {first:02x?}")))
            }
        }
    }

    /// The bytes of a frame, until the next one is read.
    pub(super) fn bytes(&self, place: Range<usize>) -> &[u8] {
        &self.buffer[place]
    }

    /// The first places of damage, and how many there are in all.
    pub(super) fn damage(&self) -> (&[Damage], u64) {
        (&self.damage, self.damages)
    }

    /// The next frame; `None` at the file's end.
    pub(super) fn next_frame(&mut self) -> Option<Frame> {
        while !self.ended {
            let frame = match self.format {
                Format::Pcap(pcap) => self.pcap_frame(&pcap),
                Format::PcapNg { big_endian } => self.pcapng_block(big_endian),
            };
            if frame.is_some() {
                self.frames += 1;
                return frame;
            }
        }
        if let Some(error) = self.failure.take() {
            self.note(format!("reading failed: {error}; what follows is left out"));
        }
        None
    }

    fn pcap_frame(&mut self, pcap: &Pcap) -> Option<Frame> {
        let header = pcap.header();
        if !self.have(header, "a frame's header") {
            return None;
        }
        if let Some(next) = self.pcap_file(0) {
            self.format = Format::Pcap(Pcap::of(&next));
            self.seconds = [None; 2];
            self.consume(next.size());
            return None;
        }
        if let Some(fault) = self.pcap_fault(0, pcap) {
            self.go_on(&fault);
            return None;
        }
        let len = self.word(8, pcap.big_endian) as usize;
        if !self.have(header + len, "a frame") {
            return None;
        }
        if self.pcap_is_doubtful(header + len, pcap) && (1..header + len).any(|at| self.pcap_starts(at, pcap))
        {
            self.go_on(&format!("a frame of {len} bytes with the start of another in it"));
            return None;
        }
        let block = &self.buffer[self.start..self.start + header + len];
        let parsed = match (pcap.modified, pcap.big_endian) {
            (true, _) => parse_pcap_frame_modified(block),
            (false, true) => parse_pcap_frame_be(block),
            (false, false) => parse_pcap_frame(block),
        };
        let Ok((_, parsed)) = parsed else {
            self.go_on("a frame that cannot be read");
            return None;
        };
        self.seconds = [Some(parsed.ts_sec), self.seconds[0]];
        let fraction = u64::from(parsed.ts_usec) * if pcap.nanoseconds { 1 } else { 1000 };
        let frame = Frame {
            time_ns: Some(u64::from(parsed.ts_sec) * 1_000_000_000 + fraction),
            link: Some(pcap.link),
            place: self.start + header..self.start + header + len,
            cut: parsed.origlen > parsed.caplen,
        };
        self.consume(header + len);
        Some(frame)
    }

    /// The header of another file, where files were put one after the other (`cat`): what stands there is no frame,
    /// since none is of 2055 and of the very nanosecond that the format's version makes.
    fn pcap_file(&mut self, at: usize) -> Option<PcapHeader> {
        if !PCAP_MAGIC.contains(&self.word(at, false)) && !PCAP_MAGIC.contains(&self.word(at, true)) {
            return None;
        }
        if !self.fill(at + PCAP_HEADER_BYTES) {
            return None;
        }
        let (_, header) = parse_pcap_header(&self.buffer[self.start + at..self.end]).ok()?;
        (header.version_major == 2 && header.version_minor == 4).then_some(header)
    }

    /// What is wrong with the frame's header at `at`, which is in the buffer.
    fn pcap_fault(&self, at: usize, pcap: &Pcap) -> Option<String> {
        let [seconds, _, len, original] = self.pcap_header(at, pcap);
        if len as usize > pcap.longest {
            return Some(format!("a frame of {len} bytes, expected at most {}", pcap.longest));
        }
        (seconds == 0 && len == 0 && original == 0).then(|| "a frame's header of zeros".to_owned())
    }

    /// Whether what is at `at` hardly is a frame's header, after a frame of this time.
    fn pcap_is_odd(&self, at: usize, pcap: &Pcap, before: Option<u32>) -> bool {
        let [seconds, fraction, len, original] = self.pcap_header(at, pcap);
        let second = if pcap.nanoseconds { 1_000_000_000 } else { 1_000_000 };
        fraction >= second
            || len == 0
            || len as usize > pcap.longest
            || len > original
            || original as usize > MAX_BLOCK_BYTES
            || before.is_some_and(|before| seconds.abs_diff(before) > DAY_S)
    }

    /// Whether the frame of `len` bytes, header included, or what follows it, hardly is one.
    fn pcap_is_doubtful(&mut self, len: usize, pcap: &Pcap) -> bool {
        let next_is_there = self.fill(len + pcap.header());
        let ends = !next_is_there && self.end - self.start == len;
        let seconds = self.word(0, pcap.big_endian);
        self.pcap_is_odd(0, pcap, self.seconds[0])
            || !ends
                && (!next_is_there
                    || self.pcap_is_odd(len, pcap, Some(seconds)) && self.pcap_file(len).is_none())
    }

    /// Whether a frame surely starts at `at`: its header and the next two can be such, none of them a
    /// day from the one before, or the file ends where one of them does.
    fn pcap_starts(&mut self, at: usize, pcap: &Pcap) -> bool {
        let (mut next, mut before) = (at, None);
        for round in 0..3 {
            if !self.fill(next + pcap.header()) {
                return round > 0 && self.end - self.start == next;
            }
            if self.pcap_is_odd(next, pcap, before) {
                return false;
            }
            let [seconds, _, len, _] = self.pcap_header(next, pcap);
            next += pcap.header() + len as usize;
            if round == 0 && self.ends_at(next) {
                let mut before = self.seconds.into_iter().flatten();
                return before.any(|before| seconds.abs_diff(before) <= DAY_S);
            }
            before = Some(seconds);
        }
        true
    }

    fn pcap_header(&self, at: usize, pcap: &Pcap) -> [u32; 4] {
        [0, 4, 8, 12].map(|field| self.word(at + field, pcap.big_endian))
    }

    fn pcapng_block(&mut self, mut big_endian: bool) -> Option<Frame> {
        if !self.have(12, "a block's header") {
            return None;
        }
        // The type of a section header reads the same in both byte orders.
        if self.word(0, false) == pcap_parser::SHB_MAGIC {
            match self.order_of_section(0) {
                Some(order) => big_endian = order,
                None => {
                    let found = self.word(8, false);
                    self.go_on(&format!("a section of unknown byte order (0x{found:08x})"));
                    return None;
                }
            }
            self.format = Format::PcapNg { big_endian };
            self.interfaces.clear();
        }
        let len = self.word(4, big_endian) as usize;
        if !is_block_len(len) {
            self.go_on(&format!(
                "a block of {len} bytes, expected a multiple of 4 from 12 to {MAX_BLOCK_BYTES}"
            ));
            return None;
        }
        if !self.have(len, "a block") {
            return None;
        }
        if self.pcapng_is_doubtful(len, big_endian) && (1..len).any(|at| self.pcapng_starts(at, big_endian)) {
            self.go_on(&format!("a block of {len} bytes with the start of another in it"));
            return None;
        }
        let tail = self.word(len - 4, big_endian) as usize;
        if tail != len {
            self.note(format!("a block whose length is {len} at its start and {tail} at its end"));
        }
        let frame = self.read_block(len, big_endian);
        self.consume(len);
        frame
    }

    /// Whether the block of `len` bytes does not end as one, or what follows it hardly is one.
    fn pcapng_is_doubtful(&mut self, len: usize, big_endian: bool) -> bool {
        let next_is_there = self.fill(len + 12);
        if self.word(len - 4, big_endian) as usize != len {
            return true;
        }
        if !next_is_there {
            return self.end - self.start != len;
        }
        let known = |kind| kind == pcap_parser::SHB_MAGIC || KNOWN_BLOCKS.contains(&kind);
        !known(self.word(len, big_endian)) || !is_block_len(self.word(len + 4, big_endian) as usize)
    }

    /// Whether a block surely starts at `at`: its type is known and its length stands at both ends.
    fn pcapng_starts(&mut self, at: usize, mut big_endian: bool) -> bool {
        if !self.fill(at + 12) {
            return false;
        }
        if self.word(at, false) == pcap_parser::SHB_MAGIC {
            let Some(order) = self.order_of_section(at) else { return false };
            big_endian = order;
        } else if !KNOWN_BLOCKS.contains(&self.word(at, big_endian)) {
            return false;
        }
        let len = self.word(at + 4, big_endian) as usize;
        is_block_len(len) && self.fill(at + len) && self.word(at + len - 4, big_endian) as usize == len
    }

    /// Whether a section's header at `at` says that it is big-endian.
    fn order_of_section(&self, at: usize) -> Option<bool> {
        match self.word(at + 8, false) {
            0x1A2B_3C4D => Some(false),
            0x4D3C_2B1A => Some(true),
            _ => None,
        }
    }

    /// The block that is at the start of the buffer, whole.
    fn read_block(&mut self, len: usize, big_endian: bool) -> Option<Frame> {
        let at = self.start;
        let block = &self.buffer[at..at + len];
        let parsed = if big_endian { parse_block_be(block) } else { parse_block_le(block) };
        let fault = match parsed {
            Ok((_, Block::EnhancedPacket(packet))) => {
                let interface = self.interfaces.get(packet.if_id as usize);
                return Some(Frame {
                    time_ns: interface.map(|interface| interface.time_ns(packet.ts_high, packet.ts_low)),
                    link: interface.map(|interface| interface.link),
                    place: at + 28..at + 28 + packet.packet_data().len(),
                    cut: packet.origlen > packet.caplen,
                });
            }
            Ok((_, Block::SimplePacket(packet))) => {
                let interface = self.interfaces.first();
                let snaplen = interface.map_or(0, |interface| interface.snaplen) as usize;
                let room = if snaplen == 0 { len - 16 } else { snaplen.min(len - 16) };
                let captured = room.min(packet.origlen as usize);
                return Some(Frame {
                    time_ns: None,
                    link: interface.map(|interface| interface.link),
                    place: at + 12..at + 12 + captured,
                    cut: packet.origlen as usize > captured,
                });
            }
            Ok((_, Block::InterfaceDescription(interface))) => {
                if self.interfaces.len() < MAX_INTERFACES {
                    self.interfaces.push(described(&interface, big_endian));
                }
                return None;
            }
            _ if self.word(0, big_endian) == OLD_PACKET_BLOCK => {
                match self.old_packet_block(at, len, big_endian) {
                    Some(frame) => return Some(frame),
                    None => "a packet block whose lengths do not agree".to_owned(),
                }
            }
            Ok(_) => return None,
            Err(_) => format!("a block of type 0x{:x} that cannot be read", self.word(0, big_endian)),
        };
        self.note(format!("{fault}; it is left out"));
        None
    }

    /// A Packet Block, which capture programs wrote before 2010.
    fn old_packet_block(&self, at: usize, len: usize, big_endian: bool) -> Option<Frame> {
        if len < 32 {
            return None;
        }
        let word = |offset| self.word(offset, big_endian);
        let both = word(8);
        let interface = self.interfaces.get(if big_endian { both >> 16 } else { both & 0xFFFF } as usize);
        let captured = word(20) as usize;
        (captured <= len - 32).then(|| Frame {
            time_ns: interface.map(|interface| interface.time_ns(word(12), word(16))),
            link: interface.map(|interface| interface.link),
            place: at + 28..at + 28 + captured,
            cut: word(24) as usize > captured,
        })
    }

    /// The 32-bit word `offset` bytes into the buffer's content, which is known to be there.
    fn word(&self, offset: usize, big_endian: bool) -> u32 {
        let at = self.start + offset;
        let bytes = self.buffer[at..at + 4].try_into().unwrap_or_default();
        if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }

    /// Whether `len` bytes are in the buffer. Otherwise the file ends, which is damage unless it ends
    /// right here; what can be read of the rest is then next.
    fn have(&mut self, len: usize, what: &str) -> bool {
        if self.fill(len) {
            return true;
        }
        let there = self.end - self.start;
        if there == 0 || self.failure.is_some() {
            self.ended = true;
        } else {
            self.go_on(&format!("the file ends within {what}: {there} of at least {len} bytes are there"));
        }
        false
    }

    /// Whether the file ends `len` bytes from here.
    fn ends_at(&mut self, len: usize) -> bool {
        !self.fill(len + 1) && self.end - self.start == len
    }

    /// Goes on behind damage: at the next place where something surely starts, or nowhere.
    fn go_on(&mut self, fault: &str) {
        let damaged = self.offset;
        let format = self.format;
        let found = loop {
            if self.start == self.end && !self.fill(1) {
                break false;
            }
            self.consume(1);
            let starts = match format {
                Format::Pcap(pcap) => self.pcap_starts(0, &pcap),
                Format::PcapNg { big_endian } => self.pcapng_starts(0, big_endian),
            };
            if starts {
                break true;
            }
        };
        self.ended |= !found;
        let left_out = match self.offset - damaged {
            bytes if found => format!("{bytes} bytes are left out"),
            _ => "the rest of the file is left out".to_owned(),
        };
        self.note_at(damaged, format!("{fault}; {left_out}"));
    }

    /// Reads until `len` bytes are in the buffer; false when the input ends or fails before.
    fn fill(&mut self, len: usize) -> bool {
        while self.end - self.start < len {
            if self.start + len > self.buffer.len() {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
                if len > self.buffer.len() {
                    self.buffer.resize(len.next_power_of_two(), 0);
                }
            }
            if self.failure.is_some() {
                return false;
            }
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => return false,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.failure = Some(error),
            }
        }
        true
    }

    fn consume(&mut self, len: usize) {
        self.start += len;
        self.offset += len as u64;
    }

    fn note(&mut self, what: String) {
        self.note_at(self.offset, what);
    }

    fn note_at(&mut self, offset: u64, what: String) {
        self.damages += 1;
        if self.damage.len() < MAX_DAMAGE {
            self.damage.push(Damage { offset, after_frame: self.frames, what });
        }
    }
}

const OLD_PACKET_BLOCK: u32 = 2;
/// Types of blocks from which reading goes on behind damage: interface, old packet, simple packet,
/// names, statistics, enhanced packet, secrets.
const KNOWN_BLOCKS: [u32; 7] = [1, OLD_PACKET_BLOCK, 3, 4, 5, 6, 10];

/// Whether a block can be so long.
const fn is_block_len(len: usize) -> bool {
    len >= 12 && len.is_multiple_of(4) && len <= MAX_BLOCK_BYTES
}

fn described(block: &InterfaceDescriptionBlock<'_>, big_endian: bool) -> Interface {
    let option = |code| block.options.iter().find(|option| option.code == code).map(|option| option.value());
    let resolution = option(OptionCode::IfTsresol).and_then(|value| value.first().copied());
    let offset = option(OptionCode::IfTsoffset).and_then(|value| value.first_chunk::<8>().copied());
    let offset = offset.map(|o| if big_endian { i64::from_be_bytes(o) } else { i64::from_le_bytes(o) });
    Interface {
        link: block.linktype.0 as u16,
        snaplen: block.snaplen,
        resolution: resolution.unwrap_or(6),
        offset_s: offset.unwrap_or(0),
    }
}
