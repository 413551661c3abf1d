//! What is pushed through the lab, and how it is told.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use pushplane::clock::Clock;
use pushplane::id::{Endpoint, PushId};
use pushplane::reason::Reason;
use pushplane::table::Rib;
use pushplane::wire::prp::auth::MacKey;
use pushplane::wire::prp::{self, HeadBuilder, Header, Kind, flag};

use super::cast::Event;
use crate::Stop;

/// One message, or several alike.
struct Scene {
    /// What it shows.
    title: &'static str,
    /// To which server, of the lab's three.
    server: usize,
    app: u32,
    to: &'static str,
    /// Of keys.toml.
    key: Option<u32>,
    count: usize,
    /// Send the very same datagram again.
    again: bool,
    /// `to` is a group.
    group: bool,
}

const PLAIN: Scene =
    Scene { title: "", server: 0, app: 7, to: "", key: None, count: 1, again: false, group: false };

const ALICE: &str = "00000000000000000000000000000001";

/// Every way that a message can go.
const SCENES: &[Scene] = &[
    Scene { title: "alice's segment lies behind the VXLAN gateway", to: ALICE, ..PLAIN },
    Scene {
        title: "bob's behind the one that speaks GTP-U",
        to: "00000000000000000000000000000002",
        ..PLAIN
    },
    Scene { title: "carol's gateway takes PRP as it is", to: "00000000000000000000000000000003", ..PLAIN },
    Scene { title: "dave can be reached without a tunnel", to: "00000000000000000000000000000004", ..PLAIN },
    Scene { title: "erin has a phone and a tablet", to: "00000000000000000000000000000005", ..PLAIN },
    Scene {
        title: "frank is behind a NAT: to his public address",
        to: "00000000000000000000000000000006",
        ..PLAIN
    },
    Scene {
        title: "leo's home is mobile-2: forwarded by prefix",
        to: "10000000000000000000000000000001",
        ..PLAIN
    },
    Scene {
        title: "min's /24 lies elsewhere than the /16 around it",
        server: 2,
        to: "40000000000000000000000000000001",
        ..PLAIN
    },
    Scene {
        title: "heidi roams: her home sends it on to unicom-1",
        to: "00000000000000000000000000000008",
        ..PLAIN
    },
    Scene {
        title: "heidi again, by way of mobile-2",
        server: 1,
        to: "00000000000000000000000000000008",
        ..PLAIN
    },
    Scene {
        title: "a group at two operators: a copy for each member",
        group: true,
        to: "0000000000000000000000000000f001",
        ..PLAIN
    },
    Scene {
        title: "judy signs: her messages are signed for her",
        to: "0000000000000000000000000000000a",
        ..PLAIN
    },
    Scene { title: "the bank's messages must be signed, and are", app: 9, key: Some(2), to: ALICE, ..PLAIN },
    Scene {
        title: "a signed message comes twice: a replay",
        app: 9,
        key: Some(2),
        again: true,
        to: ALICE,
        ..PLAIN
    },
    Scene { title: "one for the bank that is not signed", app: 9, to: ALICE, ..PLAIN },
    Scene { title: "application 1 is not on the allowlist", app: 1, to: ALICE, ..PLAIN },
    Scene { title: "chat may come from elsewhere only", app: 11, to: ALICE, ..PLAIN },
    Scene { title: "news may send 5 a second; here come 7", app: 10, count: 7, to: ALICE, ..PLAIN },
    Scene {
        title: "grace is not attached: only her IMSI is known",
        to: "00000000000000000000000000000007",
        ..PLAIN
    },
    Scene {
        title: "ivan's binding ran out: never to its next owner",
        to: "00000000000000000000000000000009",
        ..PLAIN
    },
    Scene { title: "kim takes short messages only", to: "0000000000000000000000000000000b", ..PLAIN },
    Scene { title: "nobody has this Push ID", to: "000000000000000000000000000000ff", ..PLAIN },
    Scene { title: "no server owns this prefix", to: "f0000000000000000000000000000001", ..PLAIN },
];

/// The application server's address.
const SENDER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 50);

/// How long silence lasts before a scene is over.
const SILENCE: Duration = Duration::from_millis(60);

/// Plays every scene and tells what became of it.
pub(super) fn play(rib: &Rib, events: &Receiver<Event>) -> Result<(), Stop> {
    let wrong = |error| Stop::Wrong(format!("the application server's socket on {SENDER}: {error}"));
    let socket = UdpSocket::bind((IpAddr::from(SENDER), 0)).map_err(wrong)?;
    socket.set_read_timeout(Some(SILENCE)).map_err(wrong)?;
    let clock = Clock::start();
    crate::say(&format!("\nAn application server at {SENDER} pushes messages and wants receipts:\n"));
    for (scene, message) in SCENES.iter().zip(1u64..) {
        let server = &rib.servers[scene.server];
        let to: PushId = scene.to.parse().map_err(|error: pushplane::id::ParseError| Stop::Wrong(error.0))?;
        let app =
            rib.apps.iter().find(|app| app.id == scene.app).map_or("no application", |app| app.name.as_str());
        crate::say(&format!("  {:>2}. {}", message, scene.title));
        let start = clock.now().mono_ns;
        let mut datagram = Vec::new();
        for copy in 0..scene.count as u64 {
            datagram = push(rib, scene, to, message << 8 | copy, &clock)?;
            socket.send_to(&datagram, SocketAddr::from(server.address)).map_err(wrong)?;
        }
        if scene.again {
            socket.send_to(&datagram, SocketAddr::from(server.address)).map_err(wrong)?;
        }
        let answers = answers(&socket, &clock, start);
        tell(rib, &server.name, app, scene, &answers, events);
    }
    Ok(())
}

