//! REGISTER, RELEASE and the end of validity.

use pushplane::config::{Limits, Policy, RegisterPolicy};
use pushplane::id::PushId;
use pushplane::reason::Reason;
use pushplane::table::Change;
use pushplane::wire::prp::{Kind, option_type as ty};

use super::bench::*;
use super::lab::*;

const STATIC: Policy = Policy { static_bindings: true, ..ANY };

fn ends(said: &Said) -> Vec<(PushId, u8)> {
    let ends = said.changes.iter().filter_map(|change| match change {
        Change::End { user, device, .. } => Some((*user, *device)),
        _ => None,
    });
    ends.collect()
}

/// Ruling 35, ruling 3: to the address and port that the datagram came from; source and destination
/// swapped, the same message identifier.
#[test]
fn registered_goes_back_to_where_register_came_from() {
    let mut bench = Bench::new(ANY);
    let request = register(own(100)).source(own(7)).device(3).id(77);
    let said = bench.datagram(&request.bytes(), at(OUTSIDE), 1);
    let answer = said.one(Kind::Registered);
    assert_eq!((answer.reply.to, answer.reply.listener), (at(OUTSIDE), 1));
    let header = answer.message.header;
    assert_eq!((header.destination, header.source, header.message), (own(7), own(100), 77));
    assert_eq!(answer.validity(), Some(3600));
    assert_eq!(answer.key(), None);
    assert!(matches!(said.changes[..], [Change::Bind { .. }]));
    let binding = bench.binding(own(100)).unwrap();
    assert_eq!((binding.device, binding.listener, binding.bearers), (3, 1, 3));
    assert_eq!(binding.valid_until_ms, Some(NOW.unix_ms + 3_600_000));
}

/// Rulings 22 and 23: port 0 is the one the datagram came from; inside a segment of the realm the
/// address is private, else public. Ruling 21: no Device is device 0. Ruling 34: Bearers.
#[test]
fn the_address_is_where_the_datagram_came_from() {
    let v4 = |from: &str, port: u16, realm| (at(from).with_port(port), realm);
    for (from, port, realm, private, nat) in [
        (INSIDE, 0, 0, Some(v4(INSIDE, 5000, 0)), None),
        (INSIDE, 9, 0, Some(v4(INSIDE, 9, 0)), None),
        (OUTSIDE, 0, 0, None, Some(v4(OUTSIDE, 5000, 0))),
        (OUTSIDE, 9, 0, None, Some(v4(OUTSIDE, 9, 0))),
        (INSIDE, 0, 9, Some(v4(INSIDE, 5000, 9)), None),
        (INSIDE, 0, 8, None, Some(v4(INSIDE, 5000, 8))),
        ("[fd00::9]:7", 0, 0, Some(v4("[fd00::9]:7", 7, 0)), None),
        ("[2001:db8:77::9]:7", 0, 0, None, Some(v4("[2001:db8:77::9]:7", 7, 0))),
    ] {
        let mut bench = Bench::new(ANY);
        let request = msg(Kind::Register, own(100), PushId::NONE)
            .option(ty::LISTEN_PORT, &u16::to_be_bytes(port))
            .realm(realm)
            .option(ty::BEARERS, &[0, 0, 0, 5]);
        bench.ask(&request, from).one(Kind::Registered);
        let binding = bench.binding(own(100)).unwrap();
        assert_eq!(binding.private, private.map(|(at, _)| at), "{from} in realm {realm}");
        assert_eq!(binding.nat, nat.map(|(at, _)| at), "{from} in realm {realm}");
        assert_eq!((binding.realm, binding.device, binding.bearers), (realm, 0, 5));
    }
}

