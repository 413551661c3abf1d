use proptest::prelude::*;

use super::*;
use crate::capture::Reader;

/// Made by radclient 3.2.1 with the dictionaries of FreeRADIUS; answered by a server of somebody else.
const RADCLIENT: &[u8] = include_bytes!("../../../tests/captures/live-radclient-3gpp-accounting.pcap");
/// From a Cisco and a Motorola wireless controller.
const VENDORS: &[u8] = include_bytes!("../../../tests/captures/wrapped-node-radius-accounting.pcap");

fn packets(capture: &[u8]) -> Vec<Vec<u8>> {
    let mut reader = Reader::new(capture).unwrap();
    let mut packets = Vec::new();
    while let Some(datagram) = reader.next_datagram() {
        packets.push(datagram.payload.to_vec());
    }
    packets
}

fn accounting(bytes: &[u8]) -> Result<Accounting<'_>, Malformed> {
    Accounting::read(&Packet::parse(bytes)?)
}

/// An attribute: its type, its value.
type Written<'a> = (u8, &'a [u8]);

/// A packet of these attributes; its authenticator is zeros.
fn packet(attributes: &[Written<'_>]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    for (ty, value) in attributes {
        bytes.extend([*ty, value.len() as u8 + 2]);
        bytes.extend_from_slice(value);
    }
    let length = (bytes.len() as u16).to_be_bytes();
    bytes[..4].copy_from_slice(&[code::ACCOUNTING_REQUEST, 7, length[0], length[1]]);
    bytes
}

const START: Written<'_> = (attribute::ACCT_STATUS_TYPE, &[0, 0, 0, 1]);
const SESSION: Written<'_> = (attribute::ACCT_SESSION_ID, b"s");

#[test]
fn what_a_real_client_says_of_a_terminal() {
    let packets = packets(RADCLIENT);
    let start = accounting(&packets[0]).unwrap();
    let expected = Accounting {
        status: Status::Start,
        session: b"0A090002000000A1",
        multi_session: None,
        user_name: Some("8613800138000"),
        calling_station: Some("8613800138000"),
        called_station: Some("internet"),
        nas_address: Some("10.9.0.2".parse().unwrap()),
        nas_identifier: Some(b"ggsn1"),
        ipv4: Some("172.16.222.1".parse().unwrap()),
        ipv6: Some(Ipv6Net { prefix: [0x20, 1, 7, 0x80, 0, 0x44, 0x20, 1], interface: None }),
        event_s: Some(1_767_225_600),
        delay_s: 0,
        session_s: None,
        imsi: Some("460001234567890".parse().unwrap()),
        ggsn: Some("10.9.0.2".parse().unwrap()),
        sgsn: Some("10.9.0.1".parse().unwrap()),
        nsapi: Some(5),
        charging_id: Some(0xA1),
        stops_all: false,
    };
    assert_eq!(start, expected);
    let said = |at: usize| accounting(&packets[at]).unwrap();
    assert_eq!(
        [0, 2, 4, 6, 8].map(|at| said(at).status),
        [Status::Start, Status::Interim, Status::Stop, Status::On, Status::Off]
    );
    let stop = said(4);
    assert_eq!((stop.session_s, stop.stops_all), (Some(60), true));
    assert_eq!((said(6).session, said(6).ipv4, said(6).nas_address), (&b"0"[..], None, start.nas_address));
}

/// The last request of the capture was made with another secret on purpose.
#[test]
fn who_does_not_know_the_secret_is_found_out() {
    let packets = packets(RADCLIENT);
    for at in [0, 2, 4, 6, 8] {
        let request = Packet::parse(&packets[at]).unwrap();
        assert!(request.is_genuine(b"testing123"), "{at}");
        assert!(!request.is_genuine(b"testing124") && !request.is_genuine(b""), "{at}");
        // Answers of another program, bit by bit.
        let mut answer = Vec::new();
        request.respond(b"testing123", &mut answer);
        assert_eq!(answer, packets[at + 1]);
    }
    assert!(!Packet::parse(&packets[10]).unwrap().is_genuine(b"testing123"));
    let vendors = self::packets(VENDORS);
    for at in [0, 2] {
        assert!(Packet::parse(&vendors[at]).unwrap().is_genuine(b"nearbuy"));
    }
    let mut answer = Vec::new();
    Packet::parse(&vendors[0]).unwrap().respond(b"nearbuy", &mut answer);
    assert_eq!(answer, vendors[1]);
}

