//! Steps 4 and 5 and ruling 9: which of a user's terminals are served, and by what way.

use pushplane::id::PushId;
use pushplane::plane::{Hop, Verdict};
use pushplane::reason::Reason;
use pushplane::wire::prp::{Kind, flag};

use crate::lab::*;
use crate::tunnels;

fn addresses(lab: &mut Lab, msg: &Msg) -> (Verdict, Vec<String>) {
    let outcome = lab.one(msg, SENDER);
    let mut to: Vec<String> = outcome.sent.iter().map(|sent| sent.to.to_string()).collect();
    to.sort();
    (outcome.verdicts[0], to)
}

/// Step 5: "a NAT binding without a gateway gets it at its public address and port".
#[test]
fn step_5_a_nat_binding_without_a_gateway() {
    let mut lab = Lab::new();
    for (n, to, listener) in [
        (user::NAT, "203.0.113.9:40009", 0),
        (user::NAT_NO_SEGMENT, "203.0.113.10:40010", 0),
        (user::NAT6, "[2001:db8:9::26]:40026", 1),
    ] {
        let msg = push(n).option(99, b"x");
        let sent = lab.sent(&msg, SENDER);
        assert_eq!((sent.to, sent.listener), (at(to), listener));
        assert_eq!(sent.bytes, msg.bytes());
    }
    // With a gateway for its private address it goes there.
    assert_eq!(tunnels::vxlan(&lab.sent(&push(user::BOTH), SENDER)).to, at("10.0.0.29:2948"));
}

/// Step 5: "neither, but an IMSI: the network-requested path"; ruling 30: without hlr the server
/// rejects it no-gateway at once.
#[test]
fn ruling_30_an_imsi_only_is_no_gateway_without_hlr() {
    let mut lab = Lab::new();
    assert_eq!(lab.dropped(&push(user::IMSI_ONLY), SENDER), Reason::NoGateway);
    assert_eq!(lab.dropped(&push(user::NO_SEGMENT_IMSI), SENDER), Reason::NoGateway);
}

/// Ruling 9: unknown-destination has no row and no binding; not-attached is known, but no live terminal
/// (ran out, no such Device, nothing to reach it by); no-gateway: no segment has the address.
#[test]
fn ruling_9_reasons_of_what_cannot_be_reached() {
    let mut lab = Lab::new();
    assert_eq!(lab.dropped(&push(user::NOBODY), SENDER), Reason::UnknownDestination);
    assert_eq!(lab.dropped(&push(user::RAN_OUT), SENDER), Reason::NotAttached);
    assert_eq!(lab.dropped(&push(user::NOTHING), SENDER), Reason::NotAttached);
    assert_eq!(lab.dropped(&push(user::VXLAN).device(5), SENDER), Reason::NotAttached);
    assert_eq!(lab.dropped(&push(user::SEVERAL).device(2), SENDER), Reason::NotAttached);
    assert_eq!(lab.dropped(&push(user::NO_SEGMENT), SENDER), Reason::NoGateway);
    assert_eq!(lab.dropped(&push_to(PushId(0xF << 124)), SENDER), Reason::NoRoute);
    assert_eq!(lab.dropped(&push_to(PushId::NONE), SENDER), Reason::NoRoute);
}

/// A binding is void at the second of its `valid_until`.
#[test]
fn a_binding_ends_at_its_second() {
    let mut rib = rib();
    let row = rib.users.iter_mut().find(|row| row.push_id == own(user::VXLAN)).unwrap();
    row.valid_until = Some(NOW.unix_s() + 1);
    let mut lab = Lab::with(pushplane::config::Policy::default(), &rib);
    tunnels::vxlan(&lab.sent(&push(user::VXLAN), SENDER));
    lab.now.unix_ms += 999;
    tunnels::vxlan(&lab.sent(&push(user::VXLAN), SENDER));
    lab.now.unix_ms += 1;
    assert_eq!(lab.dropped(&push(user::VXLAN), SENDER), Reason::NotAttached);
}

/// Option Device: 0 or absent means all of the user's terminals.
#[test]
fn option_device_chooses_among_several_terminals() {
    let mut lab = Lab::new();
    let all = || vec![VXLAN.to_owned(), PLAIN.to_owned(), "203.0.113.14:40014".to_owned()];
    assert_eq!(addresses(&mut lab, &push(user::SEVERAL)), (Verdict::Deliver, all()));
    assert_eq!(addresses(&mut lab, &push(user::SEVERAL).device(0)), (Verdict::Deliver, all()));
    for (device, to) in [(1, "203.0.113.14:40014"), (3, PLAIN)] {
        let (verdict, sent) = addresses(&mut lab, &push(user::SEVERAL).device(device));
        assert_eq!((verdict, sent), (Verdict::Deliver, vec![to.to_owned()]));
    }
}

