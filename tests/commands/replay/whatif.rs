//! One replay beside another: other tables, or an earlier run.

use std::fs;

use pushplane::capture::Reader;

use super::super::{Folder, ROOT, golden};
use super::{Traffic, captures};

fn folder() -> Folder {
    let folder = Folder::new();
    let mut traffic = Traffic::new(&folder, "prp.pcap");
    for user in [1, 2, 3, 4, 5, 6, 1 << 124 | 1, 1, 2, 99] {
        traffic.push(user, 0);
    }
    drop(traffic);
    // Tomorrow: alice's network lies behind the other gateway, whose tunnel is another; bob is gone; there is a new
    // server for the others.
    super::super::copy(&folder.path("lab"), &folder.path("tomorrow"));
    let keys = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(folder.path("tomorrow/keys.toml"), keys).unwrap();
    let change = |file: &str, from: &str, to: &str| {
        let before = folder.read(&format!("tomorrow/{file}"));
        let after = before.replace(from, to);
        assert_ne!(before, after, "{from}");
        folder.write(&format!("tomorrow/{file}"), &after);
    };
    change("segments.csv", "0,127.16.0.0/16,ggsn-vxlan", "0,127.16.0.0/16,ggsn-plain");
    change("gateways.toml", "teid = 0x1001", "teid = 0x1002");
    change("users.csv", "00000000000000000000000000000003,1,0,", "0000000000000000000000000000003f,1,0,");
    change("servers.toml", "127.0.0.2:17400", "127.0.0.22:17400");
    folder
}

