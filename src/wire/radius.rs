//! RADIUS accounting: the packet (RFC 2865 §3, RFC 2866 §3), its authenticators, its answer, and what a GGSN
//! or P-GW says in it of a terminal (RFC 2866 §5, RFC 2869, RFC 3162, TS 29.061 §16.4).
//!
//! ```text
//! octet 0        code: 4 Accounting-Request, 5 Accounting-Response
//!       1        identifier: the answer repeats it
//!       2-3      length of the whole packet, 20 to 4096; what lies behind it is padding
//!       4-19     authenticator
//!       20…      attributes: type (1) · length of all three (1) · value (0 to 253)
//! ```
//!
//! Parsing borrows from the datagram and neither allocates nor panics, whatever the bytes are. [`Packet::parse`]
//! looks once at each attribute; [`Packet::is_genuine`] costs an MD5 of the packet, and an HMAC-MD5 where it has
//! a Message-Authenticator.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod accounting;
#[cfg(test)]
mod tests;

pub use accounting::{Accounting, Ipv6Net, Status};

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};

/// UDP port of accounting (RFC 2866 §3).
pub const ACCOUNTING_PORT: u16 = 1813;

/// Bytes of the longest packet (RFC 2865 §3).
pub const PACKET_BYTES_MAX: usize = 4096;

const HEADER_BYTES: usize = 20;
const AUTHENTICATOR_BYTES: usize = 16;

/// Codes of packets.
pub mod code {
    /// Accounting-Request.
    pub const ACCOUNTING_REQUEST: u8 = 4;
    /// Accounting-Response.
    pub const ACCOUNTING_RESPONSE: u8 = 5;
}

/// Types of attributes.
pub mod attribute {
    /// User-Name: text.
    pub const USER_NAME: u8 = 1;
    /// NAS-IP-Address.
    pub const NAS_IP_ADDRESS: u8 = 4;
    /// Framed-IP-Address: the terminal's.
    pub const FRAMED_IP_ADDRESS: u8 = 8;
    /// Vendor-Specific: vendor (4), then what the vendor likes.
    pub const VENDOR_SPECIFIC: u8 = 26;
    /// Called-Station-Id: the APN.
    pub const CALLED_STATION_ID: u8 = 30;
    /// Calling-Station-Id: the MSISDN, as digits.
    pub const CALLING_STATION_ID: u8 = 31;
    /// NAS-Identifier: text.
    pub const NAS_IDENTIFIER: u8 = 32;
    /// Proxy-State: comes back in the answer, unchanged and in order.
    pub const PROXY_STATE: u8 = 33;
    /// Acct-Status-Type.
    pub const ACCT_STATUS_TYPE: u8 = 40;
    /// Acct-Delay-Time: seconds that the client has been trying.
    pub const ACCT_DELAY_TIME: u8 = 41;
    /// Acct-Session-Id.
    pub const ACCT_SESSION_ID: u8 = 44;
    /// Acct-Session-Time: seconds since the session began.
    pub const ACCT_SESSION_TIME: u8 = 46;
    /// Acct-Multi-Session-Id: what related sessions have in common.
    pub const ACCT_MULTI_SESSION_ID: u8 = 50;
    /// Event-Timestamp: seconds since 1970 (RFC 2869 §5.3).
    pub const EVENT_TIMESTAMP: u8 = 55;
    /// Message-Authenticator: HMAC-MD5 (RFC 2869 §5.14).
    pub const MESSAGE_AUTHENTICATOR: u8 = 80;
    /// NAS-IPv6-Address (RFC 3162 §2.1).
    pub const NAS_IPV6_ADDRESS: u8 = 95;
    /// Framed-Interface-Id: the low half of the terminal's address (RFC 3162 §2.2).
    pub const FRAMED_INTERFACE_ID: u8 = 96;
    /// Framed-IPv6-Prefix: the high half (RFC 3162 §2.3).
    pub const FRAMED_IPV6_PREFIX: u8 = 97;
    /// Framed-IPv6-Address: all of it (RFC 6911 §3.1).
    pub const FRAMED_IPV6_ADDRESS: u8 = 168;
}