/// Each copy is for its terminal alone, and all have the payload.
#[test]
fn every_terminal_gets_its_own_copy() {
    let mut lab = Lab::new();
    let msg = push(user::SEVERAL).payload(&[0xA5; 1001]);
    let outcome = lab.one(&msg, SENDER);
    for sent in &outcome.sent {
        if sent.to == at(VXLAN) {
            let inner = tunnels::vxlan(sent);
            assert_eq!((inner.to, inner.payload), (at("10.0.0.14:2948"), msg.bytes()));
        } else if sent.to == at(PLAIN) {
            let message = sent.message();
            assert_eq!(message.options.private_address(&sent.bytes), Some(at("10.2.0.14:2948")));
            assert_eq!(message.payload(&sent.bytes), [0xA5; 1001]);
        } else {
            assert_eq!(sent.bytes, msg.bytes());
        }
    }
    let sends: Vec<u8> = lab
        .plane
        .sends(0)
        .iter()
        .map(|send| match send.hop {
            Hop::Gateway { terminal, .. } | Hop::Nat { terminal, .. } => terminal.device,
            _ => panic!("{send:?}"),
        })
        .collect();
    assert_eq!(sends, [0, 1, 3]);
}

/// Ruling 34: a terminal without bit 1 gets nothing over packet data: bearer-failed.
#[test]
fn ruling_34_bearers() {
    let mut lab = Lab::new();
    assert_eq!(lab.dropped(&push(user::NO_PACKET_DATA), SENDER), Reason::BearerFailed);
    assert_eq!(lab.dropped(&push(user::NO_REQUESTED), SENDER), Reason::BearerFailed);
    // What the message says about Bearers is about somebody else.
    let msg = push(user::VXLAN).option(13, &[0, 0, 0, 4]);
    tunnels::vxlan(&lab.sent(&msg, SENDER));
}

/// Step 4: "Roaming: set ROAMED and forward to the serving server".
#[test]
fn step_4_a_roaming_user() {
    let mut lab = Lab::new();
    let msg = push(user::ROAMING);
    let outcome = lab.one(&msg, SENDER);
    assert_eq!(outcome.verdicts, [Verdict::Forward]);
    let sent = &outcome.sent[0];
    assert_eq!(sent.to, at(ABROAD));
    let header = sent.message().header;
    assert_eq!(header.flags, flag::ROAMED);
    // Ruling 36: a forward like any other: hop limit, SourceAddress, Auth.
    assert_eq!(header.hop_limit, 7);
    assert_eq!(sent.message().options.source_address(&sent.bytes), Some(at(SENDER)));
    assert_eq!(lab.dropped(&push(user::ROAMING).hops(1), SENDER), Reason::HopLimit);
    assert_eq!(lab.dropped(&push(user::ROAMING).hops(0), SENDER), Reason::HopLimit);
}

/// One copy for each serving server, whichever of the user's terminals are there.
#[test]
fn step_4_terminals_at_one_serving_server_get_one_copy() {
    let mut lab = Lab::new();
    let all = vec![ABROAD.to_owned(), ELSEWHERE.to_owned()];
    assert_eq!(addresses(&mut lab, &push(user::ROAMING_TWICE)), (Verdict::Forward, all));
    let one = push(user::ROAMING_TWICE).device(3);
    assert_eq!(addresses(&mut lab, &one), (Verdict::Forward, vec![ELSEWHERE.to_owned()]));
    // A server that is in no table shares no key.
    let sent = lab.sent(&push(user::ROAMING_TWICE).device(3), SENDER);
    assert!(!sent.message().options.has(128));
}

#[test]
fn step_4_terminals_here_and_abroad_are_both_served() {
    let mut lab = Lab::new();
    let both = vec![VXLAN.to_owned(), ABROAD.to_owned()];
    assert_eq!(addresses(&mut lab, &push(user::HALF_ROAMING)), (Verdict::Deliver, both));
    let abroad = push(user::HALF_ROAMING).device(1);
    assert_eq!(addresses(&mut lab, &abroad), (Verdict::Forward, vec![ABROAD.to_owned()]));
}

/// Step 5, "for each terminal": one that would have to be asked for does not keep the message from one
/// that can be reached.
#[test]
fn step_5_a_terminal_known_by_its_imsi_does_not_stop_the_others() {
    let mut lab = Lab::new();
    let (verdict, sent) = addresses(&mut lab, &push(user::ROAMING_OR_IMSI));
    assert_eq!((verdict, sent), (Verdict::Forward, vec![ABROAD.to_owned()]));
    assert_eq!(lab.plane.ledger().counters().forwarded, 1);
    assert_eq!(lab.dropped(&push(user::ROAMING_OR_IMSI).device(2), SENDER), Reason::NoGateway);
}

