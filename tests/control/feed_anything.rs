//! Whatever the network and terminals say, in whatever order: an engine that is made anew of its journal, or of a
//! snapshot, is the one that was there; and a snapshot that is written meanwhile is of the moment when it began.

use std::collections::BTreeSet;

use proptest::prelude::*;
use pushplane::config::{Limits, Radius};
use pushplane::control::Engine;
use pushplane::id::PushId;
use pushplane::table::rib::User;
use pushplane::table::{Change, Rib, Session};
use pushplane::wire::prp::Kind;

use super::bench::*;
use super::lab::*;
use super::radius::*;

/// So little room that it runs out.
const TIGHT: Limits = Limits { sessions: 6, bindings: 5, ..LIMITS };
const USERS: u128 = 4;

/// The first two have a SIM, all but the first a number; two have a row of users.csv with an address besides.
fn user(n: u128) -> PushId {
    own(0x100 + n)
}

fn imsi(n: u128) -> String {
    format!("26201123456789{n}")
}

/// The same users, more or less of them in users.csv.
fn tables(which: usize) -> Rib {
    let mut rib = rib();
    rib.groups = (1..USERS).map(|n| (group(0), user(n))).collect();
    let sim = |n: u128| User { imsi: Some(imsi(n).parse().unwrap()), ..User::new(user(n), n as u8 + 1) };
    rib.users.extend([sim(0), User { private: Some(at("10.0.7.2:2948")), bearers: 1, ..sim(1) }]);
    rib.users.push(User { private: Some(at("[fd00:0:0:7::9]:2948")), ..User::new(user(2), 0) });
    rib.users.truncate(rib.users.len() - which);
    rib.names = (1..USERS).map(|n| (number(n), user(n))).collect();
    rib
}

fn number(n: u128) -> String {
    format!("4917012{n}")
}

fn group(n: u128) -> PushId {
    own(0xE000 + n)
}

const ADDRESSES: [&str; 4] = ["10.0.7.1", "10.0.7.2", "10.0.7.3", "10.0.0.1"];
const NETS: [&str; 3] = ["fd00:0:0:7::", "fd00::", "fd00:0:0:8::"];

