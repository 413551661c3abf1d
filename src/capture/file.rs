//! The file formats: pcap (micro- and nanoseconds, either byte order, the "modified" variant) and
//! pcapng, as frames.
//!
//! Blocks are delimited here, so that every place in the file is known and a bad block can be
//! stepped over; what is in them is taken apart by the `pcap-parser` crate.

use std::fmt;
use std::io::{self, Read};
use std::ops::Range;

use pcap_parser::traits::PcapNGPacketBlock;
use pcap_parser::{
    Block, InterfaceDescriptionBlock, OptionCode, parse_block_be, parse_block_le, parse_pcap_frame,
    parse_pcap_frame_be, parse_pcap_frame_modified, parse_pcap_header,
};

/// The longest block of a file that is read, in bytes. A length beyond it is damage.
pub const MAX_BLOCK_BYTES: usize = 16 << 20;
/// The longest frame that capture programs write unless the file's snapshot length says more.
const USUAL_SNAPLEN: usize = 262_144;
const BUFFER_BYTES: usize = 256 << 10;
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
    /// Where in the file the block starts, in bytes.
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
    Pcap { big_endian: bool, modified: bool, nanoseconds: bool, link: u16, longest: usize },
    PcapNg { big_endian: bool },
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
    input: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Where in the file `start` is.
    offset: u64,
    /// Nothing more is read: the input ended, failed, or is damaged beyond the next block.
    ended: bool,
    format: Format,
    interfaces: Vec<Interface>,
    frames: u64,
    damage: Vec<Damage>,
    damages: u64,
}

enum Have {
    All,
    /// The input ended at the start of what was wanted, or within it.
    Ended,
}

impl<R: Read> Frames<R> {
    /// Reads the file's first bytes.
    pub(super) fn new(input: R) -> Result<Self, CaptureError> {
        let mut frames = Self {
            input,
            buffer: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
            offset: 0,
            ended: false,
            format: Format::PcapNg { big_endian: false },
            interfaces: Vec::new(),
            frames: 0,
            damage: Vec::new(),
            damages: 0,
        };
        frames.fill(24)?;
        let first = &frames.buffer[frames.start..frames.end];
        match *first {
            [] => return Err(CaptureError::NoCapture("an empty file".into())),
            [0x0A, 0x0D, 0x0D, 0x0A, ..] => return Ok(frames),
            [0x1F, 0x8B, ..] | [0xFD, b'7', b'z', ..] | [0x28, 0xB5, 0x2F, 0xFD, ..] => {
                return Err(CaptureError::NoCapture("a compressed file; unpack it first".into()));
            }
            _ => {}
        }
        match parse_pcap_header(first) {
            Ok((_, header)) => {
                let snaplen = (header.snaplen as usize).min(MAX_BLOCK_BYTES);
                frames.format = Format::Pcap {
                    big_endian: header.is_bigendian(),
                    modified: header.is_modified_format(),
                    nanoseconds: header.is_nanosecond_precision(),
                    // The upper half says whether frames end in a checksum, which IP's length drops.
                    link: header.network.0 as u16,
                    longest: snaplen.max(USUAL_SNAPLEN),
                };
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
                Format::Pcap { big_endian, modified, nanoseconds, link, longest } => {
                    self.pcap_frame(big_endian, modified, nanoseconds, link, longest)
                }
                Format::PcapNg { big_endian } => self.pcapng_block(big_endian),
            };
            if frame.is_some() {
                self.frames += 1;
                return frame;
            }
        }
        None
    }

    fn pcap_frame(
        &mut self,
        big_endian: bool,
        modified: bool,
        nanoseconds: bool,
        link: u16,
        longest: usize,
    ) -> Option<Frame> {
        let header = if modified { 24 } else { 16 };
        if !self.have(header, "a frame's header") {
            return None;
        }
        let len = self.word(8, big_endian) as usize;
        if len > longest {
            self.give_up(format!(
                "a frame of {len} bytes, expected at most {longest}; the rest of the file is left out"
            ));
            return None;
        }
        if !self.have(header + len, "a frame") {
            return None;
        }
        let block = &self.buffer[self.start..self.start + header + len];
        let parsed = match (modified, big_endian) {
            (true, _) => parse_pcap_frame_modified(block),
            (false, true) => parse_pcap_frame_be(block),
            (false, false) => parse_pcap_frame(block),
        };
        let Ok((_, parsed)) = parsed else {
            self.give_up("a frame that cannot be read; the rest of the file is left out".into());
            return None;
        };
        let fraction = u64::from(parsed.ts_usec) * if nanoseconds { 1 } else { 1000 };
        let frame = Frame {
            time_ns: Some(u64::from(parsed.ts_sec) * 1_000_000_000 + fraction),
            link: Some(link),
            place: self.start + header..self.start + header + len,
            cut: parsed.origlen > parsed.caplen,
        };
        self.consume(header + len);
        Some(frame)
    }

