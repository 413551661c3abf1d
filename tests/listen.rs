//! `pushplane listen` as a person, a script and a server meet it: prompts, applications, duplicates, keys, a
//! server that goes and comes back, many identities.

#[path = "common/listener.rs"]
mod listener;
#[path = "common/server.rs"]
mod server;

use std::collections::HashSet;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};

use pushplane::clock::Clock;
use pushplane::id::{Endpoint, PushId};
use pushplane::wire::prp::auth::{Auth, MacKey};
use pushplane::wire::prp::{self, HeadBuilder, Header, Kind, flag};
use serde_json::Value;

use listener::{Listener, until};
use server::*;

/// Who pushes.
const SENDER: PushId = PushId(9);

/// `pushplane listen` with these words, in a folder.
fn listen(folder: &Path, server: SocketAddr, words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pushplane"));
    command.current_dir(folder).stdin(Stdio::null()).args(["listen", "--server", &server.to_string()]);
    command.args(words.split_whitespace());
    command
}

fn start(folder: &Path, server: SocketAddr, words: &str) -> Listener {
    Listener::start(listen(folder, server, words), &folder.join("listen.log"))
}

/// How a command ended that ends by itself: status, standard output, standard error.
fn ended(mut command: Command) -> (Option<i32>, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A push for application 7 of this payload.
fn message(to: PushId, flags: u8, content_type: Option<&str>, payload: &str) -> Vec<u8> {
    let header = Header { app: 7, flags, ..Header::new(Kind::Push, to, SENDER, fresh()) };
    let mut head = HeadBuilder::new(&header);
    if let Some(media_type) = content_type {
        head.content_type(media_type);
    }
    head.datagram(payload.as_bytes()).unwrap()
}

/// Sends a push that wants a receipt, and has it.
#[track_caller]
fn push_and_hear(socket: &UdpSocket, server: SocketAddr, message: &[u8]) {
    socket.send_to(message, server).unwrap();
    let mut buffer = [0; 2048];
    let (length, _) = socket.recv_from(&mut buffer).expect("a receipt");
    let answer = prp::parse(&buffer[..length]).unwrap();
    let asked = Header::read(message).unwrap();
    assert_eq!((answer.kind, answer.header.message), (Kind::Receipt, asked.message));
}

#[test]
fn a_message_is_prompted_shown_once_and_answered_each_time() {
    let site = Site::new("");
    let _running = site.serve();
    let words = format!("--id {GUEST} --bind 127.64.1.1 --bell always");
    let viewer = start(site.folder.path(), site.at, &words);
    viewer.wait_for("registered as device 1 for 3600 s");
    let sender = bind("127.0.0.1:0");
    let hello = message(GUEST, flag::RECEIPT, Some("text/\u{7}plain\n"), "hello");
    push_and_hear(&sender, site.at, &hello);
    push_and_hear(&sender, site.at, &hello);
    push_and_hear(&sender, site.at, &message(GUEST, flag::RECEIPT, None, ""));
    assert_eq!((viewer.line(), viewer.line()), ("hello".to_owned(), String::new()));
    let said = viewer.said();
    let prompt = format!("push for application 7 from {SENDER}, text/\\u{{7}}plain\\n, 5 bytes");
    assert_eq!(said.matches(&prompt).count(), 1, "{said}");
    assert_eq!(said.matches('\u{7}').count(), 2, "a bell for each message: {said}");
    viewer.end();

    // For a script; and silent where nobody hears a bell.
    let script =
        start(site.folder.path(), site.at, &format!("--id {GUEST} --bind 127.64.1.1 --json --count 1"));
    script.wait_for("registered as device 1");
    push_and_hear(&sender, site.at, &message(GUEST, flag::RECEIPT, Some("text/plain"), "hello"));
    let line: Value = serde_json::from_str(&script.line()).unwrap();
    assert_eq!(
        (&line["app"], &line["payload"], &line["content_type"]),
        (&7.into(), &"hello".into(), &"text/plain".into())
    );
    assert_eq!((&line["source"], &line["direct"]), (&SENDER.to_string().into(), &Value::Null));
    assert!(!script.said().contains('\u{7}'));
    assert!(script.wait().0.success(), "one was enough");
}

/// S45: started when it is not running, given the message; once at a time; left running at the end.
#[test]
fn a_message_starts_its_application() {
    let site = Site::new("");
    let _running = site.serve();
    let folder = site.folder.path();
    let mut command = listen(folder, site.at, &format!("--id {GUEST} --bind 127.64.1.2 --yes"));
    command.args(["--exec", "7=echo noise; cat > got; env | grep ^PUSHPLANE > env; until [ -e go ]; do sleep 0.05; done; mv got done"]);
    command.args(["--exec", "8=exit 3"]);
    let viewer = Listener::start(command, &folder.join("listen.log"));
    viewer.wait_for("registered as device 1");
    let sender = bind("127.0.0.1:0");
    let push = |text: &str| {
        push_and_hear(&sender, site.at, &message(GUEST, flag::RECEIPT, Some("text/plain\0"), text));
        assert_eq!(viewer.line(), text, "nothing of the application's own");
    };
    push("first $(touch hostile)");
    viewer.wait_for("application 7 started");
    push("second");
    viewer.wait_for("application 7 is running");
    let environment =
        until(|| fs::read_to_string(folder.join("env")).ok().filter(|text| text.lines().count() == 5));
    let environment = environment.expect("an environment");
    for (name, value) in [
        ("APP", "7"),
        ("ID", &GUEST.to_string()),
        ("SOURCE", &SENDER.to_string()),
        ("CONTENT_TYPE", "text/plain\\u{0}"),
    ] {
        assert!(environment.contains(&format!("PUSHPLANE_{name}={value}\n")), "{name}: {environment}");
    }
    fs::write(folder.join("go"), "").unwrap();
    viewer.wait_for("application 7 ended: exit status: 0");
    assert_eq!(fs::read_to_string(folder.join("done")).unwrap(), "first $(touch hostile)");
    fs::remove_file(folder.join("go")).unwrap();
    push("third");
    viewer.wait_for_times("application 7 started", 2);
    viewer.end();
    // It is still there, and has its message.
    fs::write(folder.join("go"), "").unwrap();
    let third = || fs::read_to_string(folder.join("done")).ok().filter(|text| text == "third");
    until(third).expect("the application outlives listen");
    assert!(!folder.join("hostile").exists());
}

/// Asked on a terminal, which `script` (util-linux) makes.
#[test]
fn the_user_is_asked_before_an_application_starts() {
    if Command::new("script").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "the test of a terminal must run under CI: install script");
        eprintln!("SKIPPED: asking on a terminal: there is no program \"script\"");
        return;
    }
    let site = Site::new("");
    let _running = site.serve();
    let folder = site.folder.path();
    let command = format!(
        "{} listen --server {} --id {GUEST} --bind 127.64.1.3 --exec '7=cat >> got; echo >> got'",
        env!("CARGO_BIN_EXE_pushplane"),
        site.at
    );
    let mut terminal = Command::new("script");
    terminal.args(["-qefc", &command, "typescript"]).current_dir(folder).stdin(Stdio::piped());
    let mut viewer = Listener::start(terminal, &folder.join("script.log"));
    let shown = |words: &str, times: usize| {
        let text =
            || String::from_utf8_lossy(&fs::read(folder.join("typescript")).unwrap_or_default()).into_owned();
        let found = until(|| (text().matches(words).count() >= times).then_some(()));
        assert!(found.is_some(), "{words}: {}", text());
    };
    shown("registered as device 1", 1);
    let sender = bind("127.0.0.1:0");
    let push = |text: &str| push_and_hear(&sender, site.at, &message(GUEST, flag::RECEIPT, None, text));
    let question = "is not running; start \"cat >> got; echo >> got\"? yes, no, always:";
    // The receipt is there before the answer: nobody waits for the user.
    push("first");
    shown(question, 1);
    viewer.type_in("no");
    shown("application 7 is not started", 1);
    push("second");
    shown(question, 2);
    viewer.type_in("what?");
    shown(question, 3);
    viewer.type_in("yes");
    shown("application 7 ended", 1);
    push("third");
    shown(question, 4);
    viewer.type_in("always");
    shown("application 7 ended", 2);
    push("unasked");
    shown("application 7 ended", 3);
    assert_eq!(fs::read_to_string(folder.join("got")).unwrap(), "second\nthird\nunasked\n");
    assert!(viewer.terminate().1.join("\n").contains("unasked"));
}