/// What a report says besides which session it is of.
#[derive(Clone, Debug)]
struct About {
    imsi: Option<u128>,
    number: Option<u128>,
    nsapi: Option<u8>,
    ipv4: Option<&'static str>,
    net: Option<(&'static str, Option<u64>)>,
    apn: bool,
    ggsn: bool,
    stops_all: bool,
}

#[derive(Clone, Debug)]
enum Op {
    Report { status: u32, session: u8, about: About, age_s: u64, is_dated: bool, vpn: bool },
    Register { user: u128, device: u8, at: String, validity_s: u32, signed_s: Option<u64>, imsi: Option<u8> },
    Release { user: u128, device: u8 },
    Group { user: u128, request: u8, group: u128 },
    Tables(usize),
    Pass(u64),
    BeginCut,
}

fn about() -> impl Strategy<Value = About> {
    let ipv4 = prop::option::weighted(0.8, prop::sample::select(ADDRESSES.to_vec()));
    let interface = prop::option::of(5u64..7);
    let net = prop::option::weighted(0.3, (prop::sample::select(NETS.to_vec()), interface));
    (
        prop::option::weighted(0.6, 0..USERS),
        prop::option::weighted(0.4, 0..USERS + 1),
        prop::option::weighted(0.6, 5u8..8),
        (ipv4, net),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(imsi, number, nsapi, (ipv4, net), apn, ggsn, stops_all)| About {
            imsi,
            number,
            nsapi,
            ipv4,
            net,
            apn,
            ggsn,
            stops_all,
        })
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let status = prop::sample::select(vec![START, START, START, INTERIM, INTERIM, INTERIM, STOP, STOP, ON]);
    let age = prop_oneof![3 => Just(0u64), 1 => 0u64..40];
    let report = (status, 0u8..6, about(), age, prop::bool::weighted(0.7), prop::bool::weighted(0.1))
        .prop_map(|(status, session, about, age_s, is_dated, vpn)| Op::Report {
            status,
            session,
            about,
            age_s,
            is_dated,
            vpn,
        });
    let places = ["10.0.7.1:5000", "10.0.7.2:5000", "10.0.7.3:5000", "[fd00:0:0:7::9]:5", "[fd00::5]:5"];
    let register = (
        0..USERS,
        0u8..4,
        prop::sample::select(places.to_vec()),
        prop_oneof![1u32..20, Just(3600)],
        prop::option::weighted(0.3, 0u64..25),
        prop::option::weighted(0.3, Just(0u8)),
    )
        .prop_map(|(user, device, at, validity_s, signed_s, imsi)| Op::Register {
            user,
            device,
            at: at.to_owned(),
            validity_s,
            signed_s,
            imsi,
        });
    let op = prop_oneof![
        12 => report,
        4 => register,
        1 => (0..USERS, 0u8..3).prop_map(|(user, device)| Op::Release { user, device }),
        3 => (0..USERS, 1u8..6, 0u128..3).prop_map(|(user, request, group)| Op::Group { user, request, group }),
        1 => (0usize..3).prop_map(Op::Tables),
        3 => prop_oneof![Just(1000u64), 1u64..60_000, Just(700_000)].prop_map(Op::Pass),
        2 => Just(Op::BeginCut),
    ];
    prop::collection::vec(op, 1..40)
}

fn say(bench: &mut Bench, op: &Op, identifier: u8) {
    let now_ms = bench.now.unix_ms;
    match op {
        Op::Report { status, session, about, age_s, is_dated, vpn } => {
            let mut acct = Acct::of(*status, &format!("s{session}")).identifier(identifier);
            if let Some(n) = about.imsi {
                acct = acct.imsi(&imsi(n));
            }
            if let Some(n) = about.number {
                acct = acct.number(&number(n));
            }
            if let Some(nsapi) = about.nsapi {
                acct = acct.nsapi(&nsapi.to_string());
            }
            if let Some(ip) = about.ipv4 {
                acct = acct.ip(ip);
            }
            if let Some((net, interface)) = about.net {
                acct = acct.ip(net);
                acct = interface.map_or(acct.clone(), |interface| acct.interface(interface));
            }
            if about.apn {
                acct = acct.with(30, b"vpn.example");
            }
            if about.ggsn {
                acct = acct.ggsn([10, 9, 0, 1]);
            }
            if about.stops_all {
                acct = acct.stops_all();
            }
            let acct = if *is_dated { acct.at(now_ms - age_s * 1000) } else { acct.delay(*age_s as u32) };
            bench.report(&acct.bytes(), at(if *vpn { VPN_GGSN } else { GGSN }));
        }
        Op::Register { user: n, device, at: place, validity_s, signed_s, imsi } => {
            let mut request = register_at(user(*n), place).validity(*validity_s).device(*device);
            if imsi.is_some() {
                request = request.option(6, &[0x62, 0x02, 0x11, 0x32, 0x54, 0x76, 0x98, 0xF0 | *n as u8]);
            }
            if let Some(age_s) = signed_s {
                request = request.signed_at(ABROAD_KEY, now_ms - age_s * 1000);
            }
            bench.ask(&request, OUTSIDE);
        }
        Op::Release { user: n, device } => {
            bench.ask(&msg(Kind::Release, user(*n), PushId::NONE).device(*device), OUTSIDE);
        }
        Op::Group { user: n, request, group: which } => {
            let request = msg(Kind::Group, user(*n), PushId::NONE).option(18, &[*request, 0, 0, 0]);
            bench.ask(&request.option(11, &group(*which).to_bytes()), OUTSIDE);
        }
        Op::Tables(which) => drop(bench.replace_tables(&tables(*which))),
        Op::Pass(ms) => drop(bench.pass_ms(*ms)),
        Op::BeginCut => {}
    }
    bench.pass_ms(0);
}

/// What holds. Of a session what was heard last is not worth a record while nothing else is due, and what is over or
/// was released is remembered for a time only.
fn state(engine: &Engine) -> BTreeSet<String> {
    let held = engine.changes().filter_map(|change| match change {
        Change::Attach(session) => Some(Change::Attach(Box::new(Session { heard_ms: 0, ..*session }))),
        Change::Detach { .. } | Change::Released { .. } => None,
        change => Some(change),
    });
    held.map(|change| format!("{change:?}")).collect()
}

/// Of the journal, and of a snapshot.
#[track_caller]
fn assert_restored(bench: &Bench) {
    let snapshot: Vec<Change> = bench.engine.changes().collect();
    for (of, changes) in [("journal", &bench.journal), ("snapshot", &snapshot)] {
        let (again, out) = bench.restored_from(changes);
        assert_eq!(out.changes, [], "of the {of}");
        assert_eq!(state(&again), state(&bench.engine), "of the {of}");
        assert_eq!(again.live(), bench.engine.live(), "of the {of}");
    }
}

/// A snapshot that is written while all that goes on.
#[derive(Default)]
struct Cut {
    then: Vec<Change>,
    told: Vec<Change>,
}

impl Cut {
    fn begin(bench: &mut Bench) -> Option<Self> {
        bench.engine.begin_cut();
        Some(Self { then: bench.engine.changes().collect(), ..Self::default() })
    }

