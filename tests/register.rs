//! Terminals come, move and go, at the real server over loopback: registration, release, takeover, validity, policies,
//! roaming between two servers, and a server that is killed while it acknowledges.

#[path = "common/server.rs"]
mod server;

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pushplane::id::PushId;
use pushplane::reason::Reason;
use pushplane::wire::prp::auth::MacKey;
use pushplane::wire::prp::{self, HeadBuilder, Header, Kind, flag, option_type as ty};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use server::*;

#[test]
fn a_terminal_registers_gets_a_push_answers_it_and_releases() {
    let site = Site::new(METRICS);
    let mut running = site.serve();
    let terminal = bind("127.64.0.2:0");
    assert_eq!(deliver(site.at, GUEST, &[]), Err(Reason::UnknownDestination));
    let answer = registered(&terminal, site.at, &register(GUEST, &[(ty::VALIDITY, &[0, 0, 0, 60])]));
    let message = prp::parse(&answer.bytes).unwrap();
    assert_eq!(message.options.validity(&answer.bytes), Some(60));

    // Push, receipt.
    let sender = bind("127.0.0.1:0");
    let asking = push(GUEST, flag::RECEIPT);
    sender.send_to(&asking, site.at).unwrap();
    let mut buffer = [0; 2048];
    let (length, from) = terminal.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from), (&asking[..], site.at), "from where it wrote to, unchanged");
    let receipt = Header::read(&asking).unwrap().answer(Kind::Receipt);
    terminal.send_to(&HeadBuilder::new(&receipt).datagram(b"ok").unwrap(), site.at).unwrap();
    let (length, _) = sender.recv_from(&mut buffer).unwrap();
    assert_eq!(prp::parse(&buffer[..length]).unwrap().kind, Kind::Receipt);

    // Release, once more, and again.
    for _ in 0..2 {
        assert_eq!(ask(&terminal, site.at, &release(GUEST, 0)).kind, Kind::Released);
        assert_eq!(deliver(site.at, GUEST, &[&terminal]), Err(Reason::NotAttached));
    }
    registered(&terminal, site.at, &register(GUEST, &[]));
    assert_eq!(deliver(site.at, GUEST, &[&terminal]), Ok(0));

    // At another address: there only.
    let other = bind("127.64.0.3:0");
    registered(&other, site.at, &register(GUEST, &[]));
    assert_eq!(deliver(site.at, GUEST, &[&terminal, &other]), Ok(1));
    // Another device is another terminal.
    registered(&terminal, site.at, &register(GUEST, &[(ty::DEVICE, &[4])]));
    assert!(deliver(site.at, GUEST, &[&terminal, &other]).is_ok());

    std::thread::sleep(Duration::from_millis(100));
    let page = running.metrics();
    assert_eq!(value(&page, "pushplane_table_entries{table=\"live\"}"), 2);
    assert_eq!((value(&page, "pushplane_unaccounted"), value(&page, "pushplane_in_flight")), (0, 0));
    let total = |name: &str| value(&page, &format!("pushplane_{name}_total"));
    assert_eq!(total("punted"), 6);
    let errors = running.terminate();
    assert!(errors.contains("unaccounted 0"), "{errors}");
}

#[test]
fn a_private_address_with_another_port() {
    let site = Site::new("");
    let _running = site.serve();
    let (asks, listens) = (bind("127.64.0.5:0"), bind("127.64.0.5:0"));
    let private = address(listens.local_addr().unwrap());
    let wish = request(Kind::Register, GUEST, &[(ty::PRIVATE_ADDRESS, &private)]);
    registered(&asks, site.at, &wish);
    assert_eq!(deliver(site.at, GUEST, &[&asks, &listens]), Ok(1));
    // Somebody else's address is not to be had.
    let elsewhere = bind("127.64.0.6:0");
    let refused =
        ask(&elsewhere, site.at, &request(Kind::Register, PushId(0x78), &[(ty::PRIVATE_ADDRESS, &private)]));
    assert_eq!(refused.reason, Some(Reason::NotPermitted));
    assert_eq!(deliver(site.at, GUEST, &[&asks, &listens]), Ok(1));
    // RELEASE by the address.
    let by_address = request(Kind::Release, GUEST, &[(ty::PRIVATE_ADDRESS, &private)]);
    assert_eq!(ask(&asks, site.at, &by_address).kind, Kind::Released);
    assert_eq!(deliver(site.at, GUEST, &[&asks, &listens]), Err(Reason::NotAttached));
}

