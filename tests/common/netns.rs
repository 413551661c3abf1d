//! Hosts for a test: network namespaces joined by virtual Ethernet, with addresses of the test's own,
//! and the Push server started in one of them. Everything is gone when [`Net`] is dropped.
//!
//! Needs root and iproute2. Where that is missing the tests say so and pass, but not under CI.

#![allow(dead_code, reason = "each test that includes this module uses a part of it")]

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// How long anything on this machine may take before the test gives up on it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Several hosts. Their names carry the process identifier, so that tests that run side by side, or
/// after one that was killed, do not meet.
pub(crate) struct Net {
    prefix: String,
    hosts: Vec<String>,
    processes: Vec<Child>,
    /// Where the test's files are.
    pub(crate) folder: tempfile::TempDir,
}

impl Net {
    /// Makes a network with these hosts, their loopback up; `Err` says why this machine cannot.
    pub(crate) fn new(hosts: &[&str]) -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        remove_left_over();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut net = Self {
            prefix: format!("pptest-{}-{count}", std::process::id()),
            hosts: Vec::new(),
            processes: Vec::new(),
            folder: tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?,
        };
        for host in hosts {
            run(Command::new("ip").args(["netns", "add", &net.name(host)]))?;
            net.hosts.push(net.name(host));
            net.ip(host, "link set lo up")?;
            // The return path of a tunnelled address need not be the way that it came.
            net.inside(host, || {
                ["all", "default"].iter().try_for_each(|scope| {
                    fs::write(format!("/proc/sys/net/ipv4/conf/{scope}/rp_filter"), "0")
                })
            })
            .map_err(|error| format!("rp_filter: {error}"))?;
        }
        Ok(net)
    }

    /// The name of a host's namespace.
    pub(crate) fn name(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// A veth pair: `(host, device, address)` at both ends.
    pub(crate) fn join(&self, a: (&str, &str, &str), b: (&str, &str, &str)) -> Result<(), String> {
        let peer = self.name(b.0);
        self.ip(a.0, &format!("link add {} type veth peer name {} netns {peer}", a.1, b.1))?;
        for (host, device, address) in [a, b] {
            self.ip(host, &format!("addr add {address} dev {device}"))?;
            self.ip(host, &format!("link set {device} up"))?;
        }
        Ok(())
    }

    /// `ip -n HOST WORDS…`.
    pub(crate) fn ip(&self, host: &str, words: &str) -> Result<String, String> {
        run(Command::new("ip").args(["-n", &self.name(host)]).args(words.split(' ')))
    }

    /// A program inside a host.
    pub(crate) fn command(&self, host: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(host)]).arg(program).current_dir(self.folder.path());
        command
    }

    /// Starts a program whose output goes to the file `log` in the folder, and ends it with the
    /// network. `ip netns exec` becomes the program, so the process is the program's own.
    pub(crate) fn start(&mut self, mut command: Command, log: &str) -> Result<(), String> {
        let path = self.folder.path().join(log);
        let file = File::create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let errors = file.try_clone().map_err(|error| format!("{}: {error}", path.display()))?;
        let child = command.stdin(Stdio::null()).stdout(file).stderr(errors).spawn();
        self.processes.push(child.map_err(|error| format!("{command:?}: {error}"))?);
        Ok(())
    }

    /// Runs `make` inside a host. A socket stays in the host that it was made in, so what `make`
    /// returns can be used from outside.
    pub(crate) fn inside<T: Send>(&self, host: &str, make: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.name(host));
        // On a thread of its own, because a thread that has entered a host does not come back.
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                let namespace = File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
                // SAFETY: setns reads no memory of ours; the descriptor is open until the end of the
                // block, and only this thread, which ends here, changes its namespace.
                #[expect(unsafe_code, reason = "the standard library has no way into a namespace")]
                let result = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(result, 0, "{path}: {}", io::Error::last_os_error());
                make()
            });
            entered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A UDP socket inside a host, which waits [`PATIENCE`] for a datagram.
    pub(crate) fn udp(&self, host: &str, address: &str) -> UdpSocket {
        let socket = self.inside(host, || UdpSocket::bind(address));
        let socket = socket.unwrap_or_else(|error| panic!("{address} in {host}: {error}"));
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
        if thread::panicking() {
            show_logs(self.folder.path());
        }
        for host in &self.hosts {
            let _ = run(Command::new("ip").args(["netns", "del", host]));
        }
    }
}

/// A failed test shows what the programs in its hosts said.
fn show_logs(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in
        entries.flatten().map(|entry| entry.path()).filter(|p| p.extension().is_some_and(|e| e == "log"))
    {
        let text = fs::read(&path).unwrap_or_default();
        eprintln!("---- {}\n{}", path.display(), String::from_utf8_lossy(&text));
    }
}

