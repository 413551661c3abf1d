//! Real captures, read to the end. The figures in [`GOLDEN`] were checked with tshark 4.0.17 (see
//! tests/captures/README.md for where the files come from):
//!
//! - frames: `capinfos -c`; datagrams: frames that `tshark -Y udp` shows, which puts fragments
//!   together; of `tcpdump-radius_attr_asan` it shows one whose end is missing, which is not taken;
//! - inner: frames whose `frame.protocols` has `udp:gtp:ip…:udp`;
//! - users: the End User Address and IMSI of Create PDP Context (`tshark -O gtp`), else the inner
//!   addresses by hand, by the rules of `capture::learn`.

#[path = "common/counting.rs"]
mod counting;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use pushplane::capture::learn::{LearnOptions, Report, learn, write_sources};
use pushplane::capture::push::{Owners, PushCounts, PushOptions, pushes};
use pushplane::capture::tunnel::{Found, TunnelCounts, Tunnels};
use pushplane::capture::{Counts, Reader};
use pushplane::id::PushId;
use pushplane::table::Rib;
use pushplane::table::source::load;

/// A capture, and what is expected of it.
struct Golden {
    file: &'static str,
    frames: u64,
    datagrams: u64,
    /// Datagrams put together from fragments.
    reassembled: u64,
    /// Inner UDP datagrams.
    inner: u64,
    /// Inner packets of other protocols.
    inner_others: u64,
    pushes: u64,
    uplink: u64,
    unowned: u64,
    /// Gateway, realm, private address, IMSI of the users, in this form.
    users: &'static [&'static str],
}

const NOTHING: Golden = Golden {
    file: "",
    frames: 0,
    datagrams: 0,
    reassembled: 0,
    inner: 0,
    inner_others: 0,
    pushes: 0,
    uplink: 0,
    unowned: 0,
    users: &[],
};

