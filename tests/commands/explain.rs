//! `explain`: the words for every kind of user of the lab, the JSON that scripts read, and that it is
//! what the dataplane does.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use pushplane::clock::{Clock, Now};
use pushplane::config::{Limits, Policy};
use pushplane::id::{Endpoint, PushId};
use pushplane::packet::{Burst, FramePool};
use pushplane::plane::explain::{Question, explain};
use pushplane::plane::{EXTRA, NoTrace, Plane, Shared, Site, Verdict};
use pushplane::reason::Reason;
use pushplane::table::{Image, Tables, source};
use pushplane::wire::prp::{HeadBuilder, Header, Kind, flag};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde_json::{Value, json};

use super::{Folder, golden};

/// Who is asked about, and what the command is given besides.
const QUESTIONS: [(&str, &str); 42] = [
    ("alice, behind the VXLAN gateway", "--destination 00000000000000000000000000000001 --app 7"),
    ("bob, behind the GTP-U gateway", "--destination 00000000000000000000000000000002 --app 7"),
    ("carol, behind the plain gateway", "--destination 00000000000000000000000000000003 --app 7"),
    ("dave, without tunnel", "--destination 00000000000000000000000000000004 --app 7"),
    ("erin, two terminals", "--destination 00000000000000000000000000000005 --app 7"),
    ("erin's tablet", "--destination 00000000000000000000000000000005 --app 7 --device 2"),
    ("a third of erin's", "--destination 00000000000000000000000000000005 --app 7 --device 3"),
    ("frank, behind a NAT", "--destination 00000000000000000000000000000006 --app 7"),
    ("grace, known by her IMSI", "--destination 00000000000000000000000000000007 --app 7"),
    ("heidi, roaming", "--destination 00000000000000000000000000000008 --app 7"),
    ("heidi, already roamed", "--destination 00000000000000000000000000000008 --app 7 --flags roamed"),
    ("ivan, run out", "--destination 00000000000000000000000000000009 --app 7"),
    ("judy, who signs, in realm 1", "--destination 0000000000000000000000000000000a --app 7"),
    ("kim, short messages only", "--destination 0000000000000000000000000000000b --app 7"),
    ("leo, of mobile-2", "--destination 10000000000000000000000000000001 --app 7"),
    ("leo, at mobile-2", "--destination 10000000000000000000000000000001 --app 7 --as mobile-2"),
    ("min, of unicom-1", "--destination 40000000000000000000000000000001 --app 7"),
    ("min, at unicom-1", "--destination 40000000000000000000000000000001 --app 7 --as unicom-1"),
    ("nora, at unicom-1", "--destination 40000000000000000000000000000002 --app 7 --as unicom-1"),
    ("somebody unknown", "--destination 000000000000000000000000000000ff --app 7"),
    ("a prefix of nobody", "--destination f0000000000000000000000000000001 --app 7"),
    ("an unknown visitor, roamed", "--destination f0000000000000000000000000000001 --app 7 --flags roamed"),
    ("an application that is not there", "--destination 00000000000000000000000000000001 --app 1"),
    ("no application", "--destination 00000000000000000000000000000001"),
    ("priority, from its sources", "--destination 00000000000000000000000000000001 --app 8"),
    ("priority, from elsewhere", "--destination 00000000000000000000000000000001 --app 8 --from 192.0.2.7:1"),
    ("the bank's key", "--destination 00000000000000000000000000000001 --app 9"),
    ("news, with a rate", "--destination 00000000000000000000000000000001 --app 10"),
    ("chat, from its application server", "--destination 00000000000000000000000000000001 --app 11"),
    (
        "chat, from bob's terminal",
        "--destination 00000000000000000000000000000001 --app 11 --source 00000000000000000000000000000002 --from 127.17.0.10:9",
    ),
    (
        "chat, from bob through his gateway",
        "--destination 00000000000000000000000000000001 --app 11 --source 00000000000000000000000000000002 --from 127.0.1.2:9",
    ),
    (
        "chat, from bob elsewhere",
        "--destination 00000000000000000000000000000001 --app 11 --source 00000000000000000000000000000002 --from 127.17.0.11:9",
    ),
    ("voice, min-delay", "--destination 00000000000000000000000000000001 --app 12"),
    ("from another server", "--destination 00000000000000000000000000000001 --app 7 --from 127.0.0.2:17400"),
    (
        "back to the server it came from",
        "--destination 10000000000000000000000000000001 --app 7 --from 127.0.0.2:17400",
    ),
    (
        "the bank's, checked by another server",
        "--destination 00000000000000000000000000000001 --app 9 --from 127.0.0.2:17400",
    ),
    ("the last hop", "--destination 10000000000000000000000000000001 --app 7 --hop 1"),
    ("the last hop but one", "--destination 10000000000000000000000000000001 --app 7 --hop 2"),
    ("no hop left, delivered here", "--destination 00000000000000000000000000000001 --app 7 --hop 0"),
    ("with a receipt", "--destination 00000000000000000000000000000001 --app 7 --flags receipt,priority"),
    ("a group", "--destination 0000000000000000000000000000f001 --app 7 --flags group"),
    ("0x and capitals", "--destination 0X0000000000000000000000000000000A --app 7"),
];

