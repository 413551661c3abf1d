//! GROUP, RESOLVE and INTRODUCE.

use pushplane::config::{Limits, RegisterPolicy};
use pushplane::id::{Endpoint, PushId};
use pushplane::reason::Reason;
use pushplane::table::rib::User;
use pushplane::table::{Change, Rib};
use pushplane::wire::prp::{Kind, Message, flag, option_type as ty, parse};

use super::bench::*;
use super::lab::*;

const CREATE: u8 = 1;
const JOIN: u8 = 2;
const LEAVE: u8 = 3;
const LIST: u8 = 4;
const DELETE: u8 = 5;

/// A group of groups.csv: users 1 and 2.
const ROWS: PushId = own(0xF000);
/// Neither a member nor a user.
const STRANGER_ID: PushId = own(0x99);
/// One that users make.
const MADE: PushId = own(0xE000);

fn with_group() -> Rib {
    Rib {
        groups: vec![(ROWS, own(1)), (ROWS, own(2))],
        names: vec![("alice".into(), own(1)), ("+86138".into(), abroad(9)), ("a".repeat(255), own(3))],
        ..rib()
    }
}

fn bench() -> Bench {
    Bench::with(ANY, LIMITS, &with_group())
}

fn group(asker: PushId, request: u8, group: PushId) -> Msg {
    msg(Kind::Group, asker, PushId::NONE)
        .option(ty::GROUP_REQUEST, &[request, 1, 2, 3])
        .option(ty::GROUP_ID, &group.to_bytes())
}

fn members(said: &Said) -> Vec<PushId> {
    let answer = said.one(Kind::Grouped);
    let payload = answer.message.payload(answer.bytes()).to_vec();
    payload.chunks(16).map(|id| PushId::from_bytes(id.try_into().unwrap())).collect()
}

fn list(bench: &mut Bench, asker: PushId, of: PushId) -> Vec<PushId> {
    members(&bench.ask(&group(asker, LIST, of), OUTSIDE))
}

/// Ruling 7.
#[test]
fn a_group_is_made_joined_left_and_deleted() {
    let mut bench = bench();
    let said = bench.ask(&group(own(5), CREATE, MADE), OUTSIDE);
    let answer = said.one(Kind::Grouped);
    assert_eq!(answer.message.options.group_request(answer.bytes()), Some(CREATE));
    assert_eq!(answer.message.options.group_id(answer.bytes()), Some(MADE));
    assert_eq!(
        said.changes,
        [Change::Found { group: MADE, owner: own(5) }, Change::Join { group: MADE, member: own(5) }]
    );
    assert_eq!(list(&mut bench, own(5), MADE), [own(5)]);
    // A member of another server; one that joins twice is a member once.
    for _ in 0..2 {
        bench.ask(&group(abroad(6), JOIN, MADE), OUTSIDE).one(Kind::Grouped);
    }
    assert_eq!(list(&mut bench, own(5), MADE), [abroad(6), own(5)]);
    for request in [DELETE, CREATE] {
        assert_eq!(bench.ask(&group(abroad(6), request, MADE), OUTSIDE).refused(), Reason::NotPermitted);
    }
    assert_eq!(bench.ask(&group(own(7), LIST, MADE), OUTSIDE).refused(), Reason::NotPermitted);
    // The owner may ask again, and leave, and owns it still.
    assert_eq!(bench.ask(&group(own(5), CREATE, MADE), OUTSIDE).changes, []);
    bench.ask(&group(own(5), LEAVE, MADE), OUTSIDE).one(Kind::Grouped);
    bench.ask(&group(own(5), LEAVE, MADE), OUTSIDE).one(Kind::Grouped);
    assert_eq!(bench.ask(&group(own(5), LIST, MADE), OUTSIDE).refused(), Reason::NotPermitted);
    bench.restart();
    assert_eq!(list(&mut bench, abroad(6), MADE), [abroad(6)]);
    assert_eq!(bench.ask(&group(own(5), DELETE, MADE), OUTSIDE).changes, [Change::Disband { group: MADE }]);
    for request in [JOIN, LEAVE, LIST, DELETE] {
        assert_eq!(bench.ask(&group(own(5), request, MADE), OUTSIDE).refused(), Reason::UnknownGroup);
    }
    assert_eq!((bench.engine.live().groups, bench.engine.live().group_members), (0, 0));
    // The name is free again.
    bench.ask(&group(own(8), CREATE, MADE), OUTSIDE).one(Kind::Grouped);
}