/// The first promise: a push never reaches the address's next owner.
#[test]
fn who_takes_an_address_takes_it_from_whoever_had_it() {
    let site = Site::new("");
    let row = PushId(0x11);
    let seat = bind("127.64.0.7:0");
    let at = seat.local_addr().unwrap();
    site.write("tables/users.csv", &format!("push_id,device,private\n{row},0,{at}\n"));
    let mut running = site.serve();
    let next = bind("127.64.0.7:0");
    assert_eq!(deliver(site.at, row, &[&seat, &next]), Ok(0));
    registered(&next, site.at, &register(GUEST, &[]));
    assert_eq!(deliver(site.at, row, &[&seat, &next]), Err(Reason::NotAttached));
    assert_eq!(deliver(site.at, GUEST, &[&seat, &next]), Ok(1));
    registered(&seat, site.at, &register(PushId(0x78), &[]));
    assert_eq!(deliver(site.at, GUEST, &[&seat, &next]), Err(Reason::NotAttached));
    assert_eq!(deliver(site.at, PushId(0x78), &[&seat, &next]), Ok(0));
    assert_eq!(ask(&seat, site.at, &release(PushId(0x78), 0)).kind, Kind::Released);
    // Nobody has it now, and not the row either: before and after a restart.
    for round in 0..3 {
        for user in [row, GUEST, PushId(0x78)] {
            assert_eq!(deliver(site.at, user, &[&seat, &next]), Err(Reason::NotAttached), "{user}");
        }
        if round == 0 {
            running.terminate();
            running = site.serve();
        } else {
            running.kill();
            running = site.serve();
        }
    }
}

#[test]
fn validity_ends_a_binding() {
    let site = Site::new("[limits]\nvalidity_max_s = 100\n");
    let _running = site.serve();
    let terminal = bind("127.64.0.8:0");
    let granted = |seconds: u32| {
        let answer =
            registered(&terminal, site.at, &register(GUEST, &[(ty::VALIDITY, &seconds.to_be_bytes())]));
        prp::parse(&answer.bytes).unwrap().options.validity(&answer.bytes)
    };
    assert_eq!((granted(0), granted(1000)), (Some(100), Some(100)));
    assert_eq!(granted(1), Some(1));
    assert_eq!(deliver(site.at, GUEST, &[&terminal]), Ok(0));
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(deliver(site.at, GUEST, &[&terminal]), Err(Reason::NotAttached));
}

#[test]
fn policies_say_who_may_register() {
    let plain = register(GUEST, &[]);
    let (inside, outside) = (bind("127.64.0.9:0"), bind("127.0.0.9:0"));
    for (policy, from_inside, from_outside) in
        [("signed", false, false), ("segment", true, false), ("any", true, true)]
    {
        let site = Site::new(&format!("[policy]\nregister = \"{policy}\"\n"));
        let _running = site.serve();
        for (socket, may) in [(&inside, from_inside), (&outside, from_outside)] {
            let answer = ask(socket, site.at, &plain);
            let expected = if may { None } else { Some(Reason::NotPermitted) };
            assert_eq!(answer.reason, expected, "{policy}");
            let by_key = registered(socket, site.at, &signed(register(SIGNER, &[])));
            let message = prp::parse(&by_key.bytes).unwrap();
            let auth = prp::auth::Auth::of(&message.options, &by_key.bytes).expect("answers are signed, too");
            assert!(MacKey::new(SECRET).verify(&by_key.bytes, &auth));
        }
        // A key of somebody else.
        let theft = ask(&inside, site.at, &signed(register(GUEST, &[])));
        assert_eq!(theft.reason, Some(Reason::AuthenticationFailed));
        // The same datagram again.
        let once = signed(register(SIGNER, &[]));
        registered(&inside, site.at, &once);
        assert_eq!(ask(&inside, site.at, &once).reason, Some(Reason::StaleOrReplayed));
    }
}

