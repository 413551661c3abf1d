//! Roaming (ruling 4), one server at a time: what it says to others, and what it makes of what they say.

use pushplane::config::{Limits, RegisterPolicy};
use pushplane::id::PushId;
use pushplane::reason::Reason;
use pushplane::table::Change;
use pushplane::wire::prp::auth::Auth;
use pushplane::wire::prp::{Kind, option_type as ty};

use super::bench::*;
use super::lab::*;

/// The user of the server `abroad`, which shares a key.
const VISITOR: PushId = abroad(5);

fn visit() -> Msg {
    register(VISITOR).device(2).validity(100)
}

/// An answer of the server `abroad` to a request.
fn answers(asked: &Read<'_>, kind: Kind) -> Msg {
    let header = asked.message.header;
    msg(kind, header.source, header.destination).id(header.message).payload(b"")
}

fn registered(asked: &Read<'_>, validity: u32) -> Msg {
    answers(asked, Kind::Registered).validity(validity)
}

fn rejected(asked: &Read<'_>, reason: Reason) -> Msg {
    answers(asked, Kind::Reject).option(ty::REASON, &reason.code().to_be_bytes())
}

/// Signed now, by the server `abroad`.
fn from_abroad(bench: &mut Bench, message: Msg) -> Said {
    let message = message.signed_at(ABROAD_KEY, bench.now.unix_ms);
    bench.ask(&message, ABROAD)
}

/// A visitor is bound; the server's own clock shows when.
fn visiting() -> Bench {
    let mut bench = Bench::new(ANY);
    let asked = bench.ask(&visit(), OUTSIDE);
    let answer = registered(&asked.one(Kind::Register), 100);
    from_abroad(&mut bench, answer);
    assert_eq!(bench.bound().len(), 1);
    bench
}

/// "REGISTER (destination = the user, ServingServer = its own address, Validity and Device as granted)",
/// over its own key; the client is answered only after the home server was.
#[test]
fn a_visitor_is_registered_at_home_first() {
    let mut bench = Bench::new(ANY);
    let said = bench.ask(&register(VISITOR).device(2).validity(1 << 20).id(77), OUTSIDE);
    let asked = said.one(Kind::Register);
    assert_eq!(said.changes, [], "nothing is bound yet");
    assert_eq!(asked.reply.to, at(ABROAD));
    assert_eq!(asked.key(), Some(ABROAD_KEY));
    let (header, options, bytes) = (asked.message.header, asked.message.options, asked.bytes());
    assert_eq!((header.destination, header.source), (VISITOR, PushId::NONE));
    assert_eq!(options.serving_server(bytes), Some(at(LISTEN4)));
    assert_eq!((options.device(bytes), options.validity(bytes)), (Some(2), Some(86_400)));
    assert_eq!(bench.engine.live().pending, 1);

    bench.pass_ms(100);
    let answer = registered(&asked, 86_400);
    let said = from_abroad(&mut bench, answer);
    let answer = said.one(Kind::Registered);
    assert_eq!((answer.reply.to, answer.message.header.message), (at(OUTSIDE), 77));
    assert_eq!(answer.validity(), Some(86_400));
    let binding = bench.binding(VISITOR).unwrap();
    assert_eq!((binding.nat, binding.device), (Some(at(OUTSIDE)), 2));
    assert_eq!(binding.valid_until_ms, Some(NOW.unix_ms + 100 + 86_400_000));
    assert_eq!(bench.engine.live().pending, 0);
}

/// Ruling 19: what the home server grants bounds what is granted here.
#[test]
fn a_visit_is_no_longer_than_home_grants() {
    for (asked, home, granted) in [(100, 50, 50), (100, 200, 100), (100, 0, 100), (0, 50, 50), (0, 0, 0)] {
        let mut bench = Bench::new(pushplane::config::Policy { static_bindings: true, ..ANY });
        let said = bench.ask(&register(VISITOR).validity(asked), OUTSIDE);
        let answer = registered(&said.one(Kind::Register), home);
        let said = from_abroad(&mut bench, answer);
        assert_eq!(said.one(Kind::Registered).validity(), Some(granted), "{asked} {home}");
    }
}

