//! Step 5, "Tunnels to a gateway" and ruling 27: what a gateway gets, taken apart by etherparse and by
//! the plain words of RFC 7348 and TS 29.281.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use pushplane::config::Policy;
use pushplane::id::Endpoint;
use pushplane::plane::Verdict;
use pushplane::reason::Reason;
use pushplane::wire::prp::option_type as ty;

use crate::lab::*;

/// What was inside a tunnel.
pub(crate) struct Inner {
    pub(crate) from: Endpoint,
    pub(crate) to: Endpoint,
    pub(crate) payload: Vec<u8>,
}

/// The UDP datagram of an IP packet, its checksums verified by another implementation.
pub(crate) fn ip(packet: &[u8]) -> Inner {
    let sliced = SlicedPacket::from_ip(packet).expect("IP");
    let Some(TransportSlice::Udp(udp)) = &sliced.transport else { panic!("UDP") };
    let (sum, from, to) = match &sliced.net {
        Some(NetSlice::Ipv4(v4)) => {
            let header = v4.header().to_header();
            assert_eq!(header.calc_header_checksum(), header.header_checksum);
            assert_eq!(usize::from(header.total_len), packet.len());
            assert!(header.dont_fragment && header.fragment_offset.value() == 0 && header.time_to_live > 0);
            let sum = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap();
            (sum, Endpoint::new(header.source.into(), udp.source_port()), header.destination.into())
        }
        Some(NetSlice::Ipv6(v6)) => {
            let header = v6.header().to_header();
            assert_eq!(usize::from(header.payload_length) + 40, packet.len());
            assert!(header.hop_limit > 0);
            let sum = udp.to_header().calc_checksum_ipv6(&header, udp.payload()).unwrap();
            (sum, Endpoint::new(header.source.into(), udp.source_port()), header.destination.into())
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(udp.checksum(), sum, "the UDP checksum");
    assert_ne!(sum, 0, "ruling 27: inner UDP checksums are always computed");
    assert_eq!(usize::from(udp.length()), udp.payload().len() + 8);
    Inner { from, to: Endpoint::new(to, udp.destination_port()), payload: udp.payload().to_vec() }
}

/// RFC 7348: flags 0x08, reserved zero, VNI, reserved zero; Ethernet; IP.
pub(crate) fn vxlan(sent: &Sent) -> Inner {
    assert_eq!(sent.to, at(VXLAN));
    let (header, frame) = sent.bytes.split_at(8);
    let [_, a, b, c] = VNI.to_be_bytes();
    assert_eq!(header, [8, 0, 0, 0, a, b, c, 0]);
    assert_eq!(frame[..6], MAC);
    assert_eq!(frame[6] & 3, 2, "a locally administered unicast address");
    let ethernet = SlicedPacket::from_ethernet(frame).expect("Ethernet");
    assert!(ethernet.net.is_some() && ethernet.transport.is_some());
    ip(&frame[14..])
}

/// TS 29.281 §5.1: version 1, protocol type GTP, no optional fields; 255; length; TEID.
pub(crate) fn gtpu(sent: &Sent, teid: u32) -> Inner {
    let (header, packet) = sent.bytes.split_at(8);
    let length = (packet.len() as u16).to_be_bytes();
    assert_eq!(header[..4], [0x30, 0xFF, length[0], length[1]]);
    assert_eq!(header[4..], teid.to_be_bytes());
    ip(packet)
}

fn deliver(lab: &mut Lab, n: u128) -> (Sent, Vec<u8>) {
    let msg = push(n).option(100, b"unknown").payload(b"odd number of bytes");
    let outcome = lab.one(&msg, SENDER);
    assert_eq!(outcome.verdicts, [Verdict::Deliver]);
    (outcome.sent.into_iter().next().unwrap(), msg.bytes())
}

#[test]
fn vxlan_carries_ethernet_ip_udp_and_the_datagram() {
    let mut lab = Lab::new();
    for (n, from, to) in [(user::VXLAN, INNER4, "10.0.0.1:2948"), (user::VXLAN6, INNER6, "[fd00::5]:2948")] {
        let (sent, datagram) = deliver(&mut lab, n);
        let inner = vxlan(&sent);
        assert_eq!((inner.from, inner.to), (at(from), at(to)));
        assert_eq!(inner.payload, datagram);
        assert_eq!(sent.listener, 0);
    }
}

#[test]
fn gtpu_carries_ip_udp_and_the_datagram() {
    let mut lab = Lab::new();
    for (n, from, to) in [(user::GTPU, INNER4, "10.1.0.1:2948"), (user::GTPU6, INNER6, "[fd01::6]:2948")] {
        let (sent, datagram) = deliver(&mut lab, n);
        assert_eq!(sent.to, at(GTPU));
        let inner = gtpu(&sent, TEID);
        assert_eq!((inner.from, inner.to), (at(from), at(to)));
        assert_eq!(inner.payload, datagram);
    }
}

#[test]
fn a_tunnel_over_ipv6_leaves_from_the_ipv6_address() {
    let (sent, datagram) = deliver(&mut Lab::new(), user::OUTER6);
    assert_eq!((sent.to, sent.listener), (at(GTPU6), 1));
    let inner = gtpu(&sent, 7);
    assert_eq!((inner.to, inner.payload), (at("10.4.0.30:2948"), datagram));
}

#[test]
fn none_is_udp_straight_to_the_private_address() {
    let mut lab = Lab::new();
    for (n, to, listener) in [(user::NONE, "10.3.0.1:2948", 0), (user::NONE6, "[fd03::8]:2948", 1)] {
        let (sent, datagram) = deliver(&mut lab, n);
        assert_eq!((sent.to, sent.listener), (at(to), listener));
        assert_eq!(sent.bytes, datagram);
    }
}

/// Ruling 13: for a plain gateway PrivateAddress, Realm and Imsi that came with the message are removed
/// before its own are added at the end.
#[test]
fn plain_names_the_terminal_in_options() {
    let mut lab = Lab::new();
    for (n, realm, private) in [
        (user::PLAIN, 0u32, "10.2.0.1:2948"),
        (user::PLAIN6, 0, "[fd02::7]:2948"),
        (user::REALM9, 9, "10.0.0.1:2948"),
    ] {
        let came = push(n).option(100, b"first").device(0).option(101, b"last");
        let with_others = came
            .clone()
            .endpoint(ty::PRIVATE_ADDRESS, at("[fd00::99]:1"))
            .option(ty::IMSI, &[0x64, 0, 0x10, 0x32, 0x54, 0x76, 0x98, 0xF0])
            .option(102, b"")
            .option(ty::REALM, &[0, 0, 0, 77]);
        let own =
            |msg: Msg| msg.endpoint(ty::PRIVATE_ADDRESS, at(private)).option(ty::REALM, &realm.to_be_bytes());
        let sent = lab.sent(&came, SENDER);
        assert_eq!(sent.to, at(PLAIN));
        assert_eq!(sent.bytes, own(came.clone()).bytes());
        let mut sent = lab.sent(&with_others, SENDER);
        let expected = own(came.id(with_others.header.message).option(102, b""));
        assert_eq!(sent.bytes, expected.bytes());
        sent.bytes.clear();
    }
}

/// Nowhere else: towards other terminals they pass as they came (ruling 13).
#[test]
fn ruling_13_other_tunnels_leave_the_options_alone() {
    let msg =
        push(user::NAT).endpoint(ty::PRIVATE_ADDRESS, at("10.9.9.9:1")).option(ty::REALM, &[0, 0, 0, 7]);
    assert_eq!(Lab::new().sent(&msg, SENDER).bytes, msg.bytes());
}

/// Realms use the same addresses: the same private address leads to another gateway.
#[test]
fn a_private_address_is_looked_up_in_its_realm() {
    let mut lab = Lab::new();
    assert_eq!(lab.sent(&push(user::VXLAN), SENDER).to, at(VXLAN));
    assert_eq!(lab.sent(&push(user::REALM9), SENDER).to, at(PLAIN));
    let mut rib = rib();
    rib.segments.retain(|segment| segment.realm == 9);
    let mut lab = Lab::with(Policy::default(), &rib);
    assert_eq!(lab.dropped(&push(user::VXLAN), SENDER), Reason::NoGateway);
    assert_eq!(lab.sent(&push(user::REALM9), SENDER).to, at(PLAIN));
}

/// Every length, so that odd ones and those at a boundary of the checksum are there.
#[test]
fn every_payload_length_arrives() {
    let mut lab = Lab::new();
    for len in (0..70).chain([1371, 1372, 1424, 1999, 2000]) {
        let payload: Vec<u8> = (0..len).map(|n| (n * 7 % 251) as u8).collect();
        for n in [user::VXLAN, user::VXLAN6] {
            let msg = push(n).payload(&payload);
            assert_eq!(vxlan(&lab.sent(&msg, SENDER)).payload, msg.bytes());
        }
        let msg = push(user::GTPU6).payload(&payload);
        assert_eq!(gtpu(&lab.sent(&msg, SENDER), TEID).payload, msg.bytes());
    }
}

/// A gateway without an inner source of the terminal's family (the loader refuses such a segment): the
/// message is rejected, not sent from nowhere.
#[test]
fn ruling_27_a_gateway_without_a_source_of_the_family() {
    let mut rib = rib();
    rib.gateways[0].source_v6 = None;
    rib.gateways[1].source_v4 = None;
    let mut lab = Lab::with(Policy::default(), &rib);
    assert_eq!(lab.dropped(&push(user::VXLAN6), SENDER), Reason::NoGateway);
    assert_eq!(lab.dropped(&push(user::GTPU), SENDER), Reason::NoGateway);
    vxlan(&lab.sent(&push(user::VXLAN), SENDER));
}
