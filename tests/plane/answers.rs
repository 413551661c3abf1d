//! Step 6 and rulings 3, 26, 28 and 35: RECEIPT, REJECT and ECHO.

use std::sync::Arc;

use pushplane::config::{Limits, Policy};
use pushplane::id::PushId;
use pushplane::plane::{Shared, Verdict};
use pushplane::reason::Reason;
use pushplane::wire::prp::auth::Auth;
use pushplane::wire::prp::{HeadBuilder, Header, Kind, flag, option_type as ty};

use crate::lab::*;
use crate::tunnels;

/// The RECEIPT of a terminal for a PUSH.
fn receipt(push: &Msg) -> Msg {
    msg(Kind::Receipt, push.header.source, push.header.destination).id(push.header.message).payload(b"")
}

/// The REJECT of another server for a PUSH.
fn reject(push: &Msg) -> Msg {
    let msg = msg(Kind::Reject, push.header.source, push.header.destination).id(push.header.message);
    msg.option(ty::REASON, &[0, 13]).payload(b"")
}

/// Ruling 3: the RECEIPT goes to the address that the PUSH came from, with source and destination
/// swapped and its message identifier.
#[test]
fn ruling_3_a_receipt_goes_where_the_push_came_from() {
    let mut lab = Lab::new();
    for (n, from, listener) in [(user::VXLAN, SENDER, 0), (user::NAT, "[2001:db8:5::1]:7", 1)] {
        let push = push(n).flags(flag::RECEIPT);
        lab.sent(&push, from);
        let answer = receipt(&push).option(100, b"kept").flags(0xF0).payload(b"and this");
        let outcome = lab.one(&answer, "10.0.0.1:2948");
        assert_eq!(outcome.verdicts, [Verdict::Forward]);
        let sent = &outcome.sent[0];
        assert_eq!((sent.to, sent.listener), (at(from), listener));
        let expected = receipt(&push).option(100, b"kept").payload(b"and this");
        assert_eq!(sent.bytes, expected.bytes());
    }
    assert_eq!(lab.plane.ledger().counters().forwarded, 2);
}

/// Ruling 3: remembered for at least 30 s, over the whole server.
#[test]
fn ruling_3_every_shard_knows_who_waits_for_thirty_seconds() {
    let shared = Arc::new(Shared::new(&LIMITS, 2, 7));
    let lab = |shard| Lab::at_site(site(Policy::default(), shard, Arc::clone(&shared)), tables(&rib()));
    let (mut one, mut two) = (lab(0), lab(1));
    let push = push(user::VXLAN).flags(flag::RECEIPT);
    one.sent(&push, SENDER);
    two.now = two.now.plus_ns(30_000_000_000);
    assert_eq!(two.sent(&receipt(&push), STRANGER).to, at(SENDER));
    assert_eq!(one.sent(&reject(&push), STRANGER).to, at(SENDER));
    two.now = two.now.plus_ns(5_000_000_000);
    // Without such an entry by its destination, like a PUSH: to the server `open`.
    assert_eq!(two.sent(&receipt(&push), STRANGER).to, at(OPEN));
}

/// Ruling 3: who asked first keeps the answers while it is remembered: a message that comes round again
/// from another address, by another shard or by somebody who guessed it, does not turn them away.
#[test]
fn ruling_3_the_first_asker_keeps_the_answers() {
    let shared = Arc::new(Shared::new(&LIMITS, 2, 7));
    let lab = |shard| Lab::at_site(site(Policy::default(), shard, Arc::clone(&shared)), tables(&rib()));
    let (mut one, mut two) = (lab(0), lab(1));
    let push = push(user::VXLAN).flags(flag::RECEIPT);
    one.sent(&push, SENDER);
    one.sent(&push, STRANGER);
    two.sent(&push, OPEN);
    assert_eq!(one.sent(&receipt(&push), "10.0.0.1:2948").to, at(SENDER));
    assert_eq!(two.sent(&receipt(&push), "10.0.0.1:2948").to, at(SENDER));
}