const GOLDEN: &[Golden] = &[
    Golden {
        file: "arkime-gtp-iphone-headers.pcap",
        frames: 106,
        datagrams: 106,
        inner: 40,
        inner_others: 66,
        pushes: 22,
        uplink: 18,
        users: &[
            "gateway-127.0.1.100 0 192.168.3.129:57801",
            "gateway-127.0.1.100 0 [fd00:183:1:1:1886:9040:8605:32b8]:5060",
        ],
        ..NOTHING
    },
    Golden {
        file: "arkime-gtp-u.pcap",
        frames: 102,
        datagrams: 102,
        inner_others: 102,
        users: &["gateway-192.168.40.179 0 192.168.40.178:17400"],
        ..NOTHING
    },
    Golden {
        file: "arkime-ipv6-gtp6.pcap",
        frames: 1,
        datagrams: 1,
        inner: 1,
        pushes: 1,
        users: &[
            "gateway-1111:2222:3333:4444:5555:6666:0:1 0 [1111:2222:3333:4444:5555:8888:a8ac:7bc0]:57030",
        ],
        ..NOTHING
    },
    Golden {
        file: "arkime-radius-accounting.pcap",
        frames: 2,
        datagrams: 2,
        unowned: 2,
        users: &["direct 0 10.0.0.3:17400"],
        ..NOTHING
    },
    Golden {
        file: "live-osmo-ggsn-sgsnemu-ping.pcap",
        frames: 12,
        datagrams: 12,
        inner_others: 6,
        unowned: 6,
        users: &["gateway-127.0.0.2 0 172.16.222.1:17400 240010123456789"],
        ..NOTHING
    },
    Golden {
        file: "live-osmo-ggsn-sgsnemu-push.pcap",
        frames: 8,
        datagrams: 8,
        inner: 2,
        pushes: 1,
        uplink: 1,
        unowned: 6,
        users: &["gateway-10.9.0.2 0 172.16.222.1:40001 460001234567890"],
        ..NOTHING
    },
    Golden {
        file: "live-radclient-3gpp-accounting.pcap",
        frames: 11,
        datagrams: 11,
        unowned: 11,
        users: &["gateway-10.9.0.2 0 172.16.222.1:17400 460001234567890"],
        ..NOTHING
    },
    Golden {
        file: "pcapplusplus-gtp.pcap",
        frames: 7,
        datagrams: 7,
        inner: 2,
        inner_others: 4,
        pushes: 2,
        unowned: 1,
        users: &[
            "gateway-10.155.148.157 0 10.155.182.202:17400",
            "gateway-192.168.40.179 0 192.168.40.178:17400",
            "gateway-5.233.130.55 0 [2001:507:0:1:200:8600:0:1]:2396",
        ],
        ..NOTHING
    },
    Golden { file: "pcapplusplus-gtpv2.pcap", frames: 6, datagrams: 5, unowned: 5, ..NOTHING },
    Golden {
        file: "tcpdump-RADIUS-RFC3162.pcap",
        frames: 1,
        datagrams: 1,
        pushes: 1,
        users: &["direct 0 127.0.0.1:1812"],
        ..NOTHING
    },
    Golden {
        file: "tcpdump-RADIUS-RFC5176-2.pcap",
        frames: 1,
        datagrams: 1,
        pushes: 1,
        users: &["direct 0 127.0.0.1:1812"],
        ..NOTHING
    },
    Golden {
        file: "tcpdump-RADIUS-RFC5176.pcap",
        frames: 6,
        datagrams: 6,
        pushes: 6,
        users: &["direct 0 10.0.0.10:12345", "direct 0 10.0.0.1:3799"],
        ..NOTHING
    },
    Golden {
        file: "tcpdump-RADIUS-port1700.pcap",
        frames: 1,
        datagrams: 1,
        pushes: 1,
        users: &["direct 0 127.0.0.1:1700"],
        ..NOTHING
    },
    Golden {
        file: "tcpdump-RADIUS.pcap",
        frames: 4,
        datagrams: 4,
        pushes: 4,
        users: &["direct 0 10.0.0.100:1812", "direct 0 10.0.0.1:1645"],
        ..NOTHING
    },
    Golden { file: "tcpdump-radius_attr_asan.pcap", frames: 1, ..NOTHING },
    Golden {
        file: "wrapped-node-radius-accounting.pcap",
        frames: 3,
        datagrams: 3,
        unowned: 3,
        users: &["direct 0 10.2.0.252:17400"],
        ..NOTHING
    },
    Golden {
        file: "zeek-gre-over-udp-4754.pcap",
        frames: 14,
        datagrams: 14,
        pushes: 14,
        users: &["direct 0 192.168.5.1:4754"],
        ..NOTHING
    },
    Golden {
        file: "zeek-gtp-pdp_ctx_messages.pcapng",
        frames: 14,
        datagrams: 14,
        pushes: 2,
        unowned: 12,
        users: &[
            "direct 0 10.64.21.130:2158",
            "direct 0 192.168.210.10:2157",
            "gateway-10.100.200.49 0 192.168.252.130:17400 460004100000101",
            "gateway-127.0.0.1 0 192.168.0.2:17400 240010123456789",
        ],
        ..NOTHING
    },
    Golden { file: "zeek-gtp10_not_0xff.pcap", frames: 3, datagrams: 3, ..NOTHING },
    Golden {
        file: "zeek-gtp1_gn_normal_incl_fragmentation.pcap",
        frames: 108,
        datagrams: 68,
        reassembled: 36,
        inner_others: 68,
        users: &["gateway-63.94.149.181 0 10.131.47.185:17400"],
        ..NOTHING
    },
    Golden {
        file: "zeek-gtp2_different_udp_port.pcap",
        frames: 120,
        datagrams: 78,
        reassembled: 42,
        inner_others: 78,
        users: &["gateway-207.233.125.40 0 10.131.17.170:17400"],
        ..NOTHING
    },
    Golden { file: "zeek-gtp3_false_gtp.pcap", frames: 1, datagrams: 1, unowned: 1, ..NOTHING },
    Golden {
        file: "zeek-gtp4_udp_2152_inside.pcap",
        frames: 1,
        datagrams: 1,
        inner: 1,
        pushes: 1,
        users: &["gateway-84.249.173.213 0 10.131.138.69:2152"],
        ..NOTHING
    },
    Golden {
        file: "zeek-gtp6_gtp_0x32.pcap",
        frames: 31,
        datagrams: 31,
        inner_others: 31,
        users: &["gateway-243.149.173.198 0 10.222.10.10:17400"],
        ..NOTHING
    },
    Golden {
        file: "zeek-gtp7_ipv6.pcap",
        frames: 2,
        datagrams: 2,
        inner: 1,
        inner_others: 1,
        uplink: 1,
        users: &["gateway-118.92.124.72 0 [fe80::224c:4fff:fe43:414c]:17400"],
        ..NOTHING
    },
    Golden {
        file: "zeek-gtp8_teredo.pcap",
        frames: 10,
        datagrams: 10,
        inner: 10,
        pushes: 2,
        uplink: 8,
        users: &[
            "gateway-190.104.181.125 0 172.27.159.9:17400",
            "gateway-190.104.181.57 0 10.131.112.102:51403",
            "gateway-190.104.181.57 0 172.24.203.81:17400",
            "gateway-190.104.181.57 0 172.24.204.200:17400",
            "gateway-190.104.181.62 0 10.131.42.160:62069",
            "gateway-190.104.181.62 0 172.24.16.121:17400",
            "gateway-190.104.181.62 0 172.24.16.67:17400",
        ],
        ..NOTHING
    },
    Golden {
        file: "zeek-gtp9_unknown_or_too_short_payload.pcap",
        frames: 19,
        datagrams: 12,
        reassembled: 7,
        inner_others: 10,
        users: &["gateway-213.72.147.186 0 10.131.119.38:17400"],
        ..NOTHING
    },
    Golden {
        file: "zeek-gtp_control_prime.pcap",
        frames: 10,
        datagrams: 10,
        unowned: 10,
        users: &["gateway-127.0.0.1 0 192.168.0.2:17400 240010123456789"],
        ..NOTHING
    },
    Golden {
        file: "zeek-gtp_create_pdp_ctx.pcap",
        frames: 4,
        datagrams: 4,
        pushes: 2,
        unowned: 2,
        users: &[
            "direct 0 10.64.21.130:2158",
            "direct 0 192.168.210.10:2157",
            "gateway-10.100.200.49 0 192.168.252.130:17400 460004100000101",
        ],
        ..NOTHING
    },
    Golden {
        file: "zeek-gtp_ext_header.pcap",
        frames: 2,
        datagrams: 1,
        reassembled: 1,
        inner_others: 1,
        users: &["gateway-10.155.148.157 0 10.155.182.202:17400"],
        ..NOTHING
    },
    Golden {
        file: "zeek-radius_localhost.pcap",
        frames: 19,
        datagrams: 19,
        pushes: 19,
        users: &["direct 0 127.0.0.1:1812"],
        ..NOTHING
    },
];

