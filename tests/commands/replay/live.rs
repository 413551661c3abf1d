//! `replay --server`: at somebody who writes down what comes and answers by the book, and at a real server.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use pushplane::id::PushId;
use pushplane::reason::Reason;
use pushplane::wire::prp::auth::{Auth, MacKey};
use pushplane::wire::prp::{HeadBuilder, Header, Kind, flag, option_type as ty, parse};
use serde_json::Value;

use super::super::{Folder, golden};
use super::{CLIENT, SERVER, Traffic, captures};

/// Somebody at the other end. User 1 gets a RECEIPT, user 2 two, user 3 a REJECT; requests are answered; all others
/// hear nothing.
struct Peer {
    at: SocketAddr,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Heard>>>,
}

/// From whom, and what.
type Heard = (SocketAddr, Vec<u8>);

impl Peer {
    fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (at, end) = (socket.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let ended = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            let (mut heard, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
            while !ended.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                let bytes = buffer[..length].to_vec();
                for answer in answers(&bytes) {
                    socket.send_to(&answer, from).unwrap();
                }
                heard.push((from, bytes));
            }
            heard
        });
        Self { at, end, thread: Some(thread) }
    }

    /// What it heard.
    fn heard(mut self) -> Vec<Heard> {
        self.end.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

fn answers(bytes: &[u8]) -> Vec<Vec<u8>> {
    let Ok(message) = parse(bytes) else { return Vec::new() };
    let answer = |kind| HeadBuilder::new(&message.header.answer(kind));
    let receipt = || answer(Kind::Receipt).datagram(b"").unwrap();
    match (message.kind, message.header.destination.0) {
        (Kind::Push, 1) => vec![receipt()],
        (Kind::Push, 2) => vec![receipt(), receipt()],
        (Kind::Push, 3) => vec![answer(Kind::Reject).reason(Reason::NotAttached).datagram(b"").unwrap()],
        (Kind::Echo, _) => vec![answer(Kind::Echoed).datagram(b"").unwrap()],
        _ => Vec::new(),
    }
}

/// Rounds of messages for users 1 to 4, who want a receipt, and one for user 5, who does not; an ECHO, and an answer.
fn traffic(folder: &Folder, rounds: usize) {
    let mut traffic = Traffic::new(folder, "live.pcap");
    for _ in 0..rounds {
        for user in 1..=5 {
            traffic.push(user, if user == 5 { 0 } else { flag::RECEIPT });
        }
        traffic.message("127.0.8.2:4001", (Kind::Echo, 0, 0), |header| HeadBuilder::new(header));
        traffic.message(CLIENT, (Kind::Receipt, 9, 0), |header| HeadBuilder::new(header));
    }
}

fn replay(folder: &Folder, peer: &Peer, more: &str) -> Value {
    let ran = folder.run(&format!("replay live.pcap --server {} --wait 0.4 --json {more}", peer.at));
    assert!(ran.status < 2, "{}", ran.err);
    ran.json()
}

/// However busy the machine is.
const PATIENT: &str = "--max-lag 100000";

#[test]
fn what_comes_back_is_matched_and_every_message_is_in_one_counter() {
    let folder = Folder::new();
    traffic(&folder, 40);
    let peer = Peer::start();
    let json = replay(&folder, &peer, PATIENT);
    let expected = serde_json::json!({
        "planned": 240, "sent": 240, "delivered": 80, "answered": 40, "dropped": {"not-attached": 40}, "forwarded": 0,
        "lost": 40, "silent": 40, "more_answers": 40, "strange": 0, "skipped_answers": 40, "failed": 0, "loops": 1,
        "valid": true, "invalid": [], "timing": "original",
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&json[field], value, "{field}\n{json}");
    }
    for of in ["late", "latency", "service"] {
        for field in ["p50", "p90", "p99", "p99.9", "max"] {
            assert!(json[of][field].as_u64().unwrap() > 0, "{of} {field}");
        }
    }
    // From when it was due it never takes less than from when it was sent.
    assert!(json["latency"]["max"].as_u64() >= json["service"]["max"].as_u64());
    let within = json["late_histogram"].as_array().unwrap();
    assert_eq!(within.iter().map(|within| within["count"].as_u64().unwrap()).sum::<u64>(), 240);
    // The capture's 28 ms, from the first to the last.
    assert!(json["seconds"].as_f64().unwrap() >= 0.027, "{json}");
    let heard = peer.heard();
    assert_eq!(heard.len(), 240);
    let ids: Vec<u64> = heard.iter().map(|(_, bytes)| parse(bytes).unwrap().header.message).collect();
    assert!(ids.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)), "{ids:?}");
    assert!(heard.iter().all(|(from, bytes)| from == &heard[0].0 && bytes.ends_with(b"hello")));
}

