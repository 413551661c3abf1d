//! Inner headers of the tunnels to a gateway: Ethernet, IPv4 or IPv6, UDP, VXLAN (RFC 7348) and
//! GTP-U (TS 29.281), written in front of a payload that stays where it is.
//!
//! Inner UDP checksums are always computed (PROTOCOL.md, ruling 27); one pass over the payload.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

use crate::id::{Endpoint, Mac};

/// Bytes of a VXLAN header.
pub const VXLAN_BYTES: usize = 8;
/// Bytes of an Ethernet header.
pub const ETHERNET_BYTES: usize = 14;
/// Bytes of a GTP-U header without optional fields.
pub const GTPU_BYTES: usize = 8;
/// Bytes of an UDP header.
pub const UDP_BYTES: usize = 8;

/// The inner Ethernet source: ours, locally administered.
pub const SOURCE_MAC: Mac = Mac([0x02, 0x70, 0x75, 0x73, 0x68, 0x01]);

const PROTOCOL_UDP: u8 = 17;
const HOP_LIMIT: u8 = 64;

/// Bytes of the IP and UDP headers towards this address.
pub fn ip_udp_bytes(to: Endpoint) -> usize {
    UDP_BYTES + if to.is_ipv4() { 20 } else { 40 }
}

/// Adds the 16-bit words of `bytes` to a ones' complement sum, in the byte order of this machine: the sum
/// comes out in the same order (RFC 1071 §2 B), so bytes are never swapped. An odd last byte is followed
/// by a zero.
#[inline(always)]
fn add(sum: u64, bytes: &[u8]) -> u64 {
    // 64 bits at a time with their carries: an addition and one of the carry for each eight bytes, where the vectors
    // that every machine has take five instructions for sixteen. The carries count as 2^64, which is 1 here.
    let (words, rest) = bytes.as_chunks::<8>();
    let wide = words.iter().fold(0u128, |sum, word| sum + u128::from(u64::from_ne_bytes(*word)));
    let (low, carries) = (wide as u64, (wide >> 64) as u64);
    let sum = sum + (low & 0xFFFF_FFFF) + (low >> 32) + carries;
    let (words, rest) = rest.as_chunks::<4>();
    let sum = words.iter().fold(sum, |sum, word| sum + u64::from(u32::from_ne_bytes(*word)));
    match *rest {
        [a] => sum + u64::from(u16::from_ne_bytes([a, 0])),
        [a, b] => sum + u64::from(u16::from_ne_bytes([a, b])),
        [a, b, c] => sum + u64::from(u32::from_ne_bytes([a, b, c, 0])),
        _ => sum,
    }
}

/// The Internet checksum of a sum, in the order of memory: what makes the whole add up to 0xFFFF.
#[inline(always)]
const fn checksum(sum: u64) -> u16 {
    let sum = (sum & 0xFFFF_FFFF) + (sum >> 32);
    let sum = (sum & 0xFFFF) + (sum >> 16 & 0xFFFF) + (sum >> 32);
    let sum = (sum & 0xFFFF) + (sum >> 16);
    let sum = (sum & 0xFFFF) + (sum >> 16);
    !(sum as u16)
}

/// Writes the IP and UDP headers at the front of `packet`, whose rest is the UDP payload. False, and
/// nothing promised, when the families differ or the packet is longer than the length fields say.
#[must_use]
#[inline]
pub fn write_ip_udp(packet: &mut [u8], from: Endpoint, to: Endpoint) -> bool {
    let headers = ip_udp_bytes(to);
    if packet.len() > usize::from(u16::MAX) || from.is_ipv4() != to.is_ipv4() {
        return false;
    }
    let total = packet.len() as u16;
    let Some((front, payload)) = packet.split_at_mut_checked(headers) else { return false };
    let udp_length = (payload.len() + UDP_BYTES) as u16;
    // The UDP header with no checksum in it, and the pseudo-header's protocol and length: as in memory.
    let ports = (u32::from(from.port()) << 16 | u32::from(to.port())).to_be();
    let length = (u32::from(udp_length) << 16).to_be();
    let protocol = (u32::from(PROTOCOL_UDP) << 16 | u32::from(udp_length)).to_be();
    let sum = add(u64::from(ports) + u64::from(length) + u64::from(protocol), payload);
    let udp = |addresses: u64| {
        let sum = match checksum(sum + addresses) {
            // Zero would say that there is none (RFC 768).
            0 => !0,
            sum => sum,
        };
        [ports, with_checksum(length, sum)]
    };
    match (from.ipv4(), to.ipv4()) {
        (Some(from), Some(to)) => {
            let Some(front) = front.first_chunk_mut::<28>() else { return false };
            let [from, to] = [from, to].map(u32::from_ne_bytes);
            let first = (0x4500 << 16 | u32::from(total)).to_be();
            let dont_fragment = 0x4000_u32.to_be();
            let third = (u32::from(HOP_LIMIT) << 24 | u32::from(PROTOCOL_UDP) << 16).to_be();
            let sum = u64::from(from) + u64::from(to);
            let header = checksum(u64::from(first) + u64::from(dont_fragment) + u64::from(third) + sum);
            let [ports, length] = udp(sum);
            let third = with_checksum(third, header);
            put(front, &[first, dont_fragment, third, from, to, ports, length]);
        }
        _ => {
            let Some(front) = front.first_chunk_mut::<48>() else { return false };
            let (ip, udp_header) = front.split_at_mut(40);
            let (lead, addresses) = ip.split_at_mut(8);
            let (first, second) = addresses.split_at_mut(16);
            first.copy_from_slice(&from.octets());
            second.copy_from_slice(&to.octets());
            let udp = udp(add(0, addresses));
            let after = u32::from(udp_length) << 16 | u32::from(PROTOCOL_UDP) << 8 | u32::from(HOP_LIMIT);
            put(lead, &[0x6000_0000_u32.to_be(), after.to_be()]);
            put(udp_header, &udp);
        }
    }
    true
}