    fn pcapng_block(&mut self, mut big_endian: bool) -> Option<Frame> {
        if !self.have(12, "a block's header") {
            return None;
        }
        // The type of a section header reads the same in both byte orders.
        if self.word(0, false) == pcap_parser::SHB_MAGIC {
            match self.word(8, false) {
                0x1A2B_3C4D => big_endian = false,
                0x4D3C_2B1A => big_endian = true,
                found => {
                    self.give_up(format!("a section of unknown byte order (0x{found:08x})"));
                    return None;
                }
            }
            self.format = Format::PcapNg { big_endian };
            self.interfaces.clear();
        }
        let len = self.word(4, big_endian) as usize;
        if len < 12 || !len.is_multiple_of(4) || len > MAX_BLOCK_BYTES {
            self.give_up(format!(
                "a block of {len} bytes, expected a multiple of 4 from 12 to {MAX_BLOCK_BYTES}; \
                 the rest of the file is left out"
            ));
            return None;
        }
        if !self.have(len, "a block") {
            return None;
        }
        let at = self.start;
        let block = &self.buffer[at..at + len];
        let parsed = if big_endian { parse_block_be(block) } else { parse_block_le(block) };
        let mut frame = None;
        let fault = match parsed {
            Ok((_, Block::EnhancedPacket(packet))) => {
                let interface = self.interfaces.get(packet.if_id as usize);
                frame = Some(Frame {
                    time_ns: interface.map(|interface| interface.time_ns(packet.ts_high, packet.ts_low)),
                    link: interface.map(|interface| interface.link),
                    place: at + 28..at + 28 + packet.packet_data().len(),
                    cut: packet.origlen > packet.caplen,
                });
                None
            }
            Ok((_, Block::SimplePacket(packet))) => {
                let interface = self.interfaces.first();
                let snaplen = interface.map_or(0, |interface| interface.snaplen) as usize;
                let room = if snaplen == 0 { len - 16 } else { snaplen.min(len - 16) };
                let captured = room.min(packet.origlen as usize);
                frame = Some(Frame {
                    time_ns: None,
                    link: interface.map(|interface| interface.link),
                    place: at + 12..at + 12 + captured,
                    cut: packet.origlen as usize > captured,
                });
                None
            }
            Ok((_, Block::InterfaceDescription(interface))) => {
                if self.interfaces.len() < MAX_INTERFACES {
                    self.interfaces.push(described(&interface, big_endian));
                }
                None
            }
            _ if self.word(0, big_endian) == OLD_PACKET_BLOCK => {
                frame = self.old_packet_block(at, len, big_endian);
                frame.is_none().then(|| "a packet block whose lengths do not agree".to_owned())
            }
            Ok(_) => None,
            Err(_) => Some(format!("a block of type 0x{:x} that cannot be read", self.word(0, big_endian))),
        };
        let tail = self.word(len - 4, big_endian) as usize;
        if let Some(fault) = fault {
            self.note(format!("{fault}; it is left out"));
        } else if tail != len {
            self.note(format!("a block whose length is {len} at its start and {tail} at its end"));
        }
        self.consume(len);
        frame
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

    /// Whether `len` bytes are in the buffer; otherwise the file ended, which is damage unless it
    /// ended here.
    fn have(&mut self, len: usize, what: &str) -> bool {
        match self.fill(len) {
            Ok(Have::All) => return true,
            Ok(Have::Ended) if self.start == self.end => {}
            Ok(Have::Ended) => {
                let there = self.end - self.start;
                self.note(format!("the file ends within {what}: {there} of at least {len} bytes are there"));
            }
            Err(error) => self.note(format!("reading failed: {error}")),
        }
        self.ended = true;
        false
    }

    fn fill(&mut self, len: usize) -> io::Result<Have> {
        while self.end - self.start < len {
            if self.start + len > self.buffer.len() {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
                if len > self.buffer.len() {
                    self.buffer.resize(len.next_power_of_two(), 0);
                }
            }
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Ok(Have::Ended),
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Have::All)
    }

    fn consume(&mut self, len: usize) {
        self.start += len;
        self.offset += len as u64;
    }

    fn note(&mut self, what: String) {
        self.damages += 1;
        if self.damage.len() < MAX_DAMAGE {
            self.damage.push(Damage { offset: self.offset, after_frame: self.frames, what });
        }
    }

    fn give_up(&mut self, what: String) {
        self.note(what);
        self.ended = true;
    }
}

const OLD_PACKET_BLOCK: u32 = 2;

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
