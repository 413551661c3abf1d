//! Messages for groups, at real servers over loopback (PROTOCOL.md, ruling 7): a copy for each member but the sender,
//! across servers, receipts of the members and of the group, and what it does to everybody else's traffic.

#[path = "common/server.rs"]
mod server;

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use pushplane::id::PushId;
use pushplane::reason::Reason;
use pushplane::wire::prp::{self, HeadBuilder, Header, Kind, Message, flag};

use server::*;

const CREATE: u8 = 1;
const JOIN: u8 = 2;
const LEAVE: u8 = 3;
const DELETE: u8 = 5;

/// At the server "one" (prefix 0) or "two" (prefix 1).
const fn one(n: u128) -> PushId {
    PushId(0x1000 + n)
}

const fn two(n: u128) -> PushId {
    PushId(1 << 127 | (0x2000 + n))
}

const GROUP: PushId = PushId(0x6000);

#[track_caller]
fn group(socket: &UdpSocket, server: SocketAddr, user: PushId, request: u8) {
    let mut head = HeadBuilder::new(&Header::new(Kind::Group, user, PushId::NONE, fresh()));
    head.group_request(request).group_id(GROUP);
    let answer = ask(socket, server, &head.datagram(&[]).unwrap());
    assert_eq!((answer.kind, answer.reason), (Kind::Grouped, None));
}

/// A terminal of a user, registered, at an address of its own.
fn terminal(server: SocketAddr, user: PushId) -> UdpSocket {
    let socket = bind(&format!("127.64.{}.{}:0", user.0 >> 127, user.0 & 0xFF));
    registered(&socket, server, &register(user, &[]));
    socket
}

/// A message for the group.
fn to_group(source: PushId, flags: u8) -> Vec<u8> {
    let flags = flags | flag::GROUP;
    let header = Header { app: 7, flags, ..Header::new(Kind::Push, GROUP, source, fresh()) };
    HeadBuilder::new(&header).content_type("text/plain").datagram(b"to all").unwrap()
}

/// The next message with this identifier.
#[track_caller]
fn receive(socket: &UdpSocket, id: u64) -> (Message, Vec<u8>) {
    let mut buffer = [0; 2048];
    loop {
        let (length, _) = socket.recv_from(&mut buffer).expect("a datagram");
        let bytes = buffer[..length].to_vec();
        let message = prp::parse(&bytes).unwrap();
        if message.header.message == id {
            return (message, bytes);
        }
    }
}

#[track_caller]
fn hears_nothing(socket: &UdpSocket) {
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let heard = socket.recv_from(&mut [0; 2048]);
    socket.set_read_timeout(Some(WAIT)).unwrap();
    assert!(heard.is_err(), "{heard:?}");
}

/// Takes a member's copy, as PROTOCOL.md has it, and answers it.
#[track_caller]
fn take_copy(socket: &UdpSocket, server: SocketAddr, member: PushId, sent: &[u8]) {
    let asked = Header::read(sent).unwrap();
    let (message, bytes) = receive(socket, asked.message);
    let Header { destination, source, flags, app, .. } = message.header;
    assert_eq!((message.kind, destination, source, app), (Kind::Push, member, asked.source, 7));
    assert_eq!(flags & (flag::GROUP | flag::RECEIPT), asked.flags & flag::RECEIPT);
    assert_eq!(message.options.group_id(&bytes), Some(GROUP));
    assert_eq!(message.options.content_type(&bytes), Some("text/plain"));
    assert_eq!(message.payload(&bytes), b"to all");
    if flags & flag::RECEIPT != 0 {
        let receipt = Header::new(Kind::Receipt, source, destination, asked.message);
        socket.send_to(&HeadBuilder::new(&receipt).datagram(&[]).unwrap(), server).unwrap();
    }
}

/// What comes back to the sender of a message: who says received, and whom the group says it missed.
fn answers(socket: &UdpSocket, id: u64, count: usize) -> (BTreeSet<PushId>, Vec<PushId>) {
    let (mut received, mut missed) = (BTreeSet::new(), Vec::new());
    for _ in 0..count {
        let (message, bytes) = receive(socket, id);
        assert_eq!(message.kind, Kind::Receipt, "{:?}", message.options.reason(&bytes));
        if message.header.source == GROUP {
            let ids = message.payload(&bytes).chunks_exact(16).map(|id| id.try_into().unwrap());
            missed.extend(ids.map(PushId::from_bytes));
        } else {
            received.insert(message.header.source);
        }
    }
    (received, missed)
}