/// Ruling 7, "absent: the server chooses".
#[test]
fn the_server_names_a_group() {
    let mut bench = bench();
    for request in [
        msg(Kind::Group, own(5), PushId::NONE).option(ty::GROUP_REQUEST, &[CREATE, 0, 0, 0]),
        group(own(5), CREATE, PushId::NONE),
    ] {
        let said = bench.ask(&request, OUTSIDE);
        let answer = said.one(Kind::Grouped);
        let named = answer.message.options.group_id(answer.bytes()).unwrap();
        assert_eq!(bench.tables.route(named), bench.tables.own());
        assert_eq!(list(&mut bench, own(5), named), [own(5)]);
    }
}

/// Groups of groups.csv have members and no owner.
#[test]
fn groups_of_the_tables_change_too() {
    let mut bench = bench();
    assert_eq!(list(&mut bench, own(1), ROWS), [own(1), own(2)]);
    for request in [CREATE, DELETE] {
        assert_eq!(bench.ask(&group(own(1), request, ROWS), OUTSIDE).refused(), Reason::NotPermitted);
    }
    bench.ask(&group(own(3), JOIN, ROWS), OUTSIDE).one(Kind::Grouped);
    bench.ask(&group(own(1), LEAVE, ROWS), OUTSIDE).one(Kind::Grouped);
    assert_eq!(list(&mut bench, own(2), ROWS), [own(2), own(3)]);
    bench.restart();
    bench.journal = bench.engine.changes().collect();
    bench.restart();
    assert_eq!(list(&mut bench, own(2), ROWS), [own(2), own(3)]);
    bench.ask(&group(own(1), JOIN, ROWS), OUTSIDE).one(Kind::Grouped);
    bench.ask(&group(own(3), LEAVE, ROWS), OUTSIDE).one(Kind::Grouped);
    assert_eq!(list(&mut bench, own(2), ROWS), [own(1), own(2)]);
    // A group that was deleted hides rows that say it exists, and what is made in its place has none.
    bench.ask(&group(own(5), CREATE, MADE), OUTSIDE).one(Kind::Grouped);
    let mut more = with_group();
    more.groups.push((MADE, own(9)));
    bench.replace_tables(&more);
    assert_eq!(list(&mut bench, own(9), MADE), [own(5), own(9)]);
    bench.ask(&group(own(5), DELETE, MADE), OUTSIDE).one(Kind::Grouped);
    bench.restart();
    assert_eq!(bench.ask(&group(own(9), LIST, MADE), OUTSIDE).refused(), Reason::UnknownGroup);
    bench.ask(&group(own(6), CREATE, MADE), OUTSIDE).one(Kind::Grouped);
    bench.journal = bench.engine.changes().collect();
    bench.restart();
    assert_eq!(list(&mut bench, own(6), MADE), [own(6)]);
}

#[test]
fn groups_that_cannot_be_are_refused() {
    let mut bench = bench();
    bench.ask(&register(own(100)), OUTSIDE).one(Kind::Registered);
    for (request, reason) in [
        (group(own(5), CREATE, abroad(1)), Reason::NotPermitted),
        (group(own(5), JOIN, abroad(1)), Reason::UnknownGroup),
        (group(own(5), JOIN, MADE), Reason::UnknownGroup),
        // A user, by users.csv and by registration.
        (group(own(5), CREATE, own(user::VXLAN)), Reason::NotPermitted),
        (group(own(5), CREATE, own(100)), Reason::NotPermitted),
        (group(own(5), 0, ROWS), Reason::Malformed),
        (group(own(5), 6, ROWS), Reason::Malformed),
        (group(PushId::NONE, JOIN, ROWS), Reason::NotPermitted),
        (group(PushId(0xF << 124), JOIN, ROWS), Reason::NoRoute),
        (
            msg(Kind::Group, own(5), PushId::NONE).option(ty::GROUP_REQUEST, &[JOIN, 0, 0, 0]),
            Reason::UnknownGroup,
        ),
        (register(ROWS), Reason::NotPermitted),
    ] {
        assert_eq!(bench.ask(&request, OUTSIDE).refused(), reason, "{request:?}");
    }
    let mut strict = Bench::with(policy(RegisterPolicy::Segment), LIMITS, &with_group());
    assert_eq!(strict.ask(&group(own(5), JOIN, ROWS), OUTSIDE).refused(), Reason::NotPermitted);
    strict.ask(&group(own(5), JOIN, ROWS), INSIDE).one(Kind::Grouped);
}

