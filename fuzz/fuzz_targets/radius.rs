//! RADIUS: every part of a packet lies within it, an answer is as RFC 2866 §4.2 wants it, and whatever the attributes
//! say, an engine decides it once, keeps one user an address, and restores what it was.

#![no_main]

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pushplane::clock::Now;
use pushplane::config::{Identify, Limits, Policy, Radius, RadiusClient, RegisterPolicy, Secret};
use pushplane::control::{Engine, Outbox, Report, ReportEnd, Site};
use pushplane::id::{Endpoint, PushId};
use pushplane::table::rib::{Server, User};
use pushplane::table::{Change, Image, Rib, Session, Tables};
use pushplane::wire::radius::{Accounting, Packet, attribute, code};

const SECRET: &[u8] = b"testing123";

/// A server and two users with the SIMs of the seeds.
static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let user = |n: u128, imsi: &str| User {
        imsi: Some(imsi.parse().expect("an IMSI")),
        ..User::new(PushId(n), n as u8)
    };
    let server = Server {
        name: "one".into(),
        prefixes: vec!["0".parse().expect("a prefix")],
        address: at("192.0.2.1:17400"),
        key: None,
    };
    let rib = Rib {
        servers: vec![server],
        users: vec![user(1, "460001234567890"), user(2, "460001234567891")],
        names: vec![("8613800138000".into(), PushId(3))],
        ..Rib::default()
    };
    Tables::new(Image::build(&rib).expect("an image"), 1, "one", None)
});

fn at(text: &str) -> Endpoint {
    text.parse().expect("an address")
}

fn engine() -> Engine {
    let policy = Policy { register: RegisterPolicy::Any, ..Policy::default() };
    let limits = Limits { sessions: 8, bindings: 4, ..Limits::default() };
    let site = Site { listen: vec![at("192.0.2.1:17400")], policy, limits, seed: 1 };
    Engine::new(site).with_feed(Some(Radius {
        listen: vec![at("192.0.2.1:1813")],
        realm: 0,
        identify: vec![Identify::Imsi, Identify::CallingStation, Identify::UserName],
        port: 17400,
        session_max_s: 3600,
        clients: vec![RadiusClient {
            prefix: ("::".parse().expect("a prefix"), 0),
            secret: Secret::new(SECRET),
            realm: None,
        }],
        apns: vec![("vpn".into(), 9)],
    }))
}

/// The packet alone.
fn codec(data: &[u8]) {
    let Ok(packet) = Packet::parse(data) else { return };
    let size: usize = packet.attributes().map(|found| found.value.len() + 2).sum();
    assert_eq!(20 + size, usize::from(u16::from_be_bytes([data[2], data[3]])));
    let _ = (packet.is_genuine(SECRET), Accounting::read(&packet));
    let mut answer = Vec::new();
    packet.respond(SECRET, &mut answer);
    let answer = Packet::parse(&answer).expect("what was written");
    assert_eq!((answer.code(), answer.identifier()), (code::ACCOUNTING_RESPONSE, packet.identifier()));
    let states = |packet: &Packet<'_>| {
        let states = packet.attributes().filter(|found| found.ty == attribute::PROXY_STATE);
        states.map(|found| found.value.to_vec()).collect::<Vec<_>>()
    };
    assert_eq!(states(&answer), states(&packet));
    assert_eq!(answer.attributes().count(), states(&packet).len());
}

/// One user an address, by the bindings that hold.
fn check(engine: &Engine) {
    let mut owners: HashMap<(u32, [u8; 16]), PushId> = HashMap::new();
    for change in engine.changes() {
        if let Change::Bind { binding, .. } | Change::Assign { binding, .. } = change
            && let Some(private) = binding.private
        {
            let owner = *owners.entry((binding.realm, private.octets())).or_insert(binding.user);
            assert_eq!(owner, binding.user);
        }
    }
}

/// What holds: bindings and sessions. Of a session what was heard last is not worth a record while nothing else is due,
/// and what is over is remembered for a time only.
fn state(engine: &Engine) -> HashSet<Vec<u8>> {
    let held = engine.changes().filter_map(|change| match change {
        Change::Attach(session) => Some(Change::Attach(Box::new(Session { heard_ms: 0, ..*session }))),
        Change::Detach { .. } => None,
        change => Some(change),
    });
    held.map(|change| change.to_bytes()).collect()
}

// Packets one after the other, each behind two bytes of length and one of time that passes.
fuzz_target!(|data: &[u8]| {
    codec(data);
    let mut engine = engine();
    let mut now = Now { mono_ns: 1_000_000_000_000, unix_ms: 1_767_225_660_000 };
    let (mut reported, mut ended) = (0, 0);
    let mut journal = Vec::new();
    let mut out = Outbox::default();
    engine.restored(&TABLES, now, &mut out);
    let mut rest = data;
    while let [wait, high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (bytes, next) = after.split_at(length);
        rest = next;
        now = now.plus_ns(u64::from(*wait) * 1_000_000_000);
        let report = Report { bytes, from: at("[fd00::1]:5"), listener: 0, client: 0, now };
        engine.handle_report(&TABLES, &report, &mut out);
        reported += 1;
        while engine.poll_timeout().is_some_and(|due| due <= now.mono_ns) {
            engine.handle_timeout(&TABLES, now, &mut out);
        }
        let answered = out.reports.iter().filter(|end| matches!(end, ReportEnd::Answered(..))).count();
        assert!(answered <= 2);
        ended += out.reports.len();
        journal.append(&mut out.changes);
        out = Outbox::default();
        assert_eq!((ended, engine.live().reports), (reported, 0));
        assert!(engine.live().sessions <= 8);
        check(&engine);
    }
    let mut again = self::engine();
    for change in &journal {
        assert_eq!(Change::from_bytes(&change.to_bytes()).as_ref(), Some(change));
        again.restore(change);
    }
    again.restored(&TABLES, now, &mut out);
    assert_eq!(out.changes, [], "what is is what was");
    assert_eq!(again.live(), engine.live());
    assert_eq!(state(&again), state(&engine));
});
