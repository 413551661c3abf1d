//! Step 3: another server's user. The longest prefix, the hop limit, SourceAddress.

use pushplane::config::Policy;
use pushplane::id::PushId;
use pushplane::plane::Verdict;
use pushplane::reason::Reason;
use pushplane::wire::prp::{Kind, flag, option_type as ty};

use crate::lab::*;

#[test]
fn step_3_the_longest_prefix_decides() {
    let mut lab = Lab::new();
    for (to, server, listener) in [
        (abroad(1 << 80), ABROAD, 0),
        (open(5), OPEN, 0),
        (PushId(0x3F << 120), NESTED, 0),
        (PushId((0x3F << 120) | u128::MAX >> 8), NESTED, 0),
        (PushId(0x8 << 124), OVER6, 1),
    ] {
        let outcome = lab.one(&push_to(to), SENDER);
        assert_eq!(outcome.verdicts, [Verdict::Forward]);
        assert_eq!((outcome.sent[0].to, outcome.sent[0].listener), (at(server), listener), "{to}");
    }
    assert_eq!(lab.dropped(&push_to(PushId(0x3E << 120)), SENDER), Reason::UnknownDestination);
}

/// Header, hop limit: "sends it one lower; one that would send 0 rejects instead". Ruling 12: only
/// forwarding to a Push server lowers and checks it; 0 on arrival is no fault.
#[test]
fn ruling_12_the_hop_limit() {
    let mut lab = Lab::new();
    for (hops, left) in [(255, 254), (8, 7), (2, 1)] {
        let sent = lab.sent(&push_to(open(5)).hops(hops), SENDER);
        assert_eq!(sent.message().header.hop_limit, left);
    }
    for hops in [0, 1] {
        assert_eq!(lab.dropped(&push_to(open(5)).hops(hops), SENDER), Reason::HopLimit);
        let msg = push(user::NAT).hops(hops);
        assert_eq!(lab.sent(&msg, SENDER).bytes, msg.bytes());
    }
}

/// A circle of servers ends: the message is lower each time it comes by.
#[test]
fn step_3_a_message_in_a_circle_dies() {
    let mut lab = Lab::new();
    let mut bytes = push_to(open(5)).bytes();
    let mut rounds = 0;
    loop {
        let outcome = lab.take(&[(&bytes, at(STRANGER))]);
        if let Verdict::Drop(reason) = outcome.verdicts[0] {
            assert_eq!((reason, rounds), (Reason::HopLimit, 7));
            return;
        }
        bytes = outcome.sent[0].bytes.clone();
        rounds += 1;
    }
}

/// Ruling 33: a message is never forwarded to the server it came from: no-route.
#[test]
fn ruling_33_never_back_to_where_it_came_from() {
    let mut lab = Lab::new();
    assert_eq!(lab.dropped(&push_to(open(5)), OPEN), Reason::NoRoute);
    assert_eq!(lab.dropped(&push_to(abroad(5)).signed(ABROAD_KEY), ABROAD), Reason::NoRoute);
    assert_eq!(lab.dropped(&push(user::ROAMING).signed(ABROAD_KEY), ABROAD), Reason::NoRoute);
    assert_eq!(lab.dropped(&msg(Kind::Receipt, open(5), ASKER), OPEN), Reason::NoRoute);
    let sent = lab.sent(&push_to(abroad(5)), OPEN);
    assert_eq!(sent.to, at(ABROAD));
}

/// Ruling 14: a server that forwards a PUSH from anybody but a [[server]] replaces SourceAddress: by the
/// public address and port that its source's live binding holds, else by the address and port the
/// datagram came from; one from a [[server]] keeps what it carries.
#[test]
fn ruling_14_source_address_is_translated() {
    let mut lab = Lab::new();
    let source_of = |lab: &mut Lab, msg: &Msg, from: &str| {
        let sent = lab.sent(msg, from);
        sent.message().options.source_address(&sent.bytes)
    };
    let to = |source| push_to(open(5)).source(source);
    for (source, from, expected) in [
        (ASKER, SENDER, SENDER),
        (PushId::NONE, SENDER, SENDER),
        (own(user::BOTH), "10.0.0.29:2948", "203.0.113.29:40029"),
        (own(user::BOTH), SENDER, "203.0.113.29:40029"),
        (own(user::NAT6), SENDER, "[2001:db8:9::26]:40026"),
        (own(user::VXLAN), "10.0.0.1:2948", "10.0.0.1:2948"),
        (own(user::SEVERAL), "10.0.0.14:2948", "203.0.113.14:40014"),
        (own(user::RAN_OUT), STRANGER, STRANGER),
        (ASKER, "[2001:db8:5::1]:5", "[2001:db8:5::1]:5"),
    ] {
        let plain = to(source);
        assert_eq!(source_of(&mut lab, &plain, from), Some(at(expected)), "{source} {from}");
        let lies = to(source).source_address("8.8.8.8:8").option(100, b"x");
        assert_eq!(source_of(&mut lab, &lies, from), Some(at(expected)), "{source} {from}");
    }
    assert_eq!(source_of(&mut lab, &push_to(abroad(5)), OPEN), None);
    let kept = push_to(abroad(5)).source_address("8.8.8.8:8");
    assert_eq!(source_of(&mut lab, &kept, OPEN), Some(at("8.8.8.8:8")));
}

