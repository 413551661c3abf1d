//! `pushplane bench`: small runs, whose figures say nothing and whose answers must still be right.

use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::netns::skip;
use crate::{Folder, ROOT};

#[test]
fn registrations_are_measured_and_survive_a_kill() {
    let folder = Folder::new();
    let report = folder.run(
        "bench register --users 300 --rows 50 --seconds 1 --rate 2000 --outstanding 64 --releases 30 --plots p --json",
    );
    report.ok();
    let report = report.json();
    assert_eq!((&report["bench"], &report["valid"]), (&"register".into(), &true.into()), "{report}");
    assert_eq!(report["dropped"], serde_json::json!({}));
    for name in ["p50", "p90", "p99", "p99.9", "max"] {
        assert!(report["latency"][name].as_u64().unwrap() > 0 && report["late"][name].is_u64());
    }
    let run = |name: &str| {
        let runs = report["runs"].as_array().unwrap();
        runs.iter().find(|run| run["name"] == name).unwrap_or_else(|| panic!("{name} in {report}"))
    };
    assert_eq!((&run("register")["planned"], &run("register")["answered"]), (&300.into(), &300.into()));
    assert!(run("register")["figures"]["records_per_commit"].as_f64().unwrap() >= 1.0);
    assert!(run("plain")["figures"]["ratio"].as_f64().unwrap() > 0.0);
    let storm = &run("storm")["figures"];
    for name in [
        "push_cpu_ns",
        "push_beside_cpu_ns",
        "push_beside_p99_us",
        "core_ratio",
        "pushes_ratio",
        "half_beside_came",
    ] {
        assert!(storm[name].is_number(), "{name} in {storm}");
    }
    let recovered = &run("recover")["figures"];
    assert_eq!(recovered["pushed"], recovered["delivered"], "messages reach what was acknowledged");
    assert!(recovered["delivered"].as_f64().unwrap() > 0.0);
    assert_eq!(recovered["recovered"], recovered["acknowledged"]);
    assert!(recovered["recovered"].as_f64().unwrap() > 100.0);
    assert!(report["host"]["cpus"].as_u64().unwrap() > 0);
    assert!(
        folder.read("p/latency.svg").contains("churn")
            && folder.read("p/latency.hlog").contains("Tag=register,")
    );
}

#[test]
fn forwarders_are_measured_side_by_side() {
    for settings in
        ["--payload 64 --hops 1 --tunnel vxlan", "--payload 1200 --hops 40 --tunnel plain --senders 3"]
    {
        let folder = Folder::new();
        let report = folder.run(&format!(
            "bench forward --users 2000 {settings} --rounds 1 --turn 60 --rate 1000 --plots plots --json"
        ));
        report.ok();
        let report = report.json();
        assert_eq!((&report["bench"], &report["valid"]), (&"forward".into(), &true.into()), "{report}");
        let runs = report["runs"].as_array().unwrap();
        let named = |name: &str| runs.iter().find(|run| run["name"] == name);
        for name in ["recvmmsg_sendmmsg", "pushplane_sockets"] {
            let figures = &named(name).unwrap_or_else(|| panic!("{name} in {report}"))["figures"];
            assert!(
                figures["cpu_ns"].as_f64().unwrap() > 0.0 && figures["mrr_per_s"].as_f64().unwrap() > 0.0
            );
        }
        // What loses nothing loses little.
        let rate = |run: &Value, name| run["figures"][name].as_f64().unwrap_or(0.0);
        assert!(runs.iter().all(|run| rate(run, "ndr_per_s") <= rate(run, "pdr_per_s")), "{report}");
        // Whatever arrived was compared; how much did is this machine's affair.
        assert!(runs.iter().all(|run| run["delivered"].as_u64().unwrap() > 0), "{report}");
        for plot in ["plots/loss.svg", "plots/latency.svg"] {
            assert!(folder.read(plot).contains("recvmmsg_sendmmsg"), "{plot}");
        }
        assert!(folder.read("plots/latency.hlog").contains("Tag=recvmmsg_sendmmsg,"));
    }
}

/// Whatever arrived was compared here too.
#[test]
fn forwarding_is_measured_by_shape_and_by_shards() {
    let folder = Folder::new();
    let run = |options: &str| {
        let report = folder.run(&format!("bench forward --users 2000 --rounds 1 --turn 40 {options} --json"));
        report.ok();
        let report = report.json();
        assert_eq!((&report["bench"], &report["valid"]), (&"forward".into(), &true.into()), "{report}");
        report["rows"].as_array().unwrap().clone()
    };
    let shapes = run("--matrix");
    assert_eq!(shapes.len(), 2 * 3 * 2 * 2);
    assert!(shapes.iter().all(|row| row["cpu_ns"].as_array().unwrap().len() == 4), "{shapes:?}");
    let shards = run("--shards 1");
    assert_eq!(shards.len(), 2);
    assert!(shards.iter().all(|row| row["forwarded_per_s"].as_f64().unwrap() > 0.0), "{shards:?}");
}

