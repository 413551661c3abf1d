//! A push through the real server to a terminal behind a third party's GGSN: osmo-ggsn, with sgsnemu as
//! the SGSN and the phone.
//!
//! ```text
//!      core                                   ran                  ue
//!      application ── pushplane ── osmo-ggsn ══ GTP ══ sgsnemu ── tun device of the phone
//!      10.9.0.2, 10.255.0.254      172.16.222.0/24     10.9.0.1    172.16.222.x
//! ```
//!
//! The terminal's private address is routable from the server, through osmo-ggsn's tun device, so the
//! gateway of its segment has `tunnel = "none"`.

#[path = "common/netns.rs"]
mod netns;

use std::net::SocketAddr;

use netns::{
    Datagram, Net, PUSH, RECEIPT, RECEIPT_WANTED, REJECT, Server, assert_answers, eventually, http_get,
    nothing, receive, skip, write_files,
};

const SERVER: &str = "10.255.0.254:17400";
const PHONE: u128 = 0x3000_0000_0000_0000_0000_0000_dead_beef;
/// Known, but with an address that the GGSN never gave out.
const ABSENT: u128 = 0x3000_0000_0000_0000_0000_0000_0000_0404;
const SENDER: u128 = 0x3000_0000_0000_0000_0000_0000_5e4d_e400;
const APP: u32 = 7;
/// Not 2948, the WAP push port: tshark would try WSP on it.
const PORT: u16 = 2949;

const GGSN_CONFIG: &str = "\
log stderr
 logging filter all 1
 logging color 0
 logging level ggsn info
ggsn ggsn0
 gtp state-dir ggsn-state
 gtp bind-ip 10.9.0.2
 apn internet
  gtpu-mode tun
  tun-device tun4
  type-support v4
  ip prefix dynamic 172.16.222.0/24
  ip ifconfig 172.16.222.0/24
  no shutdown
 default-apn internet
 no shutdown ggsn
";

const FILES: &[(&str, &str)] = &[
    ("ggsn.cfg", GGSN_CONFIG),
    ("ggsn-state/.keep", ""),
    ("sgsn-state/.keep", ""),
    (
        "pushplane.toml",
        r#"[server]
name = "mobile-1"
listen = ["10.255.0.254:17400"]
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
address = "10.255.0.254:17400"
"#,
    ),
    (
        "tables/gateways.toml",
        r#"[[gateway]]
name = "osmo"
address = "10.9.0.2:2152"
tunnel = "none"
"#,
    ),
    ("tables/segments.csv", "realm,prefix,gateway\n0,172.16.222.0/24,osmo\n"),
    (
        "tables/apps.toml",
        r#"[[app]]
id = 7
name = "mail"
sources = ["10.9.0.0/24"]
"#,
    ),
];

/// The three hosts with GGSN and SGSN running, and the address that the phone got.
fn network() -> Result<(Net, String), String> {
    let mut net = Net::new(&["core", "ran", "ue"])?;
    net.join(("core", "gn", "10.9.0.2/24"), ("ran", "gn", "10.9.0.1/24"))?;
    net.ip("core", "addr add 10.255.0.254/32 dev lo")?;
    write_files(&net, FILES);
    for program in ["osmo-ggsn", "sgsnemu"] {
        let there = net.command("core", program).arg("--version").output();
        if !there.is_ok_and(|out| out.status.success()) {
            return Err(format!("no {program}; Debian has it in the package osmo-ggsn"));
        }
    }

    let mut ggsn = net.command("core", "osmo-ggsn");
    ggsn.args(["-c", "ggsn.cfg"]);
    net.start(ggsn, "osmo-ggsn.log")?;
    eventually("tun device of osmo-ggsn", || {
        net.ip("core", "addr show dev tun4 up").ok().filter(|t| !t.is_empty())
    })?;

    let mut sgsn = net.command("ran", "sgsnemu");
    sgsn.args(["--listen", "10.9.0.1", "--remote", "10.9.0.2", "--apn", "internet", "--nsapi", "5"]);
    sgsn.args([
        "--imsi",
        "460001234567890",
        "--msisdn",
        "8613800138000",
        "--createif",
        "--tun-device",
        "ue0",
    ]);
    sgsn.args(["--netns", &net.name("ue"), "--statedir", "sgsn-state", "--pidfile", "sgsnemu.pid"]);
    net.start(sgsn, "sgsnemu.log")?;
    let address = eventually("tun device of the phone", || {
        let shown = net.ip("ue", "-4 -o addr show dev ue0 up").ok()?;
        let after = shown.split_whitespace().skip_while(|word| *word != "inet").nth(1)?;
        Some(after.split('/').next()?.to_owned())
    })?;
    // sgsnemu leaves the routes of the phone's host to others.
    net.ip("ue", "route add default dev ue0")?;
    Ok((net, address))
}

#[test]
fn a_push_reaches_a_phone_behind_osmo_ggsn_and_its_receipt_comes_back() {
    let (net, address) = match network() {
        Ok(made) => made,
        Err(why) => return skip("the push behind osmo-ggsn", &why),
    };
    let users = format!(
        "push_id,device,realm,private\n{PHONE:032x},1,0,{address}:{PORT}\n{ABSENT:032x},1,0,172.16.222.200:{PORT}\n"
    );
    write_files(&net, &[("tables/users.csv", &users)]);
    let server = Server::start(&net, "core");

    let sender = net.udp("core", "10.9.0.2:40000");
    sender.connect(SERVER).unwrap();
    let phone = net.udp("ue", &format!("{address}:{PORT}"));

    let mut message = 0x2000;
    let mut push = |to: u128, flags: u8, payload: &[u8]| {
        message += 1;
        let push =
            Datagram { kind: PUSH, flags, app: APP, to, source: SENDER, message, options: &[], payload }
                .encode();
        assert_eq!(sender.send(&push).unwrap(), push.len());
        push
    };

    let large = vec![0xa5; 1200];
    for payload in [&b""[..], b"x", b"hello", &large] {
        let sent = push(PHONE, 0, payload);
        let (got, from) = receive(&phone, "push");
        assert_eq!(got, sent);
        assert_eq!(from, SERVER.parse::<SocketAddr>().unwrap());
    }

    let sent = push(PHONE, RECEIPT_WANTED, b"answer this");
    let (got, from) = receive(&phone, "push that wants a receipt");
    assert_eq!(got, sent);
    phone.send_to(&Datagram::receipt_for(&got), from).unwrap();
    let (receipt, _) = receive(&sender, "receipt");
    assert_answers(&receipt, RECEIPT, &sent);

    // An address of the segment that nobody has: the server sends, the GGSN has no context for it, and
    // nothing comes to the phone.
    push(ABSENT, 0, b"to an absent phone");
    nothing(&phone, "what was for another address");

    // A terminal may not push for an application that does not list its address.
    let from_phone = Datagram {
        kind: PUSH,
        flags: 0,
        app: APP,
        to: ABSENT,
        source: PHONE,
        message: 1,
        options: &[],
        payload: b"not for me to send",
    }
    .encode();
    phone.send_to(&from_phone, SERVER).unwrap();
    let (reject, _) = receive(&phone, "rejection");
    assert_answers(&reject, REJECT, &from_phone);
    assert_eq!(reject[48..52], [9, reject[49], 0, 5], "source-address-not-allowed");

    nothing(&sender, "the sender got what nobody sent");
    let metrics = http_get(&net, "core", "127.0.0.1:9400", "/metrics");
    assert!(metrics.lines().any(|line| line == "pushplane_unaccounted 0"), "{metrics}");

    let said = server.said();
    assert!(server.stop().success(), "{said}");
}