/// A word whose second half is a checksum, in the order of memory.
#[inline(always)]
const fn with_checksum(word: u32, sum: u16) -> u32 {
    let ([a, b, ..], [c, d]) = (word.to_ne_bytes(), sum.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// Writes words as they are.
#[inline(always)]
fn put(room: &mut [u8], words: &[u32]) {
    for (room, word) in room.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *room = word.to_ne_bytes();
    }
}

/// The VXLAN and inner Ethernet headers in front of an IP packet of this family.
#[inline]
pub fn vxlan_ethernet(vni: u32, destination: Mac, is_ipv4: bool) -> [u8; VXLAN_BYTES + ETHERNET_BYTES] {
    let mut out = [0; VXLAN_BYTES + ETHERNET_BYTES];
    out[0] = 0x08; // The VNI is valid.
    out[4..8].copy_from_slice(&(vni << 8).to_be_bytes());
    out[8..14].copy_from_slice(&destination.0);
    out[14..20].copy_from_slice(&SOURCE_MAC.0);
    out[20..].copy_from_slice(if is_ipv4 { &[0x08, 0x00] } else { &[0x86, 0xDD] });
    out
}

/// The header of a G-PDU (TS 29.281 §5.1, message type 255) with so many bytes behind it.
pub fn gtpu(teid: u32, length: u16) -> [u8; GTPU_BYTES] {
    let [a, b] = length.to_be_bytes();
    let [c, d, e, f] = teid.to_be_bytes();
    [0x30, 0xFF, a, b, c, d, e, f]
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    proptest! {
        /// etherparse, another implementation, finds what was put and computes the same checksums.
        #[test]
        fn headers_are_what_another_parser_expects(
            payload in proptest::collection::vec(any::<u8>(), 0..1500),
            from_ip: u32, to_ip: u32, high: u64, from_port: u16, to_port: u16, v6: bool,
        ) {
            let ip = |low: u32| -> std::net::IpAddr {
                if v6 { std::net::Ipv6Addr::from_bits(u128::from(high | 1) << 64 | u128::from(low)).into() } else { low.to_be_bytes().into() }
            };
            let (from, to) = (Endpoint::new(ip(from_ip), from_port), Endpoint::new(ip(to_ip), to_port));
            let mut packet = vec![0xEE; ip_udp_bytes(to)];
            packet.extend(&payload);
            prop_assert!(write_ip_udp(&mut packet, from, to));
            let sliced = SlicedPacket::from_ip(&packet).unwrap();
            let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("UDP") };
            prop_assert_eq!((udp.source_port(), udp.destination_port()), (from_port, to_port));
            prop_assert_eq!(udp.payload(), &payload[..]);
            match sliced.net {
                Some(NetSlice::Ipv4(v4)) => {
                    let header = v4.header().to_header();
                    prop_assert_eq!(std::net::IpAddr::from(header.source), from.ip());
                    prop_assert_eq!(std::net::IpAddr::from(header.destination), to.ip());
                    prop_assert_eq!(header.calc_header_checksum(), header.header_checksum);
                    let sum = udp.to_header().calc_checksum_ipv4(&header, &payload).unwrap();
                    prop_assert_eq!(sum, udp.checksum());
                }
                Some(NetSlice::Ipv6(v6)) => {
                    let header = v6.header().to_header();
                    prop_assert_eq!(header.source, from.octets());
                    prop_assert_eq!(header.destination, to.octets());
                    let sum = udp.to_header().calc_checksum_ipv6(&header, &payload).unwrap();
                    prop_assert_eq!(sum, udp.checksum());
                }
                _ => panic!("IP"),
            }
            prop_assert_ne!(udp.checksum(), 0);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let v4: Endpoint = "10.0.0.1:1".parse().unwrap();
        let v6: Endpoint = "[fd00::1]:1".parse().unwrap();
        assert!(!write_ip_udp(&mut [0; 100], v4, v6));
        assert!(!write_ip_udp(&mut [0; 27], v4, v4));
        assert!(!write_ip_udp(&mut vec![0; 65_536], v4, v4));
        assert!(write_ip_udp(&mut vec![0; 65_535], v4, v4));
    }

    #[test]
    fn vxlan_and_gtpu_headers_are_those_of_their_standards() {
        let mac = "02:00:00:00:00:01".parse().unwrap();
        let header = vxlan_ethernet(100, mac, true);
        assert_eq!(header[..8], [8, 0, 0, 0, 0, 0, 100, 0]);
        assert_eq!(header[8..14], [2, 0, 0, 0, 0, 1]);
        assert_eq!(header[20..], [8, 0]);
        assert_eq!(gtpu(0xDEAD_BEEF, 0x0102), [0x30, 0xFF, 1, 2, 0xDE, 0xAD, 0xBE, 0xEF]);
    }
}