#[test]
fn any_other_bit_makes_it_not_genuine() {
    let good = packets(RADCLIENT).remove(6);
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(!Packet::parse(&bad).is_ok_and(|packet| packet.is_genuine(b"testing123")), "bit {bit}");
    }
}

/// RFC 2869 §5.14, over the packet as it was before the authenticator was put in.
#[test]
fn a_message_authenticator_must_be_right() {
    let signed = |signature: [u8; 16]| {
        let mut bytes = packet(&[START, (attribute::MESSAGE_AUTHENTICATOR, &signature), SESSION]);
        let digest = Packet::parse(&bytes).unwrap().digest([0; 16], b"secret");
        bytes[4..20].copy_from_slice(&digest);
        bytes
    };
    let zeros = packet(&[START, (attribute::MESSAGE_AUTHENTICATOR, &[0; 16]), SESSION]);
    let hmac = Hmac::<Md5>::new_from_slice(b"secret").unwrap().chain_update(&zeros).finalize();
    let mut right: [u8; 16] = hmac.into_bytes().into();
    assert!(Packet::parse(&signed(right)).unwrap().is_genuine(b"secret"));
    right[0] ^= 1;
    assert!(!Packet::parse(&signed(right)).unwrap().is_genuine(b"secret"));
    let signature: Written<'_> = (attribute::MESSAGE_AUTHENTICATOR, &[0; 16]);
    let mut twice = packet(&[signature, signature]);
    let digest = Packet::parse(&twice).unwrap().digest([0; 16], b"secret");
    twice[4..20].copy_from_slice(&digest);
    assert!(!Packet::parse(&twice).unwrap().is_genuine(b"secret"));
}

