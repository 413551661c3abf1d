//! The whole server is replayed: registrations, groups, receipts; and it decides the same however it is watched.

use pushplane::id::{Endpoint, PushId};
use pushplane::wire::prp::{HeadBuilder, Header, Kind, flag};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::super::Folder;
use super::{CLIENT, Traffic, at};

fn verdicts(folder: &Folder, arguments: &str) -> Vec<Value> {
    let ran = folder.run(&format!("{arguments} --verdicts verdicts.jsonl"));
    assert!(ran.status < 2, "{}", ran.err);
    folder.read("verdicts.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Verdict, reason, and where to.
fn told(verdicts: &[Value]) -> Vec<String> {
    let line = |verdict: &Value| {
        let mut line = verdict["verdict"].as_str().unwrap().to_owned();
        if let Some(reason) = verdict["reason"].as_str() {
            line = format!("{line} {reason}");
        }
        for send in verdict["sends"].as_array().unwrap() {
            line = format!("{line} {}", send["gateway"].as_str().or(send["to"].as_str()).unwrap());
        }
        line
    };
    verdicts.iter().map(line).collect()
}

#[test]
fn who_registers_in_the_capture_is_bound_from_then_on() {
    let folder = Folder::new();
    let mut traffic = Traffic::new(&folder, "prp.pcap");
    let (dave, visitor) = (4, 1 << 124 | 0x77);
    let private = |text: &str| at(text);
    let register = |traffic: &mut Traffic, user, from: &str, private: Endpoint, validity| {
        traffic.message(from, (Kind::Register, user, 0), |header| {
            let mut head = HeadBuilder::new(header);
            head.device(1).private_address(private).validity(validity);
            head
        });
    };
    traffic.push(dave, 0);
    // Dave moves behind another gateway, and lets it run out.
    register(&mut traffic, dave, "127.17.0.99:2948", private("127.17.0.99:2948"), 60);
    traffic.push(dave, 0);
    traffic.wait(61);
    traffic.push(dave, 0);
    // An address out of every segment, and somebody else's.
    register(&mut traffic, dave, "203.0.113.1:2948", private("203.0.113.1:2948"), 60);
    // A visitor: the home server agrees.
    register(&mut traffic, visitor, "127.17.0.50:2948", private("127.17.0.50:2948"), 600);
    traffic.message(CLIENT, (Kind::Push, visitor, 7), |header| {
        header.flags = flag::ROAMED;
        HeadBuilder::new(header)
    });
    traffic.message("127.17.0.50:2948", (Kind::Release, visitor, 0), |header| {
        let mut head = HeadBuilder::new(header);
        head.device(1);
        head
    });
    traffic.message(CLIENT, (Kind::Push, visitor, 7), |header| {
        header.flags = flag::ROAMED;
        HeadBuilder::new(header)
    });
    drop(traffic);
    let verdicts = verdicts(&folder, "replay prp.pcap --tables lab --json");
    assert_eq!(
        told(&verdicts),
        [
            "deliver ggsn-none",
            "answer",
            "deliver ggsn-gtpu",
            "drop not-attached",
            "drop not-permitted",
            "answer",
            "deliver ggsn-gtpu",
            "answer",
            "drop not-attached",
        ]
    );
    assert_eq!(verdicts[1]["kind"], "REGISTER");
}

#[test]
fn a_message_for_a_group_is_told_by_its_members() {
    let folder = Folder::new();
    let mut traffic = Traffic::new(&folder, "prp.pcap");
    // Friends: alice and bob here, leo and min elsewhere; from a stranger, then from alice.
    traffic.push(0xF001, flag::GROUP);
    traffic.message(CLIENT, (Kind::Push, 0xF001, 7), |header| {
        (header.flags, header.source) = (flag::GROUP | flag::RECEIPT, PushId(1));
        HeadBuilder::new(header)
    });
    traffic.push(0xF003, flag::GROUP);
    traffic.push(0xF001, 0);
    drop(traffic);
    let verdicts = verdicts(&folder, "replay prp.pcap --tables lab --json");
    assert_eq!(
        told(&verdicts),
        [
            "deliver ggsn-vxlan ggsn-gtpu 127.0.0.2:17400 127.0.0.3:17400",
            "deliver ggsn-gtpu 127.0.0.2:17400 127.0.0.3:17400",
            "drop unknown-group",
            "drop unknown-destination",
        ]
    );
    let json = folder.run("replay prp.pcap --tables lab --json").json();
    let expected = json!({"planned": 4, "delivered": 2, "valid": true, "rejects": 2, "tx": 4 + 3 + 2});
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&json[field], value, "{field}\n{json}");
    }
}

