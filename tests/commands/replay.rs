//! `tables learn` and `replay`, on other people's captures and on made ones.

mod live;
mod server;
mod whatif;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use pushplane::capture::CaptureWriter;
use pushplane::id::{Endpoint, PushId};
use pushplane::wire::prp::{HeadBuilder, Header, Kind};

use super::{Folder, ROOT, golden};

fn at(text: &str) -> Endpoint {
    text.parse().unwrap()
}

/// The lab's first server, and somebody who writes to it.
const SERVER: &str = "127.0.0.1:17400";
const CLIENT: &str = "192.0.2.7:4000";

/// A capture under construction: PRP, a tenth of a millisecond apart unless said otherwise.
struct Traffic {
    writer: CaptureWriter<File>,
    time_ns: u64,
    id: u64,
}

impl Traffic {
    fn new(folder: &Folder, name: &str) -> Self {
        let writer = CaptureWriter::new(File::create(folder.path(name)).unwrap()).unwrap();
        Self { writer, time_ns: 1_700_000_000_000_000_000, id: 0 }
    }

    fn wait(&mut self, seconds: u64) {
        self.time_ns += seconds * 1_000_000_000;
    }

    fn datagram(&mut self, from: &str, to: &str, bytes: &[u8]) {
        self.time_ns += 100_000;
        self.writer.write(self.time_ns, at(from), at(to), bytes).unwrap();
    }

    /// A message to the server, of the header and the options that `write` makes of a plain one.
    fn message(
        &mut self,
        from: &str,
        (kind, user, app): (Kind, u128, u32),
        write: impl FnOnce(&mut Header) -> HeadBuilder,
    ) {
        self.id += 1;
        let mut header = Header { app, ..Header::new(kind, PushId(user), PushId::NONE, self.id) };
        let bytes = write(&mut header).datagram(b"hello").unwrap();
        self.datagram(from, SERVER, &bytes);
    }

    fn push(&mut self, user: u128, flags: u8) {
        self.message(CLIENT, (Kind::Push, user, 7), |header| {
            header.flags = flags;
            HeadBuilder::new(header)
        });
    }
}

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
    let folder = Folder::new();
    let mut traffic = Traffic::new(&folder, "prp.pcap");
    traffic.push(1, 0);
    let forwarded = Header { app: 7, ..Header::new(Kind::Push, PushId(1 << 124 | 1), PushId::NONE, 99) };
    let forwarded = HeadBuilder::new(&forwarded).datagram(b"hello").unwrap();
    traffic.datagram(SERVER, "127.0.0.2:17400", &forwarded);
    traffic.push(1 << 124 | 1, 0);
    traffic.push(99, 0);
    traffic.message(CLIENT, (Kind::Push, 5, 1), |header| HeadBuilder::new(header));
    traffic.push(5, 0);
    traffic.push(7, 0);
    traffic.message(CLIENT, (Kind::Echo, 0, 0), |header| HeadBuilder::new(header));
    traffic.datagram(CLIENT, SERVER, &[0x11; 60]);
    traffic.datagram(CLIENT, "192.0.2.9:53", b"something else");
    drop(traffic);
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

/// Compressed, from standard input, and both.
#[test]
fn a_capture_may_come_compressed_and_through_a_pipe() {
    use std::io::Write;
    use std::process::Stdio;
    let folder = Folder::new();
    let path = format!("{ROOT}/tests/captures/zeek-gtp8_teredo.pcap");
    let capture = fs::read(&path).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&capture).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = ruzstd::encoding::compress_to_vec(&capture[..], ruzstd::encoding::CompressionLevel::Fastest);
    fs::write(folder.path("c.pcap.gz"), &gzip).unwrap();
    fs::write(folder.path("c.pcap.zst"), &zstd).unwrap();
    folder.run("tables learn c.pcap.gz -o learned").ok();
    let plain = folder.run(&format!("replay {path} --tables learned --as-push --json")).json();
    for file in ["c.pcap.gz", "c.pcap.zst"] {
        let packed = folder.run(&format!("replay {file} --tables learned --as-push --json")).json();
        assert_eq!((&packed["digest"], &packed["frames"]), (&plain["digest"], &plain["frames"]), "{file}");
    }
    for bytes in [capture, gzip, zstd] {
        let mut command = folder.command();
        command.args("replay - --tables learned --as-push --json".split(' '));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = child.wait_with_output().unwrap();
        let piped: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(piped["digest"], plain["digest"]);
        assert_eq!(piped["capture"], "standard input");
    }
}