/// Retries with identifiers of their own (ruling 17), then the client is told.
#[test]
fn a_silent_home_server_is_asked_again_and_given_up() {
    let mut bench = Bench::new(ANY);
    let said = bench.ask(&visit().id(77), OUTSIDE);
    let mut ids = vec![said.one(Kind::Register).message.header.message];
    for wait in [500, 1000, 2000] {
        assert_eq!(bench.pass_ms(wait - 1).replies, []);
        let said = bench.pass_ms(1);
        ids.push(said.one(Kind::Register).message.header.message);
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4);
    assert_eq!(bench.pass_ms(1499).replies, []);
    let said = bench.pass_ms(1);
    assert_eq!(said.refused(), Reason::GatewayFailed);
    assert_eq!(said.read()[0].message.header.message, 77);
    assert_eq!(said.read()[0].reply.to, at(OUTSIDE));
    assert_eq!((bench.engine.poll_timeout(), bench.engine.live().relays), (None, 0));
}

/// An answer to any repetition will do; to another identifier, from elsewhere, or unsigned, it will not.
#[test]
fn only_the_home_servers_answer_counts() {
    let mut bench = Bench::new(ANY);
    let first = bench.ask(&visit(), OUTSIDE);
    let second = bench.pass_ms(500);
    let (first, second) = (first.one(Kind::Register), second.one(Kind::Register));
    let good = registered(&first, 100);
    let message = good.header.message;
    for (answer, from, reason) in [
        (good.clone().signed(ABROAD_KEY), OUTSIDE, Reason::UnsupportedKind),
        (good.clone(), OPEN, Reason::UnsupportedKind),
        (good.clone(), ABROAD, Reason::AuthenticationFailed),
        (good.clone().signed(NOBODYS_KEY), ABROAD, Reason::AuthenticationFailed),
        (good.clone().id(message + 16).signed(ABROAD_KEY), ABROAD, Reason::UnsupportedKind),
        (good.clone().id(message + 2).signed(ABROAD_KEY), ABROAD, Reason::UnsupportedKind),
        (good.clone().source(own(1)).signed(ABROAD_KEY), ABROAD, Reason::UnsupportedKind),
        (good.kind(Kind::Released as u8).signed(ABROAD_KEY), ABROAD, Reason::UnsupportedKind),
    ] {
        let said = bench.ask(&answer, from);
        assert_eq!((&said.dropped[..], said.replies.len()), (&[reason][..], 0), "{answer:?} from {from}");
    }
    from_abroad(&mut bench, registered(&second, 100)).one(Kind::Registered);
    let said = from_abroad(&mut bench, registered(&first, 100));
    assert_eq!(said.dropped, [Reason::UnsupportedKind], "it was answered already");
}

/// "Else REJECT", for the home server's reason.
#[test]
fn the_home_server_may_refuse() {
    let mut bench = Bench::new(ANY);
    let said = bench.ask(&visit().id(77), OUTSIDE);
    let answer = rejected(&said.one(Kind::Register), Reason::Overloaded);
    let said = from_abroad(&mut bench, answer);
    assert_eq!(said.refused(), Reason::Overloaded);
    assert_eq!(said.read()[0].reply.to, at(OUTSIDE));
}

/// "Again at half of each Validity", of the one that the home server granted, as long as the visit lasts.
#[test]
fn a_visit_is_renewed_at_half_of_its_validity() {
    let mut bench = visiting();
    assert_eq!(bench.pass_ms(49_999).replies, []);
    let said = bench.pass_ms(1);
    let asked = said.one(Kind::Register);
    assert_eq!(asked.message.options.validity(asked.bytes()), Some(100));
    assert_eq!(asked.message.options.device(asked.bytes()), Some(2));
    // This time the home server grants less.
    let answer = registered(&asked, 20);
    assert_eq!(from_abroad(&mut bench, answer).replies, [], "nobody waits for it");
    bench.pass_ms(9_999);
    let said = bench.pass_ms(1);
    // A home server that refuses, or is silent, is asked again at half of what is left.
    let answer = rejected(&said.one(Kind::Register), Reason::RateLimited);
    from_abroad(&mut bench, answer);
    assert_eq!(bench.pass_ms(19_999).replies, []);
    assert_eq!(bench.pass_ms(1).replies.len(), 1);
    assert_eq!(bench.pass_ms(5_000 + 7_500).replies.len(), 3 + 1);
    // The visit ends all the same.
    let said = bench.pass_ms(1 << 20);
    assert!(said.changes.contains(&Change::Forget { user: VISITOR, device: 2 }));
    assert_eq!(bench.engine.poll_timeout(), None);
}

