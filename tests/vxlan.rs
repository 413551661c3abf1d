//! A push through the real server into a Linux kernel VXLAN device, to a socket that is bound to a
//! terminal's private address, and the terminal's receipt back to who pushed.
//!
//! ```text
//!      core                              gw-a                        gw-b
//!      application ── pushplane ──┬── kernel VXLAN, VNI 100     kernel VXLAN, VNI 200
//!      10.9.0.1, 10.9.1.1         │   10.9.0.2                  10.9.1.2
//!                                 │   terminals 10.20.0.7,      terminal 10.20.0.7
//!                                 │             fd20::7          (another realm: not the same)
//!                                 └───────────────────────────────┘
//! ```
//!
//! The kernel is the other implementation here: it decapsulates, checks both checksums, the Ethernet
//! address and the route, and gives the datagram to nobody but the terminal's socket.

#[path = "common/netns.rs"]
mod netns;

use std::net::SocketAddr;

use netns::{
    Datagram, Net, PUSH, RECEIPT, RECEIPT_WANTED, REJECT, Server, assert_answers, http_get, nothing, receive,
    skip, write_files,
};

/// The inner source that gateways see: the address that terminals answer to.
const INNER4: &str = "10.255.0.254:17400";
const INNER6: &str = "[fd20:ff::fe]:17400";
const ALICE: u128 = 0x3000_0000_0000_0000_0000_0000_dead_beef;
const BOB: u128 = 0x3000_0000_0000_0000_0000_0000_00c0_ffee;
const CAROL: u128 = 0x3000_0000_0000_0000_0000_0000_0000_ca01;
const NOBODY: u128 = 0x3000_0000_0000_0000_0000_0000_0000_0404;
/// The application server's own Push ID, which is no terminal's.
const SENDER: u128 = 0x3000_0000_0000_0000_0000_0000_5e4d_e400;
const APP: u32 = 7;

const FILES: &[(&str, &str)] = &[
    (
        "pushplane.toml",
        r#"[server]
name = "mobile-1"
listen = ["10.9.0.1:17400", "10.255.0.254:17400", "[fd20:ff::fe]:17400"]
tables = "tables"
state = "state"
shards = 1
control = "control.sock"
metrics = "127.0.0.1:9400"
"#,
    ),
    (
        "tables/servers.toml",
        r#"[[server]]
name = "mobile-1"
prefix = "0011"
address = "10.9.0.1:17400"
"#,
    ),
    (
        "tables/gateways.toml",
        r#"[[gateway]]
name = "gw-a"
address = "10.9.0.2:4789"
tunnel = "vxlan"
vni = 100
mac = "02:00:00:00:00:01"
source = ["10.255.0.254:17400", "[fd20:ff::fe]:17400"]

[[gateway]]
name = "gw-b"
address = "10.9.1.2:4789"
tunnel = "vxlan"
vni = 200
mac = "02:00:00:00:00:02"
source = "10.255.0.254:17400"
"#,
    ),
    (
        "tables/segments.csv",
        "realm,prefix,gateway\n1,10.20.0.0/16,gw-a\n1,fd20::/64,gw-a\n2,10.20.0.0/16,gw-b\n",
    ),
    (
        "tables/apps.toml",
        r#"[[app]]
id = 7
name = "mail"
sources = ["10.9.0.0/24"]
"#,
    ),
    (
        "tables/users.csv",
        "push_id,device,realm,private\n\
         300000000000000000000000deadbeef,1,1,10.20.0.7:2949\n\
         30000000000000000000000000c0ffee,1,1,[fd20::7]:2949\n\
         3000000000000000000000000000ca01,1,2,10.20.0.7:2949\n",
    ),
];

fn network() -> Result<Net, String> {
    let net = Net::new(&["core", "gw-a", "gw-b"])?;
    // Each gateway: a kernel VXLAN device with a fixed Ethernet address, which holds the terminals'
    // addresses and knows the way back to the server's inner address.
    for (gateway, link, own, mac, vni) in
        [("gw-a", "10.9.0", "a0", "01", 100), ("gw-b", "10.9.1", "b0", "02", 200)]
    {
        net.join(("core", own, &format!("{link}.1/24")), (gateway, "uplink", &format!("{link}.2/24")))?;
        net.ip(
            gateway,
            &format!(
                "link add vx address 02:00:00:00:00:{mac} type vxlan id {vni} dstport 4789 local {link}.2 remote {link}.1"
            ),
        )?;
        net.ip(gateway, "addr add 10.20.0.7/16 dev vx")?;
        net.ip(gateway, "addr add fd20::7/64 dev vx nodad")?;
        net.ip(gateway, "link set vx up")?;
        for (family, inner) in [("-4", "10.255.0.254"), ("-6", "fd20:ff::fe")] {
            net.ip(gateway, &format!("{family} route add {inner} dev vx"))?;
            net.ip(gateway, &format!("neigh add {inner} lladdr 02:00:00:00:00:fe dev vx"))?;
        }
    }
    // The way back from gw-a: the kernel decapsulates what the terminals answer.
    net.ip("core", "link add vx address 02:00:00:00:00:fe type vxlan id 100 dstport 4789 local 10.9.0.1")?;
    net.ip("core", "addr add 10.255.0.254/32 dev vx")?;
    net.ip("core", "addr add fd20:ff::fe/128 dev vx nodad")?;
    net.ip("core", "link set vx up")?;
    net.ip("core", "route add 10.20.0.0/16 dev vx")?;
    net.ip("core", "-6 route add fd20::/64 dev vx")?;
    Ok(net)
}