/// Ruling 7: as many as fit 1200 bytes.
#[test]
fn a_list_is_1200_bytes_at_most() {
    let mut bench = bench();
    for n in 0..100 {
        bench.ask(&group(own(1000 + n), JOIN, ROWS), OUTSIDE).one(Kind::Grouped);
    }
    assert_eq!(list(&mut bench, own(1000), ROWS).len(), 75);
}

#[test]
fn there_is_room_for_so_many_groups_and_members() {
    let limits = Limits { groups: 1, group_members: 2, ..LIMITS };
    let mut bench = Bench::with(ANY, limits, &with_group());
    bench.ask(&group(own(5), CREATE, MADE), OUTSIDE).one(Kind::Grouped);
    assert_eq!(bench.ask(&group(own(5), CREATE, own(0xE001)), OUTSIDE).refused(), Reason::Overloaded);
    bench.ask(&group(own(6), JOIN, MADE), OUTSIDE).one(Kind::Grouped);
    assert_eq!(bench.ask(&group(own(7), JOIN, MADE), OUTSIDE).refused(), Reason::Overloaded);
    // Leaving what was joined needs no room.
    bench.ask(&group(own(6), LEAVE, MADE), OUTSIDE).one(Kind::Grouped);
    bench.ask(&group(own(7), JOIN, MADE), OUTSIDE).one(Kind::Grouped);
}

/// Ruling 29: byte for byte after trimming; RESOLVED has the Push ID found as destination and no source.
#[test]
fn names_are_resolved() {
    let mut bench = bench();
    let ask = |name: &str| msg(Kind::Resolve, PushId::NONE, own(5)).option(ty::NAME, name.as_bytes()).id(9);
    let long = "a".repeat(255);
    for (name, found) in [
        ("alice", Some(own(1))),
        (" \talice\n", Some(own(1))),
        ("+86138", Some(abroad(9))),
        (&*long, Some(own(3))),
        ("Alice", None),
        ("  ", None),
        ("ali", None),
    ] {
        let said = bench.ask(&ask(name), OUTSIDE);
        let Some(found) = found else {
            assert_eq!(said.refused(), Reason::UnknownName);
            assert_eq!(said.read()[0].message.header.destination, own(5), "the asker");
            continue;
        };
        let answer = said.one(Kind::Resolved);
        let header = answer.message.header;
        assert_eq!((header.destination, header.source, header.message), (found, PushId::NONE, 9));
        assert_eq!(answer.reply.to, at(OUTSIDE));
    }
}

fn introduce(asker: PushId, wanted: PushId) -> Msg {
    msg(Kind::Introduce, asker, wanted).id(5)
}

/// What an INTRODUCE says: where the peer is, and where it is inside the realm.
fn ways(bytes: &[u8]) -> (Message, Option<Endpoint>, Option<(u32, Endpoint)>) {
    let message = parse(bytes).unwrap();
    assert_eq!(message.kind, Kind::Introduce);
    let options = message.options;
    let inside = options.private_address(bytes).map(|at| (options.realm(bytes).unwrap_or(0), at));
    (message, options.peer_address(bytes), inside)
}

