//! Real servers in folders of their own, over loopback, and who speaks to them.

#![allow(dead_code, reason = "each test that includes this module uses a part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pushplane::clock::Clock;
use pushplane::id::PushId;
use pushplane::reason::Reason;
use pushplane::wire::prp::auth::MacKey;
use pushplane::wire::prp::{self, HeadBuilder, Header, Kind, flag, option_type as ty};

pub(crate) const WAIT: Duration = Duration::from_secs(5);

/// A user with no row in users.csv.
pub(crate) const GUEST: PushId = PushId(0x77);
/// A user with a key, number 5.
pub(crate) const SIGNER: PushId = PushId(0x55);
pub(crate) const SIGNERS_KEY: u32 = 5;
pub(crate) const SECRET: [u8; 16] = [0x5A; 16];

pub(crate) fn bind(at: &str) -> UdpSocket {
    let socket = UdpSocket::bind(at).unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    socket
}

/// A message identifier that no other message has.
pub(crate) fn fresh() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed) << 20 | u64::from(std::process::id()) & 0xF_FFFF
}

/// A request about a user, with options.
pub(crate) fn request(kind: Kind, user: PushId, options: &[(u8, &[u8])]) -> Vec<u8> {
    let mut head = HeadBuilder::new(&Header::new(kind, user, PushId::NONE, fresh()));
    for (option, value) in options {
        head.option(*option, &[value]);
    }
    head.datagram(&[]).unwrap()
}

/// REGISTER with ListenPort 0 and these options.
pub(crate) fn register(user: PushId, options: &[(u8, &[u8])]) -> Vec<u8> {
    request(Kind::Register, user, &[&[(ty::LISTEN_PORT, &[0, 0][..])], options].concat())
}

pub(crate) fn release(user: PushId, device: u8) -> Vec<u8> {
    request(Kind::Release, user, &[(ty::DEVICE, &[device])])
}

pub(crate) fn signed(mut request: Vec<u8>) -> Vec<u8> {
    let header = Header::read(&request).unwrap();
    let message = prp::parse(&request).unwrap();
    let mut head = HeadBuilder::new(&header);
    head.keep(&message, &request, |_| true);
    head.auth(SIGNERS_KEY, Clock::start().now().unix_ms);
    request = head.datagram(&[]).unwrap();
    let end = request.len();
    assert!(MacKey::new(SECRET).sign(&mut request, end));
    request
}

pub(crate) fn address(at: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(at) = at else { panic!("IPv4") };
    [&at.ip().octets()[..], &at.port().to_be_bytes()].concat()
}

/// What answers a request: the kind, the reason of a REJECT, the datagram.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) kind: Kind,
    pub(crate) reason: Option<Reason>,
    pub(crate) bytes: Vec<u8>,
}

/// Sends a request and waits for its answer; `None` when there is none in the socket's time.
pub(crate) fn try_ask(socket: &UdpSocket, server: SocketAddr, request: &[u8]) -> Option<Answer> {
    socket.send_to(request, server).ok()?;
    let asked = Header::read(request).unwrap().message;
    let mut buffer = [0; 2048];
    loop {
        let (length, _) = socket.recv_from(&mut buffer).ok()?;
        let bytes = buffer[..length].to_vec();
        let Ok(message) = prp::parse(&bytes) else { continue };
        if message.header.message == asked && message.kind != Kind::Push {
            let code = message.options.reason(&bytes).map(|(code, _)| code);
            return Some(Answer { kind: message.kind, reason: code.and_then(Reason::from_code), bytes });
        }
    }
}

#[track_caller]
pub(crate) fn ask(socket: &UdpSocket, server: SocketAddr, request: &[u8]) -> Answer {
    try_ask(socket, server, request).expect("an answer")
}

#[track_caller]
pub(crate) fn registered(socket: &UdpSocket, server: SocketAddr, request: &[u8]) -> Answer {
    let answer = ask(socket, server, request);
    assert_eq!((answer.kind, answer.reason), (Kind::Registered, None));
    answer
}

pub(crate) fn push(user: PushId, flags: u8) -> Vec<u8> {
    let header = Header { app: 7, flags, ..Header::new(Kind::Push, user, PushId(9), fresh()) };
    HeadBuilder::new(&header).datagram(b"hello").unwrap()
}

