//! GTPv1: the tunnelling protocol between GGSN and SGSN, control plane (GTP-C, UDP 2123, 3GPP
//! TS 29.060) and user plane (GTP-U, UDP 2152, TS 29.281).
//!
//! Parsing borrows from the datagram and neither allocates nor panics, whatever the bytes are. The
//! cost of [`parse`] is one look at 8 to 12 bytes and one at each extension header; the dataplane
//! itself only needs [`write_gpdu_header`], one 8-byte store.
//!
//! ```text
//! octet 0        version (3 bits) · PT (1 for GTP, 0 for GTP') · spare · E · S · PN
//!       1        message type
//!       2-3      length: octets after the first eight
//!       4-7      TEID: chosen by who receives
//!       8-11     sequence number · N-PDU number · next extension header type,
//!                there when any of E, S, PN is set, each meaning something only under its own flag
//!       …        extension headers: length in 4-octet units (1) · content · next type (1)
//!       …        information elements (GTP-C), or the user's IP packet (message type 255)
//! ```

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod element;
mod pdp;

pub use element::{EndUserAddress, Ie, IeFault, Ies, Msisdn, ie, tv_length};
pub use pdp::{Apn, Pdp};

use std::fmt;

/// UDP port of GTP-C (TS 29.060 §10.1.1).
pub const CONTROL_PORT: u16 = 2123;
/// UDP port of GTP-U (TS 29.281 §4.4.2).
pub const USER_PORT: u16 = 2152;
/// UDP port of GTPv0, which this module does not speak (TS 09.60).
pub const V0_PORT: u16 = 3386;

/// Length of the header that [`write_gpdu_header`] writes.
pub const GPDU_HEADER_LEN: usize = 8;

/// Message types (TS 29.060 §7.1, table 1).
pub mod kind {
    /// Echo Request.
    pub const ECHO_REQUEST: u8 = 1;
    /// Echo Response.
    pub const ECHO_RESPONSE: u8 = 2;
    /// Version Not Supported.
    pub const VERSION_NOT_SUPPORTED: u8 = 3;
    /// Create PDP Context Request, SGSN → GGSN.
    pub const CREATE_PDP_REQUEST: u8 = 16;
    /// Create PDP Context Response.
    pub const CREATE_PDP_RESPONSE: u8 = 17;
    /// Update PDP Context Request, either way.
    pub const UPDATE_PDP_REQUEST: u8 = 18;
    /// Update PDP Context Response.
    pub const UPDATE_PDP_RESPONSE: u8 = 19;
    /// Delete PDP Context Request, either way.
    pub const DELETE_PDP_REQUEST: u8 = 20;
    /// Delete PDP Context Response.
    pub const DELETE_PDP_RESPONSE: u8 = 21;
    /// Error Indication (GTP-U): a G-PDU came for a TEID that nobody has.
    pub const ERROR_INDICATION: u8 = 26;
    /// PDU Notification Request, GGSN → SGSN.
    pub const PDU_NOTIFICATION_REQUEST: u8 = 27;
    /// Supported Extension Headers Notification.
    pub const SUPPORTED_EXTENSIONS: u8 = 31;
    /// Tunnel Status (GTP-U).
    pub const TUNNEL_STATUS: u8 = 253;
    /// End Marker (GTP-U).
    pub const END_MARKER: u8 = 254;
    /// G-PDU: the user's packet.
    pub const G_PDU: u8 = 255;
}

/// Why a datagram is no GTPv1 message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// Shorter than its header needs; how many bytes that would be.
    Short(usize),
    /// Another version of GTP.
    Version(u8),
    /// PT is 0: GTP', the charging protocol.
    Prime,
    /// The length field says more than the datagram holds.
    LengthBeyond {
        /// Octets after the first eight that the header announces.
        said: usize,
        /// Octets after the first eight that are there.
        there: usize,
    },
    /// An extension header of length 0, or one that passes the end of the message.
    Extension,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short(needed) => write!(f, "shorter than its header of {needed} bytes"),
            Self::Version(version) => write!(f, "GTP version {version}, expected 1"),
            Self::Prime => f.write_str("GTP' (PT = 0), expected GTP"),
            Self::LengthBeyond { said, there } => {
                write!(f, "length field says {said}, {there} bytes are there")
            }
            Self::Extension => f.write_str("an extension header has length 0 or passes the message's end"),
        }
    }
}

impl std::error::Error for Malformed {}