#[test]
fn a_visit_goes_on_after_a_crash() {
    let mut bench = visiting();
    bench.pass_ms(20_000);
    assert_eq!(bench.restart().changes, []);
    assert_eq!(bench.pass_ms(39_999).replies, []);
    let said = bench.pass_ms(1);
    let asked = said.one(Kind::Register);
    assert_eq!(asked.message.options.validity(asked.bytes()), Some(80));
}

/// Releases by visitors are answered at once and relayed home, until it has heard.
#[test]
fn a_visitor_that_leaves_is_released_at_home() {
    for (request, device) in [
        (release(VISITOR), 0),
        (release(VISITOR).id(1), 0),
        (msg(Kind::Release, VISITOR, PushId::NONE).device(2), 2),
        (msg(Kind::Release, VISITOR, PushId::NONE).endpoint(ty::PRIVATE_ADDRESS, at("10.0.7.9:1")), 255),
    ] {
        let mut bench = visiting();
        bench.pass_ms(1);
        let said = bench.ask(&request, OUTSIDE);
        if device == 255 {
            said.one(Kind::Released);
            assert_eq!(bench.bound().len(), 1);
            continue;
        }
        let read = said.read();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].message.kind, read[0].reply.to), (Kind::Released, at(OUTSIDE)));
        let asked = &read[1];
        assert_eq!((asked.message.kind, asked.reply.to), (Kind::Release, at(ABROAD)));
        assert_eq!(asked.message.options.device(asked.bytes()), Some(device));
        assert_eq!(asked.key(), Some(ABROAD_KEY));
        assert_eq!(bench.pass_ms(500).replies.len(), 1);
        let answer = answers(asked, Kind::Released);
        from_abroad(&mut bench, answer);
        assert_eq!(bench.pass_ms(1 << 20).replies, [], "neither repeated nor renewed");
    }
    // Of who is not here there is nothing to say at home.
    let mut bench = Bench::new(ANY);
    bench.ask(&release(VISITOR), OUTSIDE).one(Kind::Released);
}

/// A registration under way is over when the client releases; what comes of it afterwards is nothing.
#[test]
fn a_release_ends_a_registration_under_way() {
    let mut bench = Bench::new(ANY);
    let asked = bench.ask(&visit().id(77), OUTSIDE);
    let said = bench.ask(&release(VISITOR).id(78), OUTSIDE);
    let ids: Vec<_> =
        said.read().iter().map(|read| (read.message.kind, read.message.header.message)).collect();
    assert_eq!(ids, [(Kind::Released, 78), (Kind::Reject, 77)]);
    assert_eq!(said.dropped, [Reason::StaleOrReplayed]);
    let answer = registered(&asked.one(Kind::Register), 100);
    assert_eq!(from_abroad(&mut bench, answer).dropped, [Reason::UnsupportedKind]);
    assert_eq!(bench.bound(), []);
}

/// The home server ends a visit; no other server does.
#[test]
fn the_home_server_ends_a_visit() {
    let request = || msg(Kind::Release, VISITOR, PushId::NONE).device(2);
    let mut bench = visiting();
    assert_eq!(bench.ask(&request(), ABROAD).refused(), Reason::AuthenticationFailed);
    assert_eq!(bench.ask(&request(), OPEN).refused(), Reason::NotPermitted);
    let said = from_abroad(&mut bench, request());
    assert_eq!(said.one(Kind::Released).key(), Some(ABROAD_KEY));
    assert_eq!(bench.bound(), []);
    assert_eq!(bench.pass_ms(1 << 20).replies, [], "not told what it said itself, not renewed");
    // Even where only the users' own signatures count: a server speaks for what concerns it.
    let mut bench = Bench::new(policy(RegisterPolicy::Segment));
    from_abroad(&mut bench, request()).one(Kind::Released);
}

/// The word of the home server may cross a registration that it does not know of yet.
#[test]
fn a_release_that_crosses_a_registration_does_not_undo_it() {
    let mut bench = visiting();
    bench.pass_ms(1000);
    let asked = bench.ask(&visit().id(77), OUTSIDE);
    bench.pass_ms(10);
    let said = from_abroad(&mut bench, msg(Kind::Release, VISITOR, PushId::NONE).device(2));
    said.one(Kind::Released);
    assert_eq!(bench.bound(), []);
    let answer = registered(&asked.one(Kind::Register), 100);
    from_abroad(&mut bench, answer).one(Kind::Registered);
    assert_eq!(bench.bound().len(), 1);
}

