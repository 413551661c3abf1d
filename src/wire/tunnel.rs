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
fn add(sum: u64, bytes: &[u8]) -> u64 {
    // 32 bits at a time into 64: what a compiler adds in vectors. 2^32 words fit before an overflow.
    let (words, rest) = bytes.as_chunks::<4>();
    let sum = words.iter().fold(sum, |sum, word| sum + u64::from(u32::from_ne_bytes(*word)));
    match *rest {
        [a] => sum + u64::from(u16::from_ne_bytes([a, 0])),
        [a, b] => sum + u64::from(u16::from_ne_bytes([a, b])),
        [a, b, c] => sum + u64::from(u32::from_ne_bytes([a, b, c, 0])),
        _ => sum,
    }
}

/// The bytes of the Internet checksum of a sum: what makes the whole add up to 0xFFFF.
const fn checksum(sum: u64) -> [u8; 2] {
    let sum = (sum & 0xFFFF_FFFF) + (sum >> 32);
    let sum = (sum & 0xFFFF) + (sum >> 16 & 0xFFFF) + (sum >> 32);
    let sum = (sum & 0xFFFF) + (sum >> 16);
    let sum = (sum & 0xFFFF) + (sum >> 16);
    (!(sum as u16)).to_ne_bytes()
}

/// Writes the IP and UDP headers at the front of `packet`, whose rest is the UDP payload. False, and
/// nothing promised, when the families differ or the packet is longer than the length fields say.
#[must_use]
pub fn write_ip_udp(packet: &mut [u8], from: Endpoint, to: Endpoint) -> bool {
    let headers = ip_udp_bytes(to);
    if packet.len() > usize::from(u16::MAX) || from.is_ipv4() != to.is_ipv4() {
        return false;
    }
    let total = packet.len() as u16;
    let Some((front, payload)) = packet.split_at_mut_checked(headers) else { return false };
    let udp_length = (payload.len() + UDP_BYTES) as u16;
    let mut udp = [0; UDP_BYTES];
    let ports = u32::from(from.port()) << 16 | u32::from(to.port());
    udp[..4].copy_from_slice(&ports.to_be_bytes());
    udp[4..6].copy_from_slice(&udp_length.to_be_bytes());
    let [high, low] = udp_length.to_be_bytes();
    let sum = add(add(add(0, &[0, PROTOCOL_UDP, high, low]), &udp), payload);
    let put_udp = |udp: &mut [u8; UDP_BYTES], addresses: u64| {
        let sum = match checksum(sum + addresses) {
            // Zero would say that there is none (RFC 768).
            [0, 0] => [0xFF, 0xFF],
            sum => sum,
        };
        udp[6..].copy_from_slice(&sum);
    };
    match (from.ipv4(), to.ipv4()) {
        (Some(from), Some(to)) => {
            let mut ip = [0u8; 20];
            ip[0] = 0x45;
            ip[2..4].copy_from_slice(&total.to_be_bytes());
            ip[6] = 0x40; // Don't fragment.
            ip[8] = HOP_LIMIT;
            ip[9] = PROTOCOL_UDP;
            ip[12..16].copy_from_slice(&from);
            ip[16..].copy_from_slice(&to);
            let header = checksum(add(0, &ip));
            ip[10..12].copy_from_slice(&header);
            put_udp(&mut udp, add(add(0, &from), &to));
            copy_both(front, &ip, &udp)
        }
        _ => {
            let mut ip = [0u8; 40];
            ip[0] = 0x60;
            ip[4..6].copy_from_slice(&udp_length.to_be_bytes());
            ip[6] = PROTOCOL_UDP;
            ip[7] = HOP_LIMIT;
            ip[8..24].copy_from_slice(&from.octets());
            ip[24..].copy_from_slice(&to.octets());
            put_udp(&mut udp, add(add(0, &from.octets()), &to.octets()));
            copy_both(front, &ip, &udp)
        }
    }
}

fn copy_both(front: &mut [u8], ip: &[u8], udp: &[u8]) -> bool {
    let Some((first, second)) = front.split_at_mut_checked(ip.len()) else { return false };
    if second.len() != udp.len() {
        return false;
    }
    first.copy_from_slice(ip);
    second.copy_from_slice(udp);
    true
}

/// The VXLAN and inner Ethernet headers in front of an IP packet of this family.
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