/// A binding that ran out has no public address any more.
#[test]
fn ruling_14_only_a_live_binding_translates() {
    let mut rib = rib();
    let row = rib.users.iter_mut().find(|row| row.push_id == own(user::BOTH)).unwrap();
    row.valid_until = Some(NOW.unix_s());
    let mut lab = Lab::with(Policy::default(), &rib);
    let sent = lab.sent(&push_to(open(5)).source(own(user::BOTH)), "10.0.0.29:2948");
    assert_eq!(sent.message().options.source_address(&sent.bytes), Some(at("10.0.0.29:2948")));
}

/// Towards a terminal SourceAddress is not touched (ruling 13: nothing changes but what the page names).
#[test]
fn ruling_13_source_address_passes_to_a_terminal() {
    let mut lab = Lab::new();
    let msg = push(user::NAT);
    assert_eq!(lab.sent(&msg, SENDER).bytes, msg.bytes());
    let msg = push(user::NAT).source_address("8.8.8.8:8");
    assert_eq!(lab.sent(&msg, SENDER).bytes, msg.bytes());
}

/// Ruling 13: in a forward nothing changes but Auth, reserved flags, SourceAddress, the hop limit.
#[test]
fn ruling_13_what_a_forward_changes() {
    let msg = push_to(open(5)).flags(0xF0 | flag::RECEIPT).option(100, b"one").device(4);
    let msg = msg.option(ty::PAYLOAD_LENGTH, &[0, 5]).option(100, b"two").option(ty::CONTENT_TYPE, b"a/b");
    let msg = msg.payload(b"hello and padding");
    let sent = Lab::new().sent(&msg, SENDER);
    let expected = push_to(open(5)).id(msg.header.message).flags(flag::RECEIPT).hops(7);
    let expected =
        expected.option(100, b"one").device(4).option(100, b"two").option(ty::CONTENT_TYPE, b"a/b");
    assert_eq!(sent.bytes, expected.source_address(SENDER).payload(b"hello").bytes());
    // From a server: not even that.
    let sent = Lab::new().sent(&push_to(abroad(5)).id(9).option(100, b"one"), OPEN);
    let unsigned = push_to(abroad(5)).id(9).option(100, b"one").hops(7).signed(ABROAD_KEY);
    assert_eq!(sent.bytes, unsigned.bytes());
}

/// Ruling 32: a message to which options cannot be added is too-large, and its sender hears of it.
#[test]
fn ruling_32_no_room_for_options_is_too_large() {
    let mut lab = Lab::new();
    // 48 + 3 * 260 + 192 = 1020 bytes: 255 words.
    let full = |to| {
        let msg = (0..3).fold(push_to(to), |msg, _| msg.option(100, &[1; 255]));
        msg.option(101, &[2; 190])
    };
    assert_eq!(lab.dropped(&full(open(5)), SENDER), Reason::TooLarge);
    assert_eq!(lab.dropped(&full(own(user::PLAIN)), SENDER), Reason::TooLarge);
    assert_eq!(lab.dropped(&full(own(user::KEY_VXLAN)), SENDER), Reason::TooLarge);
    assert_eq!(lab.dropped(&full(own(user::KEY_NAT)), SENDER), Reason::TooLarge);
    let msg = full(own(user::NAT));
    assert_eq!(lab.sent(&msg, SENDER).bytes, msg.bytes());
    assert_eq!(crate::tunnels::vxlan(&lab.sent(&full(own(user::VXLAN)), SENDER)).payload.len(), 1025);
    // One of several terminals can be served: the message is delivered.
    let outcome = lab.one(&full(own(user::SEVERAL)), SENDER);
    assert_eq!((outcome.verdicts[0], outcome.sent.len()), (Verdict::Deliver, 2));
    assert_eq!(lab.plane.ledger().counters().terminals_failed, 1);
}

/// No listening address of the family: there is no way, and the sender hears of it.
#[test]
fn no_listening_address_of_the_family_is_no_route() {
    let mut lab = Lab::new();
    lab.site.listen.truncate(1);
    assert_eq!(lab.dropped(&push(user::NAT6), SENDER), Reason::NoRoute);
    assert_eq!(lab.dropped(&push(user::NONE6), SENDER), Reason::NoRoute);
    assert_eq!(lab.dropped(&push_to(PushId(0x8 << 124)), SENDER), Reason::NoRoute);
    assert_eq!(lab.dropped(&push(user::OUTER6), SENDER), Reason::NoRoute);
    crate::tunnels::vxlan(&lab.sent(&push(user::VXLAN6), SENDER));
}
