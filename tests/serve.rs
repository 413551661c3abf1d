//! `pushplane serve` as an operator sees it: it starts or says why not, serves, takes new tables while it
//! serves, shows its counters, and stops. Over real sockets on loopback.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use pushplane::config::Config;
use pushplane::id::PushId;
use pushplane::server::Server;
use pushplane::table::{Image, source};
use pushplane::wire::prp::{self, HeadBuilder, Header, Kind};

/// A port that was free a moment ago.
fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server's folder: one server, one user without tunnel.
struct Site {
    folder: tempfile::TempDir,
    port: u16,
    terminal: UdpSocket,
}

const USER: PushId = PushId(7);

impl Site {
    fn new(extra: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let terminal = UdpSocket::bind("127.0.0.2:0").unwrap();
        terminal.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let site = Self { folder, port, terminal };
        std::fs::create_dir(site.path("tables")).unwrap();
        site.write(
            "pushplane.toml",
            &format!("[server]\nname = \"one\"\nlisten = [\"127.0.0.1:{port}\"]\n{extra}"),
        );
        site.write(
            "tables/servers.toml",
            &format!("[[server]]\nname = \"one\"\nprefix = \"0\"\naddress = \"127.0.0.1:{port}\"\n"),
        );
        site.write(
            "tables/gateways.toml",
            "[[gateway]]\nname = \"g\"\naddress = \"127.0.0.3:17400\"\ntunnel = \"none\"\n",
        );
        site.write("tables/segments.csv", "realm,prefix,gateway\n0,127.0.0.0/8,g\n");
        site.write("tables/apps.toml", "[[app]]\nid = 7\nname = \"mail\"\n");
        let private = site.terminal.local_addr().unwrap();
        site.write("tables/users.csv", &format!("push_id,device,private\n{USER},1,{private}\n"));
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// A socket that speaks to the server.
    fn sender(&self) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.connect(("127.0.0.1", self.port)).unwrap();
        socket
    }

    fn serve(&self) -> Running {
        Running::start(&self.path("pushplane.toml"))
    }
}

/// A running `pushplane serve`; killed when dropped.
struct Running {
    child: Child,
    ready: String,
    errors: BufReader<std::process::ChildStderr>,
}

fn command(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pushplane"));
    command.arg("serve").arg("--config").arg(config).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Running {
    fn start(config: &Path) -> Self {
        let mut child = command(config).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let errors = BufReader::new(child.stderr.take().unwrap());
        let mut running = Self { child, ready, errors };
        if !running.ready.starts_with("ready ") {
            panic!("{:?}", running.end());
        }
        running
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(status.unwrap().success());
    }

    /// The next line on standard error that has this.
    fn error_with(&mut self, what: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.errors.read_line(&mut line).unwrap() > 0, "ended without saying {what}");
            if line.contains(what) {
                return line;
            }
        }
    }

    /// Waits for the end; exit status and what is left on standard error.
    fn end(&mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.errors.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn refused(config: &Path) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = command(config).output().unwrap();
    assert!(stdout.is_empty(), "nothing is ready");
    (status.code(), String::from_utf8(stderr).unwrap())
}

fn push(message: u64) -> Vec<u8> {
    let header = Header { app: 7, ..Header::new(Kind::Push, USER, PushId::NONE, message) };
    HeadBuilder::new(&header).datagram(b"hello").unwrap()
}

/// Whether the server answers an ECHO, which says that it lives.
fn answers_echo(sender: &UdpSocket) -> bool {
    let echo = HeadBuilder::new(&Header::new(Kind::Echo, USER, PushId(9), 77)).datagram(b"?").unwrap();
    sender.send(&echo).unwrap();
    let mut buffer = [0; 4096];
    while let Ok(length) = sender.recv(&mut buffer) {
        if prp::parse(&buffer[..length]).is_ok_and(|message| message.kind == Kind::Echoed) {
            return true;
        }
    }
    false
}

fn http(port: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(port).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    let body = text.split_once("\r\n\r\n").unwrap().1;
    (status, body.to_owned())
}

#[test]
fn a_push_arrives_over_either_port_and_the_server_stops_when_asked() {
    for (io, said) in [("auto", "over "), ("socket", "over plain sockets: recvmmsg")] {
        let site = Site::new(&format!("io = \"{io}\"\nshards = 2\n"));
        let mut running = site.serve();
        assert!(running.ready.contains(said), "{}", running.ready);
        let sender = site.sender();
        let mut buffer = [0; 4096];
        for message in 0..100 {
            sender.send(&push(message)).unwrap();
            let (length, from) = site.terminal.recv_from(&mut buffer).unwrap();
            assert_eq!(buffer[..length], push(message));
            assert_eq!(from, sender.peer_addr().unwrap(), "it leaves from the address that was written to");
        }
        running.signal("TERM");
        let (status, errors) = running.end();
        assert_eq!(status, Some(0), "{errors}");
        assert!(
            errors.contains("received 100, delivered 100, forwarded 0, answered 0, dropped 0, unaccounted 0"),
            "{errors}"
        );
    }
}