#[test]
fn what_cannot_be_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("ids"), "00000000000000000000000000000001\n\n  nobody # here\n").unwrap();
    fs::write(folder.path().join("none"), "# nobody\n").unwrap();
    let server = "127.0.0.1:9".parse().unwrap();
    for (words, why) in [
        ("", "<--id <ID>|--ids <FILE>>"),
        ("--id 1", "32 hexadecimal digits"),
        ("--id 00000000000000000000000000000001 --exec 7=true", "there is no terminal to ask on; add --yes"),
        ("--id 00000000000000000000000000000001 --exec seven=true --yes", "APP=COMMAND"),
        ("--id 00000000000000000000000000000001 --exec 7= --yes", "APP=COMMAND"),
        ("--id 00000000000000000000000000000001 --exec 7=true --exec 7=false --yes", "given twice"),
        ("--id 00000000000000000000000000000001 --yes", "--exec"),
        ("--id 00000000000000000000000000000001 --identities 2 --exec 7=true --yes", "cannot be used with"),
        ("--id 00000000000000000000000000000001 --ids ids", "cannot be used with"),
        ("--id 00000000000000000000000000000001 --bell loud", "possible values: auto, always, never"),
        ("--id 00000000000000000000000000000001 --bind 127.0.0.1/33", "prefix length"),
        ("--id 00000000000000000000000000000001 --bind 127.0.0.1/31 --identities 2", "give a shorter prefix"),
        ("--id ffffffffffffffffffffffffffffffff --identities 2", "expected 2 Push IDs"),
        ("--id 00000000000000000000000000000001 --port 65535 --identities 2", "the ports from there on"),
        ("--id 00000000000000000000000000000001 --bind 192.0.2.77", "choose another --port or --bind"),
        ("--ids ids", "ids:3:3: expected a Push ID of 32 hexadecimal digits"),
        ("--ids none", "none:1:1: expected a Push ID on each line"),
        ("--ids nowhere", "nowhere: No such file"),
    ] {
        let (status, out, err) = ended(listen(folder.path(), server, words));
        assert_eq!((status, out.as_str()), (Some(2), ""), "{words}: {err}");
        assert!(err.contains(why), "{words}: {err}");
    }
}