#[test]
fn faults_of_a_capture_are_named_and_the_rest_is_used() {
    let folder = Folder::new();
    let mut traffic = Traffic::new(&folder, "whole.pcap");
    for user in [1, 2, 3, 4, 5, 6] {
        traffic.push(user, 0);
    }
    drop(traffic);
    let whole = fs::read(folder.path("whole.pcap")).unwrap();
    let frame = (whole.len() - 24) / 6;
    let mut bytes = whole.clone();
    // The second frame's time is a minute early, the third is of an absurd length, the last is cut.
    let seconds = u32::from_le_bytes(bytes[24 + frame..][..4].try_into().unwrap());
    bytes[24 + frame..][..4].copy_from_slice(&(seconds - 60).to_le_bytes());
    bytes[24 + 2 * frame + 8..][..4].copy_from_slice(&3_000_000_000_u32.to_le_bytes());
    bytes.truncate(whole.len() - 9);
    fs::write(folder.path("faulty.pcap"), &bytes).unwrap();
    let replayed = folder.run("replay faulty.pcap --tables lab --json");
    let json = replayed.json();
    assert_eq!((&json["planned"], &json["delivered"], &json["damages"]), (&4.into(), &4.into(), &2.into()));
    assert_eq!(json["backwards"], serde_json::json!({"first_frame": 2, "longest_ns": 59_999_900_000_u64}));
    let place = 24 + 2 * frame;
    for words in [
        format!("faulty.pcap:1:1: damaged at byte {place}, after frame 2: a frame of 3000000000 bytes"),
        format!("{frame} bytes are left out"),
        "after frame 4: the file ends within a frame".to_owned(),
        "times run backwards at 1 frames, first at frame 2, by up to 59.999900 s".to_owned(),
    ] {
        assert!(replayed.err.contains(&words), "{words}\n{}", replayed.err);
    }
}

#[test]
fn messages_are_chosen_and_mapped() {
    let folder = Folder::new();
    let mut traffic = Traffic::new(&folder, "prp.pcap");
    for user in [1, 2, 3, 1 << 124 | 1] {
        traffic.push(user, 0);
    }
    traffic.message("127.0.0.9:1", (Kind::Echo, 0, 0), |header| HeadBuilder::new(header));
    drop(traffic);
    let replay = |more: &str| folder.run(&format!("replay prp.pcap --tables lab --json {more}")).json();
    let echo = replay("--include kind=echo");
    assert_eq!((&echo["planned"], &echo["answered"], &echo["left_out"]), (&1.into(), &1.into(), &4.into()));
    let pushes =
        replay("--include to=0000 --include to=0001 --exclude from=127.0.0.0/8 --exclude frames=1-2");
    assert_eq!(
        (&pushes["delivered"], &pushes["forwarded"], &pushes["planned"]),
        (&1.into(), &1.into(), &2.into())
    );
    // Everybody's message to one user, then to the users of the other server.
    let one = replay("--map-ids 00000000000000000000000000000002=00000000000000000000000000000063");
    assert_eq!(one["dropped"]["unknown-destination"], 1);
    let other = replay("--map-ids 0x0/4=0x1/4 --map-ids 0x1/4=0x0/4 --exclude kind=echo");
    assert_eq!((&other["forwarded"], &other["delivered"]), (&3.into(), &1.into()));
    // Nobody pushes for the bank but from loopback, and signed.
    let mapped = folder.run("replay prp.pcap --tables lab --map-addr 192.0.2.0/24=127.0.0.0/24 --verbose");
    assert!(mapped.ok().contains(" 127.0.0.7:4000 "));
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