/// "REJECT where it failed": what the kernel does not take is the sender's to know, once, and in one counter.
#[test]
fn what_the_kernel_does_not_take_is_rejected() {
    for io in ["auto", "socket"] {
        let site = Site::new(&format!("io = \"{io}\"\n[limits]\ndatagram_max = 65507\n"));
        let gateways = "[[gateway]]\nname = \"g\"\naddress = \"127.0.0.3:17400\"\ntunnel = \"none\"\n\
            [[gateway]]\nname = \"v\"\naddress = \"127.0.0.3:4789\"\ntunnel = \"vxlan\"\nvni = 100\n\
            mac = \"02:00:00:00:00:01\"\nsource = \"10.255.0.254:17400\"\n";
        site.write("tables/gateways.toml", gateways);
        site.write("tables/segments.csv", "realm,prefix,gateway\n0,0.0.0.0/0,g\n1,0.0.0.0/0,v\n");
        // From an address of loopback there is no way out of this host; and vxlan makes the longest datagram longer.
        let (away, far) = (PushId(8), PushId(9));
        let private = site.terminal.local_addr().unwrap();
        let users = format!(
            "push_id,device,realm,private\n{USER},1,0,{private}\n{away},1,0,192.0.2.1:7\n{far},1,1,10.0.0.5:7\n"
        );
        site.write("tables/users.csv", &users);
        let mut running = site.serve();
        let (sender, mut buffer) = (site.sender(), vec![0; 65_535]);
        let to = |user, message, length| {
            let header = Header { app: 7, ..Header::new(Kind::Push, user, PushId(77), message) };
            HeadBuilder::new(&header).datagram(&vec![1; length]).unwrap()
        };
        for (message, user, length, reason) in
            [(1, away, 10, (10, "no-route")), (2, far, 65_440, (18, "too-large"))]
        {
            sender.send(&to(user, message, length)).unwrap();
            let length = sender.recv(&mut buffer).unwrap();
            let reject = prp::parse(&buffer[..length]).unwrap();
            assert_eq!((reject.kind, reject.header.message), (Kind::Reject, message));
            assert_eq!((reject.header.source, reject.header.destination), (user, PushId(77)));
            assert_eq!(reject.options.reason(&buffer[..length]), Some(reason));
        }
        // Beside one that leaves, in one burst or not.
        for message in 3..43 {
            let user = if message % 2 == 0 { away } else { USER };
            sender.send(&to(user, message, 10)).unwrap();
        }
        for message in (3..43).step_by(2) {
            let length = site.terminal.recv(&mut buffer).unwrap();
            assert_eq!(prp::parse(&buffer[..length]).unwrap().header.message, message);
            let length = sender.recv(&mut buffer).unwrap();
            assert_eq!(prp::parse(&buffer[..length]).unwrap().header.message, message + 1);
        }
        running.signal("TERM");
        let (status, errors) = running.end();
        assert_eq!(status, Some(0), "{errors}");
        let expected = "received 42, delivered 20, forwarded 0, answered 0, dropped 22, unaccounted 0";
        assert!(errors.contains(expected), "{errors}");
    }
}

/// Ruling 22 of PROTOCOL.md: what a terminal gets leaves from the listening address that it last wrote to.
#[test]
fn a_terminal_hears_from_the_address_that_it_last_wrote_to() {
    let site = Site::new("");
    let second = free_port();
    let text = std::fs::read_to_string(site.path("pushplane.toml")).unwrap();
    let both = format!("listen = [\"127.0.0.1:{}\", \"127.0.0.1:{second}\"]", site.port);
    let one = format!("listen = [\"127.0.0.1:{}\"]", site.port);
    site.write("pushplane.toml", &text.replace(&one, &both));
    let _running = site.serve();
    let (sender, mut buffer) = (site.sender(), [0; 4096]);
    let mut from = |message| {
        sender.send(&push(message)).unwrap();
        site.terminal.recv_from(&mut buffer).unwrap().1.port()
    };
    assert_eq!(from(1), site.port, "the first, until the terminal writes");
    let echo = HeadBuilder::new(&Header::new(Kind::Echo, USER, USER, 77)).datagram(b"").unwrap();
    for port in [second, site.port, second] {
        site.terminal.send_to(&echo, ("127.0.0.1", port)).unwrap();
        let mut answer = [0; 4096];
        let (_, answered) = site.terminal.recv_from(&mut answer).unwrap();
        assert_eq!((answered.port(), from(u64::from(port))), (port, port));
    }
}

