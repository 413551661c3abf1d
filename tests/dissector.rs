//! The Wireshark dissector against the vectors: tshark reads every datagram of `vectors/prp.tsv` with
//! `tools/wireshark/prp.lua` and must find what the row says, plain and inside the tunnels.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use etherparse::PacketBuilder;
use serde_json::Value;

const PRP_PORT: u16 = 17400;
const KINDS: [&str; 14] = [
    "PUSH",
    "RECEIPT",
    "REJECT",
    "REGISTER",
    "REGISTERED",
    "RELEASE",
    "RELEASED",
    "GROUP",
    "GROUPED",
    "RESOLVE",
    "RESOLVED",
    "ECHO",
    "ECHOED",
    "INTRODUCE",
];

struct Row {
    name: String,
    datagram: Vec<u8>,
    expected: BTreeMap<String, String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "{text}");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn vectors() -> Vec<Row> {
    let text = fs::read_to_string(root().join("tests/vectors/prp.tsv")).unwrap();
    let rows: Vec<Row> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let cells: Vec<&str> = line.split('\t').collect();
            let [name, datagram, fields] = cells[..] else { panic!("three columns: {line}") };
            let expected = fields
                .split(' ')
                .map(|field| field.split_once('=').unwrap_or_else(|| panic!("key=value: {field}")))
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect();
            Row { name: name.to_owned(), datagram: unhex(datagram), expected }
        })
        .collect();
    assert!(rows.len() >= 80, "{} vectors", rows.len());
    rows
}

/// Whether tshark can be run. A user without it is told so; CI has to have it.
fn have_tshark() -> bool {
    if Command::new("tshark").arg("--version").output().is_ok_and(|out| out.status.success()) {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "CI is set and there is no tshark: .ci/run installs it");
    // Not eprintln!: the test harness would keep what a passing test says.
    let _ = writeln!(io::stderr(), "SKIPPED: no tshark on this machine, so the dissector was not tested");
    false
}

/// A classic pcap file of IP packets (link type 101) without times.
fn write_pcap(path: &Path, packets: &[Vec<u8>]) {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65535, 101] {
        file.extend(word.to_le_bytes());
    }
    for packet in packets {
        let length = u32::try_from(packet.len()).unwrap();
        for word in [0, 0, length, length] {
            file.extend(word.to_le_bytes());
        }
        file.extend(packet);
    }
    fs::write(path, file).unwrap();
}

fn udp4(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv4([10, 9, 0, 1], [10, 9, 0, 2], 64).udp(ports.0, ports.1);
    builder.write(&mut packet, payload).unwrap();
    packet
}

fn udp6(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let (from, to) = ([0xfd; 16], [0xfc; 16]);
    PacketBuilder::ipv6(from, to, 64).udp(ports.0, ports.1).write(&mut packet, payload).unwrap();
    packet
}

/// RFC 7348: VNI 100, Ethernet, then the packet.
fn vxlan(inner: &[u8]) -> Vec<u8> {
    let ethertype = if inner[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    let mut payload = vec![0x08, 0, 0, 0, 0, 0, 100, 0];
    payload.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    payload.extend(ethertype);
    payload.extend(inner);
    udp4((49152, 4789), &payload)
}

/// TS 29.281: a G-PDU without optional fields.
fn gtpu(inner: &[u8]) -> Vec<u8> {
    let mut payload = vec![0x30, 0xff];
    payload.extend(u16::try_from(inner.len()).unwrap().to_be_bytes());
    payload.extend(0x1234_5678_u32.to_be_bytes());
    payload.extend(inner);
    udp4((2152, 2152), &payload)
}

/// What tshark found: for each packet the fields by name, each with all its values.
struct Dissection(Vec<BTreeMap<String, Vec<String>>>);

fn tshark(packets: &[Vec<u8>], options: &[&str]) -> Dissection {
    let folder = tempfile::tempdir().unwrap();
    let capture = folder.path().join("vectors.pcap");
    write_pcap(&capture, packets);
    let script: PathBuf = root().join("tools/wireshark/prp.lua");
    let mut command = Command::new("tshark");
    // A home of its own: whatever plugins and preferences the user has must not matter.
    command.env("HOME", folder.path()).env("XDG_CONFIG_HOME", folder.path()).env("TZ", "UTC");
    command.arg("-X").arg(format!("lua_script:{}", script.display())).args(["-n", "-T", "json"]);
    for field in FIELDS {
        command.args(["-e", field]);
    }
    let out = command.args(options).arg("-r").arg(&capture).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && !said.contains("Lua"), "tshark: {said}");
    let parsed: Vec<Value> = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(parsed.len(), packets.len());
    Dissection(
        parsed
            .iter()
            .map(|packet| {
                let layers = packet["_source"]["layers"].as_object();
                let fields = layers.into_iter().flatten().map(|(name, values)| {
                    let values = values.as_array().unwrap_or_else(|| panic!("{name}: {values}"));
                    (name.clone(), values.iter().map(|value| value.as_str().unwrap().to_owned()).collect())
                });
                fields.collect()
            })
            .collect(),
    )
}