#[test]
fn a_server_that_returns_has_its_clients_again() {
    let site = Site::new("");
    let mut running = site.serve();
    let viewer = start(site.folder.path(), site.at, &format!("--id {GUEST} --bind 127.64.1.4 --renew 1"));
    viewer.wait_for("registered as device 1");
    viewer.wait_for("renewed as device 1 for 3600 s");
    running.kill();
    viewer.wait_for("does not answer");
    // It kept no state: that it has us again is the client's doing.
    let _running = site.serve();
    viewer.wait_for("registered again as device 1");
    push_and_hear(&bind("127.0.0.1:0"), site.at, &message(GUEST, flag::RECEIPT, None, "welcome back"));
    assert_eq!(viewer.line(), "welcome back");
    viewer.end();
}

/// Signs as the server does that shares the user's key.
fn sign(head: &mut HeadBuilder, payload: &[u8]) -> Vec<u8> {
    head.auth(SIGNERS_KEY, Clock::start().now().unix_ms);
    let head_bytes = head.finish().unwrap().len();
    let mut datagram = head.datagram(payload).unwrap();
    assert!(MacKey::new(SECRET).sign(&mut datagram, head_bytes));
    datagram
}

/// Whoever has a key signs what it says and believes nobody who does not; a message comes directly only from
/// whom a signed introduction named, from where it was heard.
#[test]
fn only_what_is_signed_is_believed() {
    let server = bind("127.0.0.1:0");
    let at = server.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let key = format!("{SIGNERS_KEY}={:032x}", u128::from_be_bytes(SECRET));
    let viewer = start(folder.path(), at, &format!("--id {SIGNER} --bind 127.64.1.5 --key {key} --count 3"));
    let mut buffer = [0; 2048];
    let mut hear = |socket: &UdpSocket| {
        let (length, from) = socket.recv_from(&mut buffer).expect("a datagram");
        (buffer[..length].to_vec(), from)
    };
    let is_signed = |bytes: &[u8]| {
        let auth = Auth::of(&prp::parse(bytes).unwrap().options, bytes);
        auth.is_some_and(|auth| MacKey::new(SECRET).verify(bytes, &auth))
    };
    let (register, client) = hear(&server);
    let asked = prp::parse(&register).unwrap();
    assert_eq!((asked.kind, is_signed(&register)), (Kind::Register, true));
    let mut registered = HeadBuilder::new(&asked.header.answer(Kind::Registered));
    registered.validity(60);
    server.send_to(&registered.clone().datagram(&[]).unwrap(), client).unwrap();
    server.send_to(&sign(&mut registered, &[]), client).unwrap();
    viewer.wait_for("registered as device 1 for 60 s");

    let push = |text: &str| message(SIGNER, flag::RECEIPT, None, text);
    let head = |bytes: &[u8]| HeadBuilder::new(&Header::read(bytes).unwrap());
    server.send_to(&push("forged"), client).unwrap();
    server.send_to(&sign(&mut head(&push("")), b"signed"), client).unwrap();
    assert_eq!(viewer.line(), "signed", "and nothing before");
    let (receipt, _) = hear(&server);
    assert_eq!((prp::parse(&receipt).unwrap().kind, is_signed(&receipt)), (Kind::Receipt, true));

    // An introduction that is not signed is none, and nobody is sent anything.
    let peer = bind("127.0.0.1:0");
    let peer_at = Endpoint::from(peer.local_addr().unwrap());
    let introduce = |id: u64| {
        let mut head = HeadBuilder::new(&Header::new(Kind::Introduce, SIGNER, SENDER, id));
        head.peer_address(peer_at);
        head
    };
    server.send_to(&introduce(1).datagram(&[]).unwrap(), client).unwrap();
    viewer.wait_for(&format!("an introduction to {SENDER} was dropped"));
    peer.send_to(&push("not introduced"), client).unwrap();
    server.send_to(&sign(&mut introduce(2), &[]), client).unwrap();
    let (echo, _) = hear(&peer);
    let echo = prp::parse(&echo).map(|message| (message, echo)).unwrap();
    assert_eq!((echo.0.kind, echo.0.header.message), (Kind::Echo, 2));
    peer.send_to(&push("not heard yet"), client).unwrap();
    let echoed =
        HeadBuilder::new(&echo.0.header.answer(Kind::Echoed)).datagram(echo.0.payload(&echo.1)).unwrap();
    peer.send_to(&echoed, client).unwrap();
    viewer.wait_for(&format!("reached {SENDER} directly at {peer_at}"));
    let stranger = bind("127.0.0.1:0");
    stranger.send_to(&push("of a stranger"), client).unwrap();
    for text in ["direct", "direct again"] {
        let direct = push(text);
        peer.send_to(&direct, client).unwrap();
        assert_eq!(viewer.line(), text);
        let receipt =
            until(|| Some(hear(&peer).0).filter(|bytes| bytes[0] & 15 == Kind::Receipt as u8)).unwrap();
        assert_eq!(receipt[40..48], direct[40..48]);
        assert!(!is_signed(&receipt), "the key is between the server and us");
    }
    assert_eq!(viewer.said().matches("not signed with our key").count(), 5, "{}", viewer.said());
}