/// A NAT that maps the terminal anew: the next REGISTER moves the binding, to what the network shows and
/// nothing else, and says where. Nothing but REGISTER does, and an old mapping is free for its next owner.
#[test]
fn a_binding_follows_its_mapping() {
    let mut bench = Bench::new(ANY);
    let mapping = |bench: &Bench| bench.binding(own(100)).unwrap().nat;
    let (first, second) = ("203.0.113.5:1000", "203.0.113.5:2000");
    for (from, realm) in [(first, 0), (second, 4)] {
        let said = bench.ask(&register(own(100)).realm(realm), from);
        let answer = said.one(Kind::Registered);
        assert_eq!(answer.message.options.nat_address(answer.bytes()), Some(at(from)));
        assert_eq!((mapping(&bench), bench.bound().len()), (Some(at(from)), 1));
    }
    for kind in [Kind::Introduce, Kind::Group, Kind::Resolve] {
        let request = msg(kind, own(100), own(user::NAT))
            .option(ty::LISTEN_PORT, &[0, 0])
            .option(ty::NAME, b"alice")
            .option(ty::GROUP_REQUEST, &[1, 0, 0, 0]);
        bench.ask(&request, "203.0.113.5:3000");
        assert_eq!(mapping(&bench), Some(at(second)), "{kind:?}");
    }
    bench.ask(&register(own(101)), first).one(Kind::Registered);
    assert_eq!(mapping(&bench), Some(at(second)));
    // Inside a segment there is no mapping to tell.
    let said = bench.ask(&register(own(100)), INSIDE);
    let answer = said.one(Kind::Registered);
    assert_eq!(answer.message.options.nat_address(answer.bytes()), None);
}

/// "PrivateAddress + NatAddress": both are kept in the one entry.
#[test]
fn private_and_public_addresses_are_kept_together() {
    let mut bench = Bench::new(ANY);
    let request = register_at(own(100), "10.0.7.7:40")
        .endpoint(ty::NAT_ADDRESS, at("203.0.113.5:6"))
        .option(ty::IMSI, &[0x64, 0x00, 0x10, 0x32, 0x54, 0x76, 0x98, 0xF0]);
    bench.ask(&request, OUTSIDE).one(Kind::Registered);
    let binding = bench.binding(own(100)).unwrap();
    assert_eq!((binding.private, binding.nat), (Some(at("10.0.7.7:40")), Some(at("203.0.113.5:6"))));
    assert_eq!(binding.imsi.unwrap().to_string(), "460001234567890");
    // With ListenPort the public address is what the network shows now.
    let request = register_at(own(100), "10.0.7.7:40").option(ty::LISTEN_PORT, &[0, 0]);
    bench.ask(&request, OUTSIDE).one(Kind::Registered);
    let binding = bench.binding(own(100)).unwrap();
    assert_eq!((binding.private, binding.nat), (Some(at("10.0.7.7:40")), Some(at(OUTSIDE))));
}

/// Where a PUSH would come back as a new one, or reach nobody, no terminal can be.
#[test]
fn no_terminal_is_at_a_push_server_or_nowhere() {
    for address in [LISTEN4, LISTEN6, ABROAD, "0.0.0.0:5", "224.0.0.1:5", "255.255.255.255:5", "10.0.0.9:0"] {
        let mut bench = Bench::new(ANY);
        let request = register_at(own(100), address);
        assert_eq!(bench.ask(&request, OUTSIDE).refused(), Reason::NotPermitted, "{address}");
        let request = register_at(own(100), INSIDE).endpoint(ty::NAT_ADDRESS, at(address));
        assert_eq!(bench.ask(&request, OUTSIDE).refused(), Reason::NotPermitted, "{address}");
    }
}

/// Ruling 19: never more than was asked; absent asks for the default; 0 is granted only where the policy
/// allows it, else the maximum.
#[test]
fn validity_is_granted() {
    for (policy, asked, granted) in [
        (ANY, None, 3600),
        (ANY, Some(1), 1),
        (ANY, Some(86_400), 86_400),
        (ANY, Some(86_401), 86_400),
        (ANY, Some(u32::MAX), 86_400),
        (ANY, Some(0), 86_400),
        (STATIC, Some(0), 0),
        (STATIC, None, 3600),
    ] {
        let mut bench = Bench::new(policy);
        let mut request = register(own(100));
        if let Some(asked) = asked {
            request = request.validity(asked);
        }
        let said = bench.ask(&request, OUTSIDE);
        assert_eq!(said.one(Kind::Registered).validity(), Some(granted), "{asked:?}");
        let until = bench.binding(own(100)).unwrap().valid_until_ms;
        let expected = (granted != 0).then(|| NOW.unix_ms + u64::from(granted) * 1000);
        assert_eq!(until, expected);
    }
    let limits = Limits { validity_default_s: 100, validity_max_s: 50, ..LIMITS };
    let mut bench = Bench::with(ANY, limits, &rib());
    assert_eq!(bench.ask(&register(own(100)), OUTSIDE).one(Kind::Registered).validity(), Some(50));
}

