//! The table sources as an operator meets them: what is good loads, and each thing that is wrong is
//! refused at its line and column, all of them at once.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use proptest::prelude::*;
use pushplane::config::Config;
use pushplane::table::source::{FILES, Loaded, check_against, load};
use tempfile::TempDir;

const SERVERS: &str = r#"[[server]]
name = "mobile-1"
prefix = "0000"
address = "198.51.100.1:17400"
key = 1

[[server]]
name = "unicom-1"
prefix = ["0100", "0x50/4"]
address = "198.51.100.3"
"#;
const GATEWAYS: &str = r#"[[gateway]]
name = "ggsn-a"
address = "10.255.0.1"
tunnel = "vxlan"
vni = 100
mac = "02:00:00:00:00:01"
source = "10.255.0.254:17400"

[[gateway]]
name = "ggsn-b"
address = "10.255.0.2"
tunnel = "gtpu"
teid = 7
source = ["10.255.0.254:17400", "[2001:db8::fe]:17400"]

[[gateway]]
name = "ggsn-c"
address = "10.255.0.3"
tunnel = "plain"
"#;
const SEGMENTS: &str = "\
realm,prefix,gateway
0,10.1.0.0/16,ggsn-a
0,2001:db8:1::/48,ggsn-b
7,10.1.0.0/16,ggsn-c
";
const APPS: &str = r#"[[app]]
id = 7
name = "mail"
sources = ["192.0.2.0/24", "2001:db8::/32"]
users = true
rule = "priority"
rate = 1000
key = 12

[[app]]
id = 0
"#;
const USERS: &str = "\
push_id,device,realm,private,nat,imsi,bearers,serving,valid_until
00000000000000000000000000000001,1,0,10.1.0.1:2948,,460001234567890,3,,2027-01-01T00:00:00Z
0x00000000000000000000000000000001,2,,[2001:db8:1::1]:2948,,,,,
40000000000000000000000000000002,,7,10.1.0.1:2948,203.0.113.1:5000,,,,
40000000000000000000000000000003,,,,,,,198.51.100.1:17400,
40000000000000000000000000000004,,,172.16.0.1:1,203.0.113.2:5000,,,,
";
const NAMES: &str = "name,push_id\nalice,00000000000000000000000000000001\n\"b, \"\"bob\"\"\",40000000000000000000000000000002\n";
const GROUPS: &str = "group,push_id\n00000000000000000000000000000100,00000000000000000000000000000001\n00000000000000000000000000000100,40000000000000000000000000000002\n";
const KEYS: &str = r#"[[key]]
id = 1
value = "000102030405060708090A0b0c0d0e0f"

[[key]]
id = 12
value = "101112131415161718191a1b1c1d1e1f"

[[key]]
id = 3
value = "202122232425262728292a2b2c2d2e2f"
user = "00000000000000000000000000000001"
"#;

const GOOD: [(&str, &str); 8] = [
    ("servers.toml", SERVERS),
    ("gateways.toml", GATEWAYS),
    ("segments.csv", SEGMENTS),
    ("apps.toml", APPS),
    ("users.csv", USERS),
    ("names.csv", NAMES),
    ("groups.csv", GROUPS),
    ("keys.toml", KEYS),
];