const FIELDS: &[&str] = &[
    "_ws.expert.message",
    "_ws.malformed",
    "data.data",
    "frame.protocols",
    "pushprp.application",
    "pushprp.auth.key",
    "pushprp.auth.tag",
    "pushprp.auth.time_ms",
    "pushprp.bearers",
    "pushprp.content_type",
    "pushprp.deadline",
    "pushprp.destination",
    "pushprp.device",
    "pushprp.dynamic_id",
    "pushprp.error",
    "pushprp.flags",
    "pushprp.flags.group",
    "pushprp.flags.priority",
    "pushprp.flags.receipt",
    "pushprp.flags.roamed",
    "pushprp.group_id",
    "pushprp.group_request",
    "pushprp.header_length",
    "pushprp.hop_limit",
    "pushprp.imsi",
    "pushprp.kind",
    "pushprp.listen_port",
    "pushprp.malformed.auth_not_last",
    "pushprp.malformed.datagram_too_short",
    "pushprp.malformed.duplicate_option",
    "pushprp.malformed.header_length_below_12",
    "pushprp.malformed.header_length_beyond_datagram",
    "pushprp.malformed.invalid_tbcd",
    "pushprp.malformed.invalid_text",
    "pushprp.malformed.invalid_utf8",
    "pushprp.malformed.missing_option",
    "pushprp.malformed.option_past_header",
    "pushprp.malformed.payload_length_beyond_datagram",
    "pushprp.malformed.wrong_length",
    "pushprp.message",
    "pushprp.name",
    "pushprp.nat_address",
    "pushprp.option.type",
    "pushprp.option.value",
    "pushprp.payload_length",
    "pushprp.peer_address",
    "pushprp.private_address",
    "pushprp.realm",
    "pushprp.reason",
    "pushprp.reason.text",
    "pushprp.serving_server",
    "pushprp.source",
    "pushprp.source_address",
    "pushprp.unsupported.kind",
    "pushprp.unsupported.option",
    "pushprp.unsupported.version",
    "pushprp.validity",
];