fn captures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures")
}

/// Every frame in one counter.
fn accounted(counts: &Counts) -> u64 {
    let Counts { datagrams, fragments, not_ip, not_udp, cut, malformed, unknown_link, .. } = *counts;
    datagrams + fragments + not_ip + not_udp + cut + malformed + unknown_link
}

/// The users as [`Golden`] writes them. Every private address lies in a segment of its realm.
fn users(rib: &Rib) -> Vec<String> {
    let mut lines = BTreeSet::new();
    for user in &rib.users {
        let Some(private) = user.private else {
            lines.insert(format!("- {}", user.imsi.unwrap()));
            continue;
        };
        let within = |segment: &&pushplane::table::rib::Segment| {
            let private = pushplane::id::Endpoint::new(segment.ip, 0).octets();
            let shift = if segment.ip.is_ipv4() { 32 } else { 128 } - u32::from(segment.len);
            let address = u128::from_be_bytes(user.private.unwrap().octets());
            segment.realm == user.realm
                && segment.ip.is_ipv4() == user.private.unwrap().is_ipv4()
                && (u128::from_be_bytes(private) ^ address).checked_shr(shift).unwrap_or(0) == 0
        };
        let segment = rib.segments.iter().filter(within).max_by_key(|segment| segment.len).unwrap();
        let gateway = &rib.gateways[segment.gateway as usize].name;
        let imsi = user.imsi.map(|imsi| format!(" {imsi}")).unwrap_or_default();
        lines.insert(format!("{gateway} {} {private}{imsi}", user.realm));
    }
    lines.into_iter().collect()
}

fn learned(file: &str) -> (Rib, Report) {
    learn(&[captures().join(file)], &LearnOptions::default()).unwrap()
}