/// Removes the hosts of tests whose process was killed before it could.
fn remove_left_over() {
    for name in run(Command::new("ip").args(["netns", "list"])).unwrap_or_default().lines() {
        let name = name.split(' ').next().unwrap_or_default();
        let process = name.strip_prefix("pptest-").and_then(|rest| rest.split('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = run(Command::new("ip").args(["netns", "del", name]));
        }
    }
}

fn run(command: &mut Command) -> Result<String, String> {
    let out = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if !out.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&out.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// What a test calls that cannot run here: loud on a user's machine, a failure in CI.
pub(crate) fn skip(what: &str, why: &str) {
    assert!(std::env::var_os("CI").is_none(), "{what} must run under CI: {why}");
    // Not eprintln!: the test harness would keep what a passing test says.
    let _ = writeln!(io::stderr(), "SKIPPED: {what}: {why}");
}

/// Asks `done` again and again, for [`PATIENCE`] at most.
pub(crate) fn eventually<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> Result<T, String> {
    let pause = Duration::from_millis(50);
    for _ in 0..PATIENCE.as_millis() / pause.as_millis() {
        if let Some(result) = done() {
            return Ok(result);
        }
        thread::sleep(pause);
    }
    Err(format!("no {what} within {PATIENCE:?}"))
}

/// Writes the files of a table directory and `pushplane.toml` into the network's folder.
pub(crate) fn write_files(net: &Net, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = net.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

/// A running Push server.
pub(crate) struct Server {
    process: Child,
    log: PathBuf,
}

impl Server {
    /// Starts `pushplane serve` with the folder's `pushplane.toml` inside a host, and waits until it
    /// says that it serves.
    pub(crate) fn start(net: &Net, host: &str) -> Self {
        Self::start_with(net, host, "pushplane.toml")
    }

    /// As [`Server::start`], with another file of the folder.
    pub(crate) fn start_with(net: &Net, host: &str, config: &str) -> Self {
        let log = net.folder.path().join(config).with_extension("log");
        let mut command = net.command(host, env!("CARGO_BIN_EXE_pushplane"));
        command.args(["serve", "--config", config]).stdin(Stdio::null());
        let errors = File::create(&log).unwrap();
        let mut process = command.stdout(Stdio::piped()).stderr(errors).spawn().unwrap();

        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let (said, hear) = mpsc::channel();
        // Reads on after `ready`, so that a server that says more never stands on a full pipe.
        thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(said.send(line))));
        let server = Self { process, log };
        loop {
            match hear.recv_timeout(PATIENCE) {
                Ok(line) if line.starts_with("ready") => return server,
                Ok(_) => {}
                Err(error) => panic!("the server did not say \"ready\": {error}\n{}", server.said()),
            }
        }
    }

    /// What the server wrote to standard error.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGTERM; the exit status, which has to come within 5 seconds.
    pub(crate) fn stop(mut self) -> ExitStatus {
        let kill = format!("kill -TERM {}", self.process.id());
        run(Command::new("sh").args(["-c", &kill])).unwrap();
        for _ in 0..100 {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("the server still ran 5 s after SIGTERM\n{}", self.said());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A page of the server's metrics address.
pub(crate) fn http_get(net: &Net, host: &str, address: &str, page: &str) -> String {
    net.inside(host, || {
        let mut stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("GET {page} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    })
}

/// The next datagram and who sent it.
pub(crate) fn receive(socket: &UdpSocket, what: &str) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 4096];
    let (size, from) = socket.recv_from(&mut buffer).unwrap_or_else(|error| panic!("no {what}: {error}"));
    (buffer[..size].to_vec(), from)
}

/// Asserts that nothing comes within a time that a wrong copy would need.
pub(crate) fn nothing(socket: &UdpSocket, what: &str) {
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut buffer = [0; 4096];
    if let Ok((size, from)) = socket.recv_from(&mut buffer) {
        panic!("{what}: {size} bytes from {from}: {:02x?}", &buffer[..size]);
    }
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
}

pub(crate) const PUSH: u8 = 1;
pub(crate) const RECEIPT: u8 = 2;
pub(crate) const REJECT: u8 = 3;
/// The flag that asks for a RECEIPT.
pub(crate) const RECEIPT_WANTED: u8 = 1;

/// A PRP/1 datagram, written here by hand: 48 bytes of header, options, payload.
pub(crate) struct Datagram<'a> {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) app: u32,
    pub(crate) to: u128,
    pub(crate) source: u128,
    pub(crate) message: u64,
    pub(crate) options: &'a [u8],
    pub(crate) payload: &'a [u8],
}

impl Datagram<'_> {
    /// The bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        assert!(self.options.len().is_multiple_of(4));
        let words = u8::try_from(12 + self.options.len() / 4).unwrap();
        let mut out = vec![1 << 4 | self.kind, self.flags, 8, words];
        out.extend(self.app.to_be_bytes());
        out.extend(self.to.to_be_bytes());
        out.extend(self.source.to_be_bytes());
        out.extend(self.message.to_be_bytes());
        out.extend(self.options);
        out.extend(self.payload);
        out
    }

    /// The RECEIPT that a terminal answers to these bytes of a PUSH.
    pub(crate) fn receipt_for(push: &[u8]) -> Vec<u8> {
        let id = |at: usize| u128::from_be_bytes(push[at..at + 16].try_into().unwrap());
        let message = u64::from_be_bytes(push[40..48].try_into().unwrap());
        let (to, source) = (id(24), id(8));
        Datagram { kind: RECEIPT, flags: 0, app: 0, to, source, message, options: &[], payload: &[] }.encode()
    }
}

/// Asserts that `answer` is of `kind` and answers `question`: identifiers swapped, same message.
pub(crate) fn assert_answers(answer: &[u8], kind: u8, question: &[u8]) {
    assert!(answer.len() >= 48, "{answer:02x?}");
    assert_eq!(answer[0], 1 << 4 | kind, "version and kind of {answer:02x?}");
    assert_eq!(answer[8..24], question[24..40], "the destination is the source of the question");
    assert_eq!(answer[24..40], question[8..24], "the source is the destination of the question");
    assert_eq!(answer[40..48], question[40..48], "message identifier");
}