/// Ruling 1: both get one, each with the other's address; the public one goes first.
#[test]
fn both_learn_where_the_other_is() {
    let (nat_a, nat_b, shared) = ("203.0.113.1:1000", "203.0.113.2:2000", "203.0.113.1:2000");
    let (in_a, in_b) = ("172.20.0.1:7", "172.20.0.2:7");
    let both = |nat: &str, private: &str, realm| {
        let request = register_at(PushId::NONE, private).endpoint(ty::NAT_ADDRESS, at(nat));
        request.realm(realm)
    };
    let public = |nat: &str| register(PushId::NONE).endpoint(ty::NAT_ADDRESS, at(nat));
    struct Case {
        a: Msg,
        b: Msg,
        /// What the asker, A, learns of B, and what B learns of A.
        learn: Option<[(&'static str, Option<&'static str>); 2]>,
    }
    let cases = [
        Case { a: public(nat_a), b: public(nat_b), learn: Some([(nat_b, None), (nat_a, None)]) },
        Case {
            a: both(nat_a, in_a, 4),
            b: both(nat_b, in_b, 4),
            learn: Some([(nat_b, None), (nat_a, None)]),
        },
        // Behind one public address, in one realm: the private one besides, should the NAT not turn round.
        Case {
            a: both(nat_a, in_a, 4),
            b: both(shared, in_b, 4),
            learn: Some([(shared, Some(in_b)), (nat_a, Some(in_a))]),
        },
        Case {
            a: both(nat_a, in_a, 4),
            b: both(shared, in_b, 5),
            learn: Some([(shared, None), (nat_a, None)]),
        },
    ];
    for Case { a, b, learn } in cases {
        let mut bench = Bench::new(ANY);
        let mut bind = |user: PushId, mut request: Msg, from: &str| {
            request.header.destination = user;
            bench.ask(&request, from).one(Kind::Registered);
        };
        bind(own(100), a, nat_a);
        bind(own(101), b, "203.0.113.2:2000");
        // A registration by ListenPort shows the address that it came from.
        let said = bench.ask(&introduce(own(100), own(101)), nat_a);
        let Some([of_b, of_a]) = learn else {
            assert_eq!(said.refused(), Reason::NoPeerAddress);
            continue;
        };
        assert_eq!((said.dropped.len(), said.replies.len()), (0, 2));
        let expected =
            |(peer, inside): (&str, Option<&str>)| (Some(at(peer)), inside.map(|inside| (4, at(inside))));
        let (message, peer, inside) = ways(&said.replies[0].datagram);
        let header = message.header;
        assert_eq!((header.destination, header.source, header.message), (own(101), own(100), 5));
        assert_eq!((peer, inside), expected(of_a));
        assert_eq!(said.replies[0].to, at(of_b.0));
        let (message, peer, inside) = ways(&said.replies[1].datagram);
        let header = message.header;
        assert_eq!((header.destination, header.source, header.message), (own(100), own(101), 5));
        assert_eq!((peer, inside), expected(of_b));
        assert_eq!(said.replies[1].to, at(nat_a));
    }
}

/// Ruling 1, "a private one is given only within one realm"; else no-peer-address.
#[test]
fn private_addresses_stay_in_their_realm() {
    for (other, given) in [
        (user::GTPU, true),
        (user::NONE, true),
        (user::REALM9, false),
        (user::IMSI_ONLY, false),
        (user::ROAMING, false),
        (user::RAN_OUT, false),
        (user::NOTHING, false),
        (user::NOBODY, false),
        (user::NO_PACKET_DATA, false),
    ] {
        let mut bench = Bench::new(ANY);
        let said = bench.ask(&introduce(own(user::VXLAN), own(other)), "10.0.0.1:2948");
        if given {
            assert_eq!(said.replies.len(), 2, "{other}");
            assert_eq!(ways(&said.replies[1].datagram).1, bench_private(other));
        } else {
            assert_eq!(said.refused(), Reason::NoPeerAddress, "{other}");
        }
    }
    let mut bench = Bench::new(ANY);
    for (asker, other) in
        [(own(user::VXLAN), abroad(1)), (own(user::VXLAN), PushId::NONE), (PushId::NONE, own(2))]
    {
        assert_eq!(bench.ask(&introduce(asker, other), INSIDE).refused(), Reason::NoPeerAddress);
    }
    // Who is not attached is where it asks from.
    let said = bench.ask(&introduce(own(100), own(user::NAT)), OUTSIDE);
    assert_eq!(ways(&said.replies[0].datagram).1, Some(at(OUTSIDE)));
    let said = bench.ask(&introduce(own(100), own(user::GTPU)), INSIDE);
    assert_eq!(ways(&said.replies[0].datagram[8 + 28..]).1, Some(at(INSIDE)));
    // Only a terminal that was named, and several in their order.
    let said = bench.ask(&introduce(own(user::NAT), own(user::SEVERAL)), "203.0.113.9:40009");
    assert_eq!(ways(&said.replies[1].datagram).1, Some(at("203.0.113.14:40014")));
    let said = bench.ask(&introduce(own(user::NAT), own(user::SEVERAL)).device(3), "203.0.113.9:40009");
    assert_eq!(said.refused(), Reason::NoPeerAddress);
}