#[test]
fn every_kind_of_user_is_explained() {
    let folder = Folder::new();
    let mut told = String::new();
    for (who, arguments) in QUESTIONS {
        let ran = folder.run(&format!("explain --tables lab {arguments}"));
        let dropped = ran.out.contains("verdict: drop");
        assert_eq!((ran.status, &*ran.err), (i32::from(dropped), ""), "{who}\n{}", ran.out);
        writeln!(told, "# {who}\n$ pushplane explain {arguments}\n{}", ran.out).unwrap();
        // The JSON says the same.
        let json = folder.run(&format!("explain --tables lab {arguments} --json"));
        assert_eq!(json.status, ran.status);
        let json = json.json();
        check_shape(&json);
        assert!(ran.out.contains(&format!("verdict: {}", json["verdict"].as_str().unwrap())), "{who}");
        let steps = json["steps"].as_array().unwrap();
        assert!(steps.iter().all(|step| ran.out.contains(step.as_str().unwrap())), "{who}");
    }
    golden("explain.txt", &told);
}

/// The shape of INTERFACE.md.
fn check_shape(json: &Value) {
    let verdict = json["verdict"].as_str().unwrap();
    assert!(["deliver", "forward", "query", "drop"].contains(&verdict), "{json}");
    match json["reason"].as_str() {
        None => assert!(json["reason"].is_null() && verdict != "drop", "{json}"),
        Some(name) => assert!(verdict == "drop" && Reason::ALL.iter().any(|r| r.name() == name), "{json}"),
    }
    assert!(json["steps"].as_array().unwrap().iter().all(Value::is_string));
    let sends = json["sends"].as_array().unwrap();
    assert!(verdict == "query" || (verdict == "drop") == sends.is_empty(), "{json}");
    for send in sends {
        let fields = ["to", "via", "gateway", "tunnel", "device", "private", "server"];
        assert!(fields.iter().all(|field| send.get(*field).is_some()), "{send}");
        assert!(send["to"].as_str().unwrap().parse::<Endpoint>().is_ok(), "{send}");
        assert!(send["device"].is_u64(), "{send}");
        let is_gateway = matches!(send["via"].as_str().unwrap(), "gateway" | "direct");
        assert_eq!(
            (send["gateway"].is_string(), send["tunnel"].is_string()),
            (is_gateway, is_gateway),
            "{send}"
        );
        assert_eq!(send["tunnel"] == "none", send["via"] == "direct", "{send}");
        assert!(send["via"] != "direct" || send["to"] == send["private"], "{send}");
        assert!(send["via"] != "server" || send["device"] == 0, "{send}");
    }
}