#[test]
fn a_push_reaches_terminals_behind_kernel_vxlan_and_receipts_come_back() {
    let net = match network() {
        Ok(net) => net,
        Err(why) => return skip("the push into a kernel VXLAN device", &why),
    };
    write_files(&net, FILES);
    let server = Server::start(&net, "core");

    let sender = net.udp("core", "10.9.0.1:40000");
    sender.connect("10.9.0.1:17400").unwrap();
    let alice = net.udp("gw-a", "10.20.0.7:2949");
    let bob = net.udp("gw-a", "[fd20::7]:2949");
    let carol = net.udp("gw-b", "10.20.0.7:2949");

    let mut message = 0x1000;
    let mut push = |to: u128, flags: u8, app: u32, options: &[u8], payload: &[u8]| {
        message += 1;
        let push =
            Datagram { kind: PUSH, flags, app, to, source: SENDER, message, options, payload }.encode();
        assert_eq!(sender.send(&push).unwrap(), push.len());
        push
    };

    // Byte for byte, from the inner source address; IPv4, IPv6, odd and even lengths (the checksum of
    // an odd one has its own rule), a large one.
    let large = vec![0xa5; 1200];
    for payload in [&b""[..], b"x", b"hello", b"hello!", &large] {
        let sent = push(ALICE, 0, APP, &[], payload);
        let (got, from) = receive(&alice, "push over IPv4");
        assert_eq!(got, sent);
        assert_eq!(from, INNER4.parse::<SocketAddr>().unwrap());

        let sent = push(BOB, 0, APP, &[], payload);
        let (got, from) = receive(&bob, "push over IPv6");
        assert_eq!(got, sent);
        assert_eq!(from, INNER6.parse::<SocketAddr>().unwrap());
    }

    // An option that this server does not know passes, in its place.
    let sent = push(ALICE, 0, APP, &[99, 3, 1, 2, 3, 0, 0, 0], b"with an option");
    assert_eq!(receive(&alice, "push with an option").0, sent);

    // PayloadLength and the padding that it announces stay here.
    push(ALICE, 0, APP, &[19, 2, 0, 5], b"hello.......");
    let (got, _) = receive(&alice, "padded push");
    assert_eq!((got[3], &got[48..]), (12, &b"hello"[..]));

    // The same private address in another realm is another terminal, in another tunnel.
    let sent = push(CAROL, 0, APP, &[], b"for carol");
    assert_eq!(receive(&carol, "push to the other realm").0, sent);
    nothing(&alice, "what was for realm 2 came to realm 1");

    // A receipt, through the kernel's own encapsulation, reaches who asked for it.
    for (terminal, to) in [(&alice, ALICE), (&bob, BOB)] {
        let sent = push(to, RECEIPT_WANTED, APP, &[], b"answer this");
        let (got, from) = receive(terminal, "push that wants a receipt");
        assert_eq!(got, sent);
        terminal.send_to(&Datagram::receipt_for(&got), from).unwrap();
        let (receipt, _) = receive(&sender, "receipt");
        assert_answers(&receipt, RECEIPT, &sent);
    }

    // What cannot be delivered is answered with its reason: unknown-destination, an application that
    // is not on the list.
    for (to, app, reason) in [(NOBODY, APP, 9_u16), (ALICE, 8, 4)] {
        let sent = push(to, 0, app, &[], b"to nobody");
        let (reject, _) = receive(&sender, "rejection");
        assert_answers(&reject, REJECT, &sent);
        assert_eq!(reject[48], 9, "the option is Reason: {reject:02x?}");
        assert_eq!(reject[50..52], reason.to_be_bytes());
    }

    for (socket, who) in [(&sender, "the sender"), (&alice, "alice"), (&bob, "bob"), (&carol, "carol")] {
        nothing(socket, &format!("{who} got what nobody sent"));
    }

    let metrics = http_get(&net, "core", "127.0.0.1:9400", "/metrics");
    let lines: Vec<&str> = metrics.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(lines.contains(&"pushplane_unaccounted 0"), "{metrics}");
    for reason in ["unknown-destination", "application-not-allowed"] {
        let counted = format!("pushplane_dropped_total{{reason=\"{reason}\"}} 1");
        assert!(lines.contains(&counted.as_str()), "{metrics}");
    }

    let said = server.said();
    assert!(server.stop().success(), "{said}");
}
