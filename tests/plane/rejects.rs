//! What is answered when something failed: "A REJECT is never sent in answer to a REJECT, RECEIPT or
//! any other answer, nor to a datagram that is malformed before its message identifier could be read; it
//! is never longer than the datagram that it answers or 128 bytes, whichever is more, and is
//! rate-limited per source address."

use std::sync::Arc;

use pushplane::config::Policy;
use pushplane::id::Endpoint;
use pushplane::plane::{Shared, Verdict};
use pushplane::reason::Reason;
use pushplane::wire::prp::{HeadBuilder, Header, Kind, flag, option_type as ty};

use crate::lab::*;

#[test]
fn a_reject_byte_for_byte() {
    let mut lab = Lab::new();
    for from in [SENDER, "[2001:db8:77::1]:9"] {
        let msg = push(user::NOBODY).hops(3).flags(0xF3).option(100, b"x");
        let sent = lab.sent(&msg, from);
        let header = Header::new(Kind::Reject, ASKER, own(user::NOBODY), msg.header.message);
        let expected = HeadBuilder::new(&header).reason(Reason::UnknownDestination).datagram(b"").unwrap();
        assert_eq!(sent.bytes, expected);
        assert_eq!((sent.to, sent.listener), (at(from), u8::from(from != SENDER)));
    }
    let counters = lab.plane.ledger().counters();
    assert_eq!((counters.rejects, counters.tx, counters.dropped_total()), (2, 2, 2));
}

/// "never sent in answer to a REJECT, RECEIPT or any other answer": whatever is wrong with it.
#[test]
fn an_answer_is_never_answered() {
    let mut lab = Lab::new();
    for kind in Kind::ALL.iter().filter(|kind| kind.is_answer()) {
        let valid = msg(*kind, own(user::NOBODY), ASKER)
            .option(ty::REASON, &[0, 1])
            .option(ty::VALIDITY, &[0; 4])
            .option(ty::GROUP_REQUEST, &[1, 0, 0, 0]);
        let bad = [
            valid.clone(),
            valid.clone().version(2),
            valid.clone().option(200, b""),
            valid.clone().device(1).device(1),
            valid.clone().signed(NOBODYS_KEY),
            valid.clone().deadline(1),
            valid.payload(&[0; 3000]),
        ];
        for msg in bad {
            let outcome = lab.one(&msg, STRANGER);
            assert!(matches!(outcome.verdicts[0], Verdict::Drop(_)) && outcome.sent.is_empty(), "{kind:?}");
        }
    }
    assert_eq!(lab.plane.ledger().counters().rejects, 0);
}

/// "nor to a datagram that is malformed before its message identifier could be read"
#[test]
fn below_48_bytes_nothing_is_answered() {
    let mut lab = Lab::new();
    let whole = push(user::VXLAN).payload(b"").bytes();
    for len in 0..48 {
        let outcome = lab.take(&[(&whole[..len], at(SENDER))]);
        assert_eq!(outcome.verdicts, [Verdict::Drop(Reason::Malformed)]);
        assert!(outcome.sent.is_empty(), "{len} bytes");
    }
    let mut short = whole;
    short[3] = 13;
    assert_eq!(lab.dropped_bytes(&short, SENDER), Reason::Malformed);
}

/// "never longer than the datagram that it answers or 128 bytes", signed too, for every reason that a
/// datagram of 48 bytes can meet.
#[test]
fn a_reject_is_short() {
    let mut lab = Lab::new();
    for reason in Reason::ALL {
        let header = Header::new(Kind::Reject, ASKER, ASKER, 1);
        let longest = HeadBuilder::new(&header).reason(*reason).auth(1, 1).datagram(b"").unwrap();
        assert!(longest.len() <= 128, "{reason}");
    }
    let key = user::KEY_NAT as u32;
    let signed = push(user::NOBODY).source(own(user::KEY_NAT)).signed(key).payload(b"");
    assert!(lab.sent(&signed, SENDER).bytes.len() <= 128);
}

