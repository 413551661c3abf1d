//! What changes in a message on its way, and in which order what is sent leaves.

use pushplane::packet::Class;
use pushplane::plane::Verdict;
use pushplane::reason::Reason;
use pushplane::wire::prp::{flag, option_type as ty};

use crate::lab::*;
use crate::tunnels;

/// Ruling 13: towards a terminal nothing changes but what the page names; options unknown here are
/// passed on unchanged and in order. PayloadLength: never sent to a terminal, the padding dropped.
#[test]
fn ruling_13_what_a_terminal_gets() {
    let mut lab = Lab::new();
    let options = |msg: Msg| {
        msg.option(100, b"one").deadline(u64::MAX).option(0, b"").option(77, &[9; 255]).option(100, b"two")
    };
    for n in [user::NAT, user::NONE] {
        let msg = options(push(n)).flags(0xF0 | flag::RECEIPT);
        let expected = options(push(n).id(msg.header.message)).flags(flag::RECEIPT);
        assert_eq!(lab.sent(&msg, SENDER).bytes, expected.bytes());
        let padded = options(push(n)).option(ty::PAYLOAD_LENGTH, &[0, 3]).payload(b"abc and padding");
        let expected = options(push(n).id(padded.header.message)).payload(b"abc");
        assert_eq!(lab.sent(&padded, SENDER).bytes, expected.bytes());
    }
    let padded = push(user::VXLAN).option(ty::PAYLOAD_LENGTH, &[0, 0]).payload(b"padding");
    let expected = push(user::VXLAN).id(padded.header.message).payload(b"");
    assert_eq!(tunnels::vxlan(&lab.sent(&padded, SENDER)).payload, expected.bytes());
}

/// Ruling 24: padding is ignored when read; what is built anew has zeros.
#[test]
fn ruling_24_padding_of_options_is_ignored() {
    let mut bytes = push(user::PLAIN).device(0).bytes();
    assert_eq!(bytes[48..52], [2, 1, 0, 0]);
    bytes[51] = 0xFF;
    let outcome = Lab::new().take(&[(bytes, at(SENDER))]);
    assert_eq!(outcome.sent[0].bytes[48..52], [2, 1, 0, 0]);
}

/// Ruling 13: rule = "priority" sets PRIORITY; towards terminals and servers. PRIORITY of others passes.
#[test]
fn ruling_13_priority() {
    let mut lab = Lab::new();
    let flags = |lab: &mut Lab, msg: &Msg| {
        let sent = lab.sent(msg, SENDER);
        (sent.message().header.flags, sent.class)
    };
    let by = |app, to| push_to(to).app(app);
    assert_eq!(flags(&mut lab, &by(app::PRIORITY, own(user::NAT))), (flag::PRIORITY, Class::Priority));
    assert_eq!(flags(&mut lab, &by(app::PRIORITY, open(5))), (flag::PRIORITY, Class::Priority));
    assert_eq!(flags(&mut lab, &by(app::MIN_DELAY, own(user::NAT))), (0, Class::MinDelay));
    assert_eq!(flags(&mut lab, &by(app::ANY, own(user::NAT))), (0, Class::Normal));
    let asked = by(app::ANY, own(user::NAT)).flags(flag::PRIORITY);
    assert_eq!(flags(&mut lab, &asked), (flag::PRIORITY, Class::Normal));
    let inner = tunnels::vxlan(&lab.sent(&by(app::PRIORITY, own(user::VXLAN)), SENDER));
    assert_eq!(inner.payload[1], flag::PRIORITY);
}

/// INTERFACE, rule: min-delay leaves first, then priority, then the rest, each in its order.
#[test]
fn what_is_sent_is_ordered_by_the_rule_of_its_application() {
    let order = [app::ANY, app::PRIORITY, app::MIN_DELAY, app::ANY, app::PRIORITY, app::MIN_DELAY];
    let msgs = order.map(|app| (push(user::NAT).app(app).bytes(), at(SENDER)));
    let outcome = Lab::new().take(&msgs);
    let ids: Vec<usize> = outcome
        .sent
        .iter()
        .map(|sent| msgs.iter().position(|(bytes, _)| bytes[40..48] == sent.bytes[40..48]).unwrap())
        .collect();
    assert_eq!(ids, [2, 5, 1, 4, 0, 3]);
}