/// Validity ends a binding at its time, not before; the user is known for ten minutes more (ruling 9).
#[test]
fn a_binding_ends_with_its_validity() {
    let mut bench = Bench::new(STATIC);
    bench.ask(&register(own(100)).validity(2), OUTSIDE).one(Kind::Registered);
    bench.ask(&register(own(101)).validity(0), INSIDE).one(Kind::Registered);
    bench.ask(&register(own(user::VXLAN)).validity(2), "10.0.7.8:1").one(Kind::Registered);
    assert_eq!(bench.pass_ms(1999).changes, []);
    let said = bench.pass_ms(1);
    let mut ended = ends(&said);
    ended.sort();
    assert_eq!(ended, [(own(user::VXLAN), 0), (own(100), 0)]);
    assert_eq!(bench.pass_ms(599_999).changes, []);
    // Who has a row in users.csv stays hidden: the row is older than what was said since.
    assert_eq!(bench.pass_ms(1).changes, [Change::Forget { user: own(100), device: 0 }]);
    bench.pass_ms(1 << 40);
    assert_eq!(bench.bound().len(), 1);
    assert_eq!(bench.engine.live().ended, 1);
}

/// Each REGISTER puts the end off; a shorter one brings it near.
#[test]
fn a_registration_in_time_goes_on() {
    let mut bench = Bench::new(ANY);
    for _ in 0..5 {
        bench.ask(&register(own(100)).validity(10), OUTSIDE).one(Kind::Registered);
        assert_eq!(bench.pass_ms(9_999).changes, []);
    }
    bench.ask(&register(own(100)).validity(1), OUTSIDE).one(Kind::Registered);
    assert_eq!(ends(&bench.pass_ms(1_000)), [(own(100), 0)]);
}

/// Ruling 6: a private address of a realm, with any port, and a public address with its port belong
/// to one user: the new one.
#[test]
fn an_address_belongs_to_one_user() {
    let nat =
        |n, at_: &str| register_at(own(n), "172.16.0.9:9").realm(n as u32).endpoint(ty::NAT_ADDRESS, at(at_));
    for (first, second, taken) in [
        (register_at(own(100), "10.0.7.7:1"), register_at(own(101), "10.0.7.7:2"), true),
        (register_at(own(100), "10.0.7.7:1"), register_at(own(101), "10.0.7.8:1"), false),
        (register_at(own(100), "10.0.7.7:1"), register_at(own(101), "10.0.7.7:1").realm(9), false),
        (register_at(own(100), "10.0.7.7:1"), register_at(own(100), "10.0.7.7:1").device(2), false),
        (nat(100, "203.0.113.5:6"), nat(101, "203.0.113.5:6"), true),
        (nat(100, "203.0.113.5:6"), nat(101, "203.0.113.5:7"), false),
        (register_at(own(100), "10.0.7.7:1"), register_at(abroad(5), "10.0.7.7:1"), false),
    ] {
        let mut bench = Bench::new(ANY);
        bench.ask(&first, OUTSIDE);
        let said = bench.ask(&second, OUTSIDE);
        let expected: &[_] = if taken { &[(own(100), 0)] } else { &[] };
        assert_eq!(ends(&said), expected, "{second:?}");
        assert_eq!(bench.binding(own(100)).is_some(), !taken);
    }
}

/// Ruling 6, "from users.csv too".
#[test]
fn an_address_is_taken_from_users_csv_too() {
    let mut bench = Bench::new(ANY);
    // VXLAN has 10.0.0.1:2948 in realm 0; REALM9 the same in realm 9.
    let said = bench.ask(&register_at(own(100), "10.0.0.1:77"), OUTSIDE);
    assert_eq!(ends(&said), [(own(user::VXLAN), 0)]);
    let said = bench.ask(&register(own(101)), "203.0.113.9:40009");
    assert_eq!(ends(&said), [(own(user::NAT), 0)]);
    let said = bench.ask(&register(own(102)), "[2001:db8:9::26]:40026");
    assert_eq!(ends(&said), [(own(user::NAT6), 0)]);
    // Once ended it is not ended again, and the user can register elsewhere.
    assert_eq!(ends(&bench.ask(&register_at(own(103), "10.0.0.1:77"), OUTSIDE)), [(own(100), 0)]);
    assert_eq!(ends(&bench.ask(&register_at(own(user::VXLAN), "10.0.0.1:1"), OUTSIDE)), [(own(103), 0)]);
    // A row that has run out holds nothing that could be taken; ending it changes nothing either.
    bench.ask(&register_at(own(104), "10.0.0.18:1"), OUTSIDE).one(Kind::Registered);
}