#[test]
fn a_lent_push_id_leads_to_the_terminal() {
    let site = Site::new("");
    let mut running = site.serve();
    let terminal = bind("127.64.0.10:0");
    let answer = registered(&terminal, site.at, &register(GUEST, &[(ty::DYNAMIC_ID, &[0; 16])]));
    let lent = prp::parse(&answer.bytes).unwrap().options.dynamic_id(&answer.bytes).expect("a Push ID");
    assert_ne!(lent, GUEST);
    assert_eq!(deliver(site.at, lent, &[&terminal]), Ok(0));
    running.kill();
    let _running = site.serve();
    assert_eq!(deliver(site.at, lent, &[&terminal]), Ok(0));
    assert_eq!(ask(&terminal, site.at, &release(GUEST, 0)).kind, Kind::Released);
    assert!(deliver(site.at, lent, &[&terminal]).is_err());
}

/// A user of one server registers with the other, which tells the first; pushes go home and from there to where
/// the user is.
#[test]
fn roaming_between_two_servers() {
    let (at, there) = (bind("127.0.0.1:0").local_addr().unwrap(), bind("127.0.0.1:0").local_addr().unwrap());
    let servers = [("home", "0", at), ("away", "1", there)];
    let home = Site::one_of("home", at, &servers, METRICS);
    let away = Site::one_of("away", there, &servers, METRICS);
    let mut at_home = home.serve();
    let mut at_away = away.serve();
    let terminal = bind("127.64.0.11:0");
    registered(&terminal, away.at, &register(GUEST, &[]));
    assert_eq!(deliver(home.at, GUEST, &[&terminal]), Ok(0));
    // Both forget nothing.
    at_home.kill();
    at_away.kill();
    at_home = home.serve();
    at_away = away.serve();
    assert_eq!(deliver(home.at, GUEST, &[&terminal]), Ok(0));
    // At home again: the other one ends.
    let seat = bind("127.64.0.12:0");
    registered(&seat, home.at, &register(GUEST, &[]));
    assert_eq!(deliver(home.at, GUEST, &[&terminal, &seat]), Ok(1));
    assert_eq!(deliver(away.at, GUEST, &[&terminal, &seat]), Ok(1));
    // Away again, and released there.
    registered(&terminal, away.at, &register(GUEST, &[]));
    assert_eq!(deliver(home.at, GUEST, &[&terminal, &seat]), Ok(0));
    assert_eq!(ask(&terminal, away.at, &release(GUEST, 0)).kind, Kind::Released);
    assert_eq!(deliver(home.at, GUEST, &[&terminal, &seat]), Err(Reason::NotAttached));
    // Nobody at home: who comes here is told.
    at_home.terminate();
    terminal.set_read_timeout(Some(2 * WAIT)).unwrap();
    let refused = ask(&terminal, away.at, &register(GUEST, &[]));
    assert_eq!(refused.kind, Kind::Reject);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(value(&at_away.metrics(), "pushplane_unaccounted"), 0);
    at_away.terminate();
}