fn push(rib: &Rib, scene: &Scene, to: PushId, message: u64, clock: &Clock) -> Result<Vec<u8>, Stop> {
    let flags = flag::RECEIPT | if scene.group { flag::GROUP } else { 0 };
    let header = Header { app: scene.app, flags, ..Header::new(Kind::Push, to, PushId::NONE, message) };
    let mut head = HeadBuilder::new(&header);
    let key = rib.keys.iter().find(|key| Some(key.id) == scene.key);
    if let Some(key) = key {
        head.auth(key.id, clock.now().unix_ms);
    }
    let too_long = |_| Stop::Failed("a head is too long".to_owned());
    let head_bytes = head.finish().map_err(too_long)?.len();
    let mut datagram = head.datagram(b"hello").map_err(too_long)?;
    let signed = key.is_none_or(|key| MacKey::new(key.value).sign(&mut datagram, head_bytes));
    if signed { Ok(datagram) } else { Err(Stop::Failed("a datagram cannot be signed".to_owned())) }
}

/// What the application server got back.
#[derive(Default)]
struct Answers {
    receipts: usize,
    rejections: Vec<Reason>,
    last_us: u64,
}

fn answers(socket: &UdpSocket, clock: &Clock, start_ns: u64) -> Answers {
    let mut answers = Answers::default();
    let mut buffer = [0; 2048];
    while let Ok((length, _)) = socket.recv_from(&mut buffer) {
        let bytes = &buffer[..length];
        let Ok(message) = prp::parse(bytes) else { continue };
        answers.last_us = (clock.now().mono_ns - start_ns) / 1000;
        match (message.kind, message.options.reason(bytes).and_then(|(code, _)| Reason::from_code(code))) {
            (Kind::Receipt, _) => answers.receipts += 1,
            (Kind::Reject, Some(reason)) => answers.rejections.push(reason),
            _ => {}
        }
    }
    answers
}

fn tell(rib: &Rib, entry: &str, app: &str, scene: &Scene, answers: &Answers, events: &Receiver<Event>) {
    let name_of = |at: Endpoint| {
        rib.servers.iter().find(|server| server.address == at).map(|server| server.name.clone())
    };
    // Gateways and terminals run side by side: a terminal belongs to the gateway whose segment it is in.
    let events: Vec<Event> = events.try_iter().collect();
    let mut shown = 0;
    for event in &events {
        let Event::Terminal { device, at, from, hops, roamed, .. } = event else {
            if let Event::Trouble(what) = event {
                crate::say(&format!("        TROUBLE: {what}"));
            }
            continue;
        };
        shown += 1;
        if shown > 3 {
            continue;
        }
        let gateway = rib.gateways.iter().find(|gateway| gateway.address == *from);
        let taken = events.iter().find_map(|event| match (event, gateway) {
            (Event::Gateway { name, from, .. }, Some(gateway)) if *name == gateway.name => name_of(*from),
            _ => None,
        });
        let last = taken.or_else(|| name_of(*from));
        let mut way = vec![app.to_owned(), entry.to_owned()];
        let forwards = prp::HOP_LIMIT - hops;
        // Two forwards: the home server stands between the one that took it and the one that serves.
        if forwards == 2 {
            way.push(rib.servers[0].name.clone());
        }
        way.extend(last.filter(|last| forwards > 0 && last != entry));
        way.extend(gateway.map(|gateway| format!("{} ({})", gateway.name, gateway.tunnel.name())));
        let roamed = if *roamed { ", marked ROAMED" } else { "" };
        crate::say(&format!("        {} → device {device} at {at}{roamed}", way.join(" → ")));
    }
    if shown > 3 {
        crate::say(&format!("        … {} in all", shown));
    }
    let elapsed_ms = answers.last_us as f64 / 1000.0;
    if answers.receipts > 0 {
        let what = if answers.receipts == 1 { "receipt" } else { "receipts" };
        crate::say(&format!("        {} {what}, after {elapsed_ms:.2} ms", answers.receipts));
    }
    for reason in Reason::ALL {
        let count = answers.rejections.iter().filter(|other| *other == reason).count();
        if count > 0 {
            let times = if count == 1 { String::new() } else { format!("{count} × ") };
            crate::say(&format!("        {} → {entry}: {times}rejected, {reason}: {}", app, reason.text()));
        }
    }
    if answers.receipts == 0 && answers.rejections.is_empty() {
        crate::say(&format!("        no answer for {}", scene.to));
    }
}
