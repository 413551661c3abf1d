//! The network's own word on who has which address, from programs of somebody else: radclient, directly and through a
//! FreeRADIUS proxy, tells the real server, and pushes go where it says. And a server that is killed while it answers.

#[path = "common/netns.rs"]
mod netns;
#[path = "common/radius.rs"]
mod radius;
#[path = "common/server.rs"]
mod server;

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pushplane::clock::Clock;
use pushplane::id::PushId;
use pushplane::reason::Reason;
use pushplane::wire::prp::Kind;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use radius::{Acct, START, STOP, assert_answers};
use server::{METRICS, Running, Site, ask, bind, deliver, register, registered, release, value};

/// Users with a SIM; Bob's terminal listens on a port of its own.
const ANN: PushId = PushId(0xA1);
const BOB: PushId = PushId(0xB0);
const ANNS_SIM: &str = "262011234567890";
const BOBS_SIM: &str = "262011234567891";
const BOBS_PORT: u16 = 2950;

/// A server that listens to RADIUS, and where.
fn site(users: &str) -> (Site, SocketAddr) {
    let at = bind("127.0.0.1:0").local_addr().unwrap();
    let site = Site::new(&format!(
        "{METRICS}[radius]\nlisten = \"{at}\"\n[[radius.client]]\naddress = \"127.0.0.1\"\nsecret = \"testing123\"\n"
    ));
    let private = fs::Permissions::from_mode(0o600);
    fs::set_permissions(site.path("pushplane.toml"), private).unwrap();
    site.write("tables/users.csv", users);
    (site, at)
}

fn two_users() -> (Site, SocketAddr) {
    site(&format!(
        "push_id,device,private,imsi\n{ANN},0,,{ANNS_SIM}\n{BOB},0,127.64.20.99:{BOBS_PORT},{BOBS_SIM}\n"
    ))
}

/// Whether a program is there; what to do if not.
fn needs(program: &str, package: &str) -> Result<(), String> {
    let there = Command::new(program).arg("-v").stdin(Stdio::null()).output();
    if there.is_ok_and(|out| out.status.success()) {
        return Ok(());
    }
    Err(format!("no {program}; Debian has it in the package {package}"))
}

/// How often radclient asks who will answer.
const TRIES: &str = "5";

/// Has radclient send an Accounting-Request; what it says of the answer, or of there being none.
fn radclient(to: SocketAddr, secret: &str, tries: &str, request: &str) -> Result<String, String> {
    let mut child = Command::new("radclient")
        .args(["-x", "-r", tries, "-t", "1", &to.to_string(), "acct", secret])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    if out.status.success() { Ok(said) } else { Err(said) }
}

/// What a GGSN says of a session, as radclient reads it.
fn session(status: &str, session: &str, imsi: &str, address: &str) -> String {
    format!(
        "Acct-Status-Type = {status}\nAcct-Session-Id = \"{session}\"\nNAS-IP-Address = 10.9.0.2\n\
         3GPP-GGSN-Address = 10.9.0.2\n3GPP-IMSI = \"{imsi}\"\nFramed-IP-Address = {address}\n\
         Called-Station-Id = \"internet\"\nCalling-Station-Id = \"8613800138000\"\n3GPP-NSAPI = \"5\"\n"
    )
}

/// The terminals at an address: Ann's where the server thinks that terminals listen, Bob's at its port.
fn terminals(address: &str) -> [UdpSocket; 2] {
    [bind(&format!("{address}:17400")), bind(&format!("{address}:{BOBS_PORT}"))]
}

/// The counters of RADIUS, which must agree.
fn counters(running: &Running, wanted: &str) -> i64 {
    let page = running.metrics();
    let of = |name: &str| value(&page, &format!("pushplane_radius_{name}"));
    let family = |name: &str| -> i64 {
        let rows = page.lines().filter(|line| line.starts_with(&format!("pushplane_radius_{name}_total{{")));
        rows.map(|row| row.rsplit(' ').next().unwrap().parse::<i64>().unwrap()).sum()
    };
    let ended = family("answered") + family("dropped") + of("in_flight");
    assert_eq!((of("requests_total"), of("unaccounted")), (ended, 0), "{page}");
    of(wanted)
}