/// Compares one packet with its row; the differences, for a message that shows all of them.
fn differences(row: &Row, found: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let mut wrong = Vec::new();
    let name = &row.name;
    let values = |field: &str| found.get(field).cloned().unwrap_or_default();
    let one = |field: &str| match &values(field)[..] {
        [] => String::new(),
        [value] => value.clone(),
        several => format!("{several:?}"),
    };
    let mut same = |what: &str, found: String, expected: &str| {
        if found != expected {
            wrong.push(format!("{name}: {what}: tshark has \"{found}\", the vector \"{expected}\""));
        }
    };

    // Wireshark marks a packet so for an expert info of the malformed group, and for a dissector that
    // ran past the end of its data: the one must be there, the other never.
    let expect_malformed = row.expected.get("error").map(String::as_str) == Some("malformed")
        || row.expected.contains_key("missing");
    same("malformed", found.contains_key("_ws.malformed").to_string(), &expect_malformed.to_string());
    same(
        "Lua errors",
        values("_ws.expert.message").into_iter().filter(|text| text.contains("Lua")).collect(),
        "",
    );

    if let Some(error) = row.expected.get("error") {
        same("error", one("pushprp.error"), error);
        let group = if error == "malformed" { "malformed" } else { "unsupported" };
        let rule = row.expected["rule"].replace('-', "_");
        let expert = format!("pushprp.{group}.{rule}");
        assert!(FIELDS.contains(&expert.as_str()), "{expert}");
        same(&expert, found.contains_key(&expert).to_string(), "true");
        return wrong;
    }
    // What a kind needs and does not have is told, though the options themselves are in order.
    let missing = row.expected.contains_key("missing");
    same("error", one("pushprp.error"), if missing { "malformed" } else { "" });
    same(
        "missing option",
        found.contains_key("pushprp.malformed.missing_option").to_string(),
        if missing { "true" } else { "false" },
    );

    let mut plain = vec![];
    for (key, expected) in &row.expected {
        let text_of = |field: &str| hex(one(field).as_bytes());
        match key.as_str() {
            "kind" => {
                let number = one("pushprp.kind").parse::<usize>().unwrap_or(0);
                let kind = number.checked_sub(1).and_then(|index| KINDS.get(index)).unwrap_or(&"none");
                same(key, (*kind).to_owned(), expected);
            }
            "flags" => same(key, one("pushprp.flags"), &format!("0x{expected}")),
            "flag_names" => {
                let set: Vec<&str> = ["receipt", "priority", "roamed", "group"]
                    .into_iter()
                    .filter(|flag| matches!(one(&format!("pushprp.flags.{flag}")).as_str(), "1" | "True"))
                    .collect();
                same(key, set.join(","), expected);
            }
            "message" => same(key, one("pushprp.message"), &format!("0x{expected}")),
            "options" => {
                let options: Vec<(&str, &str)> = expected
                    .split(',')
                    .filter(|o| !o.is_empty())
                    .map(|o| o.split_once(':').unwrap())
                    .collect();
                let types: Vec<&str> = options.iter().map(|(kind, _)| *kind).collect();
                same("option types", values("pushprp.option.type").join(","), &types.join(","));
                let filled: Vec<&str> =
                    options.iter().map(|(_, value)| *value).filter(|v| !v.is_empty()).collect();
                same("option values", values("pushprp.option.value").join(","), &filled.join(","));
            }
            "payload" => same(key, one("data.data"), expected),
            "reason_text" => same(key, text_of("pushprp.reason.text"), expected),
            "name" | "content_type" => same(key, text_of(&format!("pushprp.{key}")), expected),
            "bearers" => {
                let bits = expected.parse::<u32>().unwrap();
                same(key, one("pushprp.bearers"), &format!("0x{bits:08x}"));
            }
            "hop" => plain.push((key, "pushprp.hop_limit", expected)),
            "header_words" => plain.push((key, "pushprp.header_length", expected)),
            "app" => plain.push((key, "pushprp.application", expected)),
            "auth_key" => plain.push((key, "pushprp.auth.key", expected)),
            "auth_time" => plain.push((key, "pushprp.auth.time_ms", expected)),
            "auth_tag" => plain.push((key, "pushprp.auth.tag", expected)),
            // The dissector has no keys.
            "auth_secret" | "auth_valid" | "missing" => {}
            _ => same(key, one(&format!("pushprp.{key}")), expected),
        }
    }
    for (key, field, expected) in plain {
        same(key, one(field), expected);
    }
    wrong
}