#[test]
fn an_answer_brings_every_proxy_state_back() {
    let states: [Written<'_>; 3] = [(33, b"one"), (33, b""), (33, &[7; 253])];
    let request = packet(&[START, states[0], SESSION, states[1], states[2], states[0]]);
    let mut answer = vec![1, 2, 3];
    Packet::parse(&request).unwrap().respond(b"secret", &mut answer);
    let answer = Packet::parse(&answer).unwrap();
    assert_eq!((answer.code(), answer.identifier()), (code::ACCOUNTING_RESPONSE, 7));
    let back: Vec<_> = answer.attributes().map(|found| (found.ty, found.value)).collect();
    assert_eq!(back, [states[0], states[1], states[2], states[0]]);
}

#[test]
fn lengths_that_contradict_each_other_are_refused() {
    let good = packet(&[START, SESSION]);
    assert!(Packet::parse(&[&good[..], b"padding"].concat()).is_ok());
    for cut in 0..good.len() {
        assert_eq!(Packet::parse(&good[..cut]), Err(Malformed::Length), "{cut}");
    }
    let mut long = good.clone();
    long.resize(5000, 0);
    long[2..4].copy_from_slice(&4097u16.to_be_bytes());
    assert_eq!(Packet::parse(&long), Err(Malformed::Length));
    // Of a value that is cut short, what is left begins another attribute.
    for (length, fault) in [(0, 40), (1, 40), (7, 40), (5, 1)] {
        let mut bad = packet(&[START]);
        bad[21] = length;
        assert_eq!(Packet::parse(&bad), Err(Malformed::Attribute(fault)), "{length}");
    }
}

#[test]
fn what_must_be_there_and_how_long_it_must_be() {
    assert_eq!(accounting(&packet(&[SESSION])), Err(Malformed::Missing(40)));
    assert_eq!(accounting(&packet(&[START])), Err(Malformed::Missing(44)));
    assert_eq!(accounting(&packet(&[START, (44, b"")])), Err(Malformed::Missing(44)));
    assert!(accounting(&packet(&[(40, &[0, 0, 0, 7])])).is_ok());
    for (ty, bad) in
        [(40, 3), (4, 5), (8, 0), (41, 8), (46, 3), (55, 5), (95, 4), (96, 7), (97, 1), (168, 15)]
    {
        let value = vec![0; bad];
        let bytes = packet(&[(ty, &value), START, SESSION]);
        assert_eq!(accounting(&bytes), Err(Malformed::Value(ty)), "{ty}");
    }
}

/// RFC 2865 §5.8: these ask for an address, and are none.
#[test]
fn an_address_that_is_still_to_be_chosen_is_none() {
    for octets in [[255; 4], [255, 255, 255, 254], [0; 4]] {
        let bytes = packet(&[START, SESSION, (attribute::FRAMED_IP_ADDRESS, &octets)]);
        assert_eq!(accounting(&bytes).unwrap().ipv4, None);
    }
}

/// RFC 3162, RFC 6911.
#[test]
fn how_an_ipv6_address_is_told() {
    let prefix: &[u8] = &[0, 64, 0xFD, 0, 0, 0, 0, 0, 0, 1];
    let interface: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 2];
    let address: &[u8] = &[0xFD, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2];
    let net = Ipv6Net { prefix: [0xFD, 0, 0, 0, 0, 0, 0, 1], interface: None };
    let whole = Ipv6Net { interface: Some([0, 0, 0, 0, 0, 0, 0, 2]), ..net };
    let single = [&[0, 128][..], address].concat();
    let delegated: &[u8] = &[0, 56, 0xFD, 0, 0, 0, 0, 0, 0];
    let long = [prefix, &[0; 8]].concat();
    let cases: [(&[Written<'_>], Option<Ipv6Net>); 7] = [
        (&[], None),
        (&[(97, prefix)], Some(net)),
        (&[(97, &long)], Some(net)),
        (&[(96, interface), (97, prefix)], Some(whole)),
        (&[(97, &single)], Some(whole)),
        (&[(168, address), (97, delegated)], Some(whole)),
        (&[(97, delegated)], None),
    ];
    for (attributes, expected) in cases {
        let bytes = packet(&[&[START, SESSION], attributes].concat());
        assert_eq!(accounting(&bytes).unwrap().ipv6, expected, "{attributes:?}");
    }
    for bad in [&[0, 129][..], &[0, 64, 1], &[0; 19]] {
        let bytes = packet(&[START, SESSION, (97, bad)]);
        assert_eq!(accounting(&bytes), Err(Malformed::Value(97)));
    }
}

/// Several of 3GPP's attributes may share one Vendor-Specific; another vendor's numbers mean something else.
#[test]
fn attributes_of_3gpp() {
    let both =
        [&VENDOR_3GPP.to_be_bytes()[..], b"\x01\x11001010123456789", b"\x0a\x03b", b"\x0b\x03\xff"].concat();
    let other = [&9u32.to_be_bytes()[..], b"\x01\x11001010123456780"].concat();
    let bytes = packet(&[START, SESSION, (26, b"\0\0"), (26, &other), (26, &both)]);
    let said = accounting(&bytes).unwrap();
    assert_eq!(said.imsi.unwrap().to_string(), "001010123456789");
    assert_eq!((said.nsapi, said.stops_all, said.ggsn), (Some(11), true, None));
    let v6 = [&VENDOR_3GPP.to_be_bytes()[..], &[16, 18], &[0xFD; 16]].concat();
    let bytes = packet(&[START, SESSION, (26, &v6)]);
    assert_eq!(accounting(&bytes).unwrap().ggsn, Some([0xFD; 16].into()));
    // What is not whole inside says nothing.
    let cut = [&VENDOR_3GPP.to_be_bytes()[..], b"\x01\x1100101"].concat();
    assert_eq!(accounting(&packet(&[START, SESSION, (26, &cut)])).unwrap().imsi, None);
}

#[test]
fn text_is_trimmed_and_not_guessed() {
    let said = |value: &[u8]| {
        let bytes = packet(&[START, SESSION, (attribute::CALLING_STATION_ID, value)]);
        accounting(&bytes).unwrap().calling_station.map(str::to_owned)
    };
    assert_eq!(said(b" +4917012345 \0").as_deref(), Some("+4917012345"));
    assert_eq!((said(b""), said(b" "), said(b"\xFF")), (None, None, None));
}

proptest! {
    #[test]
    fn whatever_the_bytes_are(bytes in prop::collection::vec(any::<u8>(), 0..300), shape in any::<bool>()) {
        let mut bytes = bytes;
        if shape && bytes.len() >= HEADER_BYTES {
            let length = bytes.len() as u16;
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
        }
        if let Ok(packet) = Packet::parse(&bytes) {
            let size: usize = packet.attributes().map(|found| found.value.len() + 2).sum();
            prop_assert!(HEADER_BYTES + size <= bytes.len());
            let _ = (Accounting::read(&packet), packet.is_genuine(b"x"));
            let mut answer = Vec::new();
            packet.respond(b"x", &mut answer);
            prop_assert!(answer.len() <= bytes.len() && Packet::parse(&answer).is_ok());
        }
    }
}