/// A GTPv1 message, borrowed from its datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    /// Message type; see [`kind`].
    pub kind: u8,
    /// Tunnel endpoint identifier, the receiver's choice.
    pub teid: u32,
    /// Sequence number, when S is set.
    pub sequence: Option<u16>,
    /// N-PDU number, when PN is set.
    pub npdu: Option<u8>,
    /// The extension headers.
    pub extensions: Extensions<'a>,
    /// What follows the headers: information elements, or the user's packet.
    pub body: &'a [u8],
    /// How many bytes of the datagram lie behind the message. A peer that is strict (TS 29.060
    /// §11.1.2) refuses a message with any.
    pub trailing: usize,
}

impl<'a> Message<'a> {
    /// The user's IP packet, if this is a G-PDU.
    pub const fn user_packet(&self) -> Option<&'a [u8]> {
        if self.kind == kind::G_PDU { Some(self.body) } else { None }
    }

    /// The body's information elements. Meaningless for a G-PDU.
    pub const fn ies(&self) -> Ies<'a> {
        Ies::new(self.body)
    }

    /// Whether an extension header is there that an endpoint must understand (type bits 8 and 7
    /// are 10 or 11, TS 29.060 §6) and that is not one of `known`.
    pub fn unknown_required_extension(&self, known: &[u8]) -> Option<u8> {
        self.extensions.map(|(kind, _)| kind).find(|kind| kind & 0x80 != 0 && !known.contains(kind))
    }
}

/// The extension headers of a message, each as its type and its content (without length and next
/// type). Only chains that [`parse`] has walked are here, so the iteration ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extensions<'a> {
    next: u8,
    bytes: &'a [u8],
}

impl<'a> Iterator for Extensions<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (content, next, rest) = step_extension(self.next, self.bytes)?;
        let item = (self.next, content);
        (self.next, self.bytes) = (next, rest);
        Some(item)
    }
}

/// One extension header: its content, the type of the next, what follows. `None` at the chain's end
/// and where it is broken.
fn step_extension(kind: u8, bytes: &[u8]) -> Option<(&[u8], u8, &[u8])> {
    if kind == 0 {
        return None;
    }
    let len = usize::from(*bytes.first()?) * 4;
    let (header, rest) = bytes.split_at_checked(len)?;
    match header {
        [_, content @ .., next] => Some((content, *next, rest)),
        _ => None,
    }
}

/// Parses a datagram's payload as one GTPv1 message.
///
/// # Errors
/// What keeps it from being one; the first thing wrong, from the left.
pub fn parse(bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    let Some((&[flags, kind, l1, l0, t3, t2, t1, t0], after)) = bytes.split_first_chunk::<8>() else {
        return Err(Malformed::Short(8));
    };
    if flags >> 5 != 1 {
        return Err(Malformed::Version(flags >> 5));
    }
    if flags & 0x10 == 0 {
        return Err(Malformed::Prime);
    }
    let said = usize::from(u16::from_be_bytes([l1, l0]));
    let Some((content, trailing)) = after.split_at_checked(said) else {
        return Err(Malformed::LengthBeyond { said, there: after.len() });
    };
    let mut message = Message {
        kind,
        teid: u32::from_be_bytes([t3, t2, t1, t0]),
        sequence: None,
        npdu: None,
        extensions: Extensions { next: 0, bytes: &[] },
        body: content,
        trailing: trailing.len(),
    };
    if flags & 0x07 == 0 {
        return Ok(message);
    }
    let Some((&[s1, s0, npdu, next], rest)) = content.split_first_chunk::<4>() else {
        return Err(Malformed::Short(12));
    };
    message.sequence = (flags & 0x02 != 0).then_some(u16::from_be_bytes([s1, s0]));
    message.npdu = (flags & 0x01 != 0).then_some(npdu);
    message.body = rest;
    if flags & 0x04 != 0 {
        let (mut kind, mut bytes) = (next, rest);
        // Each step takes at least four bytes: the walk ends.
        while kind != 0 {
            let Some((_, next, rest)) = step_extension(kind, bytes) else {
                return Err(Malformed::Extension);
            };
            (kind, bytes) = (next, rest);
        }
        message.extensions = Extensions { next, bytes: rest };
        message.body = bytes;
    }
    Ok(message)
}

/// Writes the header of a G-PDU without optional fields: flags 0x30, type 255, `payload_len` (the
/// length of the user's IP packet that follows), TEID (TS 29.281 §5.1).
#[inline]
pub const fn write_gpdu_header(out: &mut [u8; GPDU_HEADER_LEN], teid: u32, payload_len: u16) {
    let [l1, l0] = payload_len.to_be_bytes();
    let [t3, t2, t1, t0] = teid.to_be_bytes();
    *out = [0x30, kind::G_PDU, l1, l0, t3, t2, t1, t0];
}

#[cfg(test)]
mod tests;