fn compare(rows: &[Row], dissection: &Dissection) {
    let wrong: Vec<String> =
        rows.iter().zip(&dissection.0).flat_map(|(row, found)| differences(row, found)).collect();
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn tshark_finds_in_every_vector_what_its_encoder_put_there() {
    if !have_tshark() {
        return;
    }
    // Wireshark hands a UDP datagram without a byte of payload to nobody.
    let rows: Vec<Row> = vectors().into_iter().filter(|row| !row.datagram.is_empty()).collect();
    let packets: Vec<Vec<u8>> = rows.iter().map(|row| udp4((40000, PRP_PORT), &row.datagram)).collect();
    compare(&rows, &tshark(&packets, &[]));
}

#[test]
fn tshark_finds_prp_inside_tunnels_and_on_other_ports() {
    if !have_tshark() {
        return;
    }
    // On a port of its own a message with reserved flags set is not taken for PRP by its looks alone.
    let rows: Vec<Row> = vectors()
        .into_iter()
        .filter(|row| row.expected.get("flags").is_some_and(|flags| flags.starts_with('0')))
        .collect();
    let ports = (40000, 40001);
    for wrap in [
        |d: &[u8]| udp4((40000, 40001), d),
        |d: &[u8]| vxlan(&udp4((40000, 40001), d)),
        |d: &[u8]| vxlan(&udp6((40000, 40001), d)),
        |d: &[u8]| gtpu(&udp4((40000, 40001), d)),
        |d: &[u8]| gtpu(&udp6((40000, 40001), d)),
    ] {
        let packets: Vec<Vec<u8>> = rows.iter().map(|row| wrap(&row.datagram)).collect();
        let dissection = tshark(&packets, &[]);
        // The tunnels' own `data.data` must not be there: everything is dissected to the end.
        compare(&rows, &dissection);
    }

    // A preference moves the port that is always taken, and turns the heuristic off.
    let broken = vec![udp4(ports, &rows[0].datagram[..20]), udp4(ports, &rows[0].datagram)];
    let moved = tshark(&broken, &["-o", "pushprp.port:40001", "-o", "pushprp.heuristic:FALSE"]);
    assert!(moved.0.iter().all(|fields| fields["frame.protocols"][0].contains("pushprp")));
    let off = tshark(&broken, &["-o", "pushprp.heuristic:FALSE"]);
    assert!(off.0.iter().all(|fields| !fields["frame.protocols"][0].contains("pushprp")));
}

#[test]
fn what_is_not_prp_is_left_alone_on_other_ports() {
    if !have_tshark() {
        return;
    }
    let mut strangers: Vec<Vec<u8>> =
        vec![vec![0; 100], vec![0xff; 100], vec![0x11; 100], b"GET / HTTP/1.1".to_vec()];
    // Every refused vector too but those that differ from good ones only in text, need or PayloadLength.
    for row in vectors() {
        let rule = row.expected.get("rule").map_or("", String::as_str);
        if !["", "option", "invalid-utf8", "invalid-text", "invalid-tbcd", "payload-length-beyond-datagram"]
            .contains(&rule)
        {
            strangers.push(row.datagram);
        }
    }
    let packets: Vec<Vec<u8>> = strangers.iter().map(|datagram| udp4((40000, 40001), datagram)).collect();
    for (fields, datagram) in tshark(&packets, &[]).0.iter().zip(&strangers) {
        assert!(!fields["frame.protocols"][0].contains("pushprp"), "taken for PRP: {}", hex(datagram));
    }
}

#[test]
fn the_dissector_loads_as_a_plugin_without_a_warning() {
    if !have_tshark() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let plugins = home.path().join(".local/lib/wireshark/plugins");
    fs::create_dir_all(&plugins).unwrap();
    fs::copy(root().join("tools/wireshark/prp.lua"), plugins.join("prp.lua")).unwrap();
    let out = Command::new("tshark")
        .env("HOME", home.path())
        .env_remove("XDG_CONFIG_HOME")
        .args(["-G", "fields"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    // Wireshark's own remark when root runs it is none of ours.
    let warnings: Vec<&str> = said.lines().filter(|line| !line.starts_with("Running as user")).collect();
    assert!(out.status.success() && warnings.is_empty(), "{warnings:?}");
    let fields = String::from_utf8_lossy(&out.stdout);
    for field in FIELDS.iter().filter(|field| field.starts_with("pushprp.")) {
        assert!(fields.contains(&format!("\t{field}\t")), "{field} is not registered");
    }
}
