//! The codec against itself; the vectors of another encoder are in `tests/vectors.rs`.

use proptest::prelude::*;

use super::auth::{Auth, MacKey};
use super::*;
use crate::id::{Endpoint, Imsi};

fn header() -> Header {
    Header { app: 7, ..Header::new(Kind::Push, PushId(1 << 120 | 5), PushId(9), 77) }
}

fn parsed(bytes: &[u8]) -> Message {
    parse(bytes).expect("a message")
}

#[test]
fn a_header_is_read_as_it_was_written() {
    let datagram = HeadBuilder::new(&header()).datagram(b"hello").unwrap();
    assert_eq!(datagram.len(), 53);
    assert_eq!(datagram[0], 0x11);
    let message = parsed(&datagram);
    assert_eq!(message.header, header());
    assert_eq!(message.payload(&datagram), b"hello");
}

#[test]
fn every_option_is_read_as_it_was_written() {
    let v6: Endpoint = "[2001:db8::1]:2948".parse().unwrap();
    let v4: Endpoint = "10.1.2.3:40000".parse().unwrap();
    let imsi: Imsi = "460001234567890".parse().unwrap();
    let datagram = HeadBuilder::new(&header())
        .deadline(1 << 40)
        .device(3)
        .private_address(v6)
        .realm(70_000)
        .imsi(imsi)
        .reason(Reason::NoGateway)
        .source_address(v4)
        .group_id(PushId(4))
        .content_type("text/plain")
        .datagram(b"x")
        .unwrap();
    let Message { options, .. } = parsed(&datagram);
    assert_eq!(options.deadline(&datagram), Some(1 << 40));
    assert_eq!(options.device(&datagram), Some(3));
    assert_eq!(options.private_address(&datagram), Some(v6));
    assert_eq!(options.realm(&datagram), Some(70_000));
    assert_eq!(options.imsi(&datagram), Some(imsi));
    assert_eq!(options.reason(&datagram), Some((12, "no-gateway")));
    assert_eq!(options.source_address(&datagram), Some(v4));
    assert_eq!(options.group_id(&datagram), Some(PushId(4)));
    assert_eq!(options.content_type(&datagram), Some("text/plain"));
    assert_eq!(options.nat_address(&datagram), None);
    assert_eq!(options.validity(&datagram), None);
}

#[test]
fn options_are_kept_in_order_without_those_named() {
    let datagram = HeadBuilder::new(&header())
        .option(100, &[b"unknown"])
        .device(1)
        .option(100, &[b"again"])
        .auth(4, 5)
        .datagram(b"payload")
        .unwrap();
    let message = parsed(&datagram);
    let copy = HeadBuilder::new(&message.header)
        .keep(&message, &datagram, |option| ![option_type::AUTH, option_type::DEVICE].contains(&option))
        .datagram(message.payload(&datagram))
        .unwrap();
    let expected = HeadBuilder::new(&header())
        .option(100, &[b"unknown"])
        .option(100, &[b"again"])
        .datagram(b"payload")
        .unwrap();
    assert_eq!(copy, expected);
}

#[test]
fn a_head_beyond_255_words_is_too_long() {
    let mut builder = HeadBuilder::new(&header());
    for _ in 0..3 {
        builder.option(200, &[&[0; 255]]);
    }
    assert_eq!(builder.finish().unwrap().len(), 48 + 3 * 260);
    builder.option(200, &[&[0; 190]]);
    assert_eq!(builder.finish().unwrap().len(), HEAD_MAX);
    assert_eq!(builder.option(1, &[]).finish(), Err(HeadTooLong));
}

#[test]
fn the_tag_covers_every_byte() {
    let key = MacKey::new([7; 16]);
    let mut datagram = HeadBuilder::new(&header()).device(1).auth(4, 1000).datagram(b"payload").unwrap();
    let head_bytes = datagram.len() - 7;
    assert!(key.sign(&mut datagram, head_bytes));
    let auth = Auth::of(&parsed(&datagram).options, &datagram).unwrap();
    assert_eq!((auth.key, auth.unix_ms), (4, 1000));
    assert!(key.verify(&datagram, &auth));
    assert!(!MacKey::new([8; 16]).verify(&datagram, &auth));
    for index in 0..datagram.len() {
        datagram[index] ^= 1;
        assert!(!key.verify(&datagram, &auth), "byte {index}");
        datagram[index] ^= 1;
    }
    assert!(auth.is_fresh(31_000) && !auth.is_fresh(31_001) && auth.is_fresh(0));
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&bytes);
    }

    /// Bytes that look like a message, with options of random types, lengths and places.
    #[test]
    fn options_never_reach_past_the_header(
        words in 12u8..40,
        body in proptest::collection::vec(prop_oneof![Just(0u8), 1u8..22, Just(128), any::<u8>()], 0..120),
        kind in 0u8..16,
    ) {
        let mut bytes = header().to_bytes().to_vec();
        (bytes[0], bytes[3]) = (0x10 | kind, words);
        bytes.extend(&body);
        if let Ok(message) = parse(&bytes) {
            prop_assert!(message.payload_start <= message.payload_end && message.payload_end <= bytes.len());
            // What is kept is what was there, padding apart.
            let copy = HeadBuilder::new(&message.header).keep(&message, &bytes, |_| true).datagram(message.payload(&bytes)).unwrap();
            let again = parse(&copy).unwrap();
            prop_assert_eq!(again.options, message.options);
            prop_assert_eq!(again.payload(&copy).len(), message.payload(&bytes).len());
        }
    }
}