#[test]
fn decisions_that_other_tables_change_are_told_by_their_cause() {
    let folder = folder();
    let ran = folder.run("replay prp.pcap --tables lab --against tomorrow");
    let told = ran.no().lines().filter(|line| !line.starts_with("ns a datagram"));
    golden("whatif.txt", &told.map(|line| format!("{line}\n")).collect::<String>());
    let json = folder.run("replay prp.pcap --tables lab --against tomorrow --json").json();
    let found = &json["differences"];
    assert_eq!(
        (&found["compared"], &found["differ"], &found["allowed"]),
        (&10.into(), &7.into(), &false.into())
    );
    assert_eq!((&json["delivered"], &json["against"]["delivered"]), (&8.into(), &7.into()));
    let causes: Vec<(&str, u64)> = found["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cause| (cause["cause"].as_str().unwrap(), cause["count"].as_u64().unwrap()))
        .collect();
    assert_eq!(
        causes,
        [
            ("deliver: gateway ggsn-vxlan → ggsn-plain", 3),
            ("deliver: the same way, with other bytes", 2),
            ("deliver → drop (unknown-destination)", 1),
            ("forward: another address of mobile-2", 1),
        ]
    );
    let example = &found["causes"][0]["examples"][0];
    assert_eq!((&example["before"]["frame"], &example["after"]["frame"]), (&1.into(), &1.into()));
    // As much as is allowed, or less.
    for (allow, status) in [("7", 0), ("6", 1), ("70%", 0), ("69.9%", 1)] {
        let ran = folder.run(&format!("replay prp.pcap --tables lab --against tomorrow --allow {allow}"));
        assert_eq!(ran.status, status, "{allow}\n{}", ran.out);
    }
    let same = folder.run("replay prp.pcap --tables lab --against lab --json").json();
    assert_eq!((&same["differences"]["differ"], &same["valid"]), (&0.into(), &true.into()));
}

#[test]
fn an_earlier_run_is_compared_line_by_line() {
    let folder = folder();
    folder.run("replay prp.pcap --tables lab --verdicts before.jsonl").ok();
    folder.run("replay prp.pcap --tables lab --expect before.jsonl").ok();
    let ran = folder.run("replay prp.pcap --tables tomorrow --expect before.jsonl --json");
    ran.no();
    assert_eq!(ran.json()["differences"]["differ"], 7);
    folder.run("replay prp.pcap --tables tomorrow --expect before.jsonl --allow 7").ok();
    // Messages that only one of the two has.
    let lines = folder.read("before.jsonl");
    let fewer: String =
        lines.lines().enumerate().filter(|(at, _)| *at != 3).map(|(_, line)| format!("{line}\n")).collect();
    folder.write("fewer.jsonl", &fewer);
    let json =
        folder.run("replay prp.pcap --tables lab --expect fewer.jsonl --exclude frames=5 --json").json();
    let causes: Vec<&str> = json["differences"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cause| cause["cause"].as_str().unwrap())
        .collect();
    assert_eq!(causes, ["deliver before → no such message", "no such message before → deliver"]);
    // What a later version adds to a line, this one does not mind.
    folder.write("later.jsonl", &lines.replace("{\"frame\"", "{\"colour\":\"red\",\"frame\""));
    folder.run("replay prp.pcap --tables lab --expect later.jsonl").ok();
    folder.write("broken.jsonl", &lines.replacen("\"verdict\":\"deliver\"", "\"verdict\":", 1));
    folder.run("replay prp.pcap --tables lab --expect broken.jsonl").wrong("broken.jsonl:1:");
    let reversed: Vec<&str> = lines.lines().rev().collect();
    folder.write("reversed.jsonl", &reversed.join("\n"));
    folder
        .run("replay prp.pcap --tables lab --expect reversed.jsonl")
        .wrong("reversed.jsonl:2:1: expected a later frame");
    folder
        .run("replay prp.pcap --tables lab --expect absent.jsonl")
        .wrong("absent.jsonl:1:1: cannot be read");
    folder.run("replay prp.pcap --tables lab --verdicts no/where").wrong("no/where:1:1: cannot be written");
}

/// What left, and what was dropped, as a capture that can be read again.
#[test]
fn datagrams_are_written_with_their_verdicts() {
    let folder = folder();
    folder.run("replay prp.pcap --tables lab --pcapng out.pcapng").ok();
    let bytes = fs::read(folder.path("out.pcapng")).unwrap();
    let mut reader = Reader::new(&bytes[..]).unwrap();
    let mut to = Vec::new();
    while let Some(datagram) = reader.next_datagram() {
        to.push(datagram.to.to_string());
    }
    assert_eq!(reader.damage().1, 0);
    assert_eq!(
        to,
        [
            "127.0.1.1:14789",
            "127.0.1.2:12152",
            "127.0.1.3:17401",
            "127.19.0.10:2948",
            "127.0.1.1:14789",
            "127.0.1.2:12152",
            "127.64.0.1:5000",
            "127.0.0.2:17400",
            "127.0.1.1:14789",
            "127.0.1.2:12152",
            // The message that was dropped, and the REJECT.
            "127.0.0.1:17400",
            "192.0.2.7:4000",
        ]
    );
    let text = String::from_utf8_lossy(&bytes);
    for comment in [
        "frame 5: deliver",
        "frame 7: forward",
        "frame 10: dropped: unknown-destination",
        "frame 10: rejected",
    ] {
        assert!(text.contains(comment), "{comment}");
    }
    // Whoever asks for it on standard output gets nothing else there.
    let piped = folder.run("replay prp.pcap --tables lab --verdicts - --json");
    assert_eq!(piped.ok().lines().count(), 10);
    assert!(piped.err.contains("\"planned\":10"));
}

/// Every capture, against tables in which every gateway has another name and every tenth user is gone.
#[test]
fn every_capture_is_decided_twice() {
    let mut found = String::new();
    let mut verdicts = String::new();
    for file in captures() {
        let folder = Folder::new();
        let path = file.display();
        let name = file.file_name().unwrap().to_string_lossy();
        folder.run(&format!("tables learn {path} -o before")).ok();
        super::super::copy(&folder.path("before"), &folder.path("after"));
        for table in ["gateways.toml", "segments.csv"] {
            let renamed = folder.read(&format!("after/{table}")).replace("gateway-", "moved-");
            folder.write(&format!("after/{table}"), &renamed);
        }
        let users = folder.read("after/users.csv");
        let kept: Vec<&str> =
            users.lines().enumerate().filter(|(at, _)| at % 10 != 1).map(|(_, line)| line).collect();
        folder.write("after/users.csv", &(kept.join("\n") + "\n"));
        let ran = folder.run(&format!("replay {path} --tables before --as-push --against after"));
        let told = ran.out.lines().filter(|line| !line.starts_with("ns a datagram"));
        found += &format!("== {name}: exit {}\n", ran.status);
        found.extend(told.map(|line| format!("{line}\n")));
        folder.run(&format!("replay {path} --tables before --as-push --verdicts v.jsonl --json")).ok();
        folder.run(&format!("replay {path} --tables before --as-push --expect v.jsonl")).ok();
        verdicts += &format!("{name}\n{}", folder.read("v.jsonl"));
    }
    golden("whatif-captures.txt", &found);
    golden("verdicts.txt", &verdicts);
    assert!(fs::metadata(format!("{ROOT}/tests/golden/verdicts.txt")).unwrap().len() < 100_000);
}