/// ListenPort in the request: who asks is the socket that it comes from, with the private address that it
/// names, and not the terminal that is registered. It learns and tells; what is bound stays as it was.
#[test]
fn a_socket_that_is_not_registered_can_be_introduced() {
    let mut bench = Bench::new(ANY);
    let inside = |port: &str| at(&format!("172.20.0.{port}"));
    bench.ask(&register(own(100)), "203.0.113.1:1000").one(Kind::Registered);
    let behind = register(own(101)).endpoint(ty::PRIVATE_ADDRESS, inside("2:7")).realm(4);
    bench.ask(&behind, "203.0.113.1:2000").one(Kind::Registered);
    let bound = bench.bound();

    let here = introduce(own(100), own(101)).option(ty::LISTEN_PORT, &[0, 0]);
    let said = bench.ask(&here, "203.0.113.1:3000");
    assert_eq!(ways(&said.replies[0].datagram).1, Some(at("203.0.113.1:3000")));
    let (_, peer, private) = ways(&said.replies[1].datagram);
    assert_eq!(
        (said.replies[1].to, peer, private),
        (at("203.0.113.1:3000"), Some(at("203.0.113.1:2000")), None)
    );

    // Of the same private network and behind the same public address: the private ones besides.
    let within = here.clone().endpoint(ty::PRIVATE_ADDRESS, inside("1:9")).realm(4);
    let said = bench.ask(&within, "203.0.113.1:3000");
    let expected = |peer: &str, private: &str| (Some(at(peer)), Some((4, inside(private))));
    let (_, peer, private) = ways(&said.replies[0].datagram);
    assert_eq!((peer, private), expected("203.0.113.1:3000", "1:9"));
    let (_, peer, private) = ways(&said.replies[1].datagram);
    assert_eq!((peer, private), expected("203.0.113.1:2000", "2:7"));

    // A public address that the network does not show is told to nobody: who asks from a private one only
    // cannot be reached from outside its realm.
    let elsewhere = here.endpoint(ty::NAT_ADDRESS, at("198.51.100.77:53"));
    assert_eq!(bench.ask(&elsewhere, INSIDE).refused(), Reason::NoPeerAddress);
    assert_eq!(bench.bound(), bound);
}

fn bench_private(n: u128) -> Option<Endpoint> {
    let rib = rib();
    rib.users.iter().find(|row| row.push_id == own(n)).and_then(|row: &User| row.private)
}

/// Step 5: a terminal behind a gateway gets its INTRODUCE in that gateway's tunnel, signed with its
/// user's key (ruling 15).
#[test]
fn an_introduction_goes_through_the_gateway() {
    for (other, gateway, front) in [
        (user::VXLAN, VXLAN, 8 + 14 + 28),
        (user::GTPU, GTPU, 8 + 28),
        (user::PLAIN, PLAIN, 0),
        (user::NONE, "10.3.0.1:2948", 0),
        (user::GTPU6, GTPU, 8 + 48),
        (user::KEY_VXLAN, VXLAN, 8 + 14 + 28),
        (user::KEY_PLAIN, PLAIN, 0),
        (user::OUTER6, GTPU6, 8 + 28),
    ] {
        let mut bench = Bench::new(ANY);
        let asker = if other == user::GTPU6 { user::VXLAN6 } else { user::NO_PACKET_DATA };
        let from = if other == user::GTPU6 { "[fd00::5]:2948" } else { "10.0.0.19:2948" };
        let said = bench.ask(&introduce(own(asker), own(other)), from);
        let reply = &said.replies[0];
        assert_eq!((reply.to, reply.listener), (at(gateway), u8::from(gateway == GTPU6)), "{other}");
        let inner = &reply.datagram[front..];
        let (message, peer, private) = ways(inner);
        assert_eq!(message.header.destination, own(other));
        assert_eq!(peer, Some(at(from)));
        let expected = [user::PLAIN, user::KEY_PLAIN].contains(&other);
        assert_eq!(private, expected.then(|| (0, bench_private(other).unwrap())), "{other}");
        let key = [user::KEY_VXLAN, user::KEY_PLAIN].contains(&other).then_some(other as u32);
        let read = Said {
            replies: vec![pushplane::control::Reply { datagram: inner.to_vec(), ..reply.clone() }],
            ..Said::default()
        };
        assert_eq!(read.one(Kind::Introduce).key(), key);
    }
}