/// What replay as pushes makes of a capture with the tables learned from it.
fn replayed(bytes: &[u8], rib: &Rib) -> (PushCounts, TunnelCounts, Counts) {
    let owners = Owners::new(rib);
    let reader = Reader::new(bytes).unwrap();
    let mut pushes = pushes(reader, PushOptions::default(), |ip, layer| owners.owner(ip, layer));
    while let Some(push) = pushes.next_push() {
        assert_eq!(push.bytes[..4], [0x11, 0, 8, 12]);
        assert!(rib.users.iter().any(|user| user.push_id.to_bytes() == push.bytes[8..24]));
    }
    (pushes.counts(), pushes.tunnel_counts(), *pushes.reader().counts())
}

#[test]
fn every_capture_gives_what_tshark_says() {
    for golden in GOLDEN {
        let file = golden.file;
        let bytes = fs::read(captures().join(file)).unwrap();
        let mut reader = Reader::new(&bytes[..]).unwrap();
        let mut tunnels = Tunnels::default();
        let mut inner = 0;
        while let Some(datagram) = reader.next_datagram() {
            if let Found::Inner(found) = tunnels.open(&datagram) {
                inner += u64::from(found.datagram.is_some());
            }
        }
        let counts = *reader.counts();
        assert_eq!(reader.damage(), (&[][..], 0), "{file}");
        assert_eq!(
            (counts.frames, counts.datagrams, counts.reassembled),
            (golden.frames, golden.datagrams, golden.reassembled),
            "{file}"
        );
        assert_eq!(accounted(&counts), counts.frames, "{file}");
        assert_eq!((inner, tunnels.counts().not_udp), (golden.inner, golden.inner_others), "{file}");

        let (rib, report) = learned(file);
        // What is written is what the loader reads.
        let dir = tempfile::tempdir().unwrap();
        write_sources(dir.path(), &rib).unwrap();
        let loaded = load(dir.path()).unwrap_or_else(|faults| panic!("{file}: {faults}"));
        assert_eq!(loaded.rib, rib, "{file}");
        assert_eq!(loaded.warnings, [], "{file}");
        assert_eq!(users(&rib), golden.users, "{file}\n{report}");
        assert_eq!(report.users.total, golden.users.len() as u64, "{file}");
        let (pushed, tunnels, read) = replayed(&bytes, &rib);
        assert_eq!(read, counts, "{file}");
        assert_eq!(
            pushed,
            PushCounts {
                pushes: golden.pushes,
                uplink: golden.uplink,
                unowned: golden.unowned,
                ..PushCounts::default()
            },
            "{file}"
        );
        // Every datagram is one of these.
        let all = pushed.pushes + pushed.uplink + pushed.unowned;
        assert_eq!(all, tunnels.plain + tunnels.datagrams, "{file}");
        let others = tunnels.signalling + tunnels.no_packet + tunnels.not_udp + tunnels.malformed;
        assert_eq!(all + others + tunnels.fragments, counts.datagrams, "{file}");
    }
    let here = fs::read_dir(captures()).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name().into_string().unwrap();
        name.contains(".pcap")
    });
    assert_eq!(here.count(), GOLDEN.len(), "a capture without figures");
}

#[test]
fn the_first_push_is_the_datagram_behind_a_header() {
    let file = "live-osmo-ggsn-sgsnemu-push.pcap";
    let (rib, _) = learned(file);
    let owners = Owners::new(&rib);
    let reader = Reader::open(&captures().join(file)).unwrap();
    let options = PushOptions { app: 7, first_message_id: 41, ..PushOptions::default() };
    let mut pushes = pushes(reader, options, |ip, layer| owners.owner(ip, layer));
    let push = pushes.next_push().unwrap();
    assert_eq!((push.frame_number, push.as_it_is), (5, false));
    assert_eq!(push.to.to_string(), "172.16.222.1:40001");
    let mut expected = vec![0x11, 0, 8, 12, 0, 0, 0, 7];
    expected.extend("01460001234567890000000034567890".parse::<PushId>().unwrap().to_bytes());
    expected.extend([0; 16]);
    expected.extend(41u64.to_be_bytes());
    assert_eq!(push.bytes[..48], expected);
    assert_eq!(push.bytes.len(), 48 + 10);
    assert!(pushes.next_push().is_none());
}