/// What was received by the time of SIGTERM is sent, whoever goes on sending.
#[test]
fn a_stop_under_load_sends_all_that_was_received() {
    for io in ["auto", "socket"] {
        let site = Site::new(&format!("io = \"{io}\"\nshards = 2\n"));
        let mut running = site.serve();
        let stop = std::sync::atomic::AtomicBool::new(false);
        let ended = std::thread::scope(|scope| {
            let senders = [site.sender(), site.sender()];
            for (sender, first) in senders.into_iter().zip([0, 1 << 32]) {
                let stop = &stop;
                scope.spawn(move || {
                    // Once the server is gone the kernel says that nobody is there.
                    for message in first.. {
                        if stop.load(std::sync::atomic::Ordering::Relaxed) {
                            break;
                        }
                        let _ = sender.send(&push(message));
                    }
                });
            }
            (0..2000).for_each(|_| assert!(site.terminal.recv(&mut [0; 4096]).is_ok()));
            running.signal("TERM");
            let ended = running.end();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            ended
        });
        let (status, errors) = ended;
        assert_eq!(status, Some(0), "{errors}");
        let count = |name: &str| -> u64 {
            let after =
                errors.split(&format!("{name} ")).nth(1).unwrap_or_else(|| panic!("{name}: {errors}"));
            after.split([',', '\n', ';']).next().unwrap().trim().parse().unwrap()
        };
        assert!(count("received") >= 2000, "{errors}");
        assert_eq!((count("delivered"), count("dropped")), (count("received"), 0), "{errors}");
    }
}

/// SIGTERM is obeyed while a scraper holds its connections open, and while tables are being read.
#[test]
fn a_stop_waits_for_nobody() {
    let site = Site::new("metrics = \"127.0.0.1:0\"\n");
    let mut running = site.serve();
    let at = running.ready.split("http://").nth(1).unwrap().trim().trim_end_matches("/metrics").to_owned();
    let _idle: Vec<TcpStream> = (0..300).map_while(|_| TcpStream::connect(&at).ok()).collect();
    running.signal("HUP");
    running.signal("TERM");
    assert_eq!(running.end().0, Some(0));
}

/// Twenty thousand messages, and the tables replaced all the while: none is lost.
#[test]
fn tables_are_replaced_while_serving_and_no_datagram_is_lost() {
    let site = Site::new("shards = 2\n");
    let (config, _) = Config::load_with_places(&site.path("pushplane.toml")).unwrap();
    let rib = source::load(&site.path("tables")).unwrap().rib;
    let image = || Image::build(&rib).unwrap();
    let mut server = Server::start(config, image(), 1).unwrap();
    let (sender, terminal) = (site.sender(), site.terminal.try_clone().unwrap());
    let traffic = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        for window in 0..1000 {
            for n in 0..20 {
                sender.send(&push(window * 20 + n)).unwrap();
            }
            for _ in 0..20 {
                terminal.recv(&mut buffer).expect("every message arrives");
            }
        }
    });
    let mut swaps = 0;
    while !traffic.is_finished() {
        swaps += 1;
        assert_eq!(server.replace(image(), Path::new("again")).unwrap(), swaps + 1);
        assert!(server.tend());
    }
    traffic.join().unwrap();
    assert!(swaps > 10, "{swaps}");
    assert_eq!(server.tables().generation(), swaps + 1);
    let counters = server.stop().unwrap();
    assert_eq!((counters.rx, counters.delivered, counters.unaccounted()), (20_000, 20_000, 0));
}

#[test]
fn wrong_tables_change_nothing_and_right_ones_are_applied() {
    let site = Site::new("");
    let mut running = site.serve();
    let sender = site.sender();
    let mut buffer = [0; 4096];
    let right = std::fs::read_to_string(site.path("tables/users.csv")).unwrap();
    site.write("tables/users.csv", &format!("{right}nonsense,1,127.0.0.2:1\n"));
    running.signal("HUP");
    let fault = running.error_with("users.csv:3:1: ");
    assert!(fault.contains("Push ID"), "{fault}");
    running.error_with("nothing was changed: generation 1 serves on");
    sender.send(&push(1)).unwrap();
    assert_eq!(site.terminal.recv(&mut buffer).unwrap(), push(1).len());

    site.write(
        "tables/users.csv",
        "push_id,device,private\n00000000000000000000000000000008,1,127.0.0.2:9\n",
    );
    running.signal("HUP");
    running.error_with("generation 2 serves");
    sender.send(&push(2)).unwrap();
    let length = sender.recv(&mut buffer).unwrap();
    let message = prp::parse(&buffer[..length]).unwrap();
    assert_eq!(message.options.reason(&buffer[..length]), Some((9, "unknown-destination")));

    site.write(
        "tables/servers.toml",
        "[[server]]\nname = \"two\"\nprefix = \"0\"\naddress = \"127.0.0.1:9\"\n",
    );
    running.signal("HUP");
    running.error_with("nothing was changed: generation 2 serves on");
}

