//! A first packet-domain node: takes a datagram out of its tunnel. Written from RFC 7348, TS 29.281, RFC
//! 791, 8200 and 768.

use std::net::IpAddr;

use crate::id::Endpoint;
use crate::sim::naive::{Letter, ones_sum, option};
use crate::table::rib::{Gateway, Tunnel};

/// What came out of a tunnel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inner {
    /// Which of the gateway's rows the tunnel is of.
    pub row: usize,
    /// Told by a plain tunnel.
    pub realm: Option<u32>,
    /// Who sends, inside; `None` in a plain tunnel.
    pub from: Option<Endpoint>,
    /// The terminal.
    pub to: Endpoint,
    /// The PRP datagram.
    pub bytes: Vec<u8>,
}

/// Takes a datagram that came to one of these rows' addresses out of its tunnel.
///
/// # Errors
/// What is wrong with it.
pub fn decapsulate(gateways: &[Gateway], to: Endpoint, bytes: &[u8]) -> Result<Inner, &'static str> {
    let rows = || gateways.iter().enumerate().filter(move |(_, gateway)| gateway.address == to);
    let (_, any) = rows().next().ok_or("no gateway has this address")?;
    match any.tunnel {
        Tunnel::Plain => plain(rows().next().map_or(0, |(row, _)| row), bytes),
        Tunnel::Vxlan { .. } => {
            let header = bytes.first_chunk::<22>().ok_or("shorter than VXLAN and Ethernet")?;
            if header[0] != 8 || header[1..4] != [0; 3] || header[7] != 0 {
                return Err("reserved bits of VXLAN are set");
            }
            let found = u32::from_be_bytes([0, header[4], header[5], header[6]]);
            let mine = |(_, gateway): &(usize, &Gateway)| match gateway.tunnel {
                Tunnel::Vxlan { vni, .. } => vni == found,
                _ => false,
            };
            let (row, gateway) = rows().find(mine).ok_or("unknown VNI")?;
            let Tunnel::Vxlan { mac, .. } = gateway.tunnel else { return Err("no VXLAN") };
            if header[8..14] != mac.0 {
                return Err("another Ethernet destination");
            }
            let is_v4 = match u16::from_be_bytes([header[20], header[21]]) {
                0x0800 => true,
                0x86DD => false,
                _ => return Err("another ethertype"),
            };
            inner_ip(row, gateway, &bytes[22..], Some(is_v4))
        }
        Tunnel::Gtpu { .. } => {
            let (header, packet) = bytes.split_first_chunk::<8>().ok_or("shorter than GTP-U")?;
            // Version 1, protocol type GTP, no optional field; G-PDU.
            if header[..2] != [0x30, 255] {
                return Err("no plain G-PDU");
            }
            if usize::from(u16::from_be_bytes([header[2], header[3]])) != packet.len() {
                return Err("the length of GTP-U is wrong");
            }
            let found = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            let (row, gateway) = rows()
                .find(|(_, gateway)| gateway.tunnel == Tunnel::Gtpu { teid: found })
                .ok_or("unknown TEID")?;
            inner_ip(row, gateway, packet, None)
        }
        Tunnel::None => Err("nobody listens at a gateway without tunnel"),
    }
}

fn plain(row: usize, bytes: &[u8]) -> Result<Inner, &'static str> {
    let letter = Letter::decode(bytes).map_err(|_| "no PRP")?;
    let to = letter.endpoint(option::PRIVATE_ADDRESS).ok_or("PrivateAddress is missing")?;
    let realm = letter.number(option::REALM).ok_or("Realm is missing")? as u32;
    Ok(Inner { row, realm: Some(realm), from: None, to, bytes: bytes.to_vec() })
}

fn inner_ip(
    row: usize,
    gateway: &Gateway,
    packet: &[u8],
    is_v4: Option<bool>,
) -> Result<Inner, &'static str> {
    let version = packet.first().ok_or("no inner packet")? >> 4;
    if is_v4.is_some_and(|is_v4| is_v4 != (version == 4)) {
        return Err("ethertype and IP version differ");
    }
    let (from, to, udp, addresses): (IpAddr, IpAddr, &[u8], &[u8]) = match version {
        4 => {
            let (header, rest) = packet.split_first_chunk::<20>().ok_or("shorter than IPv4")?;
            if header[0] != 0x45 || usize::from(u16::from_be_bytes([header[2], header[3]])) != packet.len() {
                return Err("IPv4 options or length");
            }
            if ones_sum(&[header]) != 0xFFFF {
                return Err("the IPv4 checksum is wrong");
            }
            if header[6] & 0x3F != 0 || header[7] != 0 || header[8] < 2 || header[9] != 17 {
                return Err("a fragment, no time to live, or not UDP");
            }
            let ip = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]].into();
            (ip(12), ip(16), rest, &packet[12..20])
        }
        6 => {
            let (header, rest) = packet.split_first_chunk::<40>().ok_or("shorter than IPv6")?;
            if usize::from(u16::from_be_bytes([header[4], header[5]])) != rest.len() {
                return Err("the IPv6 length is wrong");
            }
            if header[6] != 17 || header[7] < 2 {
                return Err("not UDP, or no hop limit");
            }
            let ip = |at: usize| <[u8; 16]>::try_from(&header[at..at + 16]).unwrap_or_default().into();
            (ip(8), ip(24), rest, &packet[8..40])
        }
        _ => return Err("no IP"),
    };
    let (header, payload) = udp.split_first_chunk::<8>().ok_or("shorter than UDP")?;
    let length = u16::from_be_bytes([header[4], header[5]]);
    if usize::from(length) != udp.len() {
        return Err("the UDP length is wrong");
    }
    if header[6..] == [0, 0] {
        return Err("no inner UDP checksum");
    }
    if ones_sum(&[addresses, &[0, 17], &length.to_be_bytes(), udp]) != 0xFFFF {
        return Err("the inner UDP checksum is wrong");
    }
    let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let from = Endpoint::new(from, port(0));
    let source = if version == 4 { gateway.source_v4 } else { gateway.source_v6 };
    if source != Some(from) {
        return Err("another inner source than the gateway's");
    }
    Ok(Inner { row, realm: None, from: Some(from), to: Endpoint::new(to, port(2)), bytes: payload.to_vec() })
}