fn serving(user: PushId, address: &str) -> Msg {
    msg(Kind::Register, user, PushId::NONE).endpoint(ty::SERVING_SERVER, at(address)).device(2).validity(100)
}

/// The home side: ServingServer is taken only from that [[server]], signed where it has a key,
/// whatever policy.register says.
#[test]
fn a_user_abroad_is_registered_by_the_server_there() {
    use RegisterPolicy::{Any, Segment, Signed};
    for register in [Any, Segment, Signed] {
        let mut bench = Bench::new(policy(register));
        for (request, from, reason) in [
            (serving(own(100), OUTSIDE), OUTSIDE, Reason::NotPermitted),
            (serving(own(100), ABROAD), OUTSIDE, Reason::NotPermitted),
            (serving(own(100), ABROAD), INSIDE, Reason::NotPermitted),
            (serving(own(100), ABROAD), ABROAD, Reason::AuthenticationFailed),
            (serving(own(100), OPEN).signed(ABROAD_KEY), ABROAD, Reason::NotPermitted),
            (serving(abroad(100), ABROAD).signed(ABROAD_KEY), ABROAD, Reason::NoRoute),
            (serving(PushId(0xF << 124), ABROAD).signed(ABROAD_KEY), ABROAD, Reason::NoRoute),
        ] {
            assert_eq!(bench.ask(&request, from).refused(), reason, "{request:?} from {from}");
        }
        let said = bench.ask(&serving(own(100), ABROAD).signed(ABROAD_KEY), ABROAD);
        let answer = said.one(Kind::Registered);
        assert_eq!((answer.validity(), answer.key()), (Some(100), Some(ABROAD_KEY)));
        let binding = bench.binding(own(100)).unwrap();
        assert_eq!((binding.serving, binding.device), (Some(at(ABROAD)), 2));
        assert_eq!((binding.private, binding.nat), (None, None));
        // The server without a key.
        let said = bench.ask(&serving(own(101), OPEN), OPEN);
        assert_eq!(said.one(Kind::Registered).key(), None);
    }
}

/// Moving on, and returning home, ends the old server's binding: it is told until it says so.
#[test]
fn the_server_that_served_before_is_told() {
    let at_home = register(own(100)).device(2);
    for moves_on in [true, false] {
        let mut bench = Bench::new(ANY);
        from_abroad(&mut bench, serving(own(100), ABROAD)).one(Kind::Registered);
        bench.pass_ms(10);
        let said =
            if moves_on { bench.ask(&serving(own(100), OPEN), OPEN) } else { bench.ask(&at_home, OUTSIDE) };
        let read = said.read();
        assert_eq!(read.len(), 2);
        let told = &read[1];
        assert_eq!((told.message.kind, told.reply.to), (Kind::Release, at(ABROAD)));
        assert_eq!(told.message.options.device(told.bytes()), Some(2));
        assert_eq!(told.key(), Some(ABROAD_KEY));
        // Its renewal in passing would undo this; so would its word that the user left.
        let said = from_abroad(&mut bench, msg(Kind::Release, own(100), PushId::NONE).device(2));
        said.one(Kind::Released);
        let now = bench.binding(own(100)).unwrap().serving;
        assert_eq!(now, moves_on.then(|| at(OPEN)));
        // A clock that is behind calls it stale; later it is not.
        let answer = rejected(told, Reason::StaleOrReplayed);
        from_abroad(&mut bench, answer);
        let again = bench.pass_ms(500);
        let answer = answers(&again.one(Kind::Release), Kind::Released);
        from_abroad(&mut bench, answer);
        assert_eq!(bench.pass_ms(80_000).replies, []);
    }
}

/// Who comes back to a server is not released there by what was to be said before.
#[test]
fn who_comes_back_is_not_released() {
    let mut bench = Bench::new(ANY);
    for (request, from) in [(serving(own(100), OPEN), OPEN), (register(own(100)).device(2), OUTSIDE)] {
        bench.pass_ms(10);
        bench.ask(&request, from);
    }
    assert_eq!(bench.engine.live().relays, 1);
    bench.pass_ms(10);
    let said = bench.ask(&serving(own(100), OPEN), OPEN);
    said.one(Kind::Registered);
    assert_eq!(bench.pass_ms(50_000).replies, []);
}