/// Ruling 7: a copy for each member but the sender, marked as the group's and no longer as one for a group.
#[test]
fn a_push_is_copied_to_the_members() {
    let mut bench = bench();
    bench.ask(&group(abroad(6), JOIN, ROWS), OUTSIDE).one(Kind::Grouped);
    bench.ask(&group(own(2), LEAVE, ROWS), OUTSIDE).one(Kind::Grouped);
    let sent = |source: PushId, flags| {
        let copied = push_to(ROWS).source(source).flags(flag::GROUP | flags);
        copied
            .option(100, b"kept")
            .option(ty::GROUP_ID, &[7; 16])
            .option(ty::PAYLOAD_LENGTH, &[0, 2])
            .payload(b"hi...")
    };
    let said = bench.ask(&sent(own(1), flag::RECEIPT | flag::ROAMED | 0x80), SENDER);
    let [push] = &said.copies[..] else { panic!("one message") };
    assert_eq!((push.group, &push.members[..], push.came()), (ROWS, &[abroad(6)][..], (at(SENDER), 0)));
    let copy = parse(&push.copy).unwrap();
    assert_eq!((copy.kind, copy.header.source, copy.header.flags), (Kind::Push, own(1), flag::RECEIPT));
    assert_eq!(copy.options.group_id(&push.copy), Some(ROWS));
    assert!(push.copy.windows(6).any(|bytes| bytes == b"\x64\x04kept"));
    assert_eq!((copy.payload(&push.copy), copy.options.has(ty::PAYLOAD_LENGTH)), (&b"hi"[..], false));
    // A stranger's goes to all; the members are those of this moment.
    let said = bench.ask(&sent(STRANGER_ID, 0), SENDER);
    assert_eq!(said.copies[0].members, [abroad(6), own(1)]);
}

/// Whom a message missed its sender is told when it wants a receipt, as many of them as fit.
#[test]
fn what_became_of_a_push_to_a_group() {
    let mut bench = bench();
    let tables = tables(&with_group());
    let mut round = |flags| {
        let sent = push_to(ROWS).source(STRANGER_ID).flags(flag::GROUP | flags);
        bench.ask(&sent, SENDER).copies.remove(0)
    };
    let wants = round(flag::RECEIPT);
    assert!(wants.receipt(&tables, &[], NOW).is_none(), "nobody was missed");
    assert!(round(0).receipt(&tables, &[own(1)], NOW).is_none(), "no receipt was asked for");
    let missed: Vec<PushId> = (0..200).map(own).collect();
    let told = wants.receipt(&tables, &missed, NOW).unwrap();
    let message = parse(&told.datagram).unwrap();
    assert_eq!((told.to, message.kind, told.is_reject), (at(SENDER), Kind::Receipt, false));
    assert_eq!((message.header.source, message.header.destination), (ROWS, STRANGER_ID));
    let named: Vec<u8> = missed[..75].iter().flat_map(|member| member.to_bytes()).collect();
    assert_eq!(message.payload(&told.datagram), named);
    let reject = wants.reject(&tables, Reason::NotAttached, NOW).unwrap();
    let message = parse(&reject.datagram).unwrap();
    assert_eq!((message.kind, message.header.source, reject.is_reject), (Kind::Reject, ROWS, true));
    assert_eq!(message.options.reason(&reject.datagram).unwrap().0, Reason::NotAttached.code());
}

#[test]
fn a_push_to_no_group_or_to_nobody() {
    let mut bench = bench();
    let sent = |to: PushId, source: PushId| push_to(to).source(source).flags(flag::GROUP);
    for (message, reason) in [
        (sent(MADE, own(1)), Reason::UnknownGroup),
        (sent(own(1), own(2)), Reason::UnknownGroup),
        (sent(abroad(1), own(2)).flags(flag::GROUP | flag::ROAMED), Reason::UnknownGroup),
        (push_to(own(1)), Reason::UnsupportedKind),
    ] {
        assert_eq!(bench.ask(&message, SENDER).refused(), reason);
    }
    bench.ask(&group(own(5), CREATE, MADE), OUTSIDE).one(Kind::Grouped);
    assert_eq!(bench.ask(&sent(MADE, own(5)), SENDER).refused(), Reason::NotAttached);
    // No room for GroupId.
    let full = (0..3).fold(sent(ROWS, own(9)), |msg, _| msg.option(100, &[1; 255])).option(101, &[2; 190]);
    assert_eq!(bench.ask(&full, SENDER).refused(), Reason::TooLarge);
}