#[test]
fn all_captures_together_keep_realms_apart() {
    let files: Vec<PathBuf> = GOLDEN.iter().map(|golden| captures().join(golden.file)).collect();
    let (rib, report) = learn(&files, &LearnOptions::default()).unwrap();
    // 192.168.0.2 was given by 127.0.0.1 in two captures to the same subscriber: one user.
    let users = users(&rib);
    assert_eq!(users.iter().filter(|user| user.contains("192.168.0.2:")).count(), 1, "{users:?}");
    assert_eq!(report.files.len(), GOLDEN.len());
    assert_eq!(report.users.total, rib.users.len() as u64);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["users"]["total"], report.users.total);
    assert!(report.to_string().contains("zeek-gtp8_teredo.pcap: 10 frames, 10 UDP datagrams"));
    // No address twice in a realm, no user's terminal twice.
    let addresses: BTreeSet<_> =
        rib.users.iter().filter_map(|user| Some((user.realm, user.private?.octets()))).collect();
    assert_eq!(addresses.len(), rib.users.iter().filter(|user| user.private.is_some()).count());
    let ids: BTreeSet<_> = rib.users.iter().map(|user| (user.push_id, user.device)).collect();
    assert_eq!(ids.len(), rib.users.len());
    assert!(rib.users.iter().all(|user| rib.servers[0].prefixes[0].contains(user.push_id)));
}

#[test]
fn a_learned_directory_has_all_its_files() {
    let (rib, _) = learned("zeek-gtp8_teredo.pcap");
    let dir = tempfile::tempdir().unwrap();
    write_sources(dir.path(), &rib).unwrap();
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(
        read("servers.toml"),
        "[[server]]\nname = \"learned\"\nprefix = \"0000\"\naddress = \"127.0.0.1:17400\"\n\n"
    );
    assert_eq!(read("apps.toml"), "[[app]]\nid = 1\nname = \"replay\"\n\n");
    assert_eq!(read("users.csv").lines().count(), 8);
    assert!(read("users.csv").contains("\n040000000000000000000000ac181043,,,172.24.16.67:17400,,,,,\n"));
    assert!(read("segments.csv").contains("\n0,172.24.16.0/24,gateway-190.104.181.62\n"));
    assert!(read("gateways.toml").contains("address = \"190.104.181.57:17400\"\ntunnel = \"plain\"\n"));
}

#[test]
fn a_capture_cut_anywhere_is_used_up_to_the_cut() {
    for file in ["live-osmo-ggsn-sgsnemu-push.pcap", "zeek-gtp-pdp_ctx_messages.pcapng"] {
        let bytes = fs::read(captures().join(file)).unwrap();
        let (mut last, mut cuts) = (0, 0);
        for len in 0..bytes.len() {
            let Ok(mut reader) = Reader::new(&bytes[..len]) else {
                assert!(len < 24, "{file} {len}");
                continue;
            };
            while reader.next_datagram().is_some() {}
            let datagrams = reader.counts().datagrams;
            assert!(datagrams >= last, "{file} cut at {len}");
            last = datagrams;
            let (damage, damages) = reader.damage();
            assert!(damages <= 1);
            if let [damage] = damage {
                cuts += 1;
                assert!(damage.offset < len as u64 && damage.after_frame == reader.counts().frames);
                assert!(damage.what.contains("ends within"), "{damage}");
            }
        }
        assert!(last >= 7 && cuts > bytes.len() * 9 / 10, "{file}: {last} {cuts}");
    }
}

/// What a capture holds, to its end.
fn everything(bytes: &[u8]) -> (Vec<u8>, Counts, Vec<String>) {
    let mut reader = Reader::new(bytes).unwrap();
    let mut payloads = Vec::new();
    while let Some(datagram) = reader.next_datagram() {
        payloads.extend(datagram.time_ns.to_le_bytes());
        payloads.extend(datagram.payload);
    }
    let damage = reader.damage().0.iter().map(|damage| damage.what.clone()).collect();
    (payloads, *reader.counts(), damage)
}