/// INTERFACE.md, ruling 2.
#[test]
fn the_policy_says_who_may_register() {
    use RegisterPolicy::{Any, Segment, Signed};
    let key = user::KEY_VXLAN as u32;
    let keyed = own(user::KEY_VXLAN);
    let nobody = own(100);
    let gateway = at(PLAIN).with_port(9).to_string();
    let cases = [
        // Neither signed nor in a segment.
        (register(nobody), OUTSIDE, [true, false, false]),
        (register(nobody), INSIDE, [true, true, false]),
        (register(nobody).realm(9), INSIDE, [true, true, false]),
        (register(nobody).realm(8), INSIDE, [true, false, false]),
        // PrivateAddress, if given, must be that address.
        (register_at(nobody, "10.0.7.7:9"), INSIDE, [true, true, false]),
        (register_at(nobody, "10.0.7.8:9"), INSIDE, [true, false, false]),
        // A gateway speaks for all.
        (register_at(nobody, "10.0.7.8:9"), &gateway, [true, true, false]),
        // The user's own key.
        (register(keyed).signed(key), OUTSIDE, [true, true, true]),
        (register(keyed), OUTSIDE, [true, false, false]),
        // Another user's.
        (register(nobody).signed(key), OUTSIDE, [true, false, false]),
        (register(keyed).signed(user::KEY_NAT as u32), OUTSIDE, [true, false, false]),
        // A [[server]]'s: at its address only.
        (register_at(nobody, INSIDE).signed(ABROAD_KEY), ABROAD, [true, false, true]),
        (register_at(nobody, INSIDE).signed(ABROAD_KEY), OUTSIDE, [true, false, false]),
    ];
    for (request, from, permitted) in &cases {
        for (register, permitted) in [Any, Segment, Signed].into_iter().zip(permitted) {
            let mut bench = Bench::new(policy(register));
            let said = bench.ask(request, from);
            if *permitted {
                said.one(Kind::Registered);
            } else {
                assert_eq!(said.refused(), Reason::NotPermitted, "{register:?} {request:?} from {from}");
            }
        }
    }
}

/// Ruling 15: answers to a signed datagram are signed with the same key.
#[test]
fn a_signed_request_has_a_signed_answer() {
    let mut bench = Bench::new(ANY);
    let key = user::KEY_VXLAN as u32;
    let said = bench.ask(&register(own(user::KEY_VXLAN)).signed(key), OUTSIDE);
    assert_eq!(said.one(Kind::Registered).key(), Some(key));
    let said = bench.ask(&register(PushId(0xF << 124)).signed(key), OUTSIDE);
    assert_eq!(said.refused(), Reason::NoRoute);
    assert_eq!(said.read()[0].key(), Some(key));
}

/// No prefix: no-route. The all-zero user is nobody.
#[test]
fn users_of_no_server_are_refused() {
    let mut bench = Bench::new(ANY);
    assert_eq!(bench.ask(&register(PushId(0xF << 124 | 1)), OUTSIDE).refused(), Reason::NoRoute);
    assert_eq!(bench.ask(&register(PushId::NONE), OUTSIDE).refused(), Reason::UnknownDestination);
    assert_eq!(bench.ask(&release(PushId(0xF << 124 | 1)), OUTSIDE).refused(), Reason::NoRoute);
}

/// Ruling 18: older than the last REGISTER or RELEASE accepted for the same user and device.
#[test]
fn what_is_older_than_what_is_known_changes_nothing() {
    let key = user::KEY_VXLAN as u32;
    let user = own(user::KEY_VXLAN);
    let signed = |message: Msg, ago: u64| message.signed_at(key, NOW.unix_ms - ago);
    let mut bench = Bench::new(ANY);
    bench.ask(&signed(register(user), 100), OUTSIDE).one(Kind::Registered);
    assert_eq!(bench.ask(&signed(register(user), 101), INSIDE).refused(), Reason::StaleOrReplayed);
    assert_eq!(bench.ask(&signed(release(user), 101), INSIDE).refused(), Reason::StaleOrReplayed);
    bench.ask(&signed(register(user), 100), OUTSIDE).one(Kind::Registered);
    bench.ask(&signed(register(user).device(2), 101), "203.0.113.77:9").one(Kind::Registered);
    bench.ask(&signed(release(user), 50), OUTSIDE).one(Kind::Released);
    for device in [0, 2, 3] {
        let said = bench.ask(&signed(register(user).device(device), 51), OUTSIDE);
        assert_eq!(said.refused(), Reason::StaleOrReplayed, "device {device}");
    }
    bench.ask(&signed(register(user), 50), OUTSIDE).one(Kind::Registered);
    // An unsigned one is as old as its arrival.
    bench.ask(&register(user), OUTSIDE).one(Kind::Registered);
    assert_eq!(bench.ask(&signed(register(user), 1), OUTSIDE).refused(), Reason::StaleOrReplayed);
}

