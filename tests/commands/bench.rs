//! `pushplane bench`: small runs, whose figures say nothing and whose answers must still be right.

use crate::Folder;

#[test]
fn registrations_are_measured_and_survive_a_kill() {
    let folder = Folder::new();
    let report = folder.run(
        "bench register --users 300 --rows 50 --seconds 1 --rate 2000 --outstanding 64 --releases 30 --json",
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
    let recovered = &run("recover")["figures"];
    assert_eq!(recovered["recovered"], recovered["acknowledged"]);
    assert!(recovered["recovered"].as_f64().unwrap() > 100.0);
    assert!(report["host"]["cpus"].as_u64().unwrap() > 0);
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let folder = Folder::new();
    folder.run("bench register --users 0").wrong("--users");
    folder.run("bench register --rate 0").wrong("above 0");
    folder.run("bench register --folder absent").wrong("absent");
}