/// Ruling 31: at most 100 REJECTs a second for each source address (without port; IPv6: /64), with
/// bursts of 100; over the whole server.
#[test]
fn ruling_31_rejects_are_limited_by_address() {
    let shared = Arc::new(Shared::new(&LIMITS, 2, 7));
    let lab = |shard| Lab::at_site(site(Policy::default(), shard, Arc::clone(&shared)), tables(&rib()));
    let mut labs = [lab(0), lab(1)];
    let bad = push(user::NOBODY).bytes();
    let mut rejects = |from: &dyn Fn(u16) -> Endpoint, later_ns| {
        let mut sent = 0;
        for round in 0..5 {
            let lab = &mut labs[round % 2];
            lab.now = NOW.plus_ns(later_ns);
            let burst: Vec<_> = (0..60).map(|n| (&bad, from(round as u16 * 60 + n))).collect();
            sent += lab.take(&burst).sent.len();
        }
        sent
    };
    let v4 = |n: u16| at(STRANGER).with_port(n + 1);
    let v6 = |n: u16| at(&format!("[2001:db8:1:2:{n:x}::{n:x}]:{}", n + 1));
    assert_eq!(rejects(&v4, 0), 100);
    assert_eq!(rejects(&v4, 0), 0);
    assert_eq!(rejects(&v6, 0), 100);
    assert_eq!(rejects(&|n| at(&format!("[2001:db8:1:3::{n:x}]:1")), 0), 100, "another /64");
    assert_eq!(rejects(&|n| at(SENDER).with_port(n + 1), 0), 100, "another address");
    // Half a second later half as many; after any time no more than 100 at once.
    assert!((49..=50).contains(&rejects(&v4, 500_000_000)));
    assert_eq!(rejects(&v4, 90_000_000_000), 100);
    let suppressed: u64 = labs.iter().map(|lab| lab.plane.ledger().counters().rejects_suppressed).sum();
    assert_eq!(suppressed, 7 * 300 - 100 * 5 - labs_sent(&labs, 5));
}

/// REJECTs beyond the five full bursts of the test above.
fn labs_sent(labs: &[Lab; 2], bursts: u64) -> u64 {
    labs.iter().map(|lab| lab.plane.ledger().counters().rejects).sum::<u64>() - 100 * bursts
}

/// Over a minute of nothing but failures: never more than the burst and a hundred a second.
#[test]
fn ruling_31_in_the_long_run() {
    let mut lab = Lab::new();
    let bad = push(user::NOBODY).bytes();
    let burst: Vec<_> = (0..20).map(|_| (&bad, at(STRANGER))).collect();
    let mut sent = 0;
    for step in 0..6000 {
        lab.now = NOW.plus_ns(step * 10_000_000);
        sent += lab.take(&burst).sent.len();
        let allowed = 100 + step as usize;
        assert!(sent <= allowed, "{sent} of {allowed}");
        assert!(step < 10 || sent + sent / 100 + 2 >= allowed, "{sent} of {allowed}");
    }
}

/// policy.rejects = false: failures are counted and nothing is said.
#[test]
fn policy_rejects_false_says_nothing() {
    let mut lab = Lab::with(Policy { rejects: false, ..Policy::default() }, &rib());
    for msg in [push(user::NOBODY), push(user::VXLAN).version(3), push(user::IMSI_ONLY)] {
        lab.dropped(&msg, SENDER);
    }
    assert_eq!(lab.plane.ledger().counters().tx, 0);
}

/// A failure that is only found while the datagrams are made is answered like any other, from the
/// buffer that was about to leave, whatever had become of it.
#[test]
fn a_message_that_cannot_be_made_is_rejected() {
    let mut lab = Lab::new();
    lab.site.listen.truncate(1);
    let msg = push(user::NAT6).flags(flag::RECEIPT).option(ty::PAYLOAD_LENGTH, &[0, 1]).payload(&[1; 900]);
    let before = *lab.plane.ledger().counters();
    assert_eq!(lab.dropped(&msg, SENDER), Reason::NoRoute);
    let counters = lab.plane.ledger().counters();
    assert_eq!((counters.rejects, counters.delivered), (before.rejects + 1, 0));
}
