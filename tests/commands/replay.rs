//! `tables learn` and `replay`, on other people's captures.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Folder, ROOT, golden};

fn captures() -> Vec<PathBuf> {
    let folder = Path::new(ROOT).join("tests/captures");
    let is_capture = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension.to_string_lossy().starts_with("pcap"))
    };
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(is_capture).collect();
    files.sort();
    files
}

/// Tables are learned from each capture, checked, and the capture is replayed against them.
#[test]
fn what_a_capture_shows_can_be_replayed() {
    let mut found =
        "capture\tusers\tplanned\tdelivered\tforwarded\tdropped\ttx\tuplink\tunowned\tdigest\n".to_owned();
    let mut delivered = 0;
    for file in captures() {
        let folder = Folder::new();
        let path = file.display();
        let learned = folder.run(&format!("tables learn {path} -o learned --json")).json();
        let checked = folder.run("tables check learned --json").json();
        assert_eq!(checked["entries"]["users"], learned["users"]["total"], "{path}");
        let replay = folder.run(&format!("replay {path} --tables learned --as-push --json"));
        replay.ok();
        let json = replay.json();
        assert_eq!((&json["valid"], &json["planned"]), (&true.into(), &json["sent"]), "{path}");
        let count = |field: &str| json[field].as_u64().unwrap();
        let dropped: u64 = json["dropped"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
        assert_eq!(count("planned"), count("delivered") + count("forwarded") + count("answered") + dropped);
        for distribution in ["late", "latency"] {
            for field in ["p50", "p90", "p99", "p99.9", "max"] {
                assert!(json[distribution][field].is_u64(), "{path} {distribution} {field}");
            }
        }
        assert_eq!(json["late"]["max"], 0);
        delivered += count("delivered");
        writeln!(
            found,
            "{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}",
            file.file_name().unwrap().to_string_lossy(),
            learned["users"]["total"],
            json["planned"],
            json["delivered"],
            json["forwarded"],
            json["dropped"],
            json["tx"],
            json["datagrams"]["uplink"],
            json["datagrams"]["unowned"],
            json["digest"].as_str().unwrap(),
        )
        .unwrap();
    }
    assert!(delivered > 50, "{delivered}");
    golden("replay.tsv", &found);
}

#[test]
fn a_replay_is_told_line_by_line_and_in_sum() {
    let folder = Folder::new();
    let capture = format!("{ROOT}/tests/captures/zeek-gtp8_teredo.pcap");
    let learned = folder.run(&format!("tables learn {capture} -o learned"));
    assert!(learned.ok().ends_with("written to learned\n"));
    let replayed = folder.run(&format!("replay {capture} --tables learned --as-push --verbose"));
    let told = replayed
        .ok()
        .lines()
        .map(|line| if line.starts_with("ns a datagram") { "ns a datagram: …" } else { line });
    golden("replay.txt", &told.map(|line| format!("{line}\n")).collect::<String>());
    // The image is the same tables.
    folder.run("tables build learned -o learned.ppt").ok();
    let digest = |tables: &str| {
        folder.run(&format!("replay {capture} --tables {tables} --as-push --json")).json()["digest"].clone()
    };
    assert_eq!(digest("learned"), digest("learned.ppt"));
    let cut = folder.run(&format!("replay {capture} --tables learned --as-push --json --limit 2")).json();
    assert_eq!((&cut["planned"], &cut["valid"]), (&2.into(), &true.into()));
    // An application that the tables do not have.
    let refused = folder.run(&format!("replay {capture} --tables learned --as-push --app 5 --json")).json();
    assert_eq!(refused["dropped"]["application-not-allowed"], refused["planned"]);
}

#[test]
fn prp_in_a_capture_is_replayed_as_it_is() {
    use pushplane::capture::CaptureWriter;
    use pushplane::id::{Endpoint, PushId};
    use pushplane::wire::prp::{HeadBuilder, Header, Kind};
    let folder = Folder::new();
    let at = |text: &str| text.parse::<Endpoint>().unwrap();
    let message = |kind, user: u128, app| {
        let header = Header { app, ..Header::new(kind, PushId(user), PushId::NONE, user as u64) };
        HeadBuilder::new(&header).datagram(b"hello").unwrap()
    };
    let (client, server) = (at("192.0.2.7:4000"), at("127.0.0.1:17400"));
    let mut writer = CaptureWriter::new(fs::File::create(folder.path("prp.pcap")).unwrap()).unwrap();
    let datagrams = [
        (client, server, message(Kind::Push, 1, 7)),
        (server, at("127.0.0.2:17400"), message(Kind::Push, 1 << 124 | 1, 7)),
        (client, server, message(Kind::Push, 1 << 124 | 1, 7)),
        (client, server, message(Kind::Push, 99, 7)),
        (client, server, message(Kind::Push, 5, 1)),
        (client, server, message(Kind::Push, 5, 7)),
        (client, server, message(Kind::Push, 7, 7)),
        (client, server, message(Kind::Echo, 0, 0)),
        (client, server, [0x11; 60].to_vec()),
        (client, at("192.0.2.9:53"), b"something else".to_vec()),
    ];
    for (at, (from, to, bytes)) in (1..).zip(&datagrams) {
        writer.write(1_700_000_000_000_000_000 + at * 100_000, *from, *to, bytes).unwrap();
    }
    drop(writer);
    let json = folder.run("replay prp.pcap --tables lab --json").json();
    let expected = serde_json::json!({
        "planned": 8, "sent": 8, "delivered": 2, "forwarded": 1, "answered": 1, "own": 1, "valid": true,
        "dropped": {"application-not-allowed": 1, "malformed": 1, "no-gateway": 1, "unknown-destination": 1},
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&json[field], value, "{field}\n{json}");
    }
    // Erin has two terminals.
    assert_eq!(json["tx"].as_u64().unwrap() - json["rejects"].as_u64().unwrap(), 1 + 2 + 1 + 1);
    assert_eq!(json["datagrams"]["unowned"], 1);
    let elsewhere = folder.run("replay prp.pcap --tables lab --as mobile-2 --json").json();
    assert_eq!((&elsewhere["own"], &elsewhere["delivered"]), (&0.into(), &1.into()), "{elsewhere}");
    // The first server's message is not signed with the key that they share.
    assert_eq!(elsewhere["dropped"]["authentication-failed"], 1);
    let nothing = folder.run("replay prp.pcap --tables lab --port 9999");
    nothing.ok();
    assert!(nothing.err.contains("no message to replay; --as-push makes pushes"), "{}", nothing.err);
}

#[test]
fn a_damaged_capture_is_used_as_far_as_it_goes() {
    let folder = Folder::new();
    let whole = fs::read(format!("{ROOT}/tests/captures/zeek-gtp8_teredo.pcap")).unwrap();
    fs::write(folder.path("cut.pcap"), &whole[..whole.len() - 20]).unwrap();
    let learned = folder.run("tables learn cut.pcap -o learned --json");
    assert!(learned.err.starts_with("warning: cut.pcap:1:1: damaged at "), "{}", learned.err);
    assert_eq!(learned.json()["files"][0]["damages"], 1);
    let replayed = folder.run("replay cut.pcap --tables learned --as-push --json");
    assert!(replayed.err.starts_with("warning: cut.pcap:1:1: damaged at "), "{}", replayed.err);
    assert_eq!((&replayed.json()["damages"], &replayed.json()["valid"]), (&1.into(), &true.into()));
}

#[test]
fn what_cannot_be_replayed_is_refused() {
    let folder = Folder::new();
    let capture = format!("{ROOT}/tests/captures/zeek-gtp8_teredo.pcap");
    folder.write("text.pcap", "this is no capture, whatever it is called\n");
    fs::create_dir(folder.path("empty")).unwrap();
    folder.run("replay text.pcap --tables lab").wrong("text.pcap:1:1: ");
    folder.run("replay absent.pcap --tables lab").wrong("absent.pcap:1:1: ");
    folder.run("tables learn absent.pcap -o learned").wrong("absent.pcap:1:1: ");
    folder.run(&format!("tables learn {capture} text.pcap -o learned")).wrong("text.pcap:1:1: ");
    assert!(!folder.path("learned").exists(), "nothing is written when a file is wrong");
    folder
        .run(&format!("replay {capture} --tables absent"))
        .wrong("absent:1:1: expected an image or a directory");
    folder.run(&format!("replay {capture} --tables lab --as nobody")).wrong("(mobile-1, mobile-2, unicom-1)");
    folder
        .run(&format!("replay {capture} --tables empty"))
        .wrong("empty:1:1: expected at least one [[server]]");
}