/// A RELEASE at home ends the visit elsewhere; all terminals at one server are one message.
#[test]
fn a_release_at_home_is_told_where_the_user_is() {
    let mut bench = Bench::new(ANY);
    for device in [1, 2] {
        let request =
            msg(Kind::Register, own(100), PushId::NONE).endpoint(ty::SERVING_SERVER, at(OPEN)).device(device);
        bench.ask(&request, OPEN).one(Kind::Registered);
    }
    let said = bench.ask(&release(own(100)), OUTSIDE);
    let read = said.read();
    assert_eq!((read.len(), read[1].reply.to), (2, at(OPEN)));
    assert_eq!(read[1].message.options.device(read[1].bytes()), Some(0));
    assert_eq!(read[1].key(), None);
    assert_eq!(bench.bound(), []);
    // users.csv says where a user roams, too.
    let said = bench.ask(&release(own(user::ROAMING_TWICE)), OUTSIDE);
    let mut told: Vec<_> = said.read().iter().skip(1).map(|read| read.reply.to).collect();
    told.sort();
    assert_eq!(told, [at(ABROAD), at(ELSEWHERE)]);
}

/// `[limits] relays`, and a few at a time for each terminal.
#[test]
fn so_many_wait_at_once() {
    let mut bench = Bench::with(ANY, Limits { relays: 6, ..LIMITS }, &rib());
    for _ in 0..4 {
        bench.ask(&visit(), OUTSIDE).one(Kind::Register);
    }
    assert_eq!(bench.ask(&visit(), OUTSIDE).refused(), Reason::Overloaded);
    for device in [3, 4] {
        bench.ask(&register(VISITOR).device(device), INSIDE).one(Kind::Register);
    }
    assert_eq!(bench.ask(&register(abroad(6)), INSIDE).refused(), Reason::Overloaded);
    assert_eq!(bench.engine.live().pending, 6);
    bench.pass_ms(5_000);
    assert_eq!(bench.engine.live().pending, 0);
}

/// Several of one terminal are as if they came one after the other.
#[test]
fn registrations_under_way_end_each_for_itself() {
    let mut bench = Bench::new(ANY);
    let first = bench.ask(&visit().id(1), OUTSIDE);
    bench.pass_ms(1);
    let second = bench.ask(&visit().id(2), "203.0.113.78:1");
    for (asked, to) in [(second, "203.0.113.78:1"), (first, OUTSIDE)] {
        let answer = registered(&asked.one(Kind::Register), 100);
        let said = from_abroad(&mut bench, answer);
        if to == OUTSIDE {
            assert_eq!((said.dropped.clone(), said.changes.len()), (vec![Reason::StaleOrReplayed], 0));
            // The home server took this one last: it is told again what holds.
            let [refusal, renewal] = &said.read()[..] else { panic!("{:?}", said.replies) };
            assert!(refusal.reply.is_reject);
            assert_eq!((renewal.message.kind, renewal.reply.to), (Kind::Register, at(ABROAD)));
        } else {
            said.one(Kind::Registered);
        }
        assert_eq!(bench.binding(VISITOR).unwrap().nat, Some(at("203.0.113.78:1")));
    }
}

/// "One address, one user" (ruling 6) is decided in the order in which requests come, not in that in which home
/// servers answer: who waits for one must not take an address from who asked for it later and was answered.
#[test]
fn who_waits_for_home_loses_the_address_to_who_asked_later() {
    for later in [register(own(20)), register(abroad(6)).device(1)] {
        let mut bench = Bench::new(ANY);
        let first = bench.ask(&visit().id(1), OUTSIDE);
        bench.pass_ms(1);
        let second = bench.ask(&later.clone().id(2), OUTSIDE);
        let said = if bench.engine.live().pending == 2 {
            from_abroad(&mut bench, registered(&second.one(Kind::Register), 100))
        } else {
            second
        };
        // The later one is answered, the earlier one refused, and its home told that it is not here.
        let said: Vec<_> = said.read().iter().map(|read| (read.message.kind, read.reply.to)).collect();
        let expected =
            [(Kind::Registered, at(OUTSIDE)), (Kind::Reject, at(OUTSIDE)), (Kind::Release, at(ABROAD))];
        assert_eq!(said, expected);
        let late = from_abroad(&mut bench, registered(&first.one(Kind::Register), 100));
        assert_eq!(late.changes, []);
        let user = later.bytes()[8..24].try_into().map(PushId::from_bytes).unwrap();
        assert_eq!(bench.bound().iter().map(|binding| binding.user).collect::<Vec<_>>(), [user]);
    }
}

