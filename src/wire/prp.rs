//! PRP/1, the Push Routing Protocol: one UDP datagram is one message.
//!
//! ```text
//!  0        1        2        3        4
//! +----+----+--------+--------+--------+--------+--------+--------+--------+
//! |ver |kind| flags  | hops   | words  | application identifier            |
//! +----+----+--------+--------+--------+--------+--------+--------+--------+
//! | 8   destination Push ID (16 bytes; the last four steer to a shard)     |
//! | 24  source Push ID (16 bytes)                                          |
//! | 40  message identifier (8 bytes)                                       |
//! +------------------------------------------------------------------------+
//! | 48  options: type, length, value, zeros up to a multiple of four …     |
//! +------------------------------------------------------------------------+
//! | words × 4   payload, up to the end of the datagram                     |
//! ```
//!
//! [`parse`] checks everything that "malformed" means and leaves an index of the options: one pass,
//! no allocation, no panic. [`HeadBuilder`] writes heads; [`auth`] signs and checks.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

pub mod auth;
mod build;
mod option;

pub use build::{HEAD_MAX, HeadBuilder, HeadTooLong, copy_for_members, set_destination};
pub use option::{Options, option_type};

use crate::id::PushId;
use crate::reason::Reason;

/// Bytes of the fixed header.
pub const HEADER_BYTES: usize = 48;

/// The version spoken here.
pub const VERSION: u8 = 1;

/// What a sender puts into the hop limit.
pub const HOP_LIMIT: u8 = 8;

/// The default UDP port.
pub const PORT: u16 = 17400;

/// Bits of the flags.
pub mod flag {
    /// A RECEIPT is wanted.
    pub const RECEIPT: u8 = 0x01;
    /// Before normal messages when not all can be sent.
    pub const PRIORITY: u8 = 0x02;
    /// Already passed its home server.
    pub const ROAMED: u8 = 0x04;
    /// The destination is a group.
    pub const GROUP: u8 = 0x08;
    /// All that have a meaning; the rest are zero when sent, ignored when read.
    pub const KNOWN: u8 = 0x0F;
}

macro_rules! kinds {
    ($($code:literal $variant:ident $name:literal $text:literal;)+) => {
        /// What a message is.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum Kind {
            $(#[doc = $text] $variant = $code,)+
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The kind with this number.
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)+ _ => None }
            }

            /// As in PROTOCOL.md.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

kinds! {
    1 Push "PUSH" "A message for a user's terminals.";
    2 Receipt "RECEIPT" "A terminal's answer to a PUSH that wants one.";
    3 Reject "REJECT" "A server's answer to what failed.";
    4 Register "REGISTER" "Binds a terminal.";
    5 Registered "REGISTERED" "Answers REGISTER.";
    6 Release "RELEASE" "Ends a binding.";
    7 Released "RELEASED" "Answers RELEASE.";
    8 Group "GROUP" "Creates, joins, leaves, lists or deletes a group.";
    9 Grouped "GROUPED" "Answers GROUP.";
    10 Resolve "RESOLVE" "Asks for the Push ID that has a name.";
    11 Resolved "RESOLVED" "Answers RESOLVE.";
    12 Echo "ECHO" "Asks whether the server lives.";
    13 Echoed "ECHOED" "Answers ECHO.";
    14 Introduce "INTRODUCE" "Asks for the address of another terminal, or gives it.";
}

impl Kind {
    /// Whether this answers something: such a message is never answered with a REJECT.
    pub const fn is_answer(self) -> bool {
        matches!(
            self,
            Self::Receipt
                | Self::Reject
                | Self::Registered
                | Self::Released
                | Self::Grouped
                | Self::Resolved
                | Self::Echoed
        )
    }
}

/// The fixed header, as every version has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The version, 0 to 15.
    pub version: u8,
    /// The kind's number, 0 to 15; see [`Kind::from_code`].
    pub kind: u8,
    /// The flags, reserved ones too.
    pub flags: u8,
    /// How many more servers may forward it.
    pub hop_limit: u8,
    /// The header's length in 4-byte words, options included.
    pub header_words: u8,
    /// Who may push; 0 where none applies.
    pub app: u32,
    /// The user that this concerns.
    pub destination: PushId,
    /// The sender, or [`PushId::NONE`].
    pub source: PushId,
    /// Chosen by the sender; an answer repeats it.
    pub message: u64,
}