#[test]
fn radclient_says_who_has_an_address() {
    if let Err(why) = needs("radclient", "freeradius-utils") {
        return netns::skip("radclient", &why);
    }
    let (site, at) = two_users();
    let mut running = site.serve();
    assert!(running.ready.contains(&format!("radius on {at}")), "{}", running.ready);
    let address = "127.64.20.1";
    let seats = terminals(address);
    let [anns, bobs] = [&seats[0], &seats[1]];
    let tell =
        |request: &str| radclient(at, "testing123", TRIES, request).unwrap_or_else(|said| panic!("{said}"));

    let said = tell(&session("Start", "a", ANNS_SIM, address));
    assert!(said.contains("Received Accounting-Response"), "{said}");
    assert_eq!(deliver(site.at, ANN, &[anns, bobs]), Ok(0));
    // The address passes to another subscriber: its Stop was lost.
    tell(&session("Start", "b", BOBS_SIM, address));
    assert_eq!(deliver(site.at, BOB, &[anns, bobs]), Ok(1));
    assert_eq!(deliver(site.at, ANN, &[anns, bobs]), Err(Reason::NotAttached));
    // It was late.
    tell(&session("Stop", "a", ANNS_SIM, address));
    assert_eq!(deliver(site.at, BOB, &[anns, bobs]), Ok(1));
    // Whoever says there that it is somebody else is not believed.
    let theft = ask(anns, site.at, &register(ANN, &[]));
    assert_eq!((theft.kind, theft.reason), (Kind::Reject, Some(Reason::NotPermitted)));
    // The terminal itself knows its port better.
    let other = bind(&format!("{address}:0"));
    registered(&other, site.at, &register(BOB, &[]));
    assert_eq!(deliver(site.at, BOB, &[anns, bobs, &other]), Ok(2));
    tell(&session("Interim-Update", "b", BOBS_SIM, address));
    assert_eq!(deliver(site.at, BOB, &[anns, bobs, &other]), Ok(2));
    tell(&session("Stop", "b", BOBS_SIM, address));
    for user in [ANN, BOB] {
        assert_eq!(deliver(site.at, user, &[anns, bobs, &other]), Err(Reason::NotAttached));
    }

    // An Interim repairs a Start that was lost; the GGSN starts anew and forgets it all.
    tell(&session("Interim-Update", "c", ANNS_SIM, address));
    assert_eq!(deliver(site.at, ANN, &[anns, bobs]), Ok(0));
    assert_eq!(counters(&running, "sessions"), 1);
    std::thread::sleep(Duration::from_millis(1100));
    tell("Acct-Status-Type = Accounting-On\nNAS-IP-Address = 10.9.0.2\nAcct-Session-Id = \"0\"\n");
    assert_eq!(deliver(site.at, ANN, &[anns, bobs]), Err(Reason::NotAttached));
    assert_eq!(counters(&running, "sessions"), 0);

    // Who does not know the secret is not heard, and not answered.
    let forged = radclient(at, "testing124", "1", &session("Start", "d", ANNS_SIM, address));
    assert!(forged.is_err(), "{forged:?}");
    assert!(counters(&running, "dropped_total{reason=\"wrong-authenticator\"}") > 0);
    let stranger = bind("127.0.0.2:0");
    stranger.send_to(&Acct::of(START, "e").imsi(ANNS_SIM).ip(address).bytes(), at).unwrap();
    let told = || (counters(&running, "dropped_total{reason=\"unknown-client\"}") == 1).then_some(());
    netns::eventually("packet from a stranger", told).unwrap();
    assert_eq!(deliver(site.at, ANN, &[anns, bobs]), Err(Reason::NotAttached));
    running.terminate();
}

/// A FreeRADIUS server, with a folder of its own; it ends when dropped.
struct Proxy {
    child: Child,
    at: SocketAddr,
}