/// The other way round: who asked later and still waits when the earlier one is answered goes on waiting.
#[test]
fn who_asked_later_takes_the_address_when_home_has_answered() {
    let mut bench = Bench::new(ANY);
    let first = bench.ask(&visit().id(1), OUTSIDE);
    let second = bench.ask(&register(abroad(6)).id(2), OUTSIDE);
    from_abroad(&mut bench, registered(&first.one(Kind::Register), 100)).one(Kind::Registered);
    from_abroad(&mut bench, registered(&second.one(Kind::Register), 100));
    assert_eq!(bench.bound().iter().map(|binding| binding.user).collect::<Vec<_>>(), [abroad(6)]);
}

/// A request to the home server is as old as what the visitor asked, however often it is repeated: what the home
/// server heard since is newer (ruling 18).
#[test]
fn a_repetition_is_as_old_as_the_first() {
    let mut bench = Bench::new(ANY);
    let time = |said: &Said| {
        let read = &said.read()[0];
        Auth::of(&read.message.options, read.bytes()).unwrap().unix_ms
    };
    assert_eq!(time(&bench.ask(&visit(), OUTSIDE)), NOW.unix_ms);
    assert_eq!(time(&bench.pass_ms(500)), NOW.unix_ms);
    assert_eq!(time(&bench.pass_ms(1000)), NOW.unix_ms);
}

/// A registration that its home server took after a newer one has ended there what holds here: it is told again, of
/// a visit without an end as well.
#[test]
fn home_is_told_again_what_holds() {
    let mut bench = Bench::new(pushplane::config::Policy { static_bindings: true, ..ANY });
    let visit = |validity, id| register(VISITOR).device(2).validity(validity).id(id);
    let old = bench.ask(&visit(6, 1), OUTSIDE);
    bench.pass_ms(1);
    let new = bench.ask(&visit(0, 2), OUTSIDE);
    from_abroad(&mut bench, registered(&new.one(Kind::Register), 0)).one(Kind::Registered);
    let said = from_abroad(&mut bench, registered(&old.one(Kind::Register), 6));
    let read = said.read();
    let renewal = read.iter().find(|read| read.message.kind == Kind::Register).expect("home is told");
    assert_eq!((renewal.validity(), renewal.reply.to), (Some(0), at(ABROAD)));
    from_abroad(&mut bench, registered(renewal, 0));
    assert_eq!(bench.engine.poll_timeout(), None, "a visit without an end is not renewed");
}

/// Ruling 18 knows no difference between clients and servers: a RELEASE of a server is remembered for 60 s too, when
/// there was nothing left to release.
#[test]
fn a_registration_from_before_the_visit_ended_is_refused() {
    let mut bench = Bench::new(ANY);
    let user = own(5);
    let sent = |message: Msg, unix_ms: u64| message.signed_at(ABROAD_KEY, unix_ms);
    let leave = msg(Kind::Release, user, PushId::NONE).device(2).id(1);
    let leave = sent(leave, NOW.unix_ms + 10);
    bench.pass_ms(20);
    bench.ask(&leave, ABROAD).one(Kind::Released);
    let late = sent(serving(user, ABROAD).id(2), NOW.unix_ms + 9);
    assert_eq!(bench.ask(&late, ABROAD).refused(), Reason::StaleOrReplayed);
    let newer = sent(serving(user, ABROAD).id(3), NOW.unix_ms + 11);
    bench.ask(&newer, ABROAD).one(Kind::Registered);
}

