//! What an Accounting-Request says of a terminal.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Attribute, Attributes, Malformed, Packet, VENDOR_3GPP, attribute as ty, vendor};
use crate::id::Imsi;

/// Acct-Status-Type (RFC 2866 §5.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// A session begins.
    Start,
    /// It ends.
    Stop,
    /// It goes on.
    Interim,
    /// The sender has started: whatever it said before is over.
    On,
    /// The sender ends, and all sessions with it.
    Off,
    /// Something that says nothing of addresses: tunnels, failures, private values.
    Other(u32),
}

impl Status {
    const fn of(value: u32) -> Self {
        match value {
            1 => Self::Start,
            2 => Self::Stop,
            3 => Self::Interim,
            7 => Self::On,
            8 => Self::Off,
            other => Self::Other(other),
        }
    }
}

/// The 64 bits of IPv6 that a terminal has for itself (TS 29.061 §11.2.1.3), and the address in them where the
/// network knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipv6Net {
    /// The high half.
    pub prefix: [u8; 8],
    /// The low half.
    pub interface: Option<[u8; 8]>,
}

impl Ipv6Net {
    fn of(address: Ipv6Addr) -> Self {
        let [a, b, c, d, e, f, g, h, interface @ ..] = address.octets();
        Self { prefix: [a, b, c, d, e, f, g, h], interface: Some(interface) }
    }
}

/// An Accounting-Request, as far as it says who has which address. Of an attribute that is there twice the first
/// counts; text that is not UTF-8 says nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accounting<'a> {
    /// What happened.
    pub status: Status,
    /// Acct-Session-Id; never empty but in On, Off and Other.
    pub session: &'a [u8],
    /// Acct-Multi-Session-Id.
    pub multi_session: Option<&'a [u8]>,
    /// User-Name.
    pub user_name: Option<&'a str>,
    /// Calling-Station-Id: the MSISDN.
    pub calling_station: Option<&'a str>,
    /// Called-Station-Id: the APN.
    pub called_station: Option<&'a str>,
    /// NAS-IP-Address or NAS-IPv6-Address.
    pub nas_address: Option<IpAddr>,
    /// NAS-Identifier.
    pub nas_identifier: Option<&'a [u8]>,
    /// Framed-IP-Address, if it is one.
    pub ipv4: Option<Ipv4Addr>,
    /// Framed-IPv6-Address, or Framed-IPv6-Prefix with Framed-Interface-Id.
    pub ipv6: Option<Ipv6Net>,
    /// Event-Timestamp, seconds since 1970.
    pub event_s: Option<u32>,
    /// Acct-Delay-Time, seconds; 0 when absent.
    pub delay_s: u32,
    /// Acct-Session-Time, seconds.
    pub session_s: Option<u32>,
    /// 3GPP-IMSI.
    pub imsi: Option<Imsi>,
    /// 3GPP-GGSN-Address, either family.
    pub ggsn: Option<IpAddr>,
    /// 3GPP-SGSN-Address, either family.
    pub sgsn: Option<IpAddr>,
    /// 3GPP-NSAPI: which bearer of the terminal.
    pub nsapi: Option<u8>,
    /// 3GPP-Charging-Id.
    pub charging_id: Option<u32>,
    /// 3GPP-Session-Stop-Indicator: no other bearer of the terminal's address is left.
    pub stops_all: bool,
}

impl<'a> Accounting<'a> {
    /// Reads a packet.
    ///
    /// # Errors
    /// Acct-Status-Type is missing, or Acct-Session-Id where a session is meant; an attribute that is read has a
    /// length that it cannot have.
    pub fn read(packet: &Packet<'a>) -> Result<Self, Malformed> {
        let status = number(packet, ty::ACCT_STATUS_TYPE)?.ok_or(Malformed::Missing(ty::ACCT_STATUS_TYPE))?;
        let status = Status::of(status);
        let session = find(packet, ty::ACCT_SESSION_ID).unwrap_or_default();
        let needs_session = matches!(status, Status::Start | Status::Stop | Status::Interim);
        if needs_session && session.is_empty() {
            return Err(Malformed::Missing(ty::ACCT_SESSION_ID));
        }
        let nas4 = fixed(packet, ty::NAS_IP_ADDRESS)?.map(|octets: [u8; 4]| IpAddr::from(octets));
        let nas6 = fixed(packet, ty::NAS_IPV6_ADDRESS)?.map(|octets: [u8; 16]| IpAddr::from(octets));
        let ipv4 = fixed(packet, ty::FRAMED_IP_ADDRESS)?.map(|octets: [u8; 4]| Ipv4Addr::from(octets));
        Ok(Self {
            status,
            session,
            multi_session: find(packet, ty::ACCT_MULTI_SESSION_ID),
            user_name: text(packet, ty::USER_NAME),
            calling_station: text(packet, ty::CALLING_STATION_ID),
            called_station: text(packet, ty::CALLED_STATION_ID),
            nas_address: nas4.or(nas6),
            nas_identifier: find(packet, ty::NAS_IDENTIFIER),
            ipv4: ipv4.filter(|address| is_assigned(*address)),
            ipv6: ipv6(packet)?,
            event_s: number(packet, ty::EVENT_TIMESTAMP)?,
            delay_s: number(packet, ty::ACCT_DELAY_TIME)?.unwrap_or(0),
            session_s: number(packet, ty::ACCT_SESSION_TIME)?,
            imsi: find_3gpp(packet, vendor::IMSI).and_then(|digits| trimmed(digits)?.parse().ok()),
            ggsn: node(packet, vendor::GGSN_ADDRESS, vendor::GGSN_IPV6_ADDRESS),
            sgsn: node(packet, vendor::SGSN_ADDRESS, vendor::SGSN_IPV6_ADDRESS),
            nsapi: find_3gpp(packet, vendor::NSAPI).and_then(hexadecimal),
            charging_id: find_3gpp(packet, vendor::CHARGING_ID)
                .and_then(|value| value.try_into().ok())
                .map(u32::from_be_bytes),
            stops_all: find_3gpp(packet, vendor::SESSION_STOP_INDICATOR).is_some(),
        })
    }
}