#[test]
fn the_json_is_what_scripts_read() {
    let folder = Folder::new();
    let sends = |user: &str, more: &str| {
        let ran = folder.run(&format!("explain --tables lab --app 7 --json --destination {user} {more}"));
        ran.json()["sends"].clone()
    };
    let send = |to, via, gateway, tunnel, device, private, server: Value| {
        let (gateway, tunnel, private): (Value, Value, Value) = (gateway, tunnel, private);
        json!({"to": to, "via": via, "gateway": gateway, "tunnel": tunnel, "device": device, "private": private, "server": server})
    };
    let null = || Value::Null;
    assert_eq!(
        sends("00000000000000000000000000000004", ""),
        json!([send(
            "127.19.0.10:2948",
            "direct",
            "ggsn-none".into(),
            "none".into(),
            1,
            "127.19.0.10:2948".into(),
            null()
        )])
    );
    assert_eq!(
        sends("00000000000000000000000000000005", "--device 2"),
        json!([send(
            "127.0.1.2:12152",
            "gateway",
            "ggsn-gtpu".into(),
            "gtpu".into(),
            2,
            "127.17.0.20:2948".into(),
            null()
        )])
    );
    assert_eq!(
        sends("00000000000000000000000000000006", ""),
        json!([send("127.64.0.1:5000", "nat", null(), null(), 1, null(), null())])
    );
    assert_eq!(
        sends("00000000000000000000000000000008", ""),
        json!([send("127.0.0.3:17400", "server", null(), null(), 0, null(), "unicom-1".into())])
    );
}

#[test]
fn a_configuration_gives_tables_name_and_policy() {
    let folder = Folder::new();
    let config = |name: &str, policy: &str| {
        let text = format!(
            "[server]\nname = \"{name}\"\nlisten = [\"127.0.0.9:17400\"]\ntables = \"lab\"\n[policy]\n{policy}\n"
        );
        folder.write("c.toml", &text);
    };
    let ask = |user: &str, more: &str| {
        folder.run(&format!("explain --config c.toml --json --app 7 --destination {user} {more}")).json()
    };
    config("mobile-2", "");
    assert_eq!(ask("10000000000000000000000000000001", "")["verdict"], "deliver");
    assert_eq!(ask("00000000000000000000000000000001", "")["sends"][0]["server"], "mobile-1");
    config("mobile-1", "require_auth = true");
    let unsigned = ask("00000000000000000000000000000001", "");
    assert_eq!(unsigned["reason"], "authentication-failed");
    // Judy has a key.
    let signed = ask("00000000000000000000000000000001", "--source 0000000000000000000000000000000a");
    assert_eq!(signed["verdict"], "deliver", "{signed}");
    config("mobile-1", "known_sources = true");
    assert_eq!(ask("00000000000000000000000000000001", "")["reason"], "unknown-source");
    let known = ask("00000000000000000000000000000001", "--source 00000000000000000000000000000002");
    assert_eq!(known["verdict"], "deliver");
    config("mobile-9", "");
    folder
        .run("explain --config c.toml --destination 00000000000000000000000000000001")
        .wrong("c.toml:2:8: name: expected the name of a [[server]]");
}

/// A server that listens on IPv4 only does not reach a public IPv6 address: neither in the dataplane nor
/// in what is explained.
#[test]
fn what_no_listening_address_reaches_is_not_sent() {
    let folder = Folder::new();
    let users = folder.read("lab/users.csv").replace("127.64.0.1:5000", "[2001:db8::6]:5000");
    folder.write("lab/users.csv", &users);
    folder
        .write("c.toml", "[server]\nname = \"mobile-1\"\nlisten = [\"127.0.0.1:17400\"]\ntables = \"lab\"\n");
    let frank = "--app 7 --json --destination 00000000000000000000000000000006";
    let configured = folder.run(&format!("explain --config c.toml {frank}"));
    configured.no();
    assert!(
        configured.err.contains("c.toml:3:10: listen: user 00000000000000000000000000000006 has an IPv6 nat")
    );
    assert_eq!(configured.json()["reason"], "no-route");
    assert_eq!(
        folder.run(&format!("explain --tables lab {frank}")).json()["sends"][0]["to"],
        "[2001:db8::6]:5000"
    );
}

/// One terminal roams, of another only the IMSI is known: the verdict is the first of deliver, query,
/// forward and drop, and what leaves is told.
#[test]
fn a_query_keeps_no_copy_from_where_the_user_roams() {
    let folder = Folder::new();
    let more = "00000000000000000000000000000008,2,,,,460000000000008,3,,\n";
    folder.write("lab/users.csv", &(folder.read("lab/users.csv") + more));
    let heidi =
        folder.run("explain --tables lab --app 7 --json --destination 00000000000000000000000000000008");
    heidi.ok();
    assert_eq!(heidi.json()["verdict"], "query");
    assert_eq!(heidi.json()["sends"][0]["server"], "unicom-1");
}