/// Ruling 32: datagrams up to 1472 bytes are always taken, longer ones than configured are too-large.
#[test]
fn ruling_32_the_longest_datagram() {
    let mut lab = Lab::new();
    let of = |len: usize| push(user::NAT).payload(&vec![7; len - 48]);
    assert_eq!(lab.sent(&of(1472), SENDER).bytes.len(), 1472);
    assert_eq!(lab.sent(&of(2048), SENDER).bytes.len(), 2048);
    assert_eq!(lab.dropped(&of(2049), SENDER), Reason::TooLarge);
    // Longer than a frame: only its beginning is here.
    assert_eq!(lab.dropped(&of(9000), SENDER), Reason::TooLarge);
}

/// "Every message ends as delivered, forwarded or dropped for one named, counted reason": also when
/// the kernel does not take what is sent.
#[test]
fn what_the_kernel_refuses_is_counted() {
    let mut lab = Lab::new();
    let several = push(user::SEVERAL);
    lab.take_failing(
        &[(several.bytes(), at(SENDER))],
        |sent| if sent.to == at(PLAIN) { 0 } else { libc::EPERM },
    );
    let counters = lab.plane.ledger().counters();
    assert_eq!(
        (counters.delivered, counters.terminals_failed, counters.tx, counters.tx_failed),
        (1, 2, 1, 2)
    );
    lab.take_failing(&[(several.bytes(), at(SENDER))], |_| libc::ENETUNREACH);
    assert_eq!(lab.plane.ledger().counters().dropped[Reason::NoRoute.index()], 1);
    lab.take_failing(&[(push_to(open(1)).bytes(), at(SENDER))], |_| libc::EAGAIN);
    assert_eq!(lab.plane.ledger().counters().dropped[Reason::Overloaded.index()], 1);
    lab.take_failing(&[(push(user::NAT).bytes(), at(SENDER))], |_| libc::EMSGSIZE);
    assert_eq!(lab.plane.ledger().counters().dropped[Reason::TooLarge.index()], 1);
}

/// Fewer frames than copies: those that can be made are sent.
#[test]
fn without_free_frames_the_copies_that_can_be_made_leave() {
    let mut lab = Lab::new();
    let pool = pushplane::packet::FramePool::new(2, LIMITS.datagram_max);
    lab.burst = pushplane::packet::Burst::new(pool);
    let outcome = lab.one(&push(user::SEVERAL), SENDER);
    assert_eq!((outcome.verdicts[0], outcome.sent.len()), (Verdict::Deliver, 2));
    let counters = lab.plane.ledger().counters();
    assert_eq!((counters.delivered, counters.terminals_failed), (1, 1));
}

/// More in flight than there are accounts: dropped and said so.
#[test]
fn without_an_account_a_message_is_overloaded() {
    let mut lab = Lab::new();
    lab.plane = pushplane::plane::Plane::new(0);
    let mut held = Vec::new();
    let Lab { site, tables, plane, burst, now } = &mut lab;
    const HALF: usize = pushplane::packet::BURST_MAX / 2;
    for round in 0..3 {
        for _ in 0..HALF {
            assert!(burst.push_copy(&push(user::NAT).bytes(), at(SENDER), 0));
        }
        plane.process(site, tables, *now, burst, &mut pushplane::plane::NoTrace);
        let expected = if round < 2 { Verdict::Deliver } else { Verdict::Drop(Reason::Overloaded) };
        assert!((0..HALF).all(|row| plane.verdict(row) == expected), "{round}");
        assert_eq!(plane.ledger().counters().unaccounted(), 0);
        held.append(&mut burst.tx);
        burst.clear_rows();
    }
    assert_eq!(plane.ledger().counters().in_flight, 2 * HALF as u64);
    for tx in held {
        burst.pool.put(tx.frame);
    }
}