impl Proxy {
    /// One that knows nothing but to hand accounting on to this server.
    fn start(folder: &Path, home: SocketAddr) -> Self {
        let at = bind("127.0.0.1:0").local_addr().unwrap();
        fs::create_dir_all(folder).unwrap();
        let here = folder.display();
        let config = format!(
            "localstatedir = {here}\nlogdir = {here}\nrun_dir = {here}\nraddbdir = {here}\nproxy_requests = yes\n\
             client front {{\n ipaddr = 127.0.0.1\n secret = front\n}}\n\
             home_server pushplane {{\n type = acct\n ipaddr = 127.0.0.1\n port = {}\n secret = testing123\n \
             response_window = 5\n status_check = none\n}}\n\
             home_server_pool feed {{\n home_server = pushplane\n}}\n\
             realm feed {{\n acct_pool = feed\n}}\n\
             modules {{\n}}\n\
             server default {{\n listen {{\n  type = acct\n  ipaddr = 127.0.0.1\n  port = {}\n }}\n \
             preacct {{\n  update control {{\n   Proxy-To-Realm := \"feed\"\n  }}\n }}\n accounting {{\n }}\n}}\n",
            home.port(),
            at.port(),
        );
        fs::write(folder.join("radiusd.conf"), config).unwrap();
        let log = fs::File::create(folder.join("log")).unwrap();
        let child = Command::new("freeradius")
            .args(["-n", "radiusd", "-f", "-xx", "-l", "stdout", "-d"])
            .arg(folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let proxy = Self { child, at };
        let log = folder.join("log");
        let said = || fs::read_to_string(&log).unwrap_or_default();
        let ready = || said().contains("Ready to process requests").then_some(());
        netns::eventually("FreeRADIUS", ready).unwrap_or_else(|error| panic!("{error}\n{}", said()));
        proxy
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The proxy adds a Proxy-State of its own behind that of who asks it, and passes nothing on that does not come back.
#[test]
fn a_proxy_of_somebody_else_is_answered() {
    let there = needs("radclient", "freeradius-utils").and_then(|()| needs("freeradius", "freeradius"));
    if let Err(why) = there {
        return netns::skip("FreeRADIUS", &why);
    }
    let (site, at) = two_users();
    let mut running = site.serve();
    let proxy = Proxy::start(&site.path("freeradius"), at);
    let address = "127.64.21.1";
    let seats = terminals(address);
    let [anns, bobs] = [&seats[0], &seats[1]];
    let tell = |status: &str, name: &str, imsi: &str| {
        let request = session(status, name, imsi, address) + "Proxy-State = 0x0102ff\nProxy-State = 0x03\n";
        let said = radclient(proxy.at, "front", TRIES, &request).unwrap_or_else(|said| panic!("{said}"));
        let answer = said.split("Received Accounting-Response").nth(1).unwrap_or_else(|| panic!("{said}"));
        let states: Vec<&str> = answer.lines().filter(|line| line.contains("Proxy-State")).collect();
        assert_eq!(states.len(), 2, "{said}");
        assert!(states[0].ends_with("0x0102ff") && states[1].ends_with("0x03"), "{said}");
    };
    tell("Start", "a", ANNS_SIM);
    assert_eq!(deliver(site.at, ANN, &[anns, bobs]), Ok(0));
    tell("Start", "b", BOBS_SIM);
    assert_eq!(deliver(site.at, BOB, &[anns, bobs]), Ok(1));
    assert_eq!(deliver(site.at, ANN, &[anns, bobs]), Err(Reason::NotAttached));
    tell("Stop", "b", BOBS_SIM);
    assert_eq!(deliver(site.at, BOB, &[anns, bobs]), Err(Reason::NotAttached));
    assert_eq!(counters(&running, "answered_total{effect=\"applied\"}"), 3);
    drop(proxy);
    running.terminate();
}

/// Who holds each address: whose session, which one.
type Holders = [Option<(usize, String)>; 4];

/// Where a user is by this.
fn place_of(holders: &Holders, user: usize) -> Option<usize> {
    holders.iter().position(|held| held.as_ref().is_some_and(|(holder, _)| *holder == user))
}

/// A sender of reports, who hears at once when nobody listens any more.
fn sender(to: SocketAddr, patience_ms: u64) -> UdpSocket {
    let socket = bind("127.0.0.1:0");
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(patience_ms))).unwrap();
    socket
}

/// Sends a report, twice if need be; whether it is answered, as it must be.
fn report(socket: &UdpSocket, bytes: &[u8]) -> bool {
    let mut buffer = [0; 4096];
    for _ in 0..2 {
        if socket.send(bytes).is_err() {
            return false;
        }
        match socket.recv(&mut buffer) {
            Ok(length) => {
                assert_answers(&buffer[..length], bytes);
                return true;
            }
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return false,
            Err(_) => {}
        }
    }
    false
}

/// SIGKILL between any two instructions: what was answered holds, whatever was not may.
#[test]
fn what_was_answered_survives_a_kill() {
    const USERS: usize = 6;
    const ROUNDS: usize = 60;
    let user = |n: usize| PushId(0x300 + n as u128);
    let imsi = |n: usize| format!("26201{n:010}");
    let rows: String = (0..USERS).map(|n| format!("{},0,{}\n", user(n), imsi(n))).collect();
    let (site, at) = site(&format!("push_id,device,imsi\n{rows}"));
    let addresses = [1, 2, 3, 4].map(|n| format!("127.64.22.{n}"));
    let seats = addresses.clone().map(|address| bind(&format!("{address}:17400")));
    let mut chance = StdRng::seed_from_u64(7);
    let (mut answered, mut next) = (0, 0u32);
    let mut holders = Holders::default();
    for round in 0..ROUNDS {
        let mut running = site.serve();
        let socket = sender(at, 100);
        let life = Duration::from_millis(chance.random_range(5..60));
        // What may be, once the last report was not answered: it was not heard, it was, or the first half of it.
        let maybe = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(life);
                running.kill();
            });
            loop {
                next += 1;
                let place = chance.random_range(0..addresses.len());
                let mut after = holders.clone();
                let acct = match &holders[place] {
                    Some((_, name)) if chance.random_bool(0.4) => {
                        after[place] = None;
                        Acct::of(STOP, name)
                    }
                    _ => {
                        // Somebody who is nowhere: there are more users than addresses.
                        let nowhere = |user: &usize| place_of(&holders, *user).is_none();
                        let user = (0..USERS).cycle().skip(chance.random_range(0..USERS)).find(nowhere);
                        let (user, name) = (user.unwrap(), format!("s{next}"));
                        let acct = Acct::of(START, &name).imsi(&imsi(user)).ip(&addresses[place]);
                        after[place] = Some((user, name));
                        acct
                    }
                };
                if !report(&socket, &acct.identifier(next as u8).bytes()) {
                    let mut half = holders.clone();
                    half[place] = None;
                    break [holders.clone(), after, half];
                }
                answered += 1;
                holders = after;
            }
        });
        let _running = site.serve();
        let all = seats.each_ref();
        let found: Vec<Option<usize>> = (0..USERS).map(|n| deliver(site.at, user(n), &all).ok()).collect();
        let is_found =
            |holders: &&Holders| (0..USERS).map(|n| place_of(holders, n)).collect::<Vec<_>>() == found;
        let Some(which) = maybe.iter().find(is_found) else {
            panic!("round {round}: {found:?}, not {maybe:?}")
        };
        holders = which.clone();
    }
    println!("{answered} reports answered in {ROUNDS} lives");
    assert!(answered > ROUNDS);
}