/// Ruling 3: only a PUSH that wants a receipt is remembered; source, destination and identifier must all agree.
#[test]
fn ruling_3_only_the_answer_to_that_push() {
    let mut lab = Lab::new();
    let quiet = push(user::VXLAN).source(PushId(0xF << 124));
    lab.sent(&quiet, SENDER);
    assert_eq!(lab.dropped(&receipt(&quiet), STRANGER), Reason::NoRoute);
    let asked = push(user::VXLAN).source(PushId(0xF << 124)).flags(flag::RECEIPT);
    lab.sent(&asked, SENDER);
    assert_eq!(lab.dropped(&receipt(&asked).id(asked.header.message ^ 1), STRANGER), Reason::NoRoute);
    let mut other = receipt(&asked);
    other.header.destination = PushId(0xF << 124 | 1);
    assert_eq!(lab.dropped(&other, STRANGER), Reason::NoRoute);
    let mut other = receipt(&asked);
    other.header.source = own(user::GTPU);
    assert_eq!(lab.dropped(&other, STRANGER), Reason::NoRoute);
    assert_eq!(lab.sent(&receipt(&asked), STRANGER).to, at(SENDER));
}

/// Ruling 3: identifiers are unique for their sender. Two application servers without a Push ID are
/// two senders, though one source: each gets its own receipt.
#[test]
fn ruling_3_two_askers_with_one_identifier() {
    let mut lab = Lab::new();
    let one = push(user::VXLAN).source(PushId::NONE).id(1).flags(flag::RECEIPT);
    let two = push(user::GTPU).source(PushId::NONE).id(1).flags(flag::RECEIPT);
    lab.sent(&one, SENDER);
    lab.sent(&two, STRANGER);
    assert_eq!(lab.sent(&receipt(&one), "10.0.0.1:2948").to, at(SENDER));
    assert_eq!(lab.sent(&receipt(&two), "10.0.0.2:2948").to, at(STRANGER));
}

/// Ruling 3: without an entry it is routed by its destination like a PUSH, without the application
/// check; without a route it is dropped.
#[test]
fn ruling_3_an_answer_without_entry_is_routed() {
    let mut lab = Lab::new();
    let to = |kind, destination| {
        let msg = msg(kind, destination, ASKER).app(app::UNLISTED);
        if kind == Kind::Reject { msg.option(ty::REASON, &[0, 13]) } else { msg }
    };
    for kind in [Kind::Receipt, Kind::Reject] {
        let outcome = lab.one(&to(kind, own(user::VXLAN)), STRANGER);
        assert_eq!(outcome.verdicts, [Verdict::Deliver]);
        assert_eq!(
            tunnels::vxlan(&outcome.sent[0]).payload,
            to(kind, own(user::VXLAN)).id(id(&outcome.sent[0].bytes[50..])).bytes()
        );
        let sent = lab.sent(&to(kind, abroad(4)), STRANGER);
        assert_eq!((sent.to, sent.message().header.hop_limit), (at(ABROAD), 7));
        // SourceAddress is of a PUSH (ruling 14).
        assert!(!sent.message().options.has(ty::SOURCE_ADDRESS));
        let roaming = lab.sent(&to(kind, own(user::ROAMING)), STRANGER);
        assert_eq!(roaming.message().header.flags, flag::ROAMED);
        // Dropped, and never answered.
        for (destination, reason) in [
            (own(user::NOBODY), Reason::UnknownDestination),
            (own(user::RAN_OUT), Reason::NotAttached),
            (PushId(0xF << 124), Reason::NoRoute),
            (own(user::IMSI_ONLY), Reason::NoGateway),
        ] {
            assert_eq!(lab.dropped(&to(kind, destination), STRANGER), reason);
        }
        assert_eq!(lab.dropped(&to(kind, abroad(4)).hops(1), STRANGER), Reason::HopLimit);
    }
}

/// The message identifier of the PRP datagram in a vxlan tunnel over IPv4, behind its 50 bytes.
fn id(datagram: &[u8]) -> u64 {
    Header::read(datagram).unwrap().message
}

/// Rulings 12 and 33: to an asker that is a Push server the answer is a forward like any other.
#[test]
fn ruling_12_an_answer_to_a_server_is_a_forward() {
    let mut lab = Lab::new();
    let push = push(user::VXLAN).flags(flag::RECEIPT).source_address("192.0.2.9:1");
    lab.sent(&push, OPEN);
    let sent = lab.sent(&receipt(&push), "10.0.0.1:2948");
    assert_eq!((sent.to, sent.message().header.hop_limit), (at(OPEN), 7));
    assert_eq!(lab.dropped(&receipt(&push).hops(1), STRANGER), Reason::HopLimit);
    assert_eq!(lab.dropped(&receipt(&push), OPEN), Reason::NoRoute);
    // To anybody else the hop limit stays.
    let other = crate::lab::push(user::VXLAN).flags(flag::RECEIPT);
    lab.sent(&other, SENDER);
    assert_eq!(lab.sent(&receipt(&other).hops(0), "10.0.0.1:2948").message().header.hop_limit, 0);
}