/// By the script that makes the namespaces; what it measures is compared like everywhere.
#[test]
fn forwarding_is_measured_over_virtual_ethernet() {
    let ran = Command::new(Path::new(ROOT).join("tools/peers/veth.sh"))
        .args("--users 2000 --rounds 1 --turn 60 --rate 1000 --json".split(' '))
        .env("PUSHPLANE", env!("CARGO_BIN_EXE_pushplane"))
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    if ran.status.code() == Some(2) || err.contains("left out") {
        return skip("forwarding over virtual Ethernet", &err);
    }
    assert!(ran.status.success(), "{out}{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    let runs = report["runs"].as_array().unwrap();
    for name in ["recvmmsg_sendmmsg", "pushplane_sockets", "nftables"] {
        let run = runs.iter().find(|run| run["name"] == name).unwrap_or_else(|| panic!("{name} in {report}"));
        assert!(run["delivered"].as_u64().unwrap() > 0, "{run}");
        assert!(run["figures"]["mrr_per_s"].as_f64().unwrap() > 0.0, "{run}");
    }
}

/// Whom the tables lead to is right before, during and after; how late pushes were is this machine's affair.
#[test]
fn tables_are_replaced_under_pushes() {
    let folder = Folder::new();
    let report = folder.run("bench swap --users 2000 --more 50 --rate 2000 --swaps 1 --json");
    report.ok();
    let report = report.json();
    assert_eq!((&report["bench"], &report["valid"]), (&"swap".into(), &true.into()), "{report}");
    let runs = report["runs"].as_array().unwrap();
    let names: Vec<&str> = runs.iter().map(|run| run["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["swap", "quiet", "swap_half", "quiet_half", "reach"]);
    for run in &runs[..4] {
        assert!(
            run["latency"]["max"].as_u64().unwrap() > 0 && run["delivered"].as_u64().unwrap() > 0,
            "{run}"
        );
        assert_eq!(
            run["figures"]["reload_ms"].is_number(),
            run["name"].as_str().unwrap().starts_with("swap")
        );
    }
    assert_eq!(
        (&runs[4]["planned"], &runs[4]["figures"]["early"]),
        (&3000.into(), &0.0.into()),
        "{}",
        runs[4]
    );
}

/// Wrong answers would end the program.
#[test]
fn lookups_are_measured_and_drawn_by_size() {
    let folder = Folder::new();
    let report = folder.run(
        "bench lookup --users 100,1000 --prefixes 200 --rounds 1 --lookups 256 --writer --plots plots --json",
    );
    report.ok();
    let report = report.json();
    assert_eq!((&report["bench"], &report["valid"]), (&"lookup".into(), &true.into()));
    let tables = report["tables"].as_array().unwrap();
    let rows = tables.iter().flat_map(|table| table["rows"].as_array().unwrap());
    assert_eq!(report["answered"].as_u64().unwrap(), rows.clone().count() as u64 * 256);
    assert!(rows.clone().all(|row| row["ns"].as_f64().unwrap() > 0.0), "{report}");
    // Two sizes, and three kinds of prefixes.
    assert_eq!(tables.len(), 5);
    let ours = tables[0]["rows"][0]["name"].as_str().unwrap();
    assert!(folder.read("plots/lookup.svg").contains(ours), "{ours}");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let folder = Folder::new();
    folder.run("bench forward --sink 192.0.2.1:9").wrong("127.0.0.0/8");
    folder.run("bench forward --peer nginx=127.0.0.1:9").wrong("NAME=ADDRESS/PID");
    folder.run("bench forward --peer nginx=127.0.0.1:9/0").wrong("no process 0");
    folder.run("bench forward --peer nft=127.0.0.1:9/absent").wrong("expected a process or a network device");
    folder.run("bench forward --users 10 --peer nft=127.0.0.1:9/lo").wrong("expected --namespace with it");
    folder.run("bench forward --namespace absent").wrong("NAME=ADDRESS");
    folder.run("bench forward --namespace absent=198.18.0.2").wrong("/run/netns/absent");
    folder.run("bench forward --users 10 --only nobody").wrong("--only");
    folder.run("bench forward --users 10 --shards 1024").wrong("each shard needs one of its own");
    for shards in ["1,x", "0", "1025", "1,"] {
        folder
            .run(&format!("bench forward --shards {shards}"))
            .wrong("expected numbers of shards from 1 to 1024");
    }
    for users in ["x", "0", "16777217", "-1", ""] {
        folder
            .run(&format!("bench forward --users={users}"))
            .wrong("'--users <N>': expected a number from 1 to 16777216");
    }
    folder.run("bench register --seed x").wrong("expected a number from 0");
    folder.run("bench forward --matrix --hops 2").wrong("--hops");
    folder.run("bench swap --more 0").wrong("--more");
    folder.run("bench register --users 0").wrong("--users");
    folder.run("bench register --rate 0").wrong("above 0");
    folder.run("bench register --folder absent").wrong("absent");
}

#[test]
fn lookups_are_measured_one_table_at_a_time() {
    let folder = Folder::new();
    let report =
        folder.run("bench lookup --users 100 --prefixes 0 --rounds 1 --lookups 256 --one-at-a-time --json");
    report.ok();
    let table = &report.json()["tables"][0];
    assert!(table["title"].as_str().unwrap().contains("one at a time"), "{table}");
    assert!(table["rows"].as_array().unwrap().iter().all(|row| row["ns"].as_f64().unwrap() > 0.0), "{table}");
}

/// Small: what is measured is in the right places and adds up, and what is to be kept is kept.
#[test]
fn replays_are_measured_drawn_and_kept() {
    let folder = Folder::new();
    let ran = folder.run(
        "bench replay --datagrams 3000 --users 200 --seconds 1 --rate 500 --folder . --plots plots --keep --json",
    );
    // A busy machine may not keep the schedule: then the run at a rate is invalid, and said to be.
    assert!(ran.status < 2, "{}", ran.err);
    let json = ran.json();
    let runs = json["runs"].as_array().unwrap();
    let names: Vec<&str> = runs.iter().map(|run| run["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["prp", "plain", "topspeed", "plain-topspeed", "rate", "plain-rate", "plain-sleeps", "as-push"]
    );
    for run in runs {
        let name = run["name"].as_str().unwrap();
        let is_timed = name.ends_with("rate") || name.ends_with("sleeps");
        let planned = if is_timed { 500 } else { 3000 };
        let left_out = run["figures"]["left_out"].as_f64().unwrap_or(0.0);
        assert_eq!(run["planned"].as_f64().unwrap() + left_out, f64::from(planned), "{run}");
        assert_eq!(run["planned"], run["sent"], "{run}");
        assert!(run["valid"] == true || name == "rate", "{run}");
        for figure in ["datagrams_per_s", "cpu_ns"] {
            assert!(run["figures"][figure].as_f64().unwrap() > 0.0, "{run}");
        }
        assert_eq!(run["figures"]["drift_us"].is_number(), is_timed, "{run}");
        assert!(run["late"]["max"].as_u64().unwrap() > 0 || !is_timed, "{run}");
    }
    assert!(runs[6]["figures"]["left_out"].is_number(), "{}", runs[6]);
    // Most users have a terminal that takes packet data.
    assert!(runs[0]["delivered"].as_u64().unwrap() > 1500, "{}", runs[0]);
    for name in ["rate", "plain-rate", "plain-sleeps"] {
        assert!(folder.read("plots/late.svg").contains(name), "{name}");
        assert!(folder.read("plots/late.hlog").contains(&format!("Tag={name},")), "{name}");
    }
    let kept = ran.err.lines().find_map(|line| line.strip_prefix("kept: ")).unwrap().to_owned();
    let again = folder.run(&format!("replay {kept}/prp.pcap --tables {kept}/bench.ppt --json")).json();
    for field in ["planned", "delivered", "dropped"] {
        assert_eq!(again[field], runs[0][field], "{field}");
    }
    folder.run("bench replay --users 1").wrong("--users");
    folder.run("bench replay --datagrams 10 --users 100 --only nobody").wrong("plain-sleeps");
    let sink = UdpSocket::bind("127.0.0.1:0").unwrap();
    let sent = format!(
        "bench replay --datagrams 3 --users 100 --only plain-rate --sink {}",
        sink.local_addr().unwrap()
    );
    assert_eq!(folder.run(&format!("{sent} --json")).json()["runs"].as_array().unwrap().len(), 1);
    sink.set_nonblocking(true).unwrap();
    let mut datagram = [0; 200];
    let lengths: Vec<usize> = std::iter::from_fn(|| sink.recv(&mut datagram).ok()).collect();
    assert_eq!(lengths, [48 + 64; 3], "the whole datagrams, and no more");
}