/// Who waits for another server when this one is stopped is told so.
#[test]
fn who_still_waits_at_the_end_is_told() {
    // Nobody answers at the home server's address.
    let silent = bind("127.0.0.1:0");
    let at = bind("127.0.0.1:0").local_addr().unwrap();
    let servers = [("away", "1", at), ("home", "0", silent.local_addr().unwrap())];
    let site = Site::one_of("away", at, &servers, "");
    let mut running = site.serve();
    let terminal = bind("127.64.0.11:0");
    let request = register(GUEST, &[]);
    terminal.send_to(&request, site.at).unwrap();
    silent.recv_from(&mut [0; 2048]).expect("the home server is asked");
    running.terminate();
    let mut buffer = [0; 2048];
    let (length, _) = terminal.recv_from(&mut buffer).expect("an answer");
    let answer = prp::parse(&buffer[..length]).unwrap();
    assert_eq!(answer.header.message, Header::read(&request).unwrap().message);
    let code = answer.options.reason(&buffer[..length]).map(|(code, _)| code);
    assert_eq!((answer.kind, code), (Kind::Reject, Some(Reason::Overloaded.code())));
}

#[test]
fn a_client_registers_by_itself_and_releases() {
    let site = Site::new("");
    let _running = site.serve();
    let mut listen = Command::new(env!("CARGO_BIN_EXE_pushplane"))
        .args(["listen", "--server", &site.at.to_string(), "--id", &GUEST.to_string()])
        .args(["--bind", "127.64.0.13", "--validity", "1", "--count", "2"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut errors = BufReader::new(listen.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("registered as device 1 for 1 s") {
        line.clear();
        assert!(errors.read_line(&mut line).unwrap() > 0);
    }
    let send = || {
        let to = GUEST.to_string();
        let args = [
            "send",
            "--server",
            &site.at.to_string(),
            "--to",
            &to,
            "--app",
            "7",
            "--from",
            "00000000000000000000000000000009",
            "--receipt",
            "hello",
        ];
        Command::new(env!("CARGO_BIN_EXE_pushplane")).args(args).output().unwrap()
    };
    assert!(send().status.success());
    // Longer than the validity: it was renewed.
    std::thread::sleep(Duration::from_millis(1500));
    assert!(send().status.success());
    let out = listen.wait_with_output().unwrap();
    assert_eq!(
        (out.status.code(), String::from_utf8(out.stdout).unwrap()),
        (Some(0), "hello\nhello\n".to_owned())
    );
    let mut rest = String::new();
    errors.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("released"), "{rest}");
    let late = send();
    assert!(!late.status.success());
    assert!(String::from_utf8(late.stdout).unwrap().contains("not-attached"));
}

/// A disk that takes no more: nothing is acknowledged that is not durable, and the server says so.
#[test]
fn a_journal_that_fails_ends_registration_and_nothing_else() {
    let site = Site::new(METRICS);
    let mut command = Command::new("sh");
    // Files of at most 8 × 512 or 1024 bytes, and an error instead of a signal beyond.
    command.args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_pushplane")]);
    let mut running = site.serve_by(command);
    let http = |page: &str| value(page, "pushplane_ready");
    assert_eq!(http(&running.metrics()), 1);
    let mut acknowledged = Vec::new();
    let mut refused = 0;
    for n in 0..200u8 {
        let terminal = bind(&format!("127.65.0.{}:0", n + 1));
        let user = PushId(0x2000 + u128::from(n));
        let answer = ask(&terminal, site.at, &register(user, &[]));
        match answer.reason {
            None => acknowledged.push((user, terminal)),
            Some(reason) => {
                assert_eq!(reason, Reason::Overloaded);
                refused += 1;
            }
        }
    }
    assert!(acknowledged.len() > 5 && refused > 5, "{} and {refused}", acknowledged.len());
    for (user, terminal) in &acknowledged {
        assert_eq!(deliver(site.at, *user, &[terminal]), Ok(0), "pushes go on");
    }
    std::thread::sleep(Duration::from_millis(100));
    let page = running.metrics();
    assert_eq!(
        (http(&page), value(&page, "pushplane_unaccounted"), value(&page, "pushplane_in_flight")),
        (0, 0, 0)
    );
    let mut show = Command::new(env!("CARGO_BIN_EXE_pushplane"));
    let shown = show.args(["show", "--control"]).arg(site.path("control.sock")).output().unwrap();
    assert!(shown.stdout.starts_with(b"one is degraded, "), "{shown:?}");
    running.kill();
    let (_, errors) = running.end();
    assert_eq!(errors.matches("registrations are refused").count(), 1, "{errors}");
    let _running = site.serve();
    for (user, terminal) in &acknowledged {
        assert_eq!(deliver(site.at, *user, &[terminal]), Ok(0), "what was acknowledged is there");
    }
}

/// What a user's terminal was told last, and what it asked for without an answer.
struct Tracked {
    user: PushId,
    seats: [UdpSocket; 2],
    /// Where it is bound, as acknowledged.
    acked: Option<usize>,
    /// Whether anything was ever acknowledged.
    known: bool,
    /// What was asked and not answered.
    maybe: Vec<Option<usize>>,
}

impl Tracked {
    fn new(n: u8) -> Self {
        let seat = |place: u8| {
            let socket = bind(&format!("127.64.{}.{}:0", n + 100, place + 1));
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            socket
        };
        let seats = [seat(0), seat(1)];
        Self { user: PushId(0x1000 + u128::from(n)), seats, acked: None, known: false, maybe: Vec::new() }
    }

    /// Asks for something by chance, and takes note of the answer. False when there is none.
    fn step(&mut self, server: SocketAddr, chance: &mut StdRng) -> bool {
        let place = chance.random_range(0..2);
        let bound = chance.random_bool(0.7);
        let request = if bound { register(self.user, &[]) } else { release(self.user, 0) };
        let wanted = bound.then_some(place);
        match try_ask(&self.seats[place], server, &request) {
            Some(Answer { kind: Kind::Registered | Kind::Released, .. }) => {
                (self.acked, self.known) = (wanted, true);
                self.maybe.clear();
                true
            }
            Some(answer) => {
                // Refused: it holds what held before.
                assert_eq!(answer.reason, Some(Reason::Overloaded), "{answer:?}");
                true
            }
            None => {
                self.maybe.push(wanted);
                false
            }
        }
    }

    /// Holds what the server knows to what was acknowledged.
    fn check(&mut self, server: SocketAddr) {
        let found = match deliver(server, self.user, &[&self.seats[0], &self.seats[1]]) {
            Ok(place) => Some(place),
            Err(Reason::NotAttached) => None,
            Err(Reason::UnknownDestination) if !self.known || self.acked.is_none() => None,
            Err(reason) => panic!("{}: {reason}, acknowledged {:?}", self.user, self.acked),
        };
        let may = found == self.acked || self.maybe.contains(&found);
        assert!(may, "{}: found {found:?}, acknowledged {:?}, or {:?}", self.user, self.acked, self.maybe);
        self.acked = found;
        self.maybe.clear();
        for seat in &self.seats {
            seat.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        }
    }
}

/// A group and who is in it, as acknowledged.
struct Circle {
    socket: UdpSocket,
    group: PushId,
    owner: PushId,
    members: Vec<Member>,
}

struct Member {
    user: PushId,
    acked: bool,
    /// What was asked and not answered.
    maybe: Vec<bool>,
}

impl Circle {
    const CREATE: u8 = 1;
    const JOIN: u8 = 2;
    const LEAVE: u8 = 3;
    const LIST: u8 = 4;

    fn new() -> Self {
        let socket = bind("127.64.99.1:0");
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let members = (0..6).map(|n| Member { user: PushId(0x1100 + n), acked: false, maybe: Vec::new() });
        Self { socket, group: PushId(0x1F00), owner: PushId(0x1F01), members: members.collect() }
    }

    fn ask(&self, server: SocketAddr, user: PushId, what: u8) -> Option<Answer> {
        let group = self.group.to_bytes();
        let wish =
            request(Kind::Group, user, &[(ty::GROUP_REQUEST, &[what, 0, 0, 0]), (ty::GROUP_ID, &group)]);
        try_ask(&self.socket, server, &wish)
    }

    /// Somebody joins or leaves. False when there is no answer.
    fn step(&mut self, server: SocketAddr, chance: &mut StdRng) -> bool {
        let at = chance.random_range(0..self.members.len());
        let joins = chance.random_bool(0.5);
        let answer = self.ask(server, self.members[at].user, if joins { Self::JOIN } else { Self::LEAVE });
        let member = &mut self.members[at];
        match answer {
            Some(Answer { kind: Kind::Grouped, .. }) => {
                member.acked = joins;
                member.maybe.clear();
            }
            Some(answer) => assert_eq!(answer.reason, Some(Reason::Overloaded), "{answer:?}"),
            None => member.maybe.push(joins),
        }
        member.maybe.is_empty()
    }

    /// Holds who is a member to what was acknowledged.
    fn check(&mut self, server: SocketAddr) {
        let answer = self.ask(server, self.owner, Self::LIST).expect("an answer");
        assert_eq!(answer.kind, Kind::Grouped, "{answer:?}");
        let payload = prp::parse(&answer.bytes).unwrap().payload(&answer.bytes).to_vec();
        for member in &mut self.members {
            let found = payload.chunks(16).any(|id| id == member.user.to_bytes());
            let Member { user, acked, maybe } = &*member;
            let may = found == *acked || maybe.contains(&found);
            assert!(may, "{user}: a member: {found}; acknowledged {acked}, or {maybe:?}");
            member.acked = found;
            member.maybe.clear();
        }
    }
}

/// The second promise: what was acknowledged survives. The server is killed at random moments while several sockets
/// register and release, join a group and leave it, hundreds of times. (`tests/radius.rs` does so with reports.)
#[test]
fn what_was_acknowledged_survives_a_kill() {
    const ROUNDS: u64 = 200;
    let seed = std::env::var("SEED").map_or(1, |seed| seed.parse().unwrap());
    println!("SEED={seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    // A small journal, so that it is compacted meanwhile, too.
    let site = Site::new("[limits]\nreplays = 1024\nreceipts = 1024\njournal = 65536\n");
    let mut groups: Vec<Vec<Tracked>> =
        (0..4).map(|group| (0..4).map(|n| Tracked::new(group * 4 + n)).collect()).collect();
    let mut circle = Circle::new();
    let mut acknowledged = 0;
    for round in 0..ROUNDS {
        let mut running = site.serve();
        if round == 0 {
            let created = circle.ask(site.at, circle.owner, Circle::CREATE).expect("an answer");
            assert_eq!(created.kind, Kind::Grouped);
        }
        for tracked in groups.iter_mut().flatten() {
            tracked.check(site.at);
        }
        circle.check(site.at);
        let stop = AtomicBool::new(false);
        let count = AtomicU64::new(0);
        let life = Duration::from_micros(chance.random_range(500..40_000));
        std::thread::scope(|scope| {
            for (n, group) in (0..).zip(&mut groups) {
                let (stop, count) = (&stop, &count);
                let mut chance = StdRng::seed_from_u64(seed << 32 | round << 8 | n);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let at = chance.random_range(0..group.len());
                        if group[at].step(site.at, &mut chance) {
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
            let (stopped, counted, circle) = (&stop, &count, &mut circle);
            let mut chance = StdRng::seed_from_u64(seed << 32 | round << 8 | 0xFF);
            scope.spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    counted.fetch_add(u64::from(circle.step(site.at, &mut chance)), Ordering::Relaxed);
                }
            });
            std::thread::sleep(life);
            running.kill();
            stop.store(true, Ordering::Relaxed);
        });
        acknowledged += count.into_inner();
    }
    println!("{acknowledged} requests acknowledged in {ROUNDS} lives");
    assert!(acknowledged > ROUNDS);
    let files = std::fs::read_dir(site.path("state/journal")).unwrap();
    let is_snapshot = |name: std::ffi::OsString| name.to_string_lossy().starts_with("snapshot-");
    assert!(files.map(|file| file.unwrap().file_name()).any(is_snapshot), "it was compacted meanwhile");
    let running = site.serve();
    for tracked in groups.iter_mut().flatten() {
        tracked.check(site.at);
    }
    circle.check(site.at);
    drop(running);
}