/// Ruling 15: in answers to a signed datagram the server signs with that key.
#[test]
fn ruling_15_a_receipt_is_signed_as_the_push_was() {
    let mut lab = Lab::new();
    let by_app = push(user::VXLAN).app(app::KEYED).flags(flag::RECEIPT).signed(APP_KEY);
    lab.sent(&by_app, SENDER);
    let sent = lab.sent(&receipt(&by_app), "10.0.0.1:2948");
    assert_eq!(Auth::of(&sent.message().options, &sent.bytes).map(|auth| auth.key), Some(APP_KEY));
    let by_server = push(user::VXLAN).flags(flag::RECEIPT).signed(ABROAD_KEY);
    lab.sent(&by_server, ABROAD);
    // The terminal's own signature is checked and goes.
    let by_server = push(user::KEY_VXLAN).flags(flag::RECEIPT).signed(ABROAD_KEY);
    lab.sent(&by_server, ABROAD);
    let from_user = receipt(&by_server).signed(user::KEY_VXLAN as u32);
    let sent = lab.sent(&from_user, "10.0.0.21:2948");
    assert_eq!(Auth::of(&sent.message().options, &sent.bytes).map(|auth| auth.key), Some(ABROAD_KEY));
    assert_eq!(sent.bytes.len(), 80);
}

/// A full table of those who wait: refused, rather than a receipt lost.
#[test]
fn a_receipt_that_cannot_be_promised_is_overloaded() {
    let limits = Limits { receipts: 4, ..LIMITS };
    let site = site(Policy::default(), 0, Arc::new(Shared::new(&limits, 1, 7)));
    let mut lab = Lab::at_site(site, tables(&rib()));
    for _ in 0..4 {
        lab.sent(&push(user::NAT).flags(flag::RECEIPT), SENDER);
    }
    assert_eq!(lab.dropped(&push(user::NAT).flags(flag::RECEIPT), SENDER), Reason::Overloaded);
    lab.sent(&push(user::NAT), SENDER);
}

/// A PUSH that is not sent on is answered by its REJECT alone: nobody waits for anything more.
#[test]
fn a_push_that_is_rejected_waits_for_no_receipt() {
    let limits = Limits { receipts: 4, ..LIMITS };
    let site = site(Policy::default(), 0, Arc::new(Shared::new(&limits, 1, 7)));
    let mut lab = Lab::at_site(site, tables(&rib()));
    for _ in 0..20 {
        assert_eq!(lab.dropped(&push(user::NOBODY).flags(flag::RECEIPT), SENDER), Reason::UnknownDestination);
    }
    lab.sent(&push(user::NAT).flags(flag::RECEIPT), SENDER);
}

/// Ruling 28: ECHOED is the ECHO with kind 13, source and destination swapped, options dropped, payload
/// kept. Ruling 35: answers go to the address and port that the datagram came from.
#[test]
fn ruling_28_echo() {
    let mut lab = Lab::new();
    for (from, listener) in [(SENDER, 0), ("[2001:db8:77::1]:9", 1)] {
        let echo = msg(Kind::Echo, own(user::NOBODY), ASKER).option(100, b"x").device(1).hops(3).flags(0xF1);
        let echo = echo.option(ty::PAYLOAD_LENGTH, &[0, 4]).payload(b"ping and padding");
        let outcome = lab.one(&echo, from);
        assert_eq!(outcome.verdicts, [Verdict::Answer]);
        let header = Header {
            flags: 1,
            hop_limit: 3,
            ..Header::new(Kind::Echoed, ASKER, own(user::NOBODY), echo.header.message)
        };
        assert_eq!(outcome.sent[0].bytes, HeadBuilder::new(&header).datagram(b"ping").unwrap());
        assert_eq!((outcome.sent[0].to, outcome.sent[0].listener), (at(from), listener));
    }
    let counters = lab.plane.ledger().counters();
    assert_eq!((counters.answered, counters.tx), (2, 2));
    // Whoever it names, here and with any flags.
    for to in [PushId::NONE, abroad(3), PushId(u128::MAX)] {
        let echo = msg(Kind::Echo, to, PushId::NONE).flags(flag::GROUP | flag::ROAMED);
        assert_eq!(lab.one(&echo, STRANGER).verdicts, [Verdict::Answer]);
    }
    assert_eq!(lab.one(&msg(Kind::Echo, own(1), ASKER), OPEN).verdicts, [Verdict::Answer]);
}