/// More requests than a shard has waiting for the controller, and no time between them.
#[test]
fn requests_do_not_pile_up() {
    let folder = Folder::new();
    let mut traffic = Traffic::new(&folder, "prp.pcap");
    for _ in 0..3000 {
        traffic.message(CLIENT, (Kind::Resolve, 0, 0), |header| {
            let mut head = HeadBuilder::new(header);
            head.option(10, &[b"alice"]);
            head
        });
    }
    drop(traffic);
    let json = folder.run("replay prp.pcap --tables lab --json").json();
    assert_eq!((&json["answered"], &json["valid"]), (&3000.into(), &true.into()), "{json}");
}

/// A receipt that comes a tenth of a millisecond after what it answers finds who asked.
#[test]
fn an_answer_finds_what_it_answers_however_soon_it_comes() {
    let folder = Folder::new();
    let mut traffic = Traffic::new(&folder, "prp.pcap");
    let asker = PushId(3);
    traffic.message(CLIENT, (Kind::Push, 1, 7), |header| {
        (header.flags, header.source) = (flag::RECEIPT, asker);
        HeadBuilder::new(header)
    });
    let receipt = Header::new(Kind::Receipt, asker, PushId(1), traffic.id);
    let bytes = HeadBuilder::new(&receipt).datagram(b"").unwrap();
    traffic.datagram("127.16.0.10:2948", super::SERVER, &bytes);
    drop(traffic);
    let verdicts = verdicts(&folder, "replay prp.pcap --tables lab --json");
    assert_eq!(told(&verdicts), ["deliver ggsn-vxlan".to_owned(), format!("forward {CLIENT}")]);
    assert_eq!(verdicts[1]["sends"][0]["via"], "asker");
}

/// Messages in bursts of up to 64 and one by one: the same digest, and the same counts.
#[test]
fn a_replay_that_is_watched_decides_the_same() {
    for seed in 0..6 {
        let folder = Folder::new();
        let mut rng = StdRng::seed_from_u64(seed);
        let mut traffic = Traffic::new(&folder, "prp.pcap");
        let users =
            [1, 2, 3, 4, 5, 6, 7, 8, 9, 0xA, 0xB, 0xF001, 0xF002, 0xF003, 1 << 124 | 1, 4 << 124 | 1, 99];
        for _ in 0..1500 {
            let (user, source) = (*users.choose(&mut rng).unwrap(), *users.choose(&mut rng).unwrap());
            let kinds = [
                Kind::Push,
                Kind::Push,
                Kind::Push,
                Kind::Push,
                Kind::Receipt,
                Kind::Register,
                Kind::Release,
            ];
            let kind = *kinds.choose(&mut rng).unwrap();
            let app = *[7, 7, 8, 9, 10, 11, 12].choose(&mut rng).unwrap();
            let host: u8 = rng.random_range(10..14);
            let from = format!("127.16.0.{host}:2948");
            let at = traffic.time_ns;
            let flags = rng.random_range(0..16);
            let deadline = rng.random_bool(0.3).then(|| at / 1_000_000 + rng.random_range(0..2));
            traffic.message(&from, (kind, user, app), |header| {
                if kind == Kind::Push || kind == Kind::Receipt {
                    (header.flags, header.source) = (flags, PushId(source));
                }
                if rng.random_bool(0.2) {
                    header.message -= 1;
                }
                let mut head = HeadBuilder::new(header);
                if kind == Kind::Register || kind == Kind::Release {
                    head.device(1);
                }
                if kind == Kind::Register {
                    head.private_address(self::at(&from)).validity(1);
                }
                if let Some(deadline) = deadline {
                    head.deadline(deadline);
                }
                head
            });
            if rng.random_bool(0.02) {
                traffic.wait(1);
            }
        }
        drop(traffic);
        let unwatched = folder.run("replay prp.pcap --tables lab --json").json();
        let watched =
            folder.run("replay prp.pcap --tables lab --json --verdicts v.jsonl --pcapng o.pcapng").json();
        for field in ["digest", "delivered", "forwarded", "answered", "dropped", "tx", "rejects", "valid"] {
            assert_eq!(unwatched[field], watched[field], "{field}, seed {seed}");
        }
        assert_eq!((&watched["valid"], &watched["planned"]), (&true.into(), &1500.into()));
        assert_eq!(folder.read("v.jsonl").lines().count(), 1500);
        let dropped = watched["dropped"].as_object().unwrap();
        assert!(watched["delivered"].as_u64().unwrap() > 80 && dropped.len() > 5, "{watched}");
        // And the same again.
        folder.run("replay prp.pcap --tables lab --expect v.jsonl").ok();
    }
}
