//! Information elements of GTP-C (TS 29.060 §7.7): TV with a length by type below 128, TLV from
//! 128 on.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Information element types (TS 29.060 table 37), those that are read here.
pub mod ie {
    /// Cause, 1 octet.
    pub const CAUSE: u8 = 1;
    /// IMSI, 8 octets of TBCD.
    pub const IMSI: u8 = 2;
    /// Recovery: the restart counter.
    pub const RECOVERY: u8 = 14;
    /// Tunnel Endpoint Identifier Data I.
    pub const TEID_DATA: u8 = 16;
    /// Tunnel Endpoint Identifier Control Plane.
    pub const TEID_CONTROL: u8 = 17;
    /// Teardown Ind.
    pub const TEARDOWN: u8 = 19;
    /// NSAPI.
    pub const NSAPI: u8 = 20;
    /// Charging ID.
    pub const CHARGING_ID: u8 = 127;
    /// End User Address.
    pub const END_USER_ADDRESS: u8 = 128;
    /// Access Point Name.
    pub const APN: u8 = 131;
    /// GSN Address.
    pub const GSN_ADDRESS: u8 = 133;
    /// MS International PSTN/ISDN Number.
    pub const MSISDN: u8 = 134;
    /// Extension Header Type List, whose length is one octet.
    pub const EXTENSION_TYPES: u8 = 141;
}

/// Octets of the value of a TV element (TS 29.060 table 37). `None`: unknown, so the rest of the
/// message cannot be read.
pub const fn tv_length(kind: u8) -> Option<usize> {
    Some(match kind {
        1 | 8 | 11 | 13 | 14 | 15 | 19 | 20 | 21 | 23 | 24 | 29 => 1,
        25..=28 => 2,
        6 | 12 => 3,
        4 | 5 | 16 | 17 | 127 => 4,
        18 => 5,
        3 => 6,
        2 => 8,
        22 => 9,
        9 => 28,
        _ => return None,
    })
}

/// One information element.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ie<'a> {
    /// Its type; see [`ie`].
    pub kind: u8,
    /// Its value, without type and length.
    pub value: &'a [u8],
}

/// Why the elements could not be read further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IeFault {
    /// A TV element of unknown type: its length is unknowable (TS 29.060 §11.1.9).
    UnknownTv(u8),
    /// An element that passes the message's end.
    Cut(u8),
}

impl fmt::Display for IeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownTv(kind) => write!(f, "element type {kind} is unknown and so is its length"),
            Self::Cut(kind) => write!(f, "element of type {kind} passes the message's end"),
        }
    }
}

/// Walks information elements in the order of the message. After a fault it is exhausted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ies<'a> {
    rest: &'a [u8],
}

impl<'a> Ies<'a> {
    /// The elements of this message body.
    pub const fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    fn step(kind: u8, after: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), IeFault> {
        let (len, after) = if kind < 128 {
            (tv_length(kind).ok_or(IeFault::UnknownTv(kind))?, after)
        } else if kind == ie::EXTENSION_TYPES {
            let (len, after) = after.split_first().ok_or(IeFault::Cut(kind))?;
            (usize::from(*len), after)
        } else {
            let (len, after) = after.split_first_chunk::<2>().ok_or(IeFault::Cut(kind))?;
            (usize::from(u16::from_be_bytes(*len)), after)
        };
        after.split_at_checked(len).ok_or(IeFault::Cut(kind))
    }
}

impl<'a> Iterator for Ies<'a> {
    type Item = Result<Ie<'a>, IeFault>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&kind, after) = self.rest.split_first()?;
        match Self::step(kind, after) {
            Ok((value, rest)) => {
                self.rest = rest;
                Some(Ok(Ie { kind, value }))
            }
            Err(fault) => {
                self.rest = &[];
                Some(Err(fault))
            }
        }
    }
}

/// End User Address (TS 29.060 §7.7.27): which kind of address, and the address unless it is to be
/// assigned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EndUserAddress {
    /// PDP type organisation: 0 ETSI, 1 IETF.
    pub organisation: u8,
    /// PDP type number: under IETF 0x21 IPv4, 0x57 IPv6, 0x8D IPv4v6.
    pub number: u8,
    /// The IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// The IPv6 address; its /64 is what the network assigns.
    pub v6: Option<Ipv6Addr>,
}

impl EndUserAddress {
    /// PDP type number of IPv4 (IETF).
    pub const IPV4: u8 = 0x21;
    /// PDP type number of IPv6 (IETF).
    pub const IPV6: u8 = 0x57;
    /// PDP type number of IPv4v6 (IETF).
    pub const IPV4V6: u8 = 0x8D;

    /// From the element's value. `None` when its length fits no form of its type. The unspecified
    /// address, with which a GGSN says that DHCP will assign one, is no address.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (&[organisation, number], address) = value.split_first_chunk::<2>()?;
        let mut parsed = Self { organisation: organisation & 15, number, v4: None, v6: None };
        if parsed.organisation != 1 {
            return Some(parsed);
        }
        let v4 = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from);
        let v6 = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).ok().map(Ipv6Addr::from);
        match (number, address.len()) {
            (Self::IPV4 | Self::IPV6 | Self::IPV4V6, 0) => {}
            (Self::IPV4 | Self::IPV4V6, 4) => parsed.v4 = v4(address),
            (Self::IPV6 | Self::IPV4V6, 16) => parsed.v6 = v6(address),
            (Self::IPV4V6, 20) => {
                let (first, second) = address.split_at_checked(4)?;
                (parsed.v4, parsed.v6) = (v4(first), v6(second));
            }
            (Self::IPV4 | Self::IPV6 | Self::IPV4V6, _) => return None,
            _ => {}
        }
        parsed.v4 = parsed.v4.filter(|address| !address.is_unspecified());
        parsed.v6 = parsed.v6.filter(|address| !address.is_unspecified());
        Some(parsed)
    }

    /// The addresses that it holds, IPv4 first.
    pub fn addresses(self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }
}

/// A GSN Address (TS 29.060 §7.7.32): 4 or 16 octets.
pub(super) fn gsn_address(value: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(value) {
        return Some(IpAddr::V4(octets.into()));
    }
    <[u8; 16]>::try_from(value).ok().map(|octets| IpAddr::V6(octets.into()))
}

/// An MSISDN (TS 29.060 §7.7.33): type of number, then digits in TBCD. Shown as its digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Msisdn<'a>(pub &'a [u8]);

impl Msisdn<'_> {
    /// Its digits, each 0 to 9, up to the filler.
    pub fn digits(&self) -> impl Iterator<Item = u8> {
        let octets = self.0.iter().skip(1);
        octets.flat_map(|octet| [octet & 15, octet >> 4]).take_while(|digit| *digit <= 9)
    }
}

impl fmt::Display for Msisdn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.digits().try_for_each(|digit| write!(f, "{digit}"))
    }
}

impl fmt::Debug for Msisdn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