/// 3GPP's number among vendors.
pub const VENDOR_3GPP: u32 = 10_415;

/// 3GPP's own attributes (TS 29.061 §16.4.7).
pub mod vendor {
    /// 3GPP-IMSI: digits.
    pub const IMSI: u8 = 1;
    /// 3GPP-Charging-Id.
    pub const CHARGING_ID: u8 = 2;
    /// 3GPP-SGSN-Address.
    pub const SGSN_ADDRESS: u8 = 6;
    /// 3GPP-GGSN-Address.
    pub const GGSN_ADDRESS: u8 = 7;
    /// 3GPP-NSAPI: one hexadecimal digit.
    pub const NSAPI: u8 = 10;
    /// 3GPP-Session-Stop-Indicator: this was the last bearer of the terminal's address.
    pub const SESSION_STOP_INDICATOR: u8 = 11;
    /// 3GPP-SGSN-IPv6-Address.
    pub const SGSN_IPV6_ADDRESS: u8 = 15;
    /// 3GPP-GGSN-IPv6-Address.
    pub const GGSN_IPV6_ADDRESS: u8 = 16;
}

/// Why bytes are no RADIUS packet, or none that accounts for something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// Shorter than a header, or a length field that is below 20, beyond 4096 or beyond the datagram.
    Length,
    /// An attribute of this type is shorter than its head, or passes the packet's end.
    Attribute(u8),
    /// The value of this attribute has a length that it cannot have.
    Value(u8),
    /// This attribute must be there and is not.
    Missing(u8),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length => f.write_str("the length field does not fit the datagram"),
            Self::Attribute(ty) => write!(f, "attribute {ty} passes the packet's end"),
            Self::Value(ty) => write!(f, "attribute {ty} has a value of the wrong length"),
            Self::Missing(ty) => write!(f, "attribute {ty} is missing"),
        }
    }
}

impl std::error::Error for Malformed {}

/// A packet whose attributes are whole, borrowed from its datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet<'a> {
    code: u8,
    identifier: u8,
    length: [u8; 2],
    authenticator: [u8; AUTHENTICATOR_BYTES],
    attributes: &'a [u8],
}

/// One attribute.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attribute<'a> {
    /// Its type, see [`attribute`].
    pub ty: u8,
    /// Its value.
    pub value: &'a [u8],
}

/// Attributes one after the other, up to the end or to the first that is not whole.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// The next one, and what follows; `None` at the end and where it is not whole.
    fn split(self) -> Option<(Attribute<'a>, Self)> {
        let [ty, length, ..] = *self.0 else { return None };
        let (whole, rest) = self.0.split_at_checked(usize::from(length))?;
        Some((Attribute { ty, value: whole.get(2..)? }, Self(rest)))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let (attribute, rest) = self.split()?;
        *self = rest;
        Some(attribute)
    }
}