/// Load: all registered, each on an address of its own, a bounded number at a time; a summary; released.
#[test]
fn many_identities_at_once() {
    const COUNT: u128 = 300;
    let site = Site::new(METRICS);
    let running = site.serve();
    let first = PushId(0x1000);
    let words = format!("--id {first} --identities {COUNT} --bind 127.65.0.200/16 --count {COUNT} --json");
    let load = start(site.folder.path(), site.at, &words);
    load.wait_for("300 of 300 registered");
    assert_eq!(value(&running.metrics(), "pushplane_table_entries{table=\"live\"}"), 300);
    let sender = bind("127.0.0.1:0");
    for n in 0..COUNT {
        push_and_hear(&sender, site.at, &message(PushId(0x1000 + n), flag::RECEIPT, None, "load"));
    }
    let summary: Value = serde_json::from_str(&load.line()).unwrap();
    for (name, expected) in [
        ("identities", 300),
        ("registered", 300),
        ("never_registered", 0),
        ("received", 300),
        ("receipts", 300),
        ("released", 300),
    ] {
        assert_eq!(summary[name], expected, "{name}: {summary}");
    }
    assert!(load.wait().0.success());
    assert_eq!(deliver(site.at, first, &[]), Err(pushplane::reason::Reason::NotAttached));

    // One that may not: the answer is no, and why.
    site.write("ids", &format!("{first}\n{SIGNER} {SIGNERS_KEY}={:032x}\n", u128::from_be_bytes(SECRET)));
    let (status, out, _) =
        ended(listen(site.folder.path(), site.at, "--ids ids --bind 127.0.0.1 --for 1 --json"));
    let summary: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (status, &summary["registered"], &summary["rejected_reasons"]["not-permitted"]),
        (Some(1), &1.into(), &1.into())
    );
}