impl Header {
    /// A message of this kind with nothing else set.
    pub const fn new(kind: Kind, destination: PushId, source: PushId, message: u64) -> Self {
        Self {
            version: VERSION,
            kind: kind as u8,
            flags: 0,
            hop_limit: HOP_LIMIT,
            header_words: (HEADER_BYTES / 4) as u8,
            app: 0,
            destination,
            source,
            message,
        }
    }

    /// An answer to this message: source and destination swapped, the same message identifier.
    #[must_use]
    pub const fn answer(&self, kind: Kind) -> Self {
        Self::new(kind, self.source, self.destination, self.message)
    }

    /// The header at the front of a datagram; `None` below 48 bytes.
    #[inline(always)]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let head: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        let [first, flags, hop_limit, header_words, rest @ ..] = head;
        let (app, rest) = rest.split_first_chunk::<4>()?;
        let (destination, rest) = rest.split_first_chunk::<16>()?;
        let (source, rest) = rest.split_first_chunk::<16>()?;
        let message = rest.first_chunk::<8>()?;
        Some(Self {
            version: first >> 4,
            kind: first & 15,
            flags: *flags,
            hop_limit: *hop_limit,
            header_words: *header_words,
            app: u32::from_be_bytes(*app),
            destination: PushId::from_bytes(*destination),
            source: PushId::from_bytes(*source),
            message: u64::from_be_bytes(*message),
        })
    }

    /// The 48 bytes of the wire.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        let mut rest: &mut [u8] = &mut out;
        let mut put = |bytes: &[u8]| {
            if let Some((now, later)) = std::mem::take(&mut rest).split_at_mut_checked(bytes.len()) {
                now.copy_from_slice(bytes);
                rest = later;
            }
        };
        put(&[self.version << 4 | (self.kind & 15), self.flags, self.hop_limit, self.header_words]);
        put(&self.app.to_be_bytes());
        put(&self.destination.to_bytes());
        put(&self.source.to_bytes());
        put(&self.message.to_be_bytes());
        out
    }
}

/// A message that keeps every rule of PRP/1. Holds no bytes: its option index and payload range
/// refer to the datagram that it was parsed from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// The fixed header.
    pub header: Header,
    /// The kind.
    pub kind: Kind,
    /// Where each option is.
    pub options: Options,
    /// First byte after the options.
    pub payload_start: usize,
    /// First byte after the payload; behind it only padding (PayloadLength).
    pub payload_end: usize,
}

impl Message {
    /// The payload within the datagram that this was parsed from.
    pub fn payload<'a>(&self, datagram: &'a [u8]) -> &'a [u8] {
        datagram.get(self.payload_start..self.payload_end).unwrap_or_default()
    }

    /// Whether all of these flag bits are set.
    pub const fn has(&self, flags: u8) -> bool {
        self.header.flags & flags == flags
    }
}

/// Parses one datagram. The fault named is the first of: malformed, unsupported-version,
/// unsupported-kind, unsupported-option (`PROTOCOL.md`, ruling 11).
///
/// Of another version only the first 48 bytes and the header length are looked at: what its options
/// mean is not known here.
///
/// # Errors
/// The reason; [`Header::read`] still tells what can be answered.
#[inline(always)]
pub fn parse(bytes: &[u8]) -> Result<Message, Reason> {
    let header = Header::read(bytes).ok_or(Reason::Malformed)?;
    let payload_start = usize::from(header.header_words) * 4;
    if payload_start < HEADER_BYTES || payload_start > bytes.len() {
        return Err(Reason::Malformed);
    }
    if header.version != VERSION {
        return Err(Reason::UnsupportedVersion);
    }
    let head = bytes.get(..payload_start).ok_or(Reason::Malformed)?;
    // Most have none: what is put together byte by byte stalls who reads it as a whole.
    let none = (Options::default(), false);
    let (options, critical_unknown) = if head.len() == HEADER_BYTES { none } else { Options::walk(head)? };
    let payload_end = match options.payload_length(bytes) {
        None => bytes.len(),
        Some(length) => payload_start + usize::from(length),
    };
    if payload_end > bytes.len() {
        return Err(Reason::Malformed);
    }
    let kind = Kind::from_code(header.kind);
    if kind.is_some_and(|kind| !options.satisfy(kind)) {
        return Err(Reason::Malformed);
    }
    let kind = kind.ok_or(Reason::UnsupportedKind)?;
    if critical_unknown {
        return Err(Reason::UnsupportedOption);
    }
    Ok(Message { header, kind, options, payload_start, payload_end })
}

#[cfg(test)]
mod tests;