/// Ruling 18, "a RELEASE is remembered for 60 s", and it is after a crash, also one of nothing.
#[test]
fn a_release_is_remembered_for_a_minute() {
    let key = user::BOTH as u32;
    let user = own(user::BOTH);
    for device in [0, 4] {
        for restarts in [false, true] {
            let mut bench = Bench::new(ANY);
            let later = NOW.unix_ms + 20_000;
            let request = msg(Kind::Release, user, PushId::NONE).device(device).signed_at(key, later);
            bench.ask(&request, OUTSIDE).one(Kind::Released);
            if restarts {
                bench.restart();
            }
            let again = || register(user).device(4).signed_at(key, later - 1);
            bench.pass_ms(59_999);
            assert_eq!(bench.ask(&again(), OUTSIDE).refused(), Reason::StaleOrReplayed);
            bench.pass_ms(2);
            bench.ask(&again(), OUTSIDE).one(Kind::Registered);
        }
    }
}

/// A signed REGISTER that was long on its way does not take an address from its next owner.
#[test]
fn a_late_registration_does_not_take_an_address_back() {
    let mut bench = Bench::new(ANY);
    let of = |n: u128, ago| register_at(own(n), INSIDE).signed_at(n as u32, NOW.unix_ms - ago);
    bench.ask(&of(user::KEY_NAT, 10), OUTSIDE).one(Kind::Registered);
    assert_eq!(bench.ask(&of(user::KEY_VXLAN, 11), OUTSIDE).refused(), Reason::StaleOrReplayed);
    bench.ask(&of(user::KEY_VXLAN, 10), OUTSIDE).one(Kind::Registered);
    assert!(bench.binding(own(user::KEY_NAT)).is_none());
}

/// Ruling 20.
#[test]
fn release_ends_what_it_names() {
    let fill = |bench: &mut Bench| {
        for (device, private) in [(0, "10.0.7.1:1"), (1, "10.0.7.1:2"), (2, "10.0.7.2:1"), (3, "10.0.7.3:1")]
        {
            let imsi = [0x64, 0x00, 0x10, 0x32, 0x54, 0x76, 0x98, 0xF0 | device];
            let mut request = register_at(own(100), private).device(device).realm(u32::from(device / 3) * 9);
            if device > 1 {
                request = request.option(ty::IMSI, &imsi);
            }
            bench.ask(&request, OUTSIDE).one(Kind::Registered);
        }
        bench.ask(&register_at(own(101), "10.0.7.4:1"), OUTSIDE).one(Kind::Registered);
    };
    let plain = || msg(Kind::Release, own(100), PushId::NONE);
    let private = |text: &str| plain().endpoint(ty::PRIVATE_ADDRESS, at(text));
    let imsi = |last: u8| plain().option(ty::IMSI, &[0x64, 0x00, 0x10, 0x32, 0x54, 0x76, 0x98, 0xF0 | last]);
    let cases: [(Msg, &[u8]); 13] = [
        (plain().device(0), &[0, 1, 2, 3]),
        (plain().device(2), &[2]),
        (plain().device(9), &[]),
        // Of an address: whatever the port, and in its realm.
        (private("10.0.7.1:9"), &[0, 1]),
        (private("10.0.7.1:9").device(1), &[1]),
        (private("10.0.7.1:9").device(0), &[0, 1]),
        (private("10.0.7.3:1"), &[]),
        (private("10.0.7.3:1").realm(9), &[3]),
        // Somebody else's address.
        (private("10.0.7.4:1"), &[]),
        (imsi(2), &[2]),
        (imsi(3), &[3]),
        (imsi(7), &[]),
        (imsi(2).device(3), &[]),
    ];
    for (request, devices) in &cases {
        let mut bench = Bench::new(ANY);
        fill(&mut bench);
        let said = bench.ask(request, OUTSIDE);
        said.one(Kind::Released);
        let mut ended = ends(&said);
        ended.sort();
        let expected: Vec<_> = devices.iter().map(|device| (own(100), *device)).collect();
        assert_eq!(ended, expected, "{request:?}");
        assert!(bench.binding(own(101)).is_some(), "only the destination's (ruling 6)");
        // Answered also when there is nothing left.
        bench.ask(&request.clone().id(9), OUTSIDE).one(Kind::Released);
    }
}