/// A server that does not answer is not flooded; everybody whom it answers gives the turn to another.
#[test]
fn registrations_wait_for_their_turn() {
    const COUNT: usize = 40;
    const TURN: usize = 4;
    let server = bind("127.0.0.1:0");
    let folder = tempfile::tempdir().unwrap();
    let words = "--id 00000000000000000000000000001000 --identities 40 --outstanding 4 --json";
    let load = start(folder.path(), server.local_addr().unwrap(), words);
    let mut buffer = [0; 2048];
    let mut hear = || {
        let (length, from) = server.recv_from(&mut buffer).expect("a request");
        (Header::read(&buffer[..length]).unwrap(), from)
    };
    let answer = |(header, from): (Header, SocketAddr), kind| {
        let mut head = HeadBuilder::new(&header.answer(kind));
        server.send_to(&head.validity(3600).datagram(&[]).unwrap(), from).unwrap();
    };
    // Nobody is answered: until the first asks again, four have asked, and no fifth.
    let mut waiting: Vec<(Header, SocketAddr)> = Vec::new();
    let mut answered = HashSet::new();
    let again = loop {
        let request = hear();
        if waiting.iter().any(|(header, _)| header.destination == request.0.destination) {
            break request;
        }
        waiting.push(request);
    };
    assert_eq!(waiting.len(), TURN);
    waiting.push(again);
    while answered.len() < COUNT {
        let request = waiting.pop().unwrap_or_else(&mut hear);
        answered.insert(request.0.destination);
        answer(request, Kind::Registered);
    }
    load.wait_for("40 of 40 registered");
    load.interrupt();
    let mut released = HashSet::new();
    while released.len() < COUNT {
        let request = hear();
        released.insert(request.0.destination);
        answer(request, Kind::Released);
    }
    let summary: Value = serde_json::from_str(&load.line()).unwrap();
    assert_eq!((&summary["registered"], &summary["released"]), (&40.into(), &40.into()), "{summary}");
    assert!(load.wait().0.success());
}