/// The value of the first attribute of a type.
fn find<'a>(packet: &Packet<'a>, wanted: u8) -> Option<&'a [u8]> {
    packet.attributes().find(|found| found.ty == wanted).map(|found| found.value)
}

/// The value of the first of 3GPP's attributes of a type. A Vendor-Specific may hold several.
fn find_3gpp<'a>(packet: &Packet<'a>, wanted: u8) -> Option<&'a [u8]> {
    let ours = packet.attributes().filter_map(|Attribute { ty: outer, value }| {
        let (vendor, inner) = value.split_first_chunk()?;
        (outer == ty::VENDOR_SPECIFIC && u32::from_be_bytes(*vendor) == VENDOR_3GPP).then_some(inner)
    });
    let mut inside = ours.flat_map(Attributes);
    inside.find(|found| found.ty == wanted).map(|found| found.value)
}

fn fixed<const N: usize>(packet: &Packet<'_>, wanted: u8) -> Result<Option<[u8; N]>, Malformed> {
    let value = find(packet, wanted);
    value.map(|value| value.try_into().map_err(|_| Malformed::Value(wanted))).transpose()
}

fn number(packet: &Packet<'_>, wanted: u8) -> Result<Option<u32>, Malformed> {
    Ok(fixed(packet, wanted)?.map(u32::from_be_bytes))
}

fn text<'a>(packet: &Packet<'a>, wanted: u8) -> Option<&'a str> {
    find(packet, wanted).and_then(trimmed).filter(|text| !text.is_empty())
}

/// Text without spaces around it, and without the zero that some senders end it with.
fn trimmed(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok().map(|text| text.trim_end_matches('\0').trim())
}

fn hexadecimal(value: &[u8]) -> Option<u8> {
    let digit = char::from(*value.first()?).to_digit(16)?;
    u8::try_from(digit).ok()
}

/// Not one of the addresses by which the terminal or the NAS is asked to choose (RFC 2865 §5.8), or none.
fn is_assigned(address: Ipv4Addr) -> bool {
    !address.is_unspecified() && address.to_bits() < u32::MAX - 1
}

fn node(packet: &Packet<'_>, v4: u8, v6: u8) -> Option<IpAddr> {
    let v4 = find_3gpp(packet, v4).and_then(|value| <[u8; 4]>::try_from(value).ok()).map(IpAddr::from);
    v4.or_else(|| find_3gpp(packet, v6).and_then(|value| <[u8; 16]>::try_from(value).ok()).map(IpAddr::from))
}

fn ipv6(packet: &Packet<'_>) -> Result<Option<Ipv6Net>, Malformed> {
    if let Some(octets) = fixed::<16>(packet, ty::FRAMED_IPV6_ADDRESS)? {
        return Ok(Some(Ipv6Net::of(Ipv6Addr::from(octets))));
    }
    let interface = fixed::<8>(packet, ty::FRAMED_INTERFACE_ID)?;
    let Some(value) = find(packet, ty::FRAMED_IPV6_PREFIX) else { return Ok(None) };
    let wrong = Malformed::Value(ty::FRAMED_IPV6_PREFIX);
    // A reserved byte, the length in bits, and as many bytes as it takes, or more.
    let [_, bits, octets @ ..] = value else { return Err(wrong) };
    if *bits > 128 || octets.len() > 16 || octets.len() < usize::from(*bits).div_ceil(8) {
        return Err(wrong);
    }
    let mut whole = [0; 16];
    whole.iter_mut().zip(octets).for_each(|(to, from)| *to = *from);
    let net = Ipv6Net::of(Ipv6Addr::from(whole));
    Ok(match bits {
        128 => Some(net),
        64..128 => Some(Ipv6Net { interface, ..net }),
        // What a terminal may do with more than its own link is not said here.
        _ => None,
    })
}