#[test]
fn a_server_that_is_not_there_is_refused() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("empty")).unwrap();
    let to = "--destination 00000000000000000000000000000001";
    folder
        .run(&format!("explain --tables lab --as mobile-9 {to}"))
        .wrong("--as mobile-9: expected a [[server]] of lab (mobile-1, mobile-2, unicom-1)");
    folder
        .run(&format!("explain --tables empty {to}"))
        .wrong("empty:1:1: expected at least one [[server]] in servers.toml, found none");
    folder
        .run(&format!("explain --tables empty --as x {to}"))
        .wrong("--as x: expected a [[server]] of empty (none)");
    folder
        .run(&format!("explain --tables absent {to}"))
        .wrong("absent:1:1: expected an image or a directory");
}

fn site(own: Endpoint, policy: Policy) -> Site {
    let limits = Limits { receipts: 1 << 12, replays: 1 << 12, reject_sources: 1 << 10, ..Limits::default() };
    let any: Endpoint = "[::]:17400".parse().unwrap();
    let shared = Arc::new(Shared::new(&limits, 1, 0));
    Site { policy, listen: vec![own, any], datagram_max: 2048, shard: 0, shared }
}

/// What the dataplane does: the verdict's name, the reason, where it sends.
fn process(
    site: &Site,
    tables: &Tables,
    now: Now,
    question: &Question,
    message: u64,
) -> (String, Vec<Endpoint>) {
    let from = question.from.unwrap();
    let header = Header {
        app: question.app,
        flags: question.flags,
        hop_limit: question.hop_limit,
        ..Header::new(Kind::Push, question.destination, question.source, message)
    };
    let mut head = HeadBuilder::new(&header);
    if question.device > 0 {
        head.device(question.device);
    }
    // Signed as whoever sends it would.
    let key = match tables.peer(from) {
        Some(peer) => tables.server_key(peer),
        None => match tables.app(question.app).and_then(|app| app.key()) {
            None if site.policy.require_auth => tables.user_key(question.source),
            key => key,
        },
    };
    if let Some(key) = key {
        head.auth(tables.key_id(key), now.unix_ms);
    }
    let mut bytes = head.datagram(b"").unwrap();
    let length = bytes.len();
    if let Some(key) = key {
        assert!(tables.key(key).unwrap().sign(&mut bytes, length));
    }
    let mut burst = Burst::new(FramePool::new(512, 2048));
    assert!(burst.push_copy(&bytes, from, 0));
    let mut plane = Plane::new(512);
    plane.process(site, tables, now, &mut burst, &mut NoTrace);
    let verdict = match plane.verdict(0) {
        Verdict::Drop(reason) => reason.name().to_owned(),
        other => format!("{other:?}").to_lowercase(),
    };
    let mut sent = Vec::new();
    for tx in burst.tx.drain(..) {
        sent.extend((tx.token != EXTRA).then_some(tx.to));
        burst.pool.put(tx.frame);
    }
    burst.clear_rows();
    (verdict, sent)
}

/// A message that somebody might send: most are right in most things.
fn question(chance: &mut Pcg64Mcg, users: &[PushId], addresses: &[Endpoint]) -> Question {
    let mut below = |bound: usize| chance.next_u32() as usize % bound;
    let destination = match below(10) {
        0 => PushId(users[below(users.len())].0 ^ 1),
        1 => PushId(u128::MAX << 124 | 5),
        _ => users[below(users.len())],
    };
    let source = if below(2) == 0 { users[below(users.len())] } else { PushId::NONE };
    let mut flags = 0;
    for bit in [flag::RECEIPT, flag::PRIORITY, flag::ROAMED, flag::GROUP] {
        flags |= if below(8) == 0 { bit } else { 0 };
    }
    Question {
        source,
        app: below(23) as u32,
        from: Some(addresses[below(addresses.len())]),
        device: if below(4) == 0 { below(4) as u8 } else { 0 },
        flags,
        hop_limit: if below(8) == 0 { below(3) as u8 } else { 8 },
        ..Question::to(destination)
    }
}