/// Step 4: "a message that already is ROAMED and finds no terminal here is rejected, never forwarded
/// again"; ruling 9: not-attached.
#[test]
fn step_4_a_roamed_message_ends_here() {
    let mut lab = Lab::new();
    let roamed = |to| push_to(to).flags(flag::ROAMED);
    for to in [
        own(user::ROAMING),
        own(user::NOBODY),
        own(user::ROAMING_TWICE),
        own(user::RAN_OUT),
        abroad(9),
        open(9),
        PushId(0xF << 124),
    ] {
        assert_eq!(lab.dropped(&roamed(to), OPEN), Reason::NotAttached, "{to}");
    }
    // A visitor: another server's user with a binding here.
    let outcome = lab.one(&roamed(abroad(1)), OPEN);
    assert_eq!(outcome.verdicts, [Verdict::Deliver]);
    assert_eq!(tunnels::vxlan(&outcome.sent[0]).to, at("10.0.0.200:2948"));
    // Only the terminals that are here.
    assert_eq!(
        addresses(&mut lab, &roamed(own(user::HALF_ROAMING))),
        (Verdict::Deliver, vec![VXLAN.to_owned()])
    );
}

/// Ruling 4: a PUSH for a visitor that is not ROAMED is forwarded to the home server.
#[test]
fn ruling_4_a_visitors_push_goes_home_first() {
    let sent = Lab::new().sent(&push_to(abroad(1)), SENDER);
    assert_eq!((sent.to, sent.message().header.flags), (at(ABROAD), 0));
}

/// A table that says that a user roams at this very server would send it in a circle.
#[test]
fn a_user_that_roams_here_is_not_forwarded_to_this_server() {
    let mut lab = Lab::new();
    assert_eq!(lab.dropped(&push(user::ROAMING_HERE), SENDER), Reason::NotAttached);
    // Also where the address of servers.toml is not the one that is listened on.
    lab.site.listen = vec![at("10.77.0.1:17400"), at(LISTEN6)];
    assert_eq!(lab.dropped(&push(user::ROAMING_HERE), SENDER), Reason::NotAttached);
}

/// A binding, gateway or server at one of the server's own listening addresses: what would be sent there
/// would arrive again, for ever. It is not sent.
#[test]
fn nothing_is_sent_to_the_server_itself() {
    let mut rib = rib();
    let listen = Some(at(LISTEN4));
    for row in &mut rib.users {
        match row.push_id {
            id if id == own(user::NAT) => row.nat = listen,
            id if id == own(user::NONE) => row.private = listen,
            _ => {}
        }
    }
    rib.segments.push(pushplane::table::rib::Segment { realm: 0, ip: at(LISTEN4).ip(), len: 32, gateway: 3 });
    rib.gateways[2].address = at(LISTEN4);
    rib.servers[2].address = at(LISTEN6);
    let mut lab = Lab::with(pushplane::config::Policy::default(), &rib);
    for msg in [push(user::NAT), push(user::NONE), push(user::PLAIN), push_to(open(3))] {
        assert_eq!(lab.dropped(&msg, SENDER), Reason::NoRoute);
    }
    tunnels::vxlan(&lab.sent(&push(user::VXLAN), SENDER));
}

/// Ruling 7: who is in a group of this server's the controller knows; a message for another server's goes there.
#[test]
fn step_3_a_message_for_a_group() {
    let mut lab = Lab::new();
    assert_eq!(lab.one(&push(user::VXLAN).flags(flag::GROUP), SENDER).verdicts, [Verdict::Punt]);
    let sent = lab.sent(&push_to(open(4)).flags(flag::GROUP), SENDER);
    assert_eq!((sent.to, sent.message().header.flags), (at(OPEN), flag::GROUP));
    assert_eq!(lab.dropped(&push_to(PushId(0xF << 124)).flags(flag::GROUP), SENDER), Reason::NoRoute);
}

/// INTERFACE, ruling 13: deliver, else query, forward, drop: what `explain` says comes from `decide`.
#[test]
fn interface_13_what_is_decided_before_anything_is_made() {
    let mut lab = Lab::new();
    for (msg, verdict) in [
        (push(user::HALF_ROAMING), Verdict::Deliver),
        (push(user::ROAMING_OR_IMSI), Verdict::Query),
        (push(user::IMSI_ONLY), Verdict::Query),
        (push(user::ROAMING), Verdict::Forward),
        (push(user::NOBODY), Verdict::Drop(Reason::UnknownDestination)),
        (msg(Kind::Echo, own(1), ASKER), Verdict::Answer),
    ] {
        assert!(lab.burst.push_copy(&msg.bytes(), at(SENDER), 0));
        let Lab { site, tables, plane, burst, now } = &mut lab;
        plane.decide(site, tables, *now, burst, &mut pushplane::plane::NoTrace);
        assert_eq!(plane.verdict(0), verdict);
        burst.clear_rows();
    }
}