#[test]
fn the_same_seed_sends_the_same_bytes() {
    let folder = Folder::new();
    traffic(&folder, 3);
    let run = |seed: &str| {
        let peer = Peer::start();
        replay(&folder, &peer, &format!("{PATIENT} {seed} --timing topspeed"));
        let mut heard: Vec<Vec<u8>> = peer.heard().into_iter().map(|(_, bytes)| bytes).collect();
        heard.sort();
        heard
    };
    assert_eq!(run("--seed 7"), run("--seed 7"));
    assert_ne!(run("--seed 7"), run("--seed 8"));
    assert_ne!(run(""), run(""));
}

#[test]
fn loops_limits_and_times_bound_a_run() {
    let folder = Folder::new();
    traffic(&folder, 2);
    for (arguments, planned, loops) in [
        ("--timing topspeed --loop 5", 60, 5),
        ("--timing topspeed --loop 0 --limit 31", 31, 3),
        ("--timing pps --speed 100 --loop 0 --duration 0.2 --loop-delay 0", 21, 2),
        ("--timing multiplier --speed 0.5 --loop 2 --loop-delay 0.1", 24, 2),
        ("--include kind=echo", 2, 1),
        ("--timing original --max-gap 0.00001 --limit 5", 5, 1),
    ] {
        let peer = Peer::start();
        let json = replay(&folder, &peer, &format!("{PATIENT} {arguments}"));
        assert_eq!(
            (&json["planned"], &json["loops"]),
            (&planned.into(), &loops.into()),
            "{arguments}\n{json}"
        );
        assert_eq!((&json["sent"], &json["valid"]), (&planned.into(), &true.into()), "{arguments}");
        // Of the capture, not of a round that was cut short.
        assert!(json["frames"]["frames"] == 14 || loops == 1, "{arguments}\n{json}");
        assert_eq!(peer.heard().len(), planned);
    }
    // Without a schedule nothing can be late, and what the time cut off was never due.
    let peer = Peer::start();
    let json = replay(&folder, &peer, "--timing topspeed --loop 0 --duration 0.3");
    assert_eq!((&json["late"]["max"], &json["valid"]), (&0.into(), &true.into()));
    assert_eq!(json["planned"], json["sent"]);
    assert!(json["seconds"].as_f64().unwrap() > 0.25 && json["sent"].as_u64().unwrap() > 50, "{json}");
    drop(peer.heard());
}

/// A capture taken at a server has every push twice: as it came, and as it went on to the terminal.
#[test]
fn what_a_server_sent_is_left_out() {
    let folder = Folder::new();
    let mut traffic = Traffic::new(&folder, "live.pcap");
    traffic.push(1, flag::RECEIPT);
    let push =
        HeadBuilder::new(&Header::new(Kind::Push, PushId(1), PushId::NONE, 9)).datagram(b"hi").unwrap();
    traffic.datagram(SERVER, "127.0.8.1:2948", &push);
    // From one server to another: which of them is meant nobody says.
    traffic.datagram(SERVER, "127.0.0.2:17400", &push);
    drop(traffic);
    let peer = Peer::start();
    let json = replay(&folder, &peer, PATIENT);
    assert_eq!((&json["planned"], &json["own"], &json["delivered"]), (&2.into(), &1.into(), &2.into()));
    assert_eq!(peer.heard().len(), 2);
    // Another port is that of PRP.
    let peer = Peer::start();
    let json = replay(&folder, &peer, &format!("{PATIENT} --port 2948"));
    assert_eq!((&json["planned"], &json["own"]), (&1.into(), &0.into()), "{json}");
}

