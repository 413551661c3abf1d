//! The plane over the tables of the tests. The input is datagrams one after the other: a byte that says
//! who sends it (and whether it is signed anew, so that the fuzzer need not find a tag), two of length, the
//! bytes. Whatever they are: the accounts close, every frame is back, every row is decided, no more
//! REJECTs than drops, and nothing malformed leaves.

#![no_main]

#[path = "../../tests/common/lab.rs"]
mod lab;

use std::cell::RefCell;

use lab::*;
use libfuzzer_sys::fuzz_target;
use pushplane::config::Policy;
use pushplane::plane::Verdict;
use pushplane::wire::prp::auth::{Auth, MacKey};
use pushplane::wire::prp::{Kind, flag, parse};

const SENDERS: [&str; 8] =
    [SENDER, STRANGER, OPEN, ABROAD, LISTEN4, "10.0.0.29:2948", "[2001:db8:5::1]:5", VXLAN];

thread_local! {
    static LAB: RefCell<Lab> =
        RefCell::new(Lab::with(Policy { known_sources: true, ..Policy::default() }, &rib()));
}

/// Puts the time of the lab and the right tag into an Auth.
fn sign(datagram: &mut [u8]) {
    let Ok(message) = parse(datagram) else { return };
    let Some(auth) = Auth::of(&message.options, datagram) else { return };
    let time = message.payload_start - 32 + 6;
    datagram[time..time + 8].copy_from_slice(&NOW.unix_ms.to_be_bytes());
    assert!(MacKey::new(secret(auth.key)).sign(datagram, message.payload_start));
}

fuzz_target!(|data: &[u8]| {
    let mut datagrams = Vec::new();
    let mut rest = data;
    while let Some((&[how, high, low], after)) = rest.split_first_chunk()
        && datagrams.len() < 64
    {
        let len = usize::from(u16::from_be_bytes([high, low]) & 0x0FFF).min(after.len());
        let (bytes, after) = after.split_at(len);
        let mut bytes = bytes.to_vec();
        if how & 0x80 != 0 {
            sign(&mut bytes);
        }
        datagrams.push((bytes, at(SENDERS[usize::from(how & 7)])));
        rest = after;
    }
    LAB.with_borrow_mut(|lab| {
        // Far enough for what the last input left behind to be forgotten.
        lab.now.mono_ns += 100_000_000_000;
        let before = *lab.plane.ledger().counters();
        // `take` itself asserts that the accounts close and the frames are back.
        let outcome = lab.take(&datagrams);
        let counters = lab.plane.ledger().counters();
        let drops = counters.dropped_total() - before.dropped_total();
        assert!(counters.rejects - before.rejects <= drops);
        let dropped = outcome.verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Drop(_))).count();
        assert_eq!(dropped as u64, drops);
        assert!(!outcome.verdicts.iter().any(|v| matches!(v, Verdict::Pending | Verdict::Query)));
        for sent in &outcome.sent {
            let inner = match sent.to {
                to if to == at(VXLAN) && sent.bytes[0] == 8 => {
                    &sent.bytes[if sent.bytes[20..22] == [0x86, 0xDD] { 70 } else { 50 }..]
                }
                to if to == at(GTPU) || to == at(GTPU6) => {
                    &sent.bytes[if sent.bytes[8] >> 4 == 6 { 56 } else { 36 }..]
                }
                _ => &sent.bytes[..],
            };
            let message = parse(inner).expect("what leaves is a message");
            assert_eq!(message.header.flags & !flag::KNOWN, 0);
            assert!(!message.options.has(19), "PayloadLength");
            assert!(matches!(message.kind, Kind::Push | Kind::Receipt | Kind::Reject | Kind::Echoed));
        }
    });
});