#[test]
fn explain_is_what_the_dataplane_does() {
    let folder = Folder::new();
    folder.run("tables generate op --users 2000 --seed 3").ok();
    folder.run("tables build op -o op.ppt").ok();
    let rib = source::load(&folder.path("op")).unwrap().rib;
    let users: Vec<PushId> = rib.users.iter().map(|user| user.push_id).collect();
    let mut addresses: Vec<Endpoint> = rib.servers.iter().map(|server| server.address).collect();
    addresses.extend(rib.users.iter().take(40).flat_map(|user| [user.private, user.nat]).flatten());
    for (ip, _) in rib.apps.iter().flat_map(|app| app.sources.iter().flatten()) {
        addresses.push(Endpoint::new(*ip, 999));
    }
    addresses.extend(["203.0.113.1:5".parse::<Endpoint>().unwrap(), "[2001:db8::5]:5".parse().unwrap()]);

    // Two instances, so that neither takes from the other's rates and windows.
    let open = || Tables::new(Image::open(&folder.path("op.ppt")).unwrap(), 1, "mobile-1", None);
    let (asked, done) = (open(), open());
    let mut chance = Pcg64Mcg::seed_from_u64(5);
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let policies = [
        Policy::default(),
        Policy { known_sources: true, ..Policy::default() },
        Policy { require_auth: true, rejects: false, ..Policy::default() },
    ];
    let mut now = Clock::start().now();
    for (round, policy) in policies.into_iter().enumerate() {
        let own = rib.servers[0].address;
        let (site_asked, site_done) = (site(own, policy), site(own, policy));
        for number in 0..400 {
            now = now.plus_ns(2_000_000_000);
            let question = question(&mut chance, &users, &addresses);
            // Each is a message of its own to the replay window of both.
            let site_asked = Site { shared: site(own, policy).shared, ..site_asked.clone() };
            let answer = explain(&site_asked, &asked, now, &question);
            let (verdict, sent) = process(&site_done, &done, now, &question, number + 1);
            let expected = answer.reason.map_or(answer.verdict, Reason::name);
            // Until there is somebody to ask, the dataplane answers a query at once.
            let expected = match expected {
                "query" if answer.sends.is_empty() => "no-gateway",
                "query" => "forward",
                // Of a group only its members are asked about by the plane, and these are users.
                "unknown-group" => "punt",
                other => other,
            };
            assert_eq!(verdict, expected, "{question:?}\n{answer:?}");
            let told: Vec<Endpoint> = answer.sends.iter().map(|send| send.to).collect();
            assert_eq!(sent, told, "{question:?}\n{answer:?}");
            check_shape(&serde_json::to_value(&answer).unwrap());
            *seen.entry(answer.reason.map_or(answer.verdict, Reason::name).to_owned()).or_default() += 1;

            // The command says what the library says.
            if round == 0 && number % 20 == 0 {
                let Question { destination, source, app, from, device, hop_limit, .. } = question;
                let flags = [
                    ("receipt", flag::RECEIPT),
                    ("priority", flag::PRIORITY),
                    ("roamed", flag::ROAMED),
                    ("group", flag::GROUP),
                ];
                let flags: Vec<&str> = flags
                    .iter()
                    .filter(|(_, bit)| question.flags & bit != 0)
                    .map(|(name, _)| *name)
                    .collect();
                let mut arguments = format!(
                    "explain --tables op.ppt --destination {destination} --source {source} --app {app} --from {} \
                     --device {device} --hop {hop_limit} --json",
                    from.unwrap()
                );
                if !flags.is_empty() {
                    arguments += &format!(" --flags {}", flags.join(","));
                }
                let json = folder.run(&arguments).json();
                assert_eq!(json, serde_json::to_value(&answer).unwrap(), "{arguments}");
            }
        }
    }
    // The messages meet enough of what can happen.
    for name in [
        "deliver",
        "forward",
        "query",
        "unknown-destination",
        "no-route",
        "application-not-allowed",
        "source-address-not-allowed",
        "authentication-failed",
        "unknown-source",
        "unknown-group",
        "hop-limit",
        "not-attached",
    ] {
        assert!(seen.contains_key(name), "{name} never happened: {seen:?}");
    }
}
