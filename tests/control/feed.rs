//! What the network says of who has which address: sessions, their order, and what terminals say besides.

mod settled;

use pushplane::config::{Limits, Policy, RegisterPolicy};
use pushplane::control::{Effect, ReportEnd};
use pushplane::id::PushId;
use pushplane::reason::{Reason, Unanswered};
use pushplane::table::rib::User;
use pushplane::table::{Binding, Change, Rib};
use pushplane::wire::prp::{Kind, option_type as ty, parse};

use super::bench::*;
use super::lab::*;
use super::radius::*;

/// Users with a SIM.
const ANN: PushId = own(0x100);
const BOB: PushId = own(0x101);
const ANNS_SIM: &str = "262011234567890";
const BOBS_SIM: &str = "262011234567891";
/// A user without a row, known by name.
const CAT: PushId = own(0x102);
/// Of another server, with a row here.
const DAN: PushId = abroad(0x103);
const DANS_SIM: &str = "262011234567893";
const NOBODYS_SIM: &str = "262019999999999";
/// A user of users.csv at this address.
const SEAT: &str = "10.0.0.1";
const SEATED: PushId = own(user::VXLAN);

fn sim(id: PushId, device: u8, imsi: &str) -> User {
    User { imsi: Some(imsi.parse().unwrap()), ..User::new(id, device) }
}

fn tables() -> Rib {
    let mut rib = rib();
    rib.users.push(sim(ANN, 2, ANNS_SIM));
    rib.users.push(User { private: Some(at("10.0.0.77:2948")), bearers: 1, ..sim(BOB, 0, BOBS_SIM) });
    rib.users.push(sim(DAN, 0, DANS_SIM));
    rib.names = vec![("+4917012345".into(), CAT), ("cat@example".into(), CAT)];
    rib
}

fn bench() -> Bench {
    with(ANY, LIMITS)
}

fn with(policy: Policy, limits: Limits) -> Bench {
    Bench::listening(policy, limits, &tables(), Some(radius()))
}

/// A Start of Ann's session `s1` at 10.0.7.7, now.
fn start(bench: &Bench) -> Acct {
    Acct::of(START, "s1").imsi(ANNS_SIM).ip("10.0.7.7").at(bench.now.unix_ms)
}

impl Bench {
    fn hear(&mut self, acct: &Acct) -> Said {
        self.hear_from(acct, GGSN)
    }

    fn hear_from(&mut self, acct: &Acct, from: &str) -> Said {
        self.report(&acct.bytes(), at(from))
    }

    fn pass_s(&mut self, seconds: u64) -> Said {
        self.pass_ms(seconds * 1000)
    }

    /// What the user's terminals are bound to: device, private address.
    fn places(&self, user: PushId) -> Vec<(u8, String)> {
        let of_user = self.bound().into_iter().filter(|binding| binding.user == user);
        of_user.map(|binding| (binding.device, binding.private.unwrap().to_string())).collect()
    }

    fn sessions(&self) -> usize {
        self.engine.live().sessions
    }
}

fn place(device: u8, private: &str) -> Vec<(u8, String)> {
    vec![(device, private.to_owned())]
}

fn nowhere() -> Vec<(u8, String)> {
    Vec::new()
}