    /// Takes a part; what is left.
    #[track_caller]
    fn some(mut self, bench: &mut Bench, bindings: u32) -> Option<Self> {
        if let Some(part) = bench.engine.cut_some(bindings) {
            self.told.extend(part);
            return Some(self);
        }
        let sorted = |changes: &[Change]| {
            let mut words: Vec<String> = changes.iter().map(|change| format!("{change:?}")).collect();
            words.sort();
            words
        };
        assert_eq!(sorted(&self.told), sorted(&self.then), "each once, as it was");
        let restored = |changes: &[Change]| state(&bench.restored_from(changes).0);
        assert_eq!(restored(&self.told), restored(&self.then), "in an order that replays to the same");
        None
    }
}

fn live(ops: &[Op]) {
    let config = Radius { session_max_s: 120, ..radius() };
    let mut bench = Bench::listening(ANY, TIGHT, &tables(0), Some(config));
    let mut cut: Option<Cut> = None;
    for (number, op) in ops.iter().enumerate() {
        say(&mut bench, op, number as u8);
        assert_restored(&bench);
        cut = match (cut, op) {
            (_, Op::BeginCut) => Cut::begin(&mut bench),
            (cut, _) => cut.and_then(|cut| cut.some(&mut bench, number as u32 % 7 + 1)),
        };
    }
    while let Some(left) = cut {
        cut = left.some(&mut bench, 3);
    }
}

/// A session that was somebody's with a port and bearers of users.csv becomes another's, of whom users.csv has none.
#[test]
fn whose_a_session_is_now_decides_its_port() {
    let about = |imsi, number, nsapi, ipv4| About {
        imsi,
        number,
        nsapi,
        ipv4,
        net: None,
        apn: false,
        ggsn: false,
        stops_all: false,
    };
    let start =
        |session, about| Op::Report { status: START, session, about, age_s: 0, is_dated: false, vpn: false };
    let address = Some(ADDRESSES[3]);
    live(&[
        start(3, about(None, Some(1), Some(7), None)),
        start(0, about(None, None, Some(5), None)),
        start(0, about(Some(3), Some(3), None, address)),
        start(3, about(Some(3), None, None, address)),
    ]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_restored_is_what_was_there(ops in ops()) {
        live(&ops);
    }
}