#[test]
fn metrics_tell_what_happened() {
    let site = Site::new("metrics = \"127.0.0.1:0\"\n");
    let running = site.serve();
    let at = running.ready.split("http://").nth(1).unwrap().trim().trim_end_matches("/metrics").to_owned();
    let sender = site.sender();
    let mut buffer = [0; 4096];
    sender.send(&push(1)).unwrap();
    site.terminal.recv(&mut buffer).unwrap();
    sender.send(b"nonsense").unwrap();
    assert!(answers_echo(&sender));
    let has = |line: &str| {
        // A shard shows its counters at the end of its burst.
        (0..50).any(|_| {
            let found = http(&at, "/metrics").1.lines().any(|other| other == line);
            if !found {
                std::thread::sleep(Duration::from_millis(20));
            }
            found
        })
    };
    for line in [
        "pushplane_rx_datagrams_total 3",
        "pushplane_tx_datagrams_total 2",
        "pushplane_delivered_total 1",
        "pushplane_forwarded_total 0",
        "pushplane_answered_total 1",
        "pushplane_dropped_total{reason=\"malformed\"} 1",
        "pushplane_dropped_total{reason=\"unsupported-kind\"} 0",
        "pushplane_unaccounted 0",
        "pushplane_table_entries{table=\"users\"} 1",
        "pushplane_table_generation 1",
    ] {
        assert!(has(line), "{line}\n{}", http(&at, "/metrics").1);
    }
    assert_eq!(http(&at, "/live"), (200, "live\n".to_owned()));
    assert_eq!(http(&at, "/ready"), (200, "ready\n".to_owned()));
    assert_eq!(http(&at, "/").0, 404);
}

#[test]
fn whatever_comes_the_server_still_answers() {
    let site = Site::new("");
    let _running = site.serve();
    let sender = site.sender();
    let whole = push(1);
    // Every prefix of a message, every byte of it turned, and lengths up to the longest of UDP.
    for at in 0..whole.len() {
        sender.send(&whole[..at]).unwrap();
        let mut turned = whole.clone();
        turned[at] ^= 0xFF;
        sender.send(&turned).unwrap();
    }
    for length in [1472, 2047, 2048, 2049, 9000, 65_507] {
        let mut long = whole.clone();
        long.resize(length, 0);
        sender.send(&long).unwrap();
    }
    assert!(answers_echo(&sender));
}

#[test]
fn what_keeps_it_from_starting_is_one_sentence() {
    let site = Site::new("");
    let _running = site.serve();
    // The very same configuration again: the address is taken, whatever the state folder says.
    let (status, errors) = refused(&site.path("pushplane.toml"));
    assert_eq!(status, Some(2));
    assert!(errors.contains(&format!("127.0.0.1:{}", site.port)) && errors.contains("use"), "{errors}");
    assert_eq!(errors.trim_end().lines().filter(|line| !line.starts_with("warning")).count(), 1, "{errors}");

    for (extra, told) in [
        ("state = \"/proc/nowhere\"\n", "the state folder /proc/nowhere cannot be written"),
        ("shards = [4095]\n", "4095"),
        ("metrics = \"192.0.2.1:9400\"\n", "metrics: expected an address of this host, found 192.0.2.1"),
    ] {
        let (status, errors) = refused(&Site::new(extra).path("pushplane.toml"));
        assert_eq!(status, Some(2), "{errors}");
        assert!(errors.contains(told), "{errors}");
    }

    let site = Site::new("");
    let text = std::fs::read_to_string(site.path("pushplane.toml")).unwrap();
    site.write("pushplane.toml", &text.replace("127.0.0.1:", "192.0.2.1:"));
    let (status, errors) = refused(&site.path("pushplane.toml"));
    assert_eq!(status, Some(2));
    assert!(errors.contains("listen: expected an address of this host, found 192.0.2.1"), "{errors}");

    let (status, errors) = refused(Path::new("/nowhere/pushplane.toml"));
    assert_eq!(status, Some(2));
    assert!(errors.starts_with("/nowhere/pushplane.toml:1:1: "), "{errors}");
}

/// A server that was killed leaves nothing that keeps the next one from starting.
#[test]
fn after_a_kill_the_next_one_starts() {
    let site = Site::new("");
    for _ in 0..5 {
        let mut running = site.serve();
        running.child.kill().unwrap();
        running.child.wait().unwrap();
    }
    let sender = site.sender();
    let _running = site.serve();
    assert!(answers_echo(&sender));
}