/// "Not by users.csv either": a RELEASE ends a row, and it stays ended.
#[test]
fn release_ends_rows_of_users_csv() {
    let mut bench = Bench::new(ANY);
    let said = bench.ask(&release(own(user::SEVERAL)), OUTSIDE);
    let mut ended = ends(&said);
    ended.sort();
    assert_eq!(ended, [0, 1, 2, 3].map(|device| (own(user::SEVERAL), device)));
    bench.pass_ms(1 << 40);
    bench.restart();
    assert_eq!(bench.engine.live().ended, 4);
    // Of an unknown user nothing is to be known afterwards (ruling 9).
    let said = bench.ask(&release(own(user::NOBODY)), OUTSIDE);
    assert_eq!(ends(&said), []);
}

/// `[limits] bindings`: new terminals are refused, known ones are not, and rows can always be hidden.
#[test]
fn there_is_room_for_so_many() {
    let mut bench = Bench::with(ANY, Limits { bindings: 2, ..LIMITS }, &rib());
    let at_ = |n: u128| format!("10.0.7.{n}:1");
    for n in [1, 2] {
        bench.ask(&register_at(own(100 + n), &at_(n)), OUTSIDE).one(Kind::Registered);
    }
    let said = bench.ask(&register_at(own(103), &at_(3)), OUTSIDE);
    assert_eq!(said.refused(), Reason::Overloaded);
    bench.ask(&register_at(own(101), "10.0.0.1:1"), OUTSIDE).one(Kind::Registered);
    bench.pass_ms(3_600_000 + 600_000);
    bench.ask(&register_at(own(103), &at_(3)), OUTSIDE).one(Kind::Registered);
}

/// A Push ID is lent (ruling 5) to who asks with sixteen zero bytes.
#[test]
fn a_push_id_is_lent() {
    let mut bench = Bench::new(ANY);
    let asks = |user| register(user).option(ty::DYNAMIC_ID, &[0; 16]).validity(10);
    let said = bench.ask(&asks(own(100)), OUTSIDE);
    let lent = said.one(Kind::Registered).lent().unwrap();
    assert!(bench.tables.route(lent) == bench.tables.own() && lent != own(100));
    let until_ms = NOW.unix_ms + 10_000;
    assert_eq!(said.changes[1], Change::Lend { lent, user: own(100), device: 0, until_ms });
    // The same terminal keeps it; no other gets it.
    bench.pass_ms(1000);
    assert_eq!(bench.ask(&asks(own(100)), OUTSIDE).one(Kind::Registered).lent(), Some(lent));
    assert_ne!(bench.ask(&asks(own(101)), INSIDE).one(Kind::Registered).lent(), Some(lent));
    // It is no user that could register, and no group.
    assert_eq!(bench.ask(&register(lent), OUTSIDE).refused(), Reason::NotPermitted);
    // It ends with its validity, or with the binding.
    let said = bench.pass_ms(10_000);
    assert!(said.changes.contains(&Change::Unlend { lent }), "{:?}", said.changes);
    let second = bench.ask(&asks(own(100)), OUTSIDE).one(Kind::Registered).lent().unwrap();
    assert_ne!(second, lent, "not lent again for ten minutes");
    let said = bench.ask(&release(own(100)), OUTSIDE);
    assert!(said.changes.contains(&Change::Unlend { lent: second }));
    bench.pass_ms(600_000);
    assert_eq!(bench.engine.live().lent, 0);
}