/// Where a push to this user arrives, by the place of the terminal, or why it is rejected.
#[track_caller]
pub(crate) fn deliver(server: SocketAddr, user: PushId, terminals: &[&UdpSocket]) -> Result<usize, Reason> {
    let sender = bind("127.0.0.1:0");
    sender.set_nonblocking(true).unwrap();
    // A receipt is wanted so that a REJECT of another server finds its way back.
    let message = push(user, flag::RECEIPT);
    let id = Header::read(&message).unwrap().message;
    sender.send_to(&message, server).unwrap();
    let clock = Clock::start();
    let start = clock.now().mono_ns;
    let mut buffer = [0; 2048];
    let mut all: Vec<UdpSocket> = terminals.iter().map(|socket| socket.try_clone().unwrap()).collect();
    all.push(sender);
    let mut result = None;
    for socket in &all {
        socket.set_nonblocking(true).unwrap();
    }
    while result.is_none() && clock.now().mono_ns - start < WAIT.as_nanos() as u64 {
        for (place, socket) in all.iter().enumerate() {
            let Ok((length, _)) = socket.recv_from(&mut buffer) else { continue };
            let bytes = &buffer[..length];
            let found = prp::parse(bytes).unwrap();
            if found.header.message != id {
                continue;
            }
            result = Some(match found.options.reason(bytes) {
                Some((code, _)) => Err(Reason::from_code(code).unwrap()),
                None => Ok(place),
            });
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    for socket in &all {
        socket.set_nonblocking(false).unwrap();
    }
    result.expect("a push arrives or is rejected")
}

/// A server's folder.
pub(crate) struct Site {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) at: SocketAddr,
}

impl Site {
    /// `config` goes behind the `[server]` table.
    pub(crate) fn new(config: &str) -> Self {
        let at = bind("127.0.0.1:0").local_addr().unwrap();
        Self::one_of("one", at, &[("one", "0", at)], config)
    }

    pub(crate) fn one_of(
        name: &str,
        at: SocketAddr,
        servers: &[(&str, &str, SocketAddr)],
        config: &str,
    ) -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap(), at };
        std::fs::create_dir(site.path("tables")).unwrap();
        site.write(
            "pushplane.toml",
            &format!("[server]\nname = \"{name}\"\nlisten = [\"{at}\"]\nshards = 2\n{config}"),
        );
        let server = |(name, prefix, at): &(&str, &str, SocketAddr)| {
            format!("[[server]]\nname = \"{name}\"\nprefix = \"{prefix}\"\naddress = \"{at}\"\nkey = 1\n")
        };
        site.write("tables/servers.toml", &servers.iter().map(server).collect::<String>());
        site.write(
            "tables/gateways.toml",
            "[[gateway]]\nname = \"g\"\naddress = \"127.0.0.3:17400\"\ntunnel = \"none\"\n",
        );
        site.write("tables/segments.csv", "realm,prefix,gateway\n0,127.64.0.0/10,g\n");
        site.write("tables/apps.toml", "[[app]]\nid = 7\nname = \"mail\"\n");
        site.write("tables/users.csv", "push_id,device,private\n");
        let keys = format!(
            "[[key]]\nid = 1\nvalue = \"{:032x}\"\n[[key]]\nid = {SIGNERS_KEY}\nvalue = \"{:032x}\"\nuser = \"{SIGNER}\"\n",
            0x1234,
            u128::from_be_bytes(SECRET)
        );
        site.write("tables/keys.toml", &keys);
        let secret = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(site.path("tables/keys.toml"), secret).unwrap();
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn serve(&self) -> Running {
        self.serve_by(Command::new(env!("CARGO_BIN_EXE_pushplane")))
    }

    pub(crate) fn serve_by(&self, mut command: Command) -> Running {
        let mut child = command
            .arg("serve")
            .arg("--config")
            .arg(self.path("pushplane.toml"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let mut running = Running { child, ready };
        if !running.ready.starts_with("ready ") {
            panic!("{:?}", running.end());
        }
        running
    }
}

/// A running server; killed when dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) ready: String,
}

impl Running {
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn terminate(&mut self) -> String {
        let status = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status();
        assert!(status.unwrap().success());
        let (status, errors) = self.end();
        assert_eq!(status, Some(0), "{errors}");
        errors
    }

    pub(crate) fn end(&mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }

    /// The page of `/metrics`.
    pub(crate) fn metrics(&self) -> String {
        let at = self.ready.split("http://").nth(1).unwrap().trim().trim_end_matches("/metrics");
        let mut stream = TcpStream::connect(at).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A value of a page of metrics.
pub(crate) fn value(page: &str, name: &str) -> i64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} in {page}")).parse().unwrap()
}

pub(crate) const METRICS: &str = "metrics = \"127.0.0.1:0\"\n";