/// The state folder's disk takes no more: no report is answered that is not durable.
#[test]
fn a_journal_that_fails_answers_nobody() {
    let (site, at) = two_users();
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_pushplane")]);
    let mut running = site.serve_by(command);
    let socket = sender(at, 500);
    let mut last = None;
    for n in 0..200u8 {
        let acct =
            Acct::of(START, &format!("s{n}")).identifier(n).imsi(ANNS_SIM).ip(&format!("127.64.23.{n}"));
        if !report(&socket, &acct.bytes()) {
            break;
        }
        last = Some(n);
    }
    let last = last.unwrap();
    assert!((5..199).contains(&last), "{last}");
    assert!(counters(&running, "dropped_total{reason=\"overloaded\"}") > 0);
    running.kill();
    let _running = site.serve();
    let seat = bind(&format!("127.64.23.{last}:17400"));
    assert_eq!(deliver(site.at, ANN, &[&seat]), Ok(0), "the last that was answered");
}

/// By the clock of a GGSN, which need not be ours.
#[test]
fn what_comes_late_comes_too_late() {
    let (site, at) = two_users();
    let mut running = site.serve();
    let socket = sender(at, 5000);
    let address = "127.64.24.1";
    let seats = terminals(address);
    let now_ms = Clock::start().now().unix_ms;
    let said = |status, name: &str, imsi, ago_s: u64, identifier| {
        Acct::of(status, name).imsi(imsi).ip(address).at(now_ms - ago_s * 1000).identifier(identifier).bytes()
    };
    for bytes in [
        said(STOP, "b", BOBS_SIM, 1, 1),
        said(START, "a", ANNS_SIM, 10, 2),
        // Older than its own Stop, and than who has the address.
        said(START, "b", BOBS_SIM, 5, 3),
        said(START, "c", BOBS_SIM, 20, 4),
    ] {
        assert!(report(&socket, &bytes));
    }
    assert_eq!(deliver(site.at, ANN, &[&seats[0], &seats[1]]), Ok(0));
    let row = bind(&format!("127.64.20.99:{BOBS_PORT}"));
    assert_eq!(deliver(site.at, BOB, &[&seats[0], &seats[1], &row]), Ok(2), "where users.csv says");
    assert_eq!(counters(&running, "answered_total{effect=\"late\"}"), 3);
    // A terminal that released itself gets nothing more in this session.
    ask(&seats[0], site.at, &release(ANN, 0));
    assert!(report(&socket, &said(START, "a", ANNS_SIM, 9, 5)));
    assert_eq!(deliver(site.at, ANN, &[&seats[0], &seats[1]]), Err(Reason::NotAttached));
    running.terminate();
}