/// Ruling 5, "or all zero if it has none".
#[test]
fn who_has_no_push_id_is_lent_one() {
    let mut bench = Bench::new(ANY);
    let asks = |id: PushId| register(PushId::NONE).option(ty::DYNAMIC_ID, &id.to_bytes()).validity(10);
    let lent = bench.ask(&asks(PushId::NONE), OUTSIDE).one(Kind::Registered).lent().unwrap();
    assert!(bench.tables.route(lent) == bench.tables.own());
    assert_eq!(bench.binding(lent).unwrap().nat, Some(at(OUTSIDE)));
    // Renewed by its name in either field.
    assert_eq!(bench.ask(&asks(lent), OUTSIDE).one(Kind::Registered).lent(), Some(lent));
    bench.ask(&register(lent), OUTSIDE).one(Kind::Registered);
    assert_eq!(bench.bound().len(), 1);
    // Somebody else at the same address takes it.
    let other = bench.ask(&asks(PushId::NONE), OUTSIDE).one(Kind::Registered).lent().unwrap();
    assert_ne!(other, lent);
    assert_eq!(bench.bound().len(), 1);
    bench.ask(&release(other), OUTSIDE).one(Kind::Released);
    assert_eq!(bench.bound().len(), 0);
}

/// INTERFACE.md, ruling 9: what was answered holds after a crash.
#[test]
fn what_was_answered_is_there_after_a_crash() {
    let mut bench = Bench::new(STATIC);
    for n in 0..20u128 {
        let request = register_at(own(100 + n), &format!("10.0.7.{n}:1")).validity((n % 3) as u32 * 100);
        bench.ask(&request, OUTSIDE).one(Kind::Registered);
    }
    bench.ask(&release(own(103)), OUTSIDE).one(Kind::Released);
    let before = bench.bound();
    let said = bench.restart();
    assert_eq!(said.changes, []);
    assert_eq!(bench.bound(), before);
    // A snapshot says the same as the journal.
    bench.journal = bench.engine.changes().collect();
    bench.restart();
    assert_eq!(bench.bound(), before);
    // What ran out meanwhile ends at the start.
    bench.now = bench.now.plus_ns(100_000_000_000);
    let said = bench.restart();
    assert_eq!(ends(&said).len(), 7);
    assert_eq!(bench.engine.live().bindings, 12);
}

/// INTERFACE.md, ruling 10: tables that come later do not give an address away that the network gave to
/// another user.
#[test]
fn new_tables_do_not_take_an_address_back() {
    let mut bench = Bench::new(ANY);
    bench.ask(&register_at(own(100), "10.0.7.7:1").validity(9), OUTSIDE).one(Kind::Registered);
    let mut more = rib();
    more.users.push(pushplane::table::rib::User {
        private: Some(at("10.0.7.7:5")),
        ..pushplane::table::rib::User::new(own(300), 2)
    });
    let said = bench.replace_tables(&more);
    assert_eq!(ends(&said), [(own(300), 2)]);
    assert_eq!(bench.replace_tables(&more).changes, []);
    // Without the row it is forgotten, as other ended ones are.
    assert_eq!(bench.replace_tables(&rib()).changes, []);
    bench.pass_ms(700_000);
    assert_eq!(bench.engine.live().ended, 0);
}

/// A REJECT is never sent to an answer, nor where the policy forbids it, nor without a message identifier.
#[test]
fn what_may_not_be_answered_is_not() {
    let mut bench = Bench::new(ANY);
    for kind in [Kind::Registered, Kind::Released, Kind::Reject, Kind::Grouped, Kind::Resolved, Kind::Receipt]
    {
        let request = msg(kind, own(100), PushId::NONE)
            .validity(1)
            .option(ty::REASON, &[0, 1])
            .option(ty::GROUP_REQUEST, &[1, 0, 0, 0]);
        let said = bench.ask(&request, OUTSIDE);
        assert_eq!((said.dropped, said.replies.len()), (vec![Reason::UnsupportedKind], 0), "{kind:?}");
    }
    let said = bench.datagram(&[0x14; 47], at(OUTSIDE), 0);
    assert_eq!((said.dropped, said.replies.len()), (vec![Reason::Malformed], 0));
    let said = bench.ask(&msg(Kind::Register, own(1), own(2)), OUTSIDE);
    assert_eq!(said.refused(), Reason::Malformed);
    let mut bench = Bench::new(Policy { rejects: false, ..ANY });
    let said = bench.ask(&register(PushId::NONE), OUTSIDE);
    assert_eq!((said.dropped, said.replies.len()), (vec![Reason::UnknownDestination], 0));
}