/// A capture of so many datagrams, made while it is read: a user's and others' in turn, inside GTP-U
/// and plain.
struct Endless {
    frames: Vec<u8>,
    rounds: u64,
    at: usize,
}

impl Endless {
    const A_ROUND: u64 = 8;

    fn of(rounds: u64) -> impl Read {
        let bytes = fs::read(captures().join("live-osmo-ggsn-sgsnemu-push.pcap")).unwrap();
        let (header, frames) = bytes.split_at(24);
        let (header, frames) = (header.to_vec(), frames.to_vec());
        std::io::Cursor::new(header).chain(Self { frames, rounds, at: 0 })
    }
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.frames.len() {
            (self.at, self.rounds) = (0, self.rounds - 1);
        }
        if self.rounds == 0 {
            return Ok(0);
        }
        let len = buffer.len().min(self.frames.len() - self.at);
        buffer[..len].copy_from_slice(&self.frames[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

/// However long a capture is, reading it and making pushes of it takes the memory that it took at first.
#[test]
fn a_long_capture_takes_no_more_memory_than_a_short_one() {
    const ROUNDS: u64 = 50_000;
    let (rib, _) = learned("live-osmo-ggsn-sgsnemu-push.pcap");
    let owners = Owners::new(&rib);
    let mut pushes =
        pushes(Reader::new(Endless::of(ROUNDS)).unwrap(), PushOptions::default(), |ip, layer| {
            owners.owner(ip, layer)
        });
    for _ in 0..100 {
        assert!(pushes.next_push().is_some());
    }
    let before = counting::allocations();
    while pushes.next_push().is_some() {}
    assert_eq!(counting::allocations() - before, 0);
    assert_eq!(pushes.reader().counts().datagrams, ROUNDS * Endless::A_ROUND);
    assert_eq!(pushes.counts().pushes, ROUNDS);
    assert_eq!(pushes.reader().counts().backwards, ROUNDS - 1);
}

#[test]
fn compressed_captures_are_read_like_others() {
    use std::io::Write;
    for golden in GOLDEN {
        let bytes = fs::read(captures().join(golden.file)).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(&bytes).unwrap();
        let zstd = ruzstd::encoding::compress_to_vec(&bytes[..], ruzstd::encoding::CompressionLevel::Fastest);
        let plain = everything(&bytes);
        for packed in [gzip.finish().unwrap(), zstd] {
            assert!(everything(&packed) == plain, "{}", golden.file);
            // Without its end, what was unpacked before is used, and the fault is named.
            let Ok(mut reader) = Reader::new(&packed[..packed.len() - 6]) else { continue };
            while reader.next_datagram().is_some() {}
            assert!(reader.counts().frames <= plain.1.frames);
            assert!(reader.damage().0[0].what.starts_with("reading failed: "), "{}", golden.file);
        }
    }
}

#[test]
fn mutations_never_panic_and_are_accounted_for() {
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize
    };
    for golden in GOLDEN.iter().filter(|golden| golden.frames < 40) {
        let original = fs::read(captures().join(golden.file)).unwrap();
        for round in 0..300 {
            let mut bytes = original.clone();
            for _ in 0..=next() % 8 {
                let at = next() % bytes.len();
                match next() % 4 {
                    0 => bytes[at] = 0xFF,
                    1 => bytes[at] = 0,
                    2 => bytes[at] ^= 1 << (next() % 8),
                    _ => bytes.truncate(at.max(1)),
                }
            }
            let Ok(mut reader) = Reader::new(&bytes[..]) else { continue };
            while reader.next_datagram().is_some() {}
            assert_eq!(accounted(reader.counts()), reader.counts().frames, "{}", golden.file);
            let mut learner = pushplane::capture::learn::Learner::new(LearnOptions::default());
            learner.take("mutated", Reader::new(&bytes[..]).unwrap());
            let (rib, report) = learner.finish();
            assert_eq!(report.users.total, rib.users.len() as u64);
            users(&rib);
            if round % 20 == 0 {
                let dir = tempfile::tempdir().unwrap();
                write_sources(dir.path(), &rib).unwrap();
                let loaded = load(dir.path()).unwrap_or_else(|faults| panic!("{}: {faults}", golden.file));
                assert_eq!(loaded.rib, rib);
            }
            replayed(&bytes, &rib);
        }
    }
}