impl<'a> Packet<'a> {
    /// Reads a packet.
    ///
    /// # Errors
    /// When lengths contradict each other.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, Malformed> {
        let (header, _) = datagram.split_first_chunk::<HEADER_BYTES>().ok_or(Malformed::Length)?;
        let [code, identifier, high, low, authenticator @ ..] = *header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > PACKET_BYTES_MAX {
            return Err(Malformed::Length);
        }
        let attributes = datagram.get(HEADER_BYTES..length).ok_or(Malformed::Length)?;
        let mut rest = Attributes(attributes);
        while let Some((_, after)) = rest.split() {
            rest = after;
        }
        match rest.0.first() {
            Some(ty) => Err(Malformed::Attribute(*ty)),
            None => Ok(Self { code, identifier, length: [high, low], authenticator, attributes }),
        }
    }

    /// What kind of packet, see [`code`].
    pub const fn code(&self) -> u8 {
        self.code
    }

    /// What tells it from other packets of the same source that are under way.
    pub const fn identifier(&self) -> u8 {
        self.identifier
    }

    /// The authenticator.
    pub const fn authenticator(&self) -> [u8; AUTHENTICATOR_BYTES] {
        self.authenticator
    }

    /// The attributes, in their order.
    pub const fn attributes(&self) -> Attributes<'a> {
        Attributes(self.attributes)
    }

    /// Whether an Accounting-Request comes from who knows the secret: its authenticator is the MD5 of the packet
    /// with sixteen zeros in that place and the secret behind it (RFC 2866 §3), and where it has a
    /// Message-Authenticator, that is right too.
    pub fn is_genuine(&self, secret: &[u8]) -> bool {
        let is_right = is_same(&self.digest([0; AUTHENTICATOR_BYTES], secret), &self.authenticator);
        let mut signatures = self.attributes().filter(|found| found.ty == attribute::MESSAGE_AUTHENTICATOR);
        match (signatures.next(), signatures.next()) {
            (None, _) => is_right,
            (Some(only), None) => is_right && self.is_signed(secret, only.value),
            (Some(_), Some(_)) => false,
        }
    }

    fn digest(&self, authenticator: [u8; AUTHENTICATOR_BYTES], secret: &[u8]) -> [u8; AUTHENTICATOR_BYTES] {
        let [high, low] = self.length;
        let parts = [&[self.code, self.identifier, high, low][..], &authenticator, self.attributes, secret];
        parts.into_iter().fold(Md5::new(), |md5, part| md5.chain_update(part)).finalize().into()
    }

    /// Whether this is the HMAC-MD5 of the packet with zeros for it and for the authenticator.
    fn is_signed(&self, secret: &[u8], signature: &[u8]) -> bool {
        let Ok(mut hmac) = Hmac::<Md5>::new_from_slice(secret) else { return false };
        let [high, low] = self.length;
        hmac.update(&[self.code, self.identifier, high, low]);
        hmac.update(&[0; AUTHENTICATOR_BYTES]);
        for Attribute { ty, value } in self.attributes() {
            // Attributes are whole: a value is at most 253 bytes long.
            hmac.update(&[ty, value.len() as u8 + 2]);
            if ty == attribute::MESSAGE_AUTHENTICATOR {
                hmac.update(&[0; AUTHENTICATOR_BYTES]);
            } else {
                hmac.update(value);
            }
        }
        hmac.verify_slice(signature).is_ok()
    }

    /// Writes the Accounting-Response to this request in place of what `out` holds: every Proxy-State in order and
    /// nothing else (RFC 2866 §4.2), so never longer than the request.
    pub fn respond(&self, secret: &[u8], out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        for Attribute { ty, value } in self.attributes() {
            if ty == attribute::PROXY_STATE {
                out.extend_from_slice(&[ty, value.len() as u8 + 2]);
                out.extend_from_slice(value);
            }
        }
        // At most as long as this packet, whose length has two bytes.
        let length = (out.len() as u16).to_be_bytes();
        let Some((header, attributes)) = out.split_first_chunk_mut::<HEADER_BYTES>() else { return };
        let answer = Packet {
            code: code::ACCOUNTING_RESPONSE,
            identifier: self.identifier,
            length,
            authenticator: self.authenticator,
            attributes,
        };
        let authenticator = answer.digest(self.authenticator, secret);
        let head = [answer.code, answer.identifier, length[0], length[1]];
        for (to, from) in header.iter_mut().zip(head.into_iter().chain(authenticator)) {
            *to = from;
        }
    }
}

/// Compares without telling by its time how far two digests agree.
fn is_same(a: &[u8; AUTHENTICATOR_BYTES], b: &[u8; AUTHENTICATOR_BYTES]) -> bool {
    a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}