fn settled(site: &Running) -> String {
    for _ in 0..100 {
        let page = site.metrics();
        assert_eq!(value(&page, "pushplane_unaccounted"), 0);
        if value(&page, "pushplane_in_flight") == 0 {
            return page;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("something stays in flight");
}

#[test]
fn members_of_two_servers_get_a_copy_each_and_answer_the_sender() {
    let (at, there) = (bind("127.0.0.1:0").local_addr().unwrap(), bind("127.0.0.1:0").local_addr().unwrap());
    let servers = [("one", "0", at), ("two", "1", there)];
    let (here, abroad) =
        (Site::one_of("one", at, &servers, METRICS), Site::one_of("two", there, &servers, METRICS));
    // Users of the other server are members by groups.csv, one of this one too, who left no trace yet.
    here.write(
        "tables/groups.csv",
        &format!("group,push_id\n{GROUP},{}\n{GROUP},{}\n{GROUP},{}\n", two(1), two(2), one(3)),
    );
    here.write("tables/users.csv", &format!("push_id,device,private\n{},0,\n", one(3)));
    let (running, other) = (here.serve(), abroad.serve());
    let members = [(at, one(1)), (at, one(2)), (there, two(1)), (there, two(2))];
    let terminals = members.map(|(server, user)| terminal(server, user));
    group(&terminals[0], at, one(1), JOIN);
    group(&terminals[1], at, one(2), JOIN);

    // A stranger's message reaches all who are there; the group's receipt names who is not.
    let sender = bind("127.0.0.1:0");
    let sent = to_group(PushId(0x99), flag::RECEIPT);
    let id = Header::read(&sent).unwrap().message;
    sender.send_to(&sent, at).unwrap();
    for ((server, user), socket) in members.iter().zip(&terminals) {
        take_copy(socket, *server, *user, &sent);
    }
    let (received, missed) = answers(&sender, id, 5);
    assert_eq!(received, members.iter().map(|(_, user)| *user).collect());
    assert_eq!(missed, [one(3)]);

    // A member's own message goes to the others only, by whichever server it is sent.
    let sent = to_group(two(2), flag::RECEIPT);
    let id = Header::read(&sent).unwrap().message;
    terminals[3].send_to(&sent, there).unwrap();
    for ((server, user), socket) in members.iter().zip(&terminals).take(3) {
        take_copy(socket, *server, *user, &sent);
    }
    let (received, missed) = answers(&terminals[3], id, 4);
    assert_eq!(received, members[..3].iter().map(|(_, user)| *user).collect());
    assert_eq!(missed, [one(3)]);
    hears_nothing(&terminals[3]);

    // Who left gets nothing more; nobody answers what wants no receipt.
    group(&terminals[1], at, one(2), LEAVE);
    let sent = to_group(PushId(0x99), 0);
    sender.send_to(&sent, at).unwrap();
    take_copy(&terminals[0], at, one(1), &sent);
    take_copy(&terminals[2], there, two(1), &sent);
    hears_nothing(&terminals[1]);
    hears_nothing(&sender);

    let page = settled(&running);
    let total = |name: &str| value(&page, &format!("pushplane_{name}_total"));
    assert_eq!((total("delivered"), total("copies_delivered")), (3, 5));
    assert_eq!((total("copies_forwarded"), total("copies_dropped")), (5, 3));
    settled(&other);
}

#[test]
fn a_message_that_reaches_nobody_is_rejected() {
    let site = Site::new(METRICS);
    let mut running = site.serve();
    let member = terminal(site.at, one(1));
    let rejected = |socket: &UdpSocket, source| ask(socket, site.at, &to_group(source, 0)).reason;
    assert_eq!(rejected(&member, one(1)), Some(Reason::UnknownGroup));
    group(&member, site.at, one(1), CREATE);
    assert_eq!(rejected(&member, one(1)), Some(Reason::NotAttached), "the sender alone is in it");
    let other = terminal(site.at, one(2));
    group(&other, site.at, one(2), JOIN);
    assert_eq!(ask(&other, site.at, &release(one(2), 0)).kind, Kind::Released);
    assert_eq!(rejected(&member, one(1)), Some(Reason::NotAttached), "the other one is gone");
    // The group is as durable as bindings are.
    running.kill();
    running = site.serve();
    registered(&other, site.at, &register(one(2), &[]));
    let sent = to_group(one(1), flag::RECEIPT);
    member.send_to(&sent, site.at).unwrap();
    take_copy(&other, site.at, one(2), &sent);
    group(&member, site.at, one(1), DELETE);
    assert_eq!(rejected(&member, one(1)), Some(Reason::UnknownGroup));
    let page = settled(&running);
    assert_eq!(value(&page, "pushplane_dropped_total{reason=\"unknown-group\"}"), 1);
    running.terminate();
}

/// A group of ten thousand: everybody gets one copy of each message, in the order sent.
#[test]
fn a_large_group() {
    const MEMBERS: u128 = 10_000;
    let site = Site::new(METRICS);
    let inbox = bind("127.64.1.1:0");
    let room = socket2::SockRef::from(&inbox).set_recv_buffer_size(64 << 20);
    assert!(room.is_ok(), "{room:?}");
    let port = inbox.local_addr().unwrap().port();
    let mut users = String::from("push_id,device,realm,private\n");
    let mut groups = String::from("group,push_id\n");
    let mut segments = String::from("realm,prefix,gateway\n");
    for n in 0..MEMBERS {
        // A realm each: they all have the one address.
        users += &format!("{},0,{n},127.64.1.1:{port}\n", one(n));
        groups += &format!("{GROUP},{}\n", one(n));
        segments += &format!("{n},127.64.0.0/10,g\n");
    }
    site.write("tables/users.csv", &users);
    site.write("tables/groups.csv", &groups);
    site.write("tables/segments.csv", &segments);
    let mut running = site.serve();
    let sender = bind("127.0.0.1:0");
    let sent = [to_group(PushId(0x99), 0), to_group(PushId(0x99), 0)];
    let ids = sent.each_ref().map(|sent| Header::read(sent).unwrap().message);
    for message in &sent {
        sender.send_to(message, site.at).unwrap();
    }
    let mut seen = [BTreeSet::new(), BTreeSet::new()];
    inbox.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut buffer = [0; 2048];
    while let Ok((length, _)) = inbox.recv_from(&mut buffer) {
        let header = prp::parse(&buffer[..length]).unwrap().header;
        let member = header.destination;
        let round = usize::from(header.message == ids[1]);
        assert_eq!(header.message, ids[round]);
        assert!(round == 1 || !seen[1].contains(&member), "the second message overtook the first");
        assert!(seen[round].insert(member), "a second copy");
    }
    let page = settled(&running);
    let total = |name: &str| value(&page, &format!("pushplane_{name}_total"));
    assert_eq!((total("delivered"), total("copies_delivered")), (2, 2 * MEMBERS as i64));
    // What the kernel lost for want of room in this test's inbox is not the server's.
    assert!(seen.iter().all(|seen| seen.len() > 100), "{}", seen[0].len());
    running.terminate();
}

/// The command line: a group is made, joined, listed, pushed to, left and deleted; a name is found.
#[test]
fn groups_and_names_by_hand() {
    let site = Site::new("");
    site.write("tables/names.csv", &format!("name,push_id\nalice,{}\n", one(1)));
    let mut running = site.serve();
    let (alice, bob) = (terminal(site.at, one(1)), terminal(site.at, one(2)));
    let run = |line: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pushplane"));
        let output = command.args(line.split(' ')).args(["--server", &site.at.to_string()]).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_owned();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let group = |request: &str, n| {
        run(&format!("group {request} --id {} --group {GROUP} --bind 127.64.0.{n}", one(n)))
    };
    let done = |said: &str| (Some(0), said.to_owned(), String::new());
    assert_eq!(group("create", 1), done(&GROUP.to_string()));
    assert_eq!(group("join", 2), done(&GROUP.to_string()));
    assert_eq!(group("list", 1), done(&format!("{}\n{}", one(1), one(2))));
    let (status, _, why) = group("delete", 2);
    assert_eq!(status, Some(1));
    assert!(why.starts_with("rejected: not-permitted"), "{why}");
    assert_eq!(run(&format!("resolve alice --from {}", one(2))), done(&one(1).to_string()));
    let (status, _, why) = run(&format!("resolve carol --from {}", one(2)));
    assert!(status == Some(1) && why.starts_with("rejected: unknown-name"), "{why}");

    // One of two members answers.
    drop(bob);
    let at = site.at;
    let answers = std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        let (length, _) = alice.recv_from(&mut buffer).unwrap();
        let Header { destination, source, message, .. } = Header::read(&buffer[..length]).unwrap();
        let receipt = Header::new(Kind::Receipt, source, destination, message);
        alice.send_to(&HeadBuilder::new(&receipt).datagram(&[]).unwrap(), at).unwrap();
    });
    assert_eq!(
        run(&format!("send --group --receipt --app 7 --to {GROUP} hi")),
        done(&format!("receipt from {}", one(1)))
    );
    answers.join().unwrap();
    assert_eq!(group("leave", 1), done(&GROUP.to_string()));
    assert_eq!(ask(&bind("127.64.0.2:0"), site.at, &release(one(2), 0)).kind, Kind::Released);
    let (status, said, _) = run(&format!("send --group --app 7 --to {GROUP} hi"));
    assert!(status == Some(1) && said.contains("not-attached"), "{said}");
    assert_eq!(group("delete", 1), done(&GROUP.to_string()));
    running.terminate();
}