/// One after the other: the next is sent when the one before was answered, or will not be.
#[test]
fn step_by_step_nothing_overtakes() {
    let folder = Folder::new();
    let mut traffic = Traffic::new(&folder, "live.pcap");
    for user in [1, 3, 1, 4, 5, 1] {
        traffic.push(user, if user == 5 { 0 } else { flag::RECEIPT });
    }
    drop(traffic);
    let peer = Peer::start();
    let json = replay(&folder, &peer, "--timing step");
    assert_eq!((&json["delivered"], &json["lost"], &json["silent"]), (&3.into(), &1.into(), &1.into()));
    // User 4 is waited for.
    assert!(json["seconds"].as_f64().unwrap() >= 0.4, "{json}");
    let users: Vec<u128> =
        peer.heard().iter().map(|(_, bytes)| parse(bytes).unwrap().header.destination.0).collect();
    assert_eq!(users, [1, 3, 1, 4, 5, 1]);
}

#[test]
fn messages_are_mapped_sent_from_elsewhere_and_signed() {
    let folder = Folder::new();
    traffic(&folder, 1);
    let peer = Peer::start();
    let json = replay(
        &folder,
        &peer,
        &format!(
            "{PATIENT} --timing topspeed --map-ids 0x00/8=0x0F/8 --map-addr 127.0.8.0/24=127.0.9.0/24 --key 4=000102030405060708090a0b0c0d0e0f"
        ),
    );
    assert_eq!((&json["sent"], &json["valid"]), (&6.into(), &true.into()), "{json}");
    let key = MacKey::new([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    let heard = peer.heard();
    for (from, bytes) in &heard {
        let message = parse(bytes).unwrap();
        let auth = Auth::of(&message.options, bytes).unwrap();
        assert!(auth.key == 4 && key.verify(bytes, &auth));
        assert!(auth.is_fresh(pushplane::clock::Clock::start().now().unix_ms));
        let mapped = message.kind == Kind::Echo;
        assert_eq!(from.to_string() == "127.0.9.2:4001", mapped, "{from}");
        let user = message.header.destination;
        assert!(mapped || (PushId(0x0F << 120 | 1)..=PushId(0x0F << 120 | 5)).contains(&user), "{user}");
    }
    // Signed by somebody whose key is not at hand: the signature goes, since the identifier is another.
    let mut traffic = Traffic::new(&folder, "live.pcap");
    traffic.message(CLIENT, (Kind::Push, 1, 7), |header| {
        let mut head = HeadBuilder::new(header);
        head.auth(9, 1);
        head
    });
    drop(traffic);
    let peer = Peer::start();
    let json = replay(&folder, &peer, PATIENT);
    assert_eq!((&json["sent"], &json["unsigned"]), (&1.into(), &1.into()));
    let heard = peer.heard();
    assert_eq!(parse(&heard[0].1).unwrap().options.offset(ty::AUTH), None);
}

#[test]
fn a_sender_that_cannot_keep_the_schedule_says_so() {
    let folder = Folder::new();
    traffic(&folder, 100);
    let peer = Peer::start();
    let arguments =
        format!("replay live.pcap --server {} --wait 0.2 --timing pps --speed 1e9 --max-lag 0", peer.at);
    let ran = folder.run(&arguments);
    assert!(ran.no().ends_with("INVALID\n"), "{}", ran.out);
    assert!(ran.out.contains("the sender could not keep the schedule"), "{}", ran.out);
    let json = folder.run(&format!("{arguments} --histograms h.hlog --json"));
    json.no();
    let json = json.json();
    assert_eq!((&json["valid"], json["invalid"].as_array().unwrap().len()), (&false.into(), 1));
    let log = folder.read("h.hlog");
    for tag in ["Tag=late,", "Tag=latency,", "Tag=service,"] {
        assert!(log.contains(tag), "{log}");
    }
    drop(peer.heard());
}

#[test]
fn what_cannot_be_replayed_live_is_refused() {
    let folder = Folder::new();
    traffic(&folder, 1);
    for (arguments, words) in [
        ("--server 127.0.0.1:9 --timing pps", "needs --speed"),
        ("--server 127.0.0.1:9 --speed 3", "leave one out"),
        ("--server 127.0.0.1:9 --timing multiplier --speed -1", "unexpected argument"),
        ("--server 127.0.0.1:9 --loop 0", "needs --duration or --limit"),
        ("--server 127.0.0.1:9 --as-push", "needs --tables"),
        ("--server 127.0.0.1:9 --against lab", "cannot be used with"),
        ("--server here", "expected an address"),
        ("--tables lab --timing topspeed", "--server"),
        ("--server 127.0.0.1:9 --bind 198.51.100.77:0", "cannot be bound"),
        ("--server 127.0.0.1:9 --duration -1", "unexpected argument"),
        ("--server 127.0.0.1:9 --wait forever", "expected a number"),
    ] {
        folder.run(&format!("replay live.pcap {arguments}")).wrong(words);
    }
    // Before anything is sent.
    let peer = Peer::start();
    let unkept = format!("replay live.pcap --server {} --histograms absent/h.hlog", peer.at);
    folder.run(&unkept).wrong("absent/h.hlog:1:1: cannot be written");
    assert!(peer.heard().is_empty());
    let other = captures().into_iter().find(|file| file.ends_with("zeek-gtp8_teredo.pcap")).unwrap();
    let nothing = folder.run(&format!("replay {} --server 127.0.0.1:9 --wait 0", other.display()));
    assert!(nothing.err.contains("--as-push makes pushes of other datagrams"), "{}", nothing.err);
    folder.run("replay - --server 127.0.0.1:9 --loop 2").wrong("standard input can be read once");
}

/// A real server.
struct Served {
    child: Child,
    at: String,
    metrics: String,
    /// What stands where its gateways are said to be. Nobody reads there.
    _gateways: Vec<UdpSocket>,
}

impl Served {
    /// Its tables are those of the capture, but for the gateways: they stand on this host, or the test would send to
    /// addresses of somebody.
    fn start(folder: &Folder, tables: &str) -> Self {
        let at = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let servers = folder.read(&format!("{tables}/servers.toml")).replace("127.0.0.1:17400", &at);
        folder.write(&format!("{tables}/servers.toml"), &servers);
        let mut gateways = Vec::new();
        let mut text = String::new();
        for line in folder.read(&format!("{tables}/gateways.toml")).lines() {
            let line = match line.split(' ').next() {
                Some("address") => {
                    gateways.push(UdpSocket::bind("127.0.0.1:0").unwrap());
                    format!("address = \"{}\"", gateways[gateways.len() - 1].local_addr().unwrap())
                }
                Some("tunnel") => "tunnel = \"plain\"".to_owned(),
                _ => line.to_owned(),
            };
            writeln!(text, "{line}").unwrap();
        }
        folder.write(&format!("{tables}/gateways.toml"), &text);
        folder.write(
            "pushplane.toml",
            &format!(
                "[server]\nname = \"learned\"\nlisten = [\"{at}\"]\ntables = \"{tables}\"\nmetrics = \"127.0.0.1:0\"\n\
                 shards = 1\n"
            ),
        );
        let mut command = folder.command();
        command.args(["serve", "--config", "pushplane.toml"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let metrics = ready.split("http://").nth(1).unwrap().trim().strip_suffix("/metrics").unwrap();
        Self { child, at, metrics: metrics.to_owned(), _gateways: gateways }
    }

    fn metric(&self, name: &str) -> u64 {
        let mut stream = TcpStream::connect(&self.metrics).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        let line = page.lines().find_map(|line| line.strip_prefix(&format!("{name} "))).unwrap();
        line.parse().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every capture, at a server with the tables learned from it: each message is read by it and in one of its counters.
#[test]
fn every_capture_is_replayed_at_a_server() {
    let mut found = "capture\tsent\tpushes\tdelivered\tsilent\tdropped\n".to_owned();
    for file in captures() {
        let folder = Folder::new();
        let path = file.display();
        let learned = folder.run(&format!("tables learn {path} -o learned --json")).json();
        if learned["users"]["total"] == 0 {
            continue;
        }
        let server = Served::start(&folder, "learned");
        let json = folder
            .run(&format!(
                "replay {path} --server {} --tables learned --as-push --timing topspeed --wait 0.1 --json",
                server.at
            ))
            .json();
        assert_eq!((&json["valid"], &json["planned"]), (&true.into(), &json["sent"]), "{path}\n{json}");
        let sent = json["sent"].as_u64().unwrap();
        assert_eq!(server.metric("pushplane_rx_datagrams_total"), sent, "{path}");
        assert_eq!(server.metric("pushplane_unaccounted"), 0);
        let delivered = server.metric("pushplane_delivered_total");
        writeln!(
            found,
            "{}\t{}\t{}\t{}\t{}\t{}",
            file.file_name().unwrap().to_string_lossy(),
            json["sent"],
            json["datagrams"]["pushes"],
            delivered,
            json["silent"],
            json["dropped"],
        )
        .unwrap();
    }
    assert!(fs::metadata(format!("{}/tests/golden", super::ROOT)).unwrap().is_dir());
    golden("live.tsv", &found);
}