/// Device 0 in RELEASE is all of a user's terminals (ruling 20): when the one without a number moves on, those that stay
/// where it was must not be released there. Its home server says where it is now; that means this one alone.
#[test]
fn a_terminal_without_a_number_does_not_take_the_others_along() {
    let mut home = Bench::new(ANY);
    let visits = msg(Kind::Register, own(100), PushId::NONE).endpoint(ty::SERVING_SERVER, at(ABROAD));
    from_abroad(&mut home, visits.device(0).validity(100).id(1)).one(Kind::Registered);
    home.pass_ms(10);
    let said = home.ask(&register(own(100)).device(0).id(3), OUTSIDE);
    let told = &said.read()[1];
    let (kind, device) = (told.message.kind, told.message.options.device(told.bytes()));
    let served_by = told.message.options.serving_server(told.bytes());
    assert_eq!((kind, device, served_by), (Kind::Release, Some(0), Some(at(LISTEN4))));

    for (alone, left) in [(true, vec![2]), (false, vec![])] {
        let mut there = Bench::new(ANY);
        for (device, from) in [(0, OUTSIDE), (2, INSIDE)] {
            let asked = there.ask(&register(VISITOR).device(device).validity(100), from);
            let answer = registered(&asked.one(Kind::Register), 100);
            from_abroad(&mut there, answer);
        }
        there.pass_ms(10);
        let mut moved = msg(Kind::Release, VISITOR, PushId::NONE).device(0);
        if alone {
            moved = moved.endpoint(ty::SERVING_SERVER, at(ABROAD));
        }
        from_abroad(&mut there, moved).one(Kind::Released);
        assert_eq!(there.bound().iter().map(|binding| binding.device).collect::<Vec<_>>(), left);
    }
}

/// A RELEASE that another server is owed is as durable as what it follows from: a server that crashed goes on asking,
/// from a snapshot of its journal too, until it is answered.
#[test]
fn a_release_that_is_owed_survives_a_crash() {
    let returns = |bench: &mut Bench| {
        from_abroad(bench, serving(own(100), ABROAD)).one(Kind::Registered);
        bench.pass_ms(10);
        bench.ask(&register(own(100)).device(2), OUTSIDE)
    };
    let leaves = |bench: &mut Bench| {
        *bench = visiting();
        bench.pass_ms(10);
        bench.ask(&msg(Kind::Release, VISITOR, PushId::NONE).device(2), OUTSIDE)
    };
    let ways: [&dyn Fn(&mut Bench) -> Said; 2] = [&returns, &leaves];
    for way in ways {
        let mut bench = Bench::new(ANY);
        assert_eq!(way(&mut bench).read()[1].message.kind, Kind::Release);
        for is_compacted in [false, true] {
            if is_compacted {
                bench.journal = bench.engine.changes().collect();
            }
            bench.pass_ms(20_000);
            let said = bench.restart();
            let told = said.one(Kind::Release);
            assert_eq!((told.reply.to, told.key()), (at(ABROAD), Some(ABROAD_KEY)));
            assert_eq!(told.message.options.device(told.bytes()), Some(2));
        }
        let again = bench.pass_ms(500);
        let answer = answers(&again.one(Kind::Release), Kind::Released);
        from_abroad(&mut bench, answer);
        assert_eq!(bench.restart().replies, []);
    }
}

/// What is owed no more is not asked after a crash: it was given up, or the terminal is back.
#[test]
fn what_is_owed_no_more_is_not_asked_after_a_crash() {
    let mut bench = visiting();
    bench.ask(&release(VISITOR), OUTSIDE);
    bench.pass_ms(70_000);
    assert_eq!(bench.restart().replies, []);

    let mut bench = visiting();
    bench.ask(&release(VISITOR), OUTSIDE);
    bench.pass_ms(10);
    bench.ask(&visit(), OUTSIDE).one(Kind::Register);
    assert_eq!(bench.restart().replies, []);
}

/// A debt goes before what it follows from: of a commit that was torn in between, it alone may be left. Then the
/// terminal has not left, and is not released.
#[test]
fn a_debt_of_a_torn_commit_is_void() {
    let mut home = Bench::new(ANY);
    from_abroad(&mut home, serving(own(100), ABROAD)).one(Kind::Registered);
    home.pass_ms(10);
    home.ask(&register(own(100)).device(2), OUTSIDE);
    let mut there = visiting();
    there.ask(&release(VISITOR), OUTSIDE);
    for bench in [&mut home, &mut there] {
        let debt = bench.journal.iter().position(|change| matches!(change, Change::Owe(_))).unwrap();
        bench.journal.truncate(debt + 1);
        let said = bench.restart();
        assert!(said.read().iter().all(|read| read.message.kind != Kind::Release));
        assert!(matches!(said.changes[..], [Change::Settle(_)]), "{:?}", said.changes);
        assert_eq!(bench.bound().len(), 1);
    }
}