fn write(dir: &Path, file: &str, content: &[u8]) {
    let path = dir.join(file);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn good() -> TempDir {
    let dir = TempDir::new().unwrap();
    for (file, content) in GOOD {
        write(dir.path(), file, content.as_bytes());
    }
    dir
}

/// Faults as `file:line:column: sentence`, without the directory.
fn faults(dir: &Path) -> Vec<String> {
    match load(dir) {
        Ok(_) => Vec::new(),
        Err(faults) => {
            assert!(!faults.0.is_empty());
            faults
                .0
                .iter()
                .map(|fault| fault.to_string().replace(&format!("{}/", dir.display()), ""))
                .collect()
        }
    }
}

fn warnings(loaded: &Loaded, dir: &Path) -> Vec<String> {
    loaded
        .warnings
        .iter()
        .map(|warning| warning.to_string().replace(&format!("{}/", dir.display()), ""))
        .collect()
}

#[test]
fn good_files_load() {
    let dir = good();
    let Loaded { rib, warnings } = load(dir.path()).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(rib.servers.len(), 2);
    assert_eq!(rib.servers[1].address.to_string(), "198.51.100.3:17400");
    assert_eq!(rib.servers[1].prefixes.len(), 2);
    let ports: Vec<_> = rib.gateways.iter().map(|gateway| gateway.address.port()).collect();
    assert_eq!(ports, [4789, 2152, 17400]);
    assert!(rib.gateways[0].source_v6.is_none() && rib.gateways[1].source_v6.is_some());
    assert_eq!(rib.segments.iter().map(|segment| segment.gateway).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(
        (rib.apps[0].key, rib.apps[0].rate, rib.apps[1].sources.is_none()),
        (Some(12), Some(1000), true)
    );
    assert_eq!(rib.apps[1].name, "0");
    assert_eq!(rib.users.len(), 5);
    assert_eq!(rib.users[0].valid_until, Some(1_798_761_600));
    assert_eq!((rib.users[0].device, rib.users[1].device, rib.users[2].device), (1, 2, 0));
    assert_eq!((rib.users[0].bearers, rib.users[1].bearers), (3, 3));
    assert_eq!(rib.users[0].imsi.unwrap().to_string(), "460001234567890");
    assert!(rib.users[3].serving.is_some());
    assert_eq!(rib.names[1].0, "b, \"bob\"");
    assert_eq!(rib.groups.len(), 2);
    assert_eq!(rib.keys[0].value[10], 0x0a);
    assert_eq!(rib.keys[2].user, Some(rib.users[0].push_id));
}

#[test]
fn absent_files_are_empty_tables() {
    let dir = TempDir::new().unwrap();
    assert_eq!(load(dir.path()).unwrap().rib, pushplane::table::Rib::default());
}

#[test]
fn byte_order_marks_windows_lines_comments_and_column_order_do_not_matter() {
    let dir = good();
    let expected = load(dir.path()).unwrap().rib;
    for (file, content) in GOOD {
        write(dir.path(), file, format!("\u{feff}# comment\n\n{content}").replace('\n', "\r\n").as_bytes());
    }
    let mut users = String::from("# reversed\n");
    for line in USERS.lines() {
        users += &line.split(',').rev().collect::<Vec<_>>().join(" , ");
        users.push_str("\n#\n");
    }
    write(dir.path(), "users.csv", users.as_bytes());
    assert_eq!(load(dir.path()).unwrap().rib, expected);
}

/// File, what is replaced by what (or, where the first is empty, added at the end), where the fault
/// is, and what its sentence says.
type Case = (&'static str, &'static str, &'static str, &'static str, &'static [&'static str]);

const CASES: &[Case] = &[
    // servers.toml
    ("servers.toml", "[[server]]\nname = \"m", "[[server\nname = \"m", "1:9", &["not TOML"]),
    ("servers.toml", "", "[[sever]]\n", "11:3", &["expected only [[server]]", "sever"]),
    (
        "servers.toml",
        "[[server]]\nname = \"unicom-1\"",
        "[[server]]\nnam = \"unicom-1\"",
        "7:1",
        &["expected the key name"],
    ),
    (
        "servers.toml",
        "key = 1\n",
        "key = 1\nkeys = 2\n",
        "6:1",
        &["unknown key \"keys\"", "address, key, name, prefix"],
    ),
    ("servers.toml", "unicom-1", "mobile-1", "8:8", &["server name mobile-1", "line 2"]),
    ("servers.toml", "\"unicom-1\"", "\"\"", "8:8", &["empty"]),
    ("servers.toml", "\"0100\"", "\"0000\"", "9:11", &["prefix 0000 is already in line 3"]),
    ("servers.toml", "\"0x50/4\"", "\"0x40/4\"", "9:19", &["prefix 0100 is already in line 9"]),
    ("servers.toml", "\"0x50/4\"", "\"0x51/4\"", "9:19", &["bits set beyond"]),
    (
        "servers.toml",
        "prefix = \"0000\"",
        "prefix = 0",
        "3:10",
        &["a string or a list of strings", "found 0"],
    ),
    ("servers.toml", "198.51.100.3", "198.51.100.1:17400", "10:11", &["server address", "line 4"]),
    (
        "servers.toml",
        "198.51.100.3",
        "push.example.org",
        "10:11",
        &["expected an address", "push.example.org"],
    ),
    ("servers.toml", "198.51.100.3", "0.0.0.0", "10:11", &["one host"]),
    ("servers.toml", "key = 1", "key = 2", "5:7", &["[[key]] in keys.toml", "found 2"]),
    ("servers.toml", "key = 1", "key = \"1\"", "5:7", &["whole number", "\"1\""]),
    ("servers.toml", "key = 1", "key = 1\nkey = 2", "6:1", &["duplicate key"]),
    // gateways.toml
    ("gateways.toml", "ggsn-b", "ggsn-a", "10:8", &["gateway name ggsn-a", "line 2"]),
    ("gateways.toml", "\"plain\"", "\"gre\"", "19:10", &["\"vxlan\"", "\"gre\""]),
    ("gateways.toml", "vni = 100\n", "", "1:1", &["vxlan gateway needs vni", "add vni = "]),
    ("gateways.toml", "vni = 100", "vni = 16777216", "5:7", &["0 to 16777215", "16777216"]),
    ("gateways.toml", "mac = \"02:00:00:00:00:01\"", "mac = \"2:0:0:0:0:1\"", "6:7", &["Ethernet address"]),
    ("gateways.toml", "mac = \"02:00:00:00:00:01\"\n", "", "1:1", &["needs mac"]),
    ("gateways.toml", "teid = 7\n", "", "9:1", &["gtpu gateway needs teid"]),
    ("gateways.toml", "teid = 7", "teid = 0", "13:8", &["1 to 4294967295"]),
    (
        "gateways.toml",
        "\"plain\"",
        "\"plain\"\nteid = 1",
        "20:1",
        &["teid belongs to gtpu", "plain", "remove"],
    ),
    (
        "gateways.toml",
        "\"plain\"",
        "\"none\"\nsource = \"10.0.0.1:1\"",
        "20:1",
        &["source belongs to vxlan and gtpu"],
    ),
    ("gateways.toml", "teid = 7", "teid = 7\nvni = 1", "14:1", &["vni belongs to vxlan"]),
    (
        "gateways.toml",
        "\"[2001:db8::fe]:17400\"",
        "\"10.255.0.253:17400\"",
        "14:33",
        &["one address of each family"],
    ),
    ("gateways.toml", "\"10.255.0.254:17400\"\n", "\"10.255.0.254\"\n", "7:10", &["add the port"]),
    ("gateways.toml", "address = \"10.255.0.3\"\n", "", "16:1", &["expected the key address"]),
    (
        "gateways.toml",
        "address = \"10.255.0.3\"",
        "address = \"10.255.0.3:0\"",
        "18:11",
        &["port from 1 to 65535"],
    ),
    // segments.csv
    ("segments.csv", "7,10.1.0.0/16,ggsn-c", "7,10.1.0.0/16,ggsn-d", "4:15", &["gateways.toml", "ggsn-d"]),
    ("segments.csv", "7,10.1.0.0/16", "0,10.1.0.0/16", "4:3", &["already in line 2"]),
    ("segments.csv", "7,10.1.0.0/16", "7,10.1.0.1/16", "4:3", &["host bits", "10.1.0.0/16"]),
    ("segments.csv", "7,10.1.0.0/16", "7,10.1.0.0", "4:3", &["expected a prefix"]),
    ("segments.csv", "7,10.1.0.0/16", "-1,10.1.0.0/16", "4:1", &["realm", "0 to 4294967295", "-1"]),
    (
        "segments.csv",
        "0,2001:db8:1::/48,ggsn-b",
        "0,2001:db8:1::/48,ggsn-a",
        "3:3",
        &["ggsn-a", "no IPv6 source"],
    ),
    ("segments.csv", "realm,prefix", "realm,prefxi", "1:7", &["unknown column \"prefxi\""]),
    (
        "segments.csv",
        "7,10.1.0.0/16,ggsn-c",
        "7,::ffff:10.1.0.0/112,ggsn-c",
        "4:3",
        &["IPv4 prefix written as such"],
    ),
    // apps.toml
    ("apps.toml", "id = 0", "id = 7", "11:6", &["application id 7", "line 2"]),
    ("apps.toml", "id = 0", "id = -1", "11:6", &["0 to 4294967295"]),
    ("apps.toml", "id = 0", "name = \"x\"", "10:1", &["expected the key id"]),
    ("apps.toml", "192.0.2.0/24", "192.0.2.1/24", "4:12", &["host bits", "192.0.2.0/24"]),
    ("apps.toml", "2001:db8::/32", "192.0.2.0/24", "4:28", &["already in this list"]),
    (
        "apps.toml",
        "[\"192.0.2.0/24\", \"2001:db8::/32\"]",
        "\"192.0.2.0/24\"",
        "4:11",
        &["expected a list of strings"],
    ),
    ("apps.toml", "users = true", "users = \"yes\"", "5:9", &["true or false", "\"yes\""]),
    ("apps.toml", "\"priority\"", "\"urgent\"", "6:8", &["min-delay", "urgent"]),
    ("apps.toml", "rate = 1000", "rate = 0", "7:8", &["at least 1", "remove rate"]),
    ("apps.toml", "key = 12", "key = 13", "8:7", &["keys.toml", "13"]),
    ("apps.toml", "\"mail\"", "\" mail\"", "3:8", &["without spaces"]),
    ("apps.toml", "\"mail\"", "\"\"", "3:8", &["empty"]),
    // users.csv
    ("users.csv", "push_id,device", "device,push", "1:8", &["unknown column \"push\""]),
    ("users.csv", "device,realm", "device,device", "1:16", &["column device for the second time"]),
    (
        "users.csv",
        "",
        "90000000000000000000000000000001,,,,,,,,\n",
        "7:1",
        &["prefix of a [[server]]", "9000"],
    ),
    ("users.csv", "", "0000000000000000000000000000000,,,,,,,,\n", "7:1", &["32 hexadecimal digits"]),
    ("users.csv", "", "00000000000000000000000000000000,,,,,,,,\n", "7:1", &["all-zero"]),
    ("users.csv", "", ",1,,,,,,,\n", "7:1", &["push_id", "found none"]),
    ("users.csv", "", "00000000000000000000000000000001,1,,,,,,,\n", "7:1", &["device 1", "line 2"]),
    ("users.csv", "", "40000000000000000000000000000002,0,,,,,,,\n", "7:1", &["device 0", "line 4"]),
    (
        "users.csv",
        "",
        "00000000000000000000000000000009,256,,,,,,,\n",
        "7:34",
        &["device", "0 to 255", "256"],
    ),
    ("users.csv", "", "00000000000000000000000000000009,,x,,,,,,\n", "7:35", &["realm", "\"x\""]),
    (
        "users.csv",
        "",
        "00000000000000000000000000000009,,,10.1.0.1,,,,,\n",
        "7:36",
        &["private", "add the port"],
    ),
    (
        "users.csv",
        "",
        "00000000000000000000000000000009,,,10.1.0.1:2948,,,,,\n",
        "7:36",
        &["10.1.0.1:2948 in realm 0", "line 2"],
    ),
    (
        "users.csv",
        "",
        "00000000000000000000000000000009,,,10.2.0.1:1,,,,,\n",
        "7:36",
        &["segment of realm 0", "10.2.0.1:1"],
    ),
    (
        "users.csv",
        "",
        "00000000000000000000000000000009,,7,[2001:db8:1::9]:1,,,,,\n",
        "7:37",
        &["segment of realm 7"],
    ),
    (
        "users.csv",
        "",
        "00000000000000000000000000000009,,,,203.0.113.1:5000,,,,\n",
        "7:37",
        &["another user's", "line 4"],
    ),
    (
        "users.csv",
        "",
        "00000000000000000000000000000009,,,,203.0.113.1:0,,,,\n",
        "7:37",
        &["nat", "port from 1"],
    ),
    ("users.csv", "", "00000000000000000000000000000009,,,,,12345,,,\n", "7:38", &["IMSI", "12345"]),
    (
        "users.csv",
        "",
        "00000000000000000000000000000009,,,,,,16,,\n",
        "7:39",
        &["bearers", "at most 15", "16"],
    ),
    (
        "users.csv",
        "",
        "00000000000000000000000000000009,,,10.1.0.9:1,,,,198.51.100.3:17400,\n",
        "7:50",
        &["serving", "together with private"],
    ),
    (
        "users.csv",
        "",
        "00000000000000000000000000000009,,,,10.1.0.9:1,,,198.51.100.3:17400,\n",
        "7:50",
        &["together with nat"],
    ),
    (
        "users.csv",
        "",
        "40000000000000000000000000000009,,,,,,,198.51.100.3:17400,\n",
        "7:40",
        &["another server than the user's home", "unicom-1"],
    ),
    (
        "users.csv",
        "",
        "00000000000000000000000000000009,,,,,,,,tomorrow\n",
        "7:41",
        &["RFC 3339", "tomorrow"],
    ),
    (
        "users.csv",
        "",
        "00000000000000000000000000000009,,,,,,,,1969-12-31T23:59:59Z\n",
        "7:41",
        &["not before 1970"],
    ),
    ("users.csv", "", "00000000000000000000000000000009,1\n", "7:35", &["9 fields", "found 2"]),
    ("users.csv", "", "00000000000000000000000000000009,,,,,,,,,\n", "7:42", &["9 fields", "found 10"]),
    ("users.csv", "", "\"00000000000000000000000000000009,,,,,,,,\n", "7:1", &["quote"]),
    ("users.csv", "", "0000000000000000000000000000000\u{fc},,,,,,,,\n", "7:1", &["32 hexadecimal digits"]),
    // names.csv and groups.csv
    ("names.csv", "", "alice,00000000000000000000000000000002\n", "4:1", &["\"alice\"", "line 2"]),
    ("names.csv", "", " ,00000000000000000000000000000002\n", "4:1", &["empty"]),
    ("names.csv", "", "x,90000000000000000000000000000002\n", "4:3", &["prefix of a [[server]]"]),
    ("names.csv", "", "\"x\"y,00000000000000000000000000000002\n", "4:4", &["comma"]),
    ("names.csv", "name,push_id", "name", "1:1", &["expected a column push_id"]),
    (
        "groups.csv",
        "",
        "00000000000000000000000000000100,00000000000000000000000000000001\n",
        "4:1",
        &["line 2"],
    ),
    ("groups.csv", "", "x,00000000000000000000000000000001\n", "4:1", &["group", "32 hexadecimal digits"]),
    (
        "groups.csv",
        "",
        "00000000000000000000000000000100,90000000000000000000000000000002\n",
        "4:34",
        &["prefix of a [[server]]"],
    ),
    // keys.toml
    ("keys.toml", "id = 12", "id = 1", "6:6", &["key id 1", "line 2"]),
    ("keys.toml", "2d2e2f\"\nuser", "2d2e2\"\nuser", "11:9", &["32 hexadecimal digits", "31 characters"]),
    ("keys.toml", "2d2e2f\"\nuser", "2d2e2g\"\nuser", "11:9", &["1 of them no such digits"]),
    ("keys.toml", "user = \"0", "user = \"9", "12:8", &["prefix of a [[server]]"]),
    ("keys.toml", "user =", "owner =", "12:1", &["unknown key \"owner\""]),
];

#[test]
fn each_fault_is_told_at_its_place() {
    let mut wrong = Vec::new();
    for (file, from, to, place, words) in CASES {
        let dir = good();
        let (_, content) = GOOD.iter().find(|(name, _)| name == file).unwrap();
        assert!(content.contains(from), "{file} has no {from:?}");
        let changed = if from.is_empty() { format!("{content}{to}") } else { content.replacen(from, to, 1) };
        write(dir.path(), file, changed.as_bytes());
        let found = faults(dir.path());
        // A key or column that is renamed is unknown, and what it was called is missing.
        let renamed = ["device,push", "realm,prefxi", "nam = "].iter().any(|name| to.contains(name));
        let at_place = format!("{file}:{place}: ");
        let right = found
            .iter()
            .any(|fault| fault.starts_with(&at_place) && words.iter().all(|word| fault.contains(word)));
        if !right || found.len() != 1 + usize::from(renamed) {
            wrong
                .push(format!("{file} {to:?}, expected {place} {words:?}, found:\n  {}", found.join("\n  ")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn all_faults_of_all_files_are_told_at_once_in_order() {
    let dir = good();
    write(dir.path(), "apps.toml", b"[[app]]\nid = 7\nrate = 0\nkey = 99\n[[app]]\nid = 7\nfoo = 1\n");
    write(dir.path(), "names.csv", b"name,push_id\n,1\n");
    write(dir.path(), "users.csv", b"push_id,bearers,device\n1,16,256\n00000000000000000000000000000001,16,1\n00000000000000000000000000000001,,1\n");
    let found = faults(dir.path());
    let places: Vec<_> = found.iter().map(|fault| fault.split(": ").next().unwrap()).collect();
    assert_eq!(
        places,
        [
            "apps.toml:3:8",
            "apps.toml:4:7",
            "apps.toml:6:6",
            "apps.toml:7:1",
            "names.csv:2:1",
            "names.csv:2:2",
            "users.csv:2:1",
            "users.csv:2:3",
            "users.csv:2:6",
            "users.csv:3:34",
            "users.csv:4:1",
        ]
    );
}

#[test]
fn a_thousand_faults_are_told_and_the_rest_counted() {
    let dir = good();
    let mut users = String::from("push_id\n");
    for _ in 0..5000 {
        users += "x\n";
    }
    write(dir.path(), "users.csv", users.as_bytes());
    let found = faults(dir.path());
    assert_eq!(found.len(), 1001);
    assert!(found[1000].ends_with("and 4000 more; correct the ones above first"), "{}", found[1000]);
}

#[test]
fn a_broken_file_does_not_make_the_others_look_broken() {
    let dir = good();
    write(dir.path(), "servers.toml", b"[[server]\n");
    write(dir.path(), "gateways.toml", b"\xFF");
    let found = faults(dir.path());
    assert_eq!(found.len(), 2, "{}", found.join("\n"));
    assert!(found[0].starts_with("gateways.toml:1:1: expected UTF-8, found the byte 0xff"));
    assert!(found[1].starts_with("servers.toml:1:"));
}

#[test]
fn keys_that_others_can_read_are_refused() {
    for mode in [0o644, 0o640, 0o604, 0o620] {
        let dir = good();
        fs::set_permissions(dir.path().join("keys.toml"), fs::Permissions::from_mode(mode)).unwrap();
        let found = faults(dir.path());
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("keys.toml:1:1: ") && found[0].contains("chmod 600"), "{}", found[0]);
    }
    let dir = good();
    fs::set_permissions(dir.path().join("keys.toml"), fs::Permissions::from_mode(0o400)).unwrap();
    assert!(load(dir.path()).is_ok());
}

#[test]
fn what_is_no_directory_or_no_file_is_one_fault() {
    let found = load(Path::new("/nowhere/tables")).unwrap_err();
    assert_eq!(found.0.len(), 1);
    assert!(found.to_string().starts_with("/nowhere/tables:1:1: expected a directory of table sources"));
    let dir = good();
    fs::remove_file(dir.path().join("names.csv")).unwrap();
    fs::create_dir(dir.path().join("names.csv")).unwrap();
    let found = faults(dir.path());
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("names.csv:1:1: expected a plain file"));
}

#[test]
fn a_secret_is_not_shown() {
    let dir = good();
    write(dir.path(), "keys.toml", KEYS.replace("0c0d0e0f", "0c0d0e0fff").as_bytes());
    let found = faults(dir.path());
    assert!(found.iter().all(|fault| !fault.contains("0405060708")), "{}", found.join("\n"));
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    for (file, add, place, word) in [
        ("servers.toml", "[[server]]\nname = \"x\"\naddress = \"198.51.100.9\"\n", "11:1", "no prefix"),
        ("servers.toml", "key = 3\n", "11:7", "subscriber's"),
        ("apps.toml", "sources = []\n", "12:11", "nobody may push"),
        ("users.csv", "00000000000000000000000000000009,,,10.1.0.1:9,,,,,\n", "7:36", "with another port"),
        ("users.csv", "00000000000000000000000000000009,,,,,,,198.51.100.77:1,\n", "7:40", "no [[server]]"),
        (
            "keys.toml",
            "[[key]]\nid = 4\nvalue = \"00000000000000000000000000000000\"\nuser = \"00000000000000000000000000000001\"\n",
            "16:8",
            "key 3 already",
        ),
        ("user.csv", "", "1:1", "the tables are"),
        ("notes.txt", "", "1:1", ""),
        ("Users.CSV", "", "1:1", "users.csv"),
    ] {
        let dir = good();
        let content = GOOD.iter().find(|(name, _)| *name == file).map_or("", |(_, content)| content);
        write(dir.path(), file, format!("{content}{add}").as_bytes());
        let loaded = load(dir.path()).map_err(|faults| faults.to_string()).unwrap();
        let found = warnings(&loaded, dir.path());
        if word.is_empty() {
            assert_eq!(found, Vec::<String>::new());
            continue;
        }
        assert_eq!(found.len(), 1, "{file} {add}: {found:?}");
        assert!(
            found[0].starts_with(&format!("{file}:{place}: ")) && found[0].contains(word),
            "{}",
            found[0]
        );
    }
}

/// A copy with the mode that git does not keep.
fn copy_of(tables: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    for file in FILES {
        if let Ok(content) =
            fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tables").join(tables).join(file))
        {
            write(dir.path(), file, &content);
        }
    }
    dir
}

#[test]
fn the_lab_and_the_three_operators_load_without_a_warning() {
    for (tables, servers, gateways) in [("lab", 3, 4), ("three-operators", 12, 6)] {
        let dir = copy_of(tables);
        let loaded = load(dir.path()).map_err(|faults| faults.to_string()).unwrap();
        assert_eq!(warnings(&loaded, dir.path()), Vec::<String>::new());
        assert_eq!((loaded.rib.servers.len(), loaded.rib.gateways.len()), (servers, gateways));
    }
}

#[test]
fn each_server_of_the_lab_agrees_with_its_tables() {
    let rib = load(copy_of("lab").path()).unwrap().rib;
    for server in &rib.servers {
        let text = format!("[server]\nname = {:?}\nlisten = [\"{}\"]\n", server.name, server.address);
        let (config, places) = Config::from_bytes(Path::new("pushplane.toml"), text.into_bytes()).unwrap();
        assert_eq!(check_against(&config, &places, &rib, rib.users.iter().copied()), Ok(vec![]));
    }
}

#[test]
fn a_configuration_that_disagrees_with_the_tables_is_refused() {
    let rib = load(good().path()).unwrap().rib;
    let check = |text: &str| {
        let (config, places) = Config::from_bytes(Path::new("p.toml"), text.as_bytes().to_vec()).unwrap();
        check_against(&config, &places, &rib, rib.users.iter().copied())
            .map(|warnings| warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
            .map_err(|faults| faults.to_string())
    };
    let good = "[server]\nname = \"mobile-1\"\nlisten = [\"198.51.100.1\"]\n";
    assert_eq!(check(good), Ok(String::new()));
    let found = check("[server]\nlisten = \"198.51.100.1\"\nname = \"telecom-1\"\n").unwrap_err();
    assert!(
        found.starts_with("p.toml:3:8: name: expected the name of a [[server]]")
            && found.contains("mobile-1, unicom-1")
    );
    let found = check("[server]\nname = \"mobile-1\"\nlisten = \"2001:db8::1\"\n").unwrap_err();
    assert!(
        found.starts_with("p.toml:3:10: listen: expected an IPv4 address")
            && found.contains("unicom-1")
            && found.contains("ggsn-a"),
        "{found}"
    );
    // The user at home at unicom-1 whom mobile-1 serves, asked of a unicom-1 that listens there, too.
    let found =
        check("[server]\nname = \"unicom-1\"\nlisten = [\"198.51.100.3\", \"198.51.100.1\"]\n").unwrap_err();
    assert!(found.starts_with("p.toml:3:10: listen: user 40000000000000000000000000000003"), "{found}");
    let found = check("[server]\nname = \"mobile-1\"\nlisten = \"198.51.100.2\"\n").unwrap();
    assert!(found.starts_with("p.toml:3:10: listen: servers.toml says"), "{found}");
    let mut rib = rib.clone();
    rib.keys.clear();
    let text = format!("{good}[policy]\nrequire_auth = true\n");
    let (config, places) = Config::from_bytes(Path::new("p.toml"), text.into_bytes()).unwrap();
    let warnings = check_against(&config, &places, &rib, rib.users.iter().copied()).unwrap();
    assert_eq!((warnings[0].line, warnings[0].column), (5, 16));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Bytes of the good files changed, removed, doubled: loads consistently or says what is wrong.
    #[test]
    fn mutations_never_panic_and_never_load_half(
        file in 0usize..8,
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..4, any::<u8>()), 1..6),
    ) {
        let dir = good();
        let (name, content) = GOOD[file];
        let mut bytes = content.as_bytes().to_vec();
        for (at, edit, value) in edits {
            let at = at.index(bytes.len().max(1)).min(bytes.len().saturating_sub(1));
            match edit {
                _ if bytes.is_empty() => {}
                0 => bytes[at] = value,
                1 => { bytes.remove(at); }
                2 => bytes.insert(at, b",\"\n[]=x09:."[usize::from(value) % 11]),
                _ => { let half = bytes.len() / 2; bytes.truncate(half.max(at)); }
            }
        }
        write(dir.path(), name, &bytes);
        match load(dir.path()) {
            Ok(Loaded { rib, .. }) => consistent(&rib),
            Err(found) => {
                prop_assert!(!found.0.is_empty());
                for fault in &found.0 {
                    prop_assert!(fault.line >= 1 && fault.column >= 1 && !fault.sentence.is_empty());
                    prop_assert!(!fault.sentence.chars().any(char::is_control));
                }
                prop_assert!(found.0.is_sorted());
            }
        }
    }

    /// Any bytes as a configuration.
    #[test]
    fn configurations_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Config::from_bytes(Path::new("p.toml"), bytes);
    }
}

/// What `load` promises, asked again in the plainest way.
fn consistent(rib: &pushplane::table::Rib) {
    let home = |id| rib.servers.iter().any(|server| server.prefixes.iter().any(|prefix| prefix.contains(id)));
    for segment in &rib.segments {
        assert!((segment.gateway as usize) < rib.gateways.len());
    }
    for (row, user) in rib.users.iter().enumerate() {
        assert!(home(user.push_id) && user.bearers <= 15);
        assert!(user.serving.is_none() || (user.private.is_none() && user.nat.is_none()));
        for earlier in &rib.users[..row] {
            assert!((earlier.push_id, earlier.device) != (user.push_id, user.device));
            assert!(user.private.is_none() || (earlier.realm, earlier.private) != (user.realm, user.private));
            assert!(user.nat.is_none() || earlier.nat != user.nat || earlier.push_id == user.push_id);
        }
    }
    for (_, id) in &rib.names {
        assert!(home(*id));
    }
    for (group, member) in &rib.groups {
        assert!(home(*group) && home(*member));
    }
    let keys: Vec<_> = rib.keys.iter().map(|key| key.id).collect();
    for key in
        rib.servers.iter().filter_map(|server| server.key).chain(rib.apps.iter().filter_map(|app| app.key))
    {
        assert!(keys.contains(&key));
    }
}