/// What the one report that ended changed.
#[track_caller]
fn effect(said: &Said) -> Effect {
    match &said.reports[..] {
        [ReportEnd::Answered(_, effect)] => *effect,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn unanswered(said: &Said) -> Unanswered {
    match &said.reports[..] {
        [ReportEnd::Dropped(why)] => *why,
        other => panic!("{other:?}"),
    }
}

fn binds(said: &Said) -> usize {
    said.changes.iter().filter(|change| matches!(change, Change::Assign { .. })).count()
}

#[test]
fn a_start_binds_and_a_stop_ends() {
    let mut bench = bench();
    let request = start(&bench).with(33, b"first").with(33, b"second").bytes();
    let said = bench.report(&request, at(GGSN));
    let [ReportEnd::Answered(answer, Effect::Taken)] = &said.reports[..] else { panic!() };
    assert_eq!((answer.to, answer.listener), (at(GGSN), 0));
    assert_answers(&answer.datagram, &request);
    assert!(said.replies.is_empty() && said.dropped.is_empty());
    // The device that has this IMSI in users.csv, at the port that nothing contradicts.
    let binding = bench.binding(ANN).unwrap();
    let expected = Binding {
        user: ANN,
        device: 2,
        realm: 0,
        private: Some(at("10.0.7.7:17400")),
        nat: None,
        imsi: Some(ANNS_SIM.parse().unwrap()),
        bearers: User::DEFAULT_BEARERS,
        serving: None,
        valid_until_ms: Some(NOW.unix_ms + 86_400_000),
        listener: 0,
    };
    assert_eq!(binding, expected);
    bench.pass_s(60);
    let stop = Acct::of(STOP, "s1").at(bench.now.unix_ms);
    assert_eq!(effect(&bench.hear(&stop)), Effect::Taken);
    assert_eq!((bench.places(ANN), bench.sessions()), (nowhere(), 0));
}

/// What users.csv knows of the terminal holds: its port, its bearers.
#[test]
fn a_row_knows_the_port() {
    let mut bench = bench();
    bench.hear(&Acct::of(START, "b").imsi(BOBS_SIM).ip("10.0.7.8"));
    let binding = bench.binding(BOB).unwrap();
    assert_eq!((binding.device, binding.private, binding.bearers), (0, Some(at("10.0.7.8:2948")), 1));
}

#[test]
fn whose_a_session_is() {
    for (acct, user) in [
        (Acct::of(START, "s").imsi(ANNS_SIM), Some((ANN, 2))),
        (Acct::of(START, "s").imsi(NOBODYS_SIM), None),
        // Of several users' rows nobody knows which is meant.
        (Acct::of(START, "s").imsi("460001234567890"), None),
        // This server says nothing of others' users.
        (Acct::of(START, "s").imsi(DANS_SIM), None),
        (Acct::of(START, "s").number("+4917012345"), Some((CAT, 0))),
        (Acct::of(START, "s").number("4917012345"), Some((CAT, 0))),
        (Acct::of(START, "s").number("4917012346"), None),
        (Acct::of(START, "s").with(1, b"cat@example"), Some((CAT, 0))),
        // The first way that leads somewhere.
        (Acct::of(START, "s").number("+4917012345").imsi(ANNS_SIM), Some((ANN, 2))),
        (Acct::of(START, "s").number("+4917012345").imsi(NOBODYS_SIM), Some((CAT, 0))),
    ] {
        let mut bench = bench();
        assert_eq!(effect(&bench.hear(&acct.clone().ip("10.0.7.9"))), Effect::Taken);
        let bound: Vec<(PushId, u8)> = bench.bound().iter().map(|b| (b.user, b.device)).collect();
        assert_eq!(bound, Vec::from_iter(user), "{acct:?}");
        let unknown = usize::from(user.is_none());
        assert_eq!((bench.sessions(), bench.engine.live().sessions_unknown), (1, unknown));
    }
}

/// One address, one user: whoever had it has it no more, registered, of users.csv, or by another session.
#[test]
fn a_session_takes_its_address_from_whoever_had_it() {
    for imsi in [ANNS_SIM, NOBODYS_SIM] {
        let mut bench = bench();
        bench.ask(&register_at(own(200), "10.0.7.7:5000"), OUTSIDE).one(Kind::Registered);
        bench.hear(&Acct::of(START, "b").imsi(BOBS_SIM).ip(SEAT));
        assert_eq!(bench.places(BOB), place(0, "10.0.0.1:2948"));
        assert!(bench.journal.contains(&Change::End { user: SEATED, device: 0, heard_ms: 0 }), "the row");
        bench.pass_s(10);
        let said = bench.hear(&Acct::of(START, "a").imsi(imsi).ip("10.0.7.7").at(bench.now.unix_ms));
        assert_eq!(bench.places(own(200)), nowhere(), "{imsi}");
        assert_eq!(effect(&said), Effect::Taken);
        // From session to session.
        let said = bench.hear(&Acct::of(START, "c").imsi(imsi).ip(SEAT).at(bench.now.unix_ms));
        assert_eq!((effect(&said), bench.places(BOB), bench.sessions()), (Effect::Taken, nowhere(), 2));
    }
}

/// RFC 2866: nothing keeps the Stop of a session from arriving after the Start of the next.
#[test]
fn a_late_stop_never_ends_a_newer_session() {
    let mut bench = bench();
    bench.hear(&start(&bench));
    bench.pass_s(100);
    let stop = Acct::of(STOP, "s1").at(bench.now.unix_ms).delay(0);
    bench.pass_s(10);
    bench.hear(&Acct::of(START, "s2").imsi(BOBS_SIM).ip("10.0.7.7").at(bench.now.unix_ms));
    assert_eq!(bench.places(BOB), place(0, "10.0.7.7:2948"));
    bench.pass_s(5);
    assert_eq!(effect(&bench.hear(&stop)), Effect::Late);
    assert_eq!((bench.places(ANN), bench.places(BOB)), (nowhere(), place(0, "10.0.7.7:2948")));
    // Of the same user, too, and without anybody's clock.
    bench.hear(&Acct::of(START, "s3").imsi(BOBS_SIM).ip("10.0.7.7"));
    assert_eq!(effect(&bench.hear(&Acct::of(STOP, "s2"))), Effect::Late);
    assert_eq!(bench.places(BOB), place(0, "10.0.7.7:2948"));
    // A session's number is used again once its NAS has started again.
    bench.pass_s(1000);
    let early = Acct::of(STOP, "s3").at(bench.now.unix_ms);
    bench.pass_s(2);
    bench.hear(&Acct::of(START, "s3").imsi(BOBS_SIM).ip("10.0.7.9").at(bench.now.unix_ms));
    assert_eq!(effect(&bench.hear(&early)), Effect::Late);
    assert_eq!(bench.places(BOB), place(0, "10.0.7.9:2948"));
}

/// The order of what happened is that of the gateways' clocks, when these are ahead of the server's, too.
#[test]
fn reports_of_a_clock_that_is_ahead_keep_their_order() {
    let mut bench = bench();
    let start_ms = bench.now.unix_ms;
    let older = Acct::of(START, "s1").imsi(ANNS_SIM).ip("10.0.7.7").at(start_ms + 3000);
    let newer = Acct::of(START, "s2").imsi(BOBS_SIM).ip("10.0.7.7").at(start_ms + 6000);
    bench.hear(&newer);
    for proxy in 0..2 {
        bench.pass_ms(100);
        let older = older.clone().with(33, &[proxy]);
        assert_eq!(effect(&bench.hear(&older)), Effect::Late);
        assert_eq!((bench.places(ANN), bench.places(BOB)), (nowhere(), place(0, "10.0.7.7:2948")));
        // When the server's clock has passed both, it is no other.
        bench.pass_s(5);
    }
    // A clock that is ahead by a day would keep everybody else from the address as long.
    bench.hear(&Acct::of(START, "s3").imsi(BOBS_SIM).ip("10.0.7.8").at(start_ms + 86_400_000));
    bench.pass_s(1);
    bench.hear(&Acct::of(START, "s4").imsi(ANNS_SIM).ip("10.0.7.8").at(bench.now.unix_ms));
    assert_eq!(bench.places(ANN), place(2, "10.0.7.8:17400"));
}

#[test]
fn what_comes_too_late_changes_nothing() {
    let mut bench = bench();
    let t = |bench: &Bench, back_s: u64| bench.now.unix_ms - back_s * 1000;
    // Start after its Stop.
    let started = start(&bench);
    bench.pass_s(60);
    assert_eq!(effect(&bench.hear(&Acct::of(STOP, "s1").at(t(&bench, 0)))), Effect::Late);
    assert_eq!(effect(&bench.hear(&started)), Effect::Late);
    let interim = Acct::of(INTERIM, "s1").imsi(ANNS_SIM).ip("10.0.7.7");
    assert_eq!(effect(&bench.hear(&interim.clone().at(t(&bench, 1)).identifier(2))), Effect::Late);
    // Of a sender without a clock nobody knows.
    assert_eq!(effect(&bench.hear(&interim.clone().identifier(3))), Effect::Late);
    assert_eq!((bench.places(ANN), bench.sessions()), (nowhere(), 0));
    // What happened since did.
    bench.pass_s(2);
    assert_eq!(effect(&bench.hear(&interim.at(t(&bench, 0)).identifier(4))), Effect::Taken);
    assert_eq!(bench.places(ANN), place(2, "10.0.7.7:17400"));
    // An address that changed does not change back.
    let older = Acct::of(INTERIM, "s1").ip("10.0.7.7").at(t(&bench, 0));
    bench.pass_s(10);
    bench.hear(&Acct::of(INTERIM, "s1").ip("10.0.7.8").at(t(&bench, 0)));
    assert_eq!(effect(&bench.hear(&older.identifier(5))), Effect::Late);
    assert_eq!(bench.places(ANN), place(2, "10.0.7.8:17400"));
    // Nor does an address go back to who had it before.
    let before = Acct::of(START, "b").imsi(BOBS_SIM).ip("10.0.7.8").at(t(&bench, 5));
    assert_eq!(effect(&bench.hear(&before.identifier(6))), Effect::Late);
    let before =
        Acct::of(INTERIM, "b").imsi(BOBS_SIM).ip("10.0.7.8").at(t(&bench, 0)).with(46, &[0, 0, 0, 9]);
    assert_eq!(effect(&bench.hear(&before.identifier(7))), Effect::Late);
    assert_eq!((bench.places(ANN), bench.places(BOB)), (place(2, "10.0.7.8:17400"), nowhere()));
}

/// Acct-Delay-Time tells when it happened where Event-Timestamp does not.
#[test]
fn the_delay_of_a_sender_counts() {
    let mut bench = bench();
    bench.hear(&Acct::of(START, "b").imsi(BOBS_SIM).ip("10.0.7.7"));
    bench.pass_s(5);
    let said = bench.hear(&Acct::of(START, "a").imsi(ANNS_SIM).ip("10.0.7.7").delay(20));
    assert_eq!((effect(&said), bench.places(ANN)), (Effect::Late, nowhere()));
    let said = bench.hear(&Acct::of(START, "a").imsi(ANNS_SIM).ip("10.0.7.7").delay(2));
    assert_eq!((effect(&said), bench.places(BOB)), (Effect::Taken, nowhere()));
}

#[test]
fn what_is_told_twice_changes_nothing_twice() {
    let mut bench = bench();
    let first = start(&bench).with(33, b"proxy").bytes();
    bench.report(&first, at(GGSN));
    let journal = bench.journal.len();
    bench.pass_s(3);
    // Byte by byte, and told anew.
    let said = bench.report(&first, at(GGSN));
    let [ReportEnd::Answered(answer, Effect::Repeated)] = &said.reports[..] else { panic!() };
    assert_answers(&answer.datagram, &first);
    let anew = Acct::of(START, "s1").imsi(ANNS_SIM).ip("10.0.7.7").at(NOW.unix_ms).delay(3).identifier(2);
    assert_eq!(effect(&bench.hear(&anew)), Effect::Taken);
    // The same bytes from somebody else are another request.
    assert_eq!(effect(&bench.report(&first, at(GGSN).with_port(40_001))), Effect::Taken);
    assert_eq!(bench.journal.len(), journal);
    let stop = Acct::of(STOP, "s1").at(bench.now.unix_ms);
    bench.hear(&stop.clone().identifier(3));
    let journal = bench.journal.len();
    assert_eq!(effect(&bench.hear(&stop.clone().identifier(3))), Effect::Repeated);
    assert_eq!(effect(&bench.hear(&stop.identifier(4))), Effect::Late);
    assert_eq!(bench.journal.len(), journal);
}

/// An Interim a minute is not a record a minute.
#[test]
fn an_interim_costs_a_record_a_quarter_of_the_time() {
    let mut bench = bench();
    bench.hear(&start(&bench));
    let before = bench.journal.len();
    for minute in 0..24 * 60 {
        bench.pass_s(60);
        bench.hear(&Acct::of(INTERIM, "s1").at(bench.now.unix_ms).identifier(minute as u8));
    }
    assert_eq!(bench.journal.len() - before, 8, "four times a day the session and its binding");
    let until = bench.binding(ANN).unwrap().valid_until_ms.unwrap();
    assert!(until >= bench.now.unix_ms + 86_400_000 * 3 / 4);
}

#[test]
fn a_session_of_which_nothing_more_is_heard_ends() {
    let mut bench = bench();
    bench.hear(&start(&bench));
    bench.hear(&Acct::of(START, "u").imsi(NOBODYS_SIM).ip("10.0.7.8"));
    bench.pass_s(86_399);
    assert_eq!((bench.places(ANN).len(), bench.sessions()), (1, 2));
    bench.pass_s(1);
    assert_eq!((bench.places(ANN), bench.sessions()), (nowhere(), 0));
    // It was not stopped: what is heard of it counts.
    bench.hear(&Acct::of(INTERIM, "s1").imsi(ANNS_SIM).ip("10.0.7.7"));
    assert_eq!(bench.places(ANN), place(2, "10.0.7.7:17400"));
    // Unless it may last for ever.
    let config = pushplane::config::Radius { session_max_s: 0, ..radius() };
    let mut bench = Bench::listening(ANY, LIMITS, &tables(), Some(config));
    bench.hear(&start(&bench));
    assert_eq!(bench.binding(ANN).unwrap().valid_until_ms, None);
    bench.pass_s(1 << 30);
    assert_eq!(bench.places(ANN).len(), 1);
}

#[test]
fn on_and_off_end_what_a_nas_said() {
    for status in [ON, OFF] {
        let mut bench = bench();
        let ggsn = |acct: Acct| acct.nas([10, 255, 0, 1]).ggsn([10, 9, 0, 2]);
        bench.hear(&ggsn(start(&bench)));
        bench.hear(&Acct::of(START, "u").imsi(NOBODYS_SIM).ip("10.0.7.8").nas([10, 255, 0, 1]));
        bench.hear(&Acct::of(START, "b").imsi(BOBS_SIM).ip("10.0.7.9").nas([10, 255, 0, 2]));
        let cat = Acct::of(START, "c").number("+4917012345").ip("10.0.7.10").with(32, b"ggsn-7");
        bench.hear(&cat);
        bench.pass_s(10);
        let at_ms = bench.now.unix_ms;
        let on = Acct::of(status, "0").at(at_ms);
        // Another name, another domain.
        bench.hear(&on.clone().nas([10, 255, 0, 3]));
        bench.hear_from(&on.clone().nas([10, 255, 0, 1]).identifier(2), VPN_GGSN);
        bench.pass_ms(1);
        assert_eq!(bench.sessions(), 4);
        // By the address of the GGSN, by that of the NAS, by its name.
        for (name, left) in [
            (on.clone().ggsn([10, 9, 0, 2]), 3),
            (on.clone().nas([10, 255, 0, 1]), 2),
            (on.clone().with(32, b"ggsn-7"), 1),
            (on.clone().nas([10, 255, 0, 2]).with(32, b"ggsn-8"), 0),
        ] {
            let name = name.identifier(3 + left as u8);
            assert_eq!(bench.hear(&name).reports, [], "answered when it is done");
            assert_eq!(unanswered(&bench.hear(&name)), Unanswered::Repeated);
            let said = bench.pass_ms(1);
            assert_eq!((effect(&said), bench.sessions()), (Effect::Taken, left));
            assert_eq!(effect(&bench.hear(&name)), Effect::Repeated);
        }
        assert_eq!(bench.bound(), []);
        // What was said before comes too late; what begins now holds, although On is told again.
        bench.pass_s(1);
        assert_eq!(effect(&bench.hear(&cat.identifier(9).at(at_ms - 1000))), Effect::Late);
        bench.hear(&ggsn(start(&bench)).identifier(10));
        bench.hear(&on.nas([10, 255, 0, 1]).delay(1).identifier(11));
        bench.pass_ms(1);
        assert_eq!(bench.places(ANN), place(2, "10.0.7.7:17400"));
    }
}

/// A million sessions end a few at a time; what begins meanwhile is not among them.
#[test]
fn a_large_nas_ends_a_few_sessions_at_a_time() {
    let mut bench = with(ANY, Limits { sessions: 5000, ..LIMITS });
    let ip = |n: u32| std::net::Ipv4Addr::from_bits(0x0A00_1000 + n).to_string();
    for n in 0..3000 {
        let imsi = format!("26201{n:010}");
        bench.hear(
            &Acct::of(START, &format!("s{n}")).imsi(&imsi).ip(&ip(n)).at(NOW.unix_ms).identifier(n as u8),
        );
    }
    bench.pass_s(5);
    let on = Acct::of(ON, "0").at(bench.now.unix_ms);
    bench.hear(&on);
    bench.pass_once();
    let left = bench.sessions();
    assert!((1900..3000).contains(&left), "{left}");
    bench.hear(&Acct::of(START, "new").imsi(ANNS_SIM).ip(&ip(0)).at(bench.now.unix_ms).identifier(1));
    let said = bench.pass_ms(1);
    assert_eq!((effect(&said), bench.sessions()), (Effect::Taken, 1));
    assert_eq!(bench.places(ANN).len(), 1);
}

/// Bearers of one terminal (TS 23.060): the address is free when the last one is.
#[test]
fn bearers_share_an_address() {
    for all_at_once in [false, true] {
        let mut bench = bench();
        let bearer = |session, nsapi| Acct::of(START, session).imsi(ANNS_SIM).ip("10.0.7.7").nsapi(nsapi);
        bench.hear(&bearer("first", "5"));
        bench.hear(&bearer("second", "6"));
        assert_eq!((bench.sessions(), bench.places(ANN).len()), (2, 1));
        let stop = Acct::of(STOP, "first");
        bench.hear(&if all_at_once { stop.stops_all() } else { stop });
        let left = usize::from(!all_at_once);
        assert_eq!((bench.sessions(), bench.places(ANN).len()), (left, left));
        bench.hear(&Acct::of(STOP, "second"));
        assert_eq!(bench.places(ANN), nowhere());
        // The same bearer again is the same context: the one before it is over.
        bench.hear(&bearer("third", "5"));
        bench.hear(&bearer("fourth", "5"));
        assert_eq!(bench.sessions(), 1);
        bench.hear(&Acct::of(STOP, "third"));
        assert_eq!(bench.places(ANN).len(), 1);
    }
}

/// The terminal knows its port, and as which of the user's devices it listens; the network, where it is.
#[test]
fn a_register_from_there_goes_before_what_the_network_says() {
    let mut bench = bench();
    bench.hear(&start(&bench));
    let request = register_at(ANN, "10.0.7.7:5000").device(1).validity(600);
    let said = bench.ask(&request.endpoint(ty::NAT_ADDRESS, at("203.0.113.5:6")), OUTSIDE);
    said.one(Kind::Registered);
    assert_eq!(bench.places(ANN), place(1, "10.0.7.7:5000"), "one copy of a push");
    assert_eq!(bench.binding(ANN).unwrap().nat, Some(at("203.0.113.5:6")));
    bench.pass_s(60);
    bench.hear(&Acct::of(INTERIM, "s1").at(bench.now.unix_ms));
    assert_eq!(bench.places(ANN), place(1, "10.0.7.7:5000"));
    // Its validity ends, its address does not.
    bench.pass_s(540);
    assert_eq!(bench.places(ANN), place(2, "10.0.7.7:17400"));
    // As the very device.
    bench.ask(&register_at(ANN, "10.0.7.7:5001").device(2).validity(600), OUTSIDE).one(Kind::Registered);
    assert_eq!(bench.places(ANN), place(2, "10.0.7.7:5001"));
    // A Stop ends it, whoever said it.
    bench.ask(&register_at(ANN, "10.0.7.7:5000").device(1).validity(600), OUTSIDE).one(Kind::Registered);
    bench.hear(&Acct::of(STOP, "s1").at(bench.now.unix_ms));
    assert_eq!(bench.places(ANN), nowhere());
}

/// A terminal is often faster than its GGSN's accounting.
#[test]
fn a_register_may_come_before_the_start() {
    let mut bench = bench();
    bench.ask(&register_at(ANN, "10.0.7.7:5000").device(1), OUTSIDE).one(Kind::Registered);
    bench.hear(&start(&bench));
    assert_eq!(bench.places(ANN), place(1, "10.0.7.7:5000"));
    // One that is bound elsewhere by now is where it was last.
    bench.pass_s(10);
    let event_ms = bench.now.unix_ms;
    bench.pass_s(10);
    bench.ask(&register_at(ANN, "10.0.7.20:5000").device(2), OUTSIDE).one(Kind::Registered);
    bench.hear(&Acct::of(START, "s2").imsi(ANNS_SIM).ip("10.0.7.21").at(event_ms));
    assert_eq!(bench.places(ANN), [(1, "10.0.7.7:5000".into()), (2, "10.0.7.20:5000".into())]);
    bench.hear(&Acct::of(START, "s3").imsi(ANNS_SIM).ip("10.0.7.22").at(bench.now.unix_ms));
    assert_eq!(bench.places(ANN), [(1, "10.0.7.7:5000".into()), (2, "10.0.7.22:17400".into())]);
}

#[test]
fn nobody_registers_at_anothers_address() {
    for who in [RegisterPolicy::Any, RegisterPolicy::Segment] {
        let mut bench = with(policy(who), LIMITS);
        bench.hear(&start(&bench));
        for request in [register(BOB), register_at(BOB, "10.0.7.7:9")] {
            assert_eq!(bench.ask(&request, "10.0.7.7:5000").refused(), Reason::NotPermitted);
        }
        // With a key either: it proves who speaks, not where.
        let signed = register(own(user::KEY_VXLAN)).signed_at(user::KEY_VXLAN as u32, bench.now.unix_ms);
        assert_eq!(bench.ask(&signed, "10.0.7.7:5000").refused(), Reason::NotPermitted);
        // In another realm it is another address.
        bench.ask(&register(BOB).realm(9), "10.0.7.7:5000").one(Kind::Registered);
        bench.hear(&Acct::of(STOP, "s1"));
        bench.ask(&register(BOB), "10.0.7.7:5000").one(Kind::Registered);
    }
}

/// Whom users.csv does not know may still register; and if the network and it name the same SIM, that is who it is.
#[test]
fn a_terminal_at_an_unknown_subscribers_address() {
    let mut bench = bench();
    let guest = own(0x200);
    bench.ask(&register_at(guest, "10.0.7.7:5000"), OUTSIDE).one(Kind::Registered);
    bench.pass_s(10);
    let session = |status| Acct::of(status, "u").imsi(NOBODYS_SIM).ip("10.0.7.7");
    bench.hear(&session(START).at(bench.now.unix_ms));
    assert_eq!(bench.places(guest), nowhere(), "it was somebody else's address");
    bench.pass_s(1);
    bench.ask(&register_at(guest, "10.0.7.7:5000").validity(100), OUTSIDE).one(Kind::Registered);
    bench.hear(&session(INTERIM).at(bench.now.unix_ms));
    assert_eq!(bench.places(guest), place(0, "10.0.7.7:5000"));
    assert_eq!(bench.engine.live().sessions_unknown, 1);
    let imsi = [0x62, 0x02, 0x91, 0x99, 0x99, 0x99, 0x99, 0xF9];
    let named = register_at(guest, "10.0.7.7:5000").validity(100).option(ty::IMSI, &imsi);
    bench.ask(&named, OUTSIDE).one(Kind::Registered);
    bench.hear(&session(INTERIM).at(bench.now.unix_ms).identifier(2));
    assert_eq!(bench.engine.live().sessions_unknown, 0);
    bench.pass_s(200);
    assert_eq!(bench.places(guest), place(0, "10.0.7.7:17400"), "known by now");
    bench.hear(&Acct::of(STOP, "u").at(bench.now.unix_ms));
    assert_eq!(bench.places(guest), nowhere());
}

#[test]
fn a_released_terminal_is_left_alone_until_its_next_session() {
    for request in [
        release(ANN),
        msg(Kind::Release, ANN, PushId::NONE)
            .option(ty::IMSI, &[0x62, 0x02, 0x11, 0x32, 0x54, 0x76, 0x98, 0xF0]),
        msg(Kind::Release, ANN, PushId::NONE).device(2),
        msg(Kind::Release, ANN, PushId::NONE).endpoint(ty::PRIVATE_ADDRESS, at("10.0.7.7:1")),
    ] {
        let mut bench = bench();
        bench.hear(&start(&bench));
        bench.ask(&request, OUTSIDE).one(Kind::Released);
        for wait_s in [1, 3600] {
            bench.pass_s(wait_s);
            bench.hear(&Acct::of(INTERIM, "s1").at(bench.now.unix_ms).identifier(wait_s as u8));
            assert_eq!(bench.places(ANN), nowhere());
            bench.restart();
        }
        bench.hear(&Acct::of(START, "s2").imsi(ANNS_SIM).ip("10.0.7.7").at(bench.now.unix_ms));
        assert_eq!(bench.places(ANN), place(2, "10.0.7.7:17400"));
    }
    // Released as the device that spoke for the terminal.
    let mut bench = bench();
    bench.hear(&start(&bench));
    bench.ask(&register_at(ANN, "10.0.7.7:5000").device(1), OUTSIDE).one(Kind::Registered);
    bench.ask(&msg(Kind::Release, ANN, PushId::NONE).device(1), OUTSIDE).one(Kind::Released);
    bench.hear(&Acct::of(INTERIM, "s1"));
    assert_eq!(bench.places(ANN), nowhere());
}

/// TS 29.061 §11.2.1.3: the net is the terminal's, and where in it the terminal is, it may choose.
#[test]
fn an_ipv6_net_belongs_to_one_terminal() {
    let mut bench = bench();
    bench.ask(&register_at(own(0x200), "[fd00:0:0:7::9]:5000"), OUTSIDE).one(Kind::Registered);
    bench.ask(&register_at(own(0x201), "[fd00:0:0:8::9]:5000"), OUTSIDE).one(Kind::Registered);
    bench.pass_s(10);
    let net = Acct::of(START, "s1").imsi(ANNS_SIM).ip("fd00:0:0:7::").at(bench.now.unix_ms);
    bench.hear(&net);
    assert_eq!((bench.places(own(0x200)), bench.places(own(0x201)).len()), (nowhere(), 1));
    assert_eq!(bench.places(ANN), nowhere(), "nobody knows where in the net");
    assert_eq!(bench.ask(&register(BOB), "[fd00:0:0:7::1]:5").refused(), Reason::NotPermitted);
    bench.ask(&register(ANN), "[fd00:0:0:7::1]:5").one(Kind::Registered);
    assert_eq!(bench.places(ANN), place(0, "[fd00:0:0:7::1]:5"));
    bench.hear(&Acct::of(STOP, "s1").at(bench.now.unix_ms));
    assert_eq!(bench.places(ANN), nowhere());
    // Where the network knows it, it is bound; a row in the net is somebody else's.
    let whole = Acct::of(START, "s2").imsi(ANNS_SIM).ip("fd00::").interface(5).at(bench.now.unix_ms);
    let said = bench.hear(&whole);
    assert_eq!(bench.places(ANN), place(2, "[fd00::5]:17400"));
    let row = Change::End { user: own(user::VXLAN6), device: 0, heard_ms: 0 };
    assert!(said.changes.contains(&row), "{:?}", said.changes);
    // With both families the terminal is bound once.
    bench.hear(&Acct::of(INTERIM, "s2").ip("10.0.7.7").at(bench.now.unix_ms));
    assert_eq!(bench.places(ANN), place(2, "10.0.7.7:17400"));
    assert_eq!(bench.ask(&register(BOB), "[fd00::77]:5").refused(), Reason::NotPermitted);
}

/// Private address spaces overlap: by the client that speaks, and by the APN.
#[test]
fn realms_keep_addresses_apart() {
    let mut bench = bench();
    bench.hear(&start(&bench));
    bench.hear(&Acct::of(START, "b").imsi(BOBS_SIM).ip("10.0.7.7").with(30, b"VPN.example").identifier(2));
    bench.hear_from(&Acct::of(START, "c").number("+4917012345").ip("10.0.7.7").identifier(3), VPN_GGSN);
    let realms: Vec<_> = bench.bound().iter().map(|binding| (binding.user, binding.realm)).collect();
    assert_eq!(realms, [(ANN, 0), (CAT, 9)], "the last one has the address of realm 9");
    // The session of another client's domain is another session.
    bench.hear_from(&Acct::of(STOP, "s1").identifier(4), VPN_GGSN);
    assert_eq!(bench.places(ANN).len(), 1);
    // A Stop need not say the APN again.
    bench.hear(&Acct::of(START, "d").imsi(BOBS_SIM).ip("10.0.7.8").with(30, b"vpn.example").identifier(5));
    bench.hear(&Acct::of(STOP, "d").identifier(6));
    assert_eq!(bench.places(BOB), nowhere());
}

/// A user with two sessions is where the newer one says; when that stops, where the other one is.
#[test]
fn the_newest_session_of_a_device_counts() {
    let mut bench = bench();
    bench.hear(&start(&bench));
    bench.pass_s(10);
    bench.hear(&Acct::of(START, "s2").imsi(ANNS_SIM).ip("10.0.7.8").at(bench.now.unix_ms));
    assert_eq!(bench.places(ANN), place(2, "10.0.7.8:17400"));
    bench.pass_s(10);
    bench.hear(&Acct::of(INTERIM, "s1").at(bench.now.unix_ms));
    assert_eq!(bench.places(ANN), place(2, "10.0.7.8:17400"), "it does not go back and forth");
    bench.hear(&Acct::of(STOP, "s2").at(bench.now.unix_ms));
    assert_eq!(bench.places(ANN), place(2, "10.0.7.7:17400"));
}

/// A user that roams is back when the network here says so: the server that served it is told.
#[test]
fn who_roams_is_back_with_a_session_here() {
    let mut rib = tables();
    rib.names.push(("roamer".into(), own(user::ROAMING)));
    let mut bench = Bench::listening(ANY, LIMITS, &rib, Some(radius()));
    let said = bench.hear(&Acct::of(START, "r").with(1, b"roamer").ip("10.0.7.7"));
    assert_eq!(bench.places(own(user::ROAMING)), place(0, "10.0.7.7:17400"));
    let [reply] = &said.replies[..] else { panic!("{:?}", said.replies) };
    let message = parse(&reply.datagram).unwrap();
    assert_eq!((reply.to, message.kind), (at(ABROAD), Kind::Release));
}

#[test]
fn where_no_room_is_left_the_former_owner_still_ends() {
    let mut bench = with(ANY, Limits { sessions: 2, ..LIMITS });
    bench.hear(&start(&bench));
    bench.hear(&Acct::of(START, "u").imsi(NOBODYS_SIM).ip("10.0.7.8").identifier(2));
    bench.ask(&register_at(own(0x200), "10.0.7.9:5"), OUTSIDE).one(Kind::Registered);
    bench.pass_s(10);
    let third = Acct::of(START, "b").imsi(BOBS_SIM).ip("10.0.7.9").identifier(3);
    assert_eq!(unanswered(&bench.hear(&third)), Unanswered::Overloaded);
    assert_eq!((bench.places(own(0x200)), bench.sessions()), (nowhere(), 2));
    // It is tried again, and there is room.
    bench.hear(&Acct::of(STOP, "u").identifier(4));
    assert_eq!(effect(&bench.hear(&third)), Effect::Taken);
    // No room for the binding.
    let mut bench = with(ANY, Limits { bindings: 1, ..LIMITS });
    bench.ask(&register_at(own(0x200), "10.0.7.9:5").validity(60), OUTSIDE).one(Kind::Registered);
    assert_eq!(unanswered(&bench.hear(&start(&bench))), Unanswered::Overloaded);
    bench.pass_s(60 + 600);
    let again = start(&bench);
    assert_eq!(effect(&bench.hear(&again)), Effect::Taken);
    assert_eq!(bench.places(ANN).len(), 1);
}

#[test]
fn a_restart_forgets_nothing() {
    let mut bench = bench();
    let started = start(&bench);
    bench.hear(&started.clone().identifier(1));
    bench.hear(&Acct::of(START, "u").imsi(NOBODYS_SIM).ip("10.0.7.8").identifier(2));
    bench.hear(&Acct::of(STOP, "gone").at(bench.now.unix_ms).identifier(3));
    let said = bench.restart();
    assert_eq!((said.changes, bench.sessions()), (Vec::new(), 2));
    assert_eq!(bench.places(ANN), place(2, "10.0.7.7:17400"));
    let late = Acct::of(START, "gone").imsi(BOBS_SIM).ip("10.0.7.9").at(bench.now.unix_ms).identifier(4);
    assert_eq!(effect(&bench.hear(&late)), Effect::Late);
    bench.pass_s(86_400);
    assert_eq!((bench.sessions(), bench.bound()), (0, Vec::new()));
}

/// Of the changes that belong together a crash may have kept the first ones only: none of it was answered.
#[test]
fn a_restart_mends_what_a_crash_cut() {
    let mut whole = bench();
    whole.ask(&register_at(own(0x200), "10.0.7.7:5"), OUTSIDE).one(Kind::Registered);
    whole.hear(&Acct::of(START, "b").imsi(BOBS_SIM).ip("10.0.7.7").identifier(2));
    whole.pass_s(10);
    let kept = whole.journal.clone();
    let said = whole.hear(&start(&whole));
    assert!(binds(&said) == 1 && said.changes.len() >= 4, "{:?}", said.changes);
    for cut in 0..said.changes.len() {
        let mut bench = bench();
        bench.now = whole.now;
        bench.journal = [&kept[..], &said.changes[..cut]].concat();
        bench.restart();
        // One user at most, and the session's if there is one.
        let bound = bench.bound();
        assert!(bound.len() <= 1, "{cut}: {bound:?}");
        let owner = bound.first().map(|binding| binding.user);
        assert!(owner != Some(own(0x200)), "{cut}");
        bench.hear(&start(&whole));
        assert_eq!((bench.places(ANN), bench.places(BOB)), (place(2, "10.0.7.7:17400"), nowhere()), "{cut}");
    }
}

#[test]
fn who_is_not_listened_to_any_more_does_not_count() {
    let mut bench = bench();
    bench.hear(&start(&bench));
    bench.ask(&register_at(own(0x200), "10.0.7.9:5"), OUTSIDE).one(Kind::Registered);
    bench.listen(None);
    bench.restart();
    assert_eq!((bench.places(ANN), bench.sessions()), (nowhere(), 0));
    assert_eq!(bench.places(own(0x200)).len(), 1);
    bench.ask(&register_at(BOB, "10.0.7.7:5"), OUTSIDE).one(Kind::Registered);
}

/// The network's word goes before tables that are replaced, and whom they name from then on is known.
#[test]
fn new_tables() {
    let mut bench = bench();
    let unknown =
        |bench: &Bench, status| Acct::of(status, "u").imsi(NOBODYS_SIM).ip("10.0.7.8").at(bench.now.unix_ms);
    bench.hear(&unknown(&bench, START));
    let mut rib = tables();
    rib.users.push(User { private: Some(at("10.0.7.8:2948")), ..User::new(own(0x200), 0) });
    let said = bench.replace_tables(&rib);
    assert!(said.changes.contains(&Change::End { user: own(0x200), device: 0, heard_ms: 0 }));
    rib.users.push(sim(own(0x201), 1, NOBODYS_SIM));
    bench.replace_tables(&rib);
    bench.pass_s(1);
    bench.hear(&unknown(&bench, INTERIM));
    assert_eq!(bench.places(own(0x201)), place(1, "10.0.7.8:17400"));
}

#[test]
fn what_is_no_report_of_a_session() {
    let mut bench = bench();
    for (bytes, why) in [
        (b"none".to_vec(), Unanswered::Malformed),
        (Acct::new(START).ip("10.0.7.7").bytes(), Unanswered::Malformed),
        (Acct::of(START, "s").with(8, b"x").bytes(), Unanswered::Malformed),
        ([&[1], &Acct::of(START, "s").bytes()[1..]].concat(), Unanswered::NotAccounting),
    ] {
        assert_eq!(unanswered(&bench.report(&bytes, at(GGSN))), why);
    }
    assert_eq!(effect(&bench.hear(&Acct::of(15, "s"))), Effect::Ignored);
    // No address of a terminal.
    for address in ["0.0.0.0", "255.255.255.254", "224.0.0.1", "192.0.2.1"] {
        let acct = Acct::of(START, address).imsi(ANNS_SIM).ip(address).identifier(address.len() as u8);
        assert_eq!(effect(&bench.hear(&acct)), Effect::Taken);
    }
    assert_eq!(bench.bound(), []);
}
