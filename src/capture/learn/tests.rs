use super::*;
use crate::capture::CaptureWriter;
use crate::id::{Imsi, PushId};
use crate::wire::prp::{HeadBuilder, Header, Kind, option_type};

const GGSN: &str = "10.9.0.2";
const SGSN: &str = "10.9.0.1";
const ANN: &str = "460001234567890";
const BOB: &str = "460001234567891";

/// A capture under construction.
struct Scene {
    writer: CaptureWriter<Vec<u8>>,
    time_ns: u64,
    sequence: u16,
}

fn at(ip: &str, port: u16) -> Endpoint {
    Endpoint::new(ip.parse().unwrap(), port)
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind], &(value.len() as u16).to_be_bytes()[..], value].concat()
}

fn word(kind: u8, value: u32) -> Vec<u8> {
    [&[kind][..], &value.to_be_bytes()].concat()
}

fn gsn(ip: &str) -> Vec<u8> {
    match ip.parse().unwrap() {
        IpAddr::V4(v4) => tlv(133, &v4.octets()),
        IpAddr::V6(v6) => tlv(133, &v6.octets()),
    }
}

fn end_user(ip: &str) -> Vec<u8> {
    match ip.parse().unwrap() {
        IpAddr::V4(v4) => tlv(128, &[&[0xF1, 0x21][..], &v4.octets()].concat()),
        IpAddr::V6(v6) => tlv(128, &[&[0xF1, 0x57][..], &v6.octets()].concat()),
    }
}

impl Scene {
    fn new() -> Self {
        Self { writer: CaptureWriter::new(Vec::new()).unwrap(), time_ns: 1_000, sequence: 0 }
    }

    fn send(&mut self, from: Endpoint, to: Endpoint, payload: &[u8]) {
        self.time_ns += 1_000;
        self.writer.write(self.time_ns, from, to, payload).unwrap();
    }

    fn message(&mut self, from: &str, to: &str, kind: u8, teid: u32, elements: &[Vec<u8>]) {
        let body = elements.concat();
        let mut message = vec![0x32, kind];
        message.extend((body.len() as u16 + 4).to_be_bytes());
        message.extend(teid.to_be_bytes());
        message.extend(self.sequence.to_be_bytes());
        message.extend([0, 0]);
        message.extend(body);
        self.send(at(from, 2123), at(to, 2123), &message);
    }

    /// Request and response; TEIDs are `teid` at the GGSN and `teid + 1` at the SGSN.
    fn create(&mut self, ggsn: &str, imsi: &str, apn: &str, address: &str, teid: u32) {
        self.sequence += 1;
        let imsi: Imsi = imsi.parse().unwrap();
        let apn = [&[apn.len() as u8], apn.as_bytes()].concat();
        let request = [
            [&[2][..], &imsi.to_tbcd()].concat(),
            word(16, teid + 1),
            word(17, teid + 1),
            vec![20, 5],
            tlv(128, &[0xF1, 0x21]),
            tlv(131, &apn),
            gsn(SGSN),
            gsn(SGSN),
            tlv(134, &[0x91, 0x64, imsi.to_tbcd()[6], imsi.to_tbcd()[7]]),
        ];
        self.message(SGSN, ggsn, 16, 0, &request);
        let response =
            [vec![1, 128], word(16, teid), word(17, teid), end_user(address), gsn(ggsn), gsn(ggsn)];
        self.message(ggsn, SGSN, 17, teid + 1, &response);
    }

    fn delete(&mut self, ggsn: &str, teid: u32) {
        self.sequence += 1;
        self.message(SGSN, ggsn, 20, teid, &[vec![19, 0xFF], vec![20, 5]]);
        self.message(ggsn, SGSN, 21, teid + 1, &[vec![1, 128]]);
    }

    /// A G-PDU with a UDP datagram.
    fn gpdu(&mut self, outer: (&str, &str), teid: u32, from: Endpoint, to: Endpoint) {
        let mut inner = Vec::new();
        let builder = match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                etherparse::PacketBuilder::ipv4(from.octets(), to.octets(), 9)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                etherparse::PacketBuilder::ipv6(from.octets(), to.octets(), 9)
            }
            _ => panic!("two families"),
        };
        builder.udp(from.port(), to.port()).write(&mut inner, b"payload").unwrap();
        let mut header = [0; 8];
        gtp::write_gpdu_header(&mut header, teid, inner.len() as u16);
        self.send(at(outer.0, 2152), at(outer.1, 2152), &[&header[..], &inner].concat());
    }

    fn learn(self, options: LearnOptions) -> (Rib, Report) {
        let mut learner = Learner::new(options);
        let file = self.writer.finish().unwrap();
        learner.take("scene", Reader::new(&file[..]).unwrap());
        let (rib, report) = learner.finish();
        let dir = tempfile::tempdir().unwrap();
        write_sources(dir.path(), &rib).unwrap();
        let loaded = crate::table::source::load(dir.path()).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(loaded.rib, rib);
        (rib, report)
    }
}

/// Push ID's kind, device, realm, private address.
fn rows(rib: &Rib) -> Vec<(String, u8, u32, String)> {
    let row = |user: &crate::table::rib::User| {
        let imsi = user.imsi.map(|imsi| imsi.to_string()).unwrap_or_default();
        (imsi, user.device, user.realm, user.private.map(|p| p.to_string()).unwrap_or_default())
    };
    rib.users.iter().map(row).collect()
}

fn found(report: &Report, what: &str) -> u64 {
    report.findings.iter().filter(|finding| finding.what.contains(what)).map(|finding| finding.count).sum()
}

#[test]
fn an_address_that_changes_hands_is_the_last_owners() {
    let mut scene = Scene::new();
    scene.create(GGSN, ANN, "internet", "10.1.0.1", 0x100);
    scene.delete(GGSN, 0x100);
    scene.create(GGSN, BOB, "internet", "10.1.0.1", 0x200);
    let (rib, report) = scene.learn(LearnOptions::default());
    let none = String::new();
    assert_eq!(rows(&rib), [(ANN.into(), 0, 0, none), (BOB.into(), 0, 0, "10.1.0.1:17400".into())]);
    assert_eq!(found(&report, "went from one subscriber to another"), 1);
    assert_eq!((report.control.created, report.control.deleted), (2, 1));
    assert_eq!((report.users.without_address, report.users.ended, report.users.total), (1, 0, 2));
    assert_eq!(rib.names.len(), 2);
    assert_eq!(rib.users[1].push_id, "01460001234567891000000034567891".parse::<PushId>().unwrap());
}

#[test]
fn an_address_of_two_at_once_is_a_contradiction() {
    let mut scene = Scene::new();
    scene.create(GGSN, ANN, "internet", "10.1.0.1", 0x100);
    scene.create(GGSN, BOB, "internet", "10.1.0.1", 0x200);
    let (_, report) = scene.learn(LearnOptions::default());
    assert_eq!(found(&report, "while another still had them"), 1);
    assert!(report.to_string().contains(&format!("10.1.0.1: {ANN}, then {BOB}")));
}

#[test]
fn the_same_address_behind_two_gateways_or_apns_is_two() {
    let mut scene = Scene::new();
    scene.create(GGSN, ANN, "internet", "10.1.0.1", 0x100);
    scene.create("10.9.0.3", BOB, "internet", "10.1.0.1", 0x200);
    scene.create(GGSN, "460001234567892", "company", "10.1.0.1", 0x300);
    scene.create(GGSN, "460001234567893", "company", "10.1.0.7", 0x400);
    let (rib, report) = scene.learn(LearnOptions::default());
    let realms: Vec<u32> = rows(&rib).iter().map(|row| row.2).collect();
    assert_eq!(realms, [0, 1, 2, 2]);
    assert_eq!((rib.gateways.len(), rib.segments.len(), report.realms), (2, 3, 3));
    assert_eq!(found(&report, "behind more than one gateway"), 2);
    // A replay finds the right one by the gateway.
    let owners = super::super::push::Owners::new(&rib);
    let layer = tunnel::Layer { form: Form::Gtpu(1), from: at("10.9.0.3", 2152), to: at(SGSN, 2152) };
    let address = "10.1.0.1".parse().unwrap();
    assert_eq!(owners.owner(address, Some(&layer)), Some(rib.users[1].push_id));
    assert_eq!(owners.owner(address, None), Some(rib.users[0].push_id));
}

#[test]
fn two_gateways_in_one_24_get_host_segments() {
    let mut scene = Scene::new();
    scene.create(GGSN, ANN, "internet", "10.1.0.1", 0x100);
    scene.create("10.9.0.3", BOB, "internet", "10.1.0.2", 0x200);
    scene.create("10.9.0.3", BOB, "internet", "10.2.0.2", 0x300);
    let (rib, _) = scene.learn(LearnOptions::default());
    let segments: Vec<String> = rib
        .segments
        .iter()
        .map(|segment| format!("{}/{} {}", segment.ip, segment.len, segment.gateway))
        .collect();
    assert_eq!(segments, ["10.1.0.1/32 0", "10.1.0.2/32 1", "10.2.0.0/24 1"]);
    // Bob's two addresses are two terminals.
    assert_eq!((rows(&rib)[1].1, rows(&rib)[2].1), (0, 1));
}

#[test]
fn an_update_moves_the_downlink_and_the_port_is_the_one_sent_to() {
    let mut scene = Scene::new();
    scene.create(GGSN, ANN, "internet", "10.1.0.1", 0x100);
    scene.sequence += 1;
    let other = "10.9.0.9";
    let moved = [word(16, 0x555), word(17, 0x556), vec![20, 5], gsn(other), gsn(other)];
    scene.message(other, GGSN, 18, 0x100, &moved);
    scene.message(GGSN, other, 19, 0x556, &[vec![1, 128], word(16, 0x101)]);
    scene.gpdu((GGSN, other), 0x555, at("203.0.113.1", 80), at("10.1.0.1", 2948));
    scene.gpdu((other, GGSN), 0x101, at("10.1.0.1", 2948), at("203.0.113.1", 80));
    scene.gpdu((GGSN, other), 0x555, at("203.0.113.1", 80), at("10.1.0.66", 2948));
    // The new SGSN may delete by the same control TEID.
    scene.sequence += 1;
    scene.message(other, GGSN, 20, 0x100, &[vec![20, 5]]);
    scene.message(GGSN, other, 21, 0x556, &[vec![1, 128]]);
    let (rib, report) = scene.learn(LearnOptions::default());
    assert_eq!(rows(&rib), [(ANN.into(), 0, 0, "10.1.0.1:2948".into())]);
    assert_eq!((report.control.updated, report.control.deleted, report.users.ended), (1, 1, 1));
    assert_eq!(found(&report, "not that of their context"), 1);
}

#[test]
fn refused_unanswered_and_foreign_messages_are_counted() {
    let mut scene = Scene::new();
    scene.create(GGSN, ANN, "internet", "10.1.0.1", 0x100);
    scene.sequence += 1;
    scene.message(SGSN, GGSN, 20, 0x100, &[vec![20, 5]]);
    scene.message(GGSN, SGSN, 21, 0x101, &[vec![1, 192]]);
    scene.sequence += 1;
    scene.message(SGSN, GGSN, 20, 0x100, &[vec![20, 5]]);
    scene.sequence += 1;
    scene.message(GGSN, SGSN, 17, 0x101, &[vec![1, 128]]);
    scene.message(GGSN, SGSN, 1, 0, &[]);
    scene.send(at(GGSN, 2123), at(SGSN, 2123), &[0x48, 1, 0, 4, 0, 0, 0, 0]);
    scene.send(at(GGSN, 2123), at(SGSN, 2123), &[0x32, 1]);
    scene.send(at(GGSN, 3386), at(SGSN, 3386), &[0x1E, 1]);
    let (rib, report) = scene.learn(LearnOptions::default());
    let control = &report.control;
    assert_eq!((control.refused, control.unanswered, control.unasked, control.other), (1, 1, 1, 1));
    assert_eq!((control.version_0, control.version_2, control.malformed), (1, 1, 1));
    assert_eq!((rib.users.len(), report.users.ended), (1, 0));
}

#[test]
fn a_terminal_may_use_all_of_its_prefix() {
    let mut scene = Scene::new();
    scene.create(GGSN, ANN, "internet", "2001:db8:1:2::1", 0x100);
    scene.gpdu((GGSN, SGSN), 0x101, at("2001:db8::9", 80), at("2001:db8:1:2:aaaa::7", 5060));
    scene.gpdu((SGSN, GGSN), 0x100, at("fe80::1", 80), at("ff02::2", 5060));
    let (rib, report) = scene.learn(LearnOptions::default());
    let addresses: Vec<String> = rows(&rib).into_iter().map(|row| row.3).collect();
    assert_eq!(addresses, ["[2001:db8:1:2::1]:17400", "[2001:db8:1:2:aaaa::7]:5060"]);
    assert_eq!((rib.segments.len(), report.findings.len()), (1, 0));
}

#[test]
fn sides_of_tunnels_without_control() {
    let mut scene = Scene::new();
    // One public host that talks to two: the constant one is the terminal.
    scene.gpdu((SGSN, GGSN), 1, at("198.51.100.7", 5000), at("203.0.113.1", 6000));
    scene.gpdu((SGSN, GGSN), 1, at("198.51.100.7", 5000), at("203.0.113.2", 6000));
    // Its downlink is known by the address.
    scene.gpdu((GGSN, SGSN), 2, at("203.0.113.1", 6000), at("198.51.100.7", 5000));
    // Private against public, by RFC 6598.
    scene.gpdu((GGSN, SGSN), 3, at("203.0.113.1", 7), at("100.64.0.1", 7));
    // Both public, one at a service's port.
    scene.gpdu(("10.9.0.3", SGSN), 4, at("203.0.113.1", 53), at("198.51.100.9", 5353));
    // Nothing tells but the nodes.
    scene.gpdu((SGSN, GGSN), 5, at("203.0.113.8", 5000), at("203.0.113.9", 5000));
    // Nothing tells at all.
    scene.gpdu(("10.9.0.7", "10.9.0.8"), 6, at("203.0.113.18", 5000), at("203.0.113.19", 5000));
    let (rib, report) = scene.learn(LearnOptions::default());
    let gateway = |user: &crate::table::rib::User| {
        let IpAddr::V4(private) = user.private.unwrap().ip() else { panic!("{user:?}") };
        let within = |segment: &&crate::table::rib::Segment| match segment.ip {
            IpAddr::V4(net) => (net.to_bits() ^ private.to_bits()) >> (32 - segment.len) == 0,
            IpAddr::V6(_) => false,
        };
        rib.gateways[rib.segments.iter().find(within).unwrap().gateway as usize].name.clone()
    };
    let mut names: Vec<(String, String)> =
        rib.users.iter().map(|user| (user.private.unwrap().to_string(), gateway(user))).collect();
    names.sort();
    let names: Vec<(&str, &str)> = names.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    assert_eq!(
        names,
        [
            ("100.64.0.1:7", "gateway-10.9.0.2"),
            ("198.51.100.7:5000", "gateway-10.9.0.2"),
            ("198.51.100.9:5353", "gateway-10.9.0.3"),
            ("203.0.113.8:17400", "gateway-10.9.0.2"),
        ],
    );
    assert_eq!(found(&report, "neither side is surely"), 1);
}

#[test]
fn vxlan_and_plain_and_given_segments() {
    let mut scene = Scene::new();
    let mut inner = vec![8, 0, 0, 0, 0, 0, 100, 0];
    etherparse::PacketBuilder::ethernet2([2; 6], [3; 6])
        .ipv4([203, 0, 113, 1], [10, 1, 0, 1], 9)
        .udp(80, 2948)
        .write(&mut inner, b"x")
        .unwrap();
    scene.send(at("10.255.0.254", 5555), at("10.255.0.1", 4789), &inner);
    scene.send(at("203.0.113.1", 80), at("10.1.0.1", 9), b"the same terminal without the tunnel");
    scene.send(at("203.0.113.1", 80), at("203.0.113.77", 9), b"under a prefix that is given");
    scene.send(at("203.0.113.1", 80), at("203.0.114.77", 9), b"public");
    scene.send(at("203.0.113.1", 80), at("224.0.0.251", 5353), b"multicast");
    scene.send(at("203.0.113.1", 17_400), at("10.1.0.2", 9), &[0x11; 60]);
    let options = LearnOptions {
        segments: vec![("203.0.113.0".parse().unwrap(), 24), ("224.0.0.0".parse().unwrap(), 4)],
        tunnel: Tunnel::Gtpu { teid: 7 },
        source_v4: Some(at("10.255.0.254", 17_400)),
        ..LearnOptions::default()
    };
    let (rib, report) = scene.learn(options);
    let addresses: Vec<String> = rows(&rib).into_iter().map(|row| row.3).collect();
    assert_eq!(addresses, ["10.1.0.1:2948", "203.0.113.77:9"]);
    assert_eq!((report.users.vxlan, report.users.plain, report.prp), (1, 1, 1));
    assert_eq!(found(&report, "in a tunnel and without"), 1);
    let names: Vec<&str> = rib.gateways.iter().map(|gateway| gateway.name.as_str()).collect();
    assert_eq!(names, ["gateway-10.255.0.1", "direct"]);
    assert_eq!(rib.gateways[0].address, at("10.255.0.1", 2152));
    assert!(rib.gateways[0].source_v4.is_some() && rib.gateways[1].source_v4.is_none());
}

#[test]
fn private_addresses() {
    let private = |ip: &str| is_private(ip.parse().unwrap(), &[("8.0.0.0".parse().unwrap(), 7)]);
    for ip in ["10.1.2.3", "172.31.0.1", "192.168.0.1", "100.127.0.1", "127.0.0.1", "169.254.1.1", "9.9.9.9"]
    {
        assert!(private(ip), "{ip}");
    }
    for ip in ["fd00::1", "fc00::1", "fe80::1", "::1"] {
        assert!(private(ip), "{ip}");
    }
    for ip in
        ["172.32.0.1", "100.128.0.1", "11.0.0.1", "0.0.0.0", "255.255.255.255", "ff02::1", "2001:db8::1"]
    {
        assert!(!private(ip), "{ip}");
    }
}

/// An Accounting-Request: status, session, and what else it says.
fn report(status: u8, session: &str, more: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let first = [(40, vec![0, 0, 0, status]), (44, session.as_bytes().to_vec()), (4, vec![10, 9, 0, 2])];
    let attributes: Vec<u8> = first
        .iter()
        .chain(more)
        .flat_map(|(ty, value)| [vec![*ty, value.len() as u8 + 2], value.clone()].concat())
        .collect();
    [&[4, 1][..], &(attributes.len() as u16 + 20).to_be_bytes(), &[0; 16], &attributes].concat()
}

fn vendor(ty: u8, value: &[u8]) -> (u8, Vec<u8>) {
    (26, [&[0, 0, 0x28, 0xAF, ty, value.len() as u8 + 2][..], value].concat())
}

/// A terminal's: IMSI, address, GGSN, bearer.
fn terminal(imsi: &str, address: [u8; 4], nsapi: u8) -> Vec<(u8, Vec<u8>)> {
    let bearer = format!("{nsapi:X}");
    vec![
        vendor(1, imsi.as_bytes()),
        (8, address.to_vec()),
        vendor(7, &[10, 9, 0, 2]),
        vendor(10, bearer.as_bytes()),
        (30, b"internet".to_vec()),
        (31, [b"+86".as_slice(), &imsi.as_bytes()[5..]].concat()),
    ]
}

impl Scene {
    fn report(&mut self, status: u8, session: &str, more: &[(u8, Vec<u8>)]) {
        self.send(at(GGSN, 1026), at("10.9.0.77", 1813), &report(status, session, more));
    }

    /// A REGISTER or RELEASE and what answers it.
    fn ask(&mut self, from: Endpoint, question: &mut HeadBuilder, answer: Kind) {
        let bytes = question.datagram(b"").unwrap();
        let server = at("203.0.113.250", 17_400);
        self.send(from, server, &bytes);
        let header = Header::read(&bytes).unwrap();
        let mut head = HeadBuilder::new(&header.answer(answer));
        match answer {
            Kind::Registered => _ = head.validity(3600),
            Kind::Reject => _ = head.reason(crate::reason::Reason::NotPermitted),
            _ => {}
        }
        self.send(server, from, &head.datagram(b"").unwrap());
    }
}

fn register(user: u128, message: u64) -> HeadBuilder {
    HeadBuilder::new(&Header::new(Kind::Register, PushId(user), PushId::NONE, message))
}

/// By where it asks from, at this port.
fn listening(user: u128, message: u64, port: u16) -> HeadBuilder {
    let mut head = register(user, message);
    head.option(option_type::LISTEN_PORT, &[&port.to_be_bytes()]);
    head
}

#[test]
fn sessions_of_radius_are_terminals_by_who_had_them_last() {
    let mut scene = Scene::new();
    let (ann, bob) = (terminal(ANN, [10, 1, 0, 1], 5), terminal(BOB, [10, 1, 0, 2], 5));
    scene.report(1, "a", &ann);
    scene.report(3, "a", &ann);
    // A second bearer: the address is hers until both have stopped.
    scene.report(1, "a2", &terminal(ANN, [10, 1, 0, 1], 6));
    scene.report(2, "a", &ann);
    // Bob's Start was not captured. He goes, and the address is somebody's of another kind of network.
    scene.report(3, "b", &bob);
    scene.report(2, "b", &bob);
    scene.report(1, "b", &bob);
    scene.report(1, "x", &[(8, vec![10, 1, 0, 3])]);
    scene.report(1, "no address", &[vendor(1, BOB.as_bytes())]);
    scene.report(9, "", &[]);
    scene.send(at(GGSN, 1026), at("10.9.0.77", 1813), &[4, 1, 0]);
    let (rib, report) = scene.learn(LearnOptions::default());
    assert_eq!(
        rows(&rib),
        [
            (ANN.into(), 0, 0, "10.1.0.1:17400".into()),
            (BOB.into(), 0, 0, "10.1.0.2:17400".into()),
            (String::new(), 0, 0, "10.1.0.3:17400".into()),
        ]
    );
    let counts = &report.accounting;
    assert_eq!((counts.started, counts.continued, counts.stopped, counts.late), (5, 1, 2, 1));
    assert_eq!((counts.other, counts.malformed), (1, 1));
    // Ann's first bearer is gone, not her address; Bob's is.
    assert_eq!((report.users.accounting, report.users.ended, report.users.total), (3, 1, 3));
    assert_eq!(found(&report, "without a terminal's whole address"), 1);
    let names: Vec<&str> = rib.gateways.iter().map(|gateway| gateway.name.as_str()).collect();
    assert_eq!(names, ["gateway-10.9.0.2", "direct"]);
    assert_eq!(&*rib.names[0].0, "861234567890");
}

#[test]
fn radius_and_gtp_tell_of_the_same_terminal_and_an_off_ends_all() {
    let mut scene = Scene::new();
    scene.create(GGSN, ANN, "internet", "10.1.0.1", 0x100);
    scene.report(1, "a", &terminal(ANN, [10, 1, 0, 1], 5));
    scene.report(1, "b", &terminal(BOB, [10, 1, 0, 2], 5));
    scene.report(8, "", &[]);
    // The address is given anew, and nothing is said of the off before.
    scene.report(1, "b2", &terminal(ANN, [10, 1, 0, 2], 5));
    let (rib, report) = scene.learn(LearnOptions::default());
    let none = String::new();
    assert_eq!(
        rows(&rib),
        [
            (ANN.into(), 0, 0, "10.1.0.1:17400".into()),
            (ANN.into(), 1, 0, "10.1.0.2:17400".into()),
            (BOB.into(), 0, 0, none),
        ]
    );
    assert_eq!((report.users.gtp_control, report.users.accounting, report.users.ended), (1, 1, 1));
    assert_eq!(report.accounting.swept, 2);
    assert_eq!(found(&report, "went from one subscriber to another"), 1);
    assert_eq!(found(&report, "while another still had them"), 0);
}

/// Made by radclient; the last request has another secret on purpose.
#[test]
fn who_does_not_know_the_secret_is_left_out() {
    let capture: &[u8] = include_bytes!("../../../tests/captures/live-radclient-3gpp-accounting.pcap");
    let learn = |secret: Option<&str>| {
        let options = LearnOptions { radius_secret: secret.map(str::to_owned), ..LearnOptions::default() };
        let mut learner = Learner::new(options);
        learner.take("live", Reader::new(capture).unwrap());
        learner.finish().1.accounting
    };
    assert_eq!(
        (learn(None).forged, learn(Some("testing123")).forged, learn(Some("wrong")).started),
        (0, 1, 0)
    );
    assert_eq!((learn(Some("testing123")).started, learn(Some("testing123")).responses), (1, 5));
}

/// What was pushed for can be pushed for, by whom it was: a replay of the same capture is not refused.
#[test]
fn applications_are_those_of_pushes() {
    let mut scene = Scene::new();
    for app in [9, 1, 7, 9] {
        let header = Header { app, ..Header::new(Kind::Push, PushId(7), PushId::NONE, 1) };
        let push = HeadBuilder::new(&header).datagram(b"hello").unwrap();
        scene.send(at("10.7.0.3", 5000), at("203.0.113.250", 17_400), &push);
    }
    // A request names none.
    scene.ask(at("10.7.0.1", 5000), &mut listening(7, 2, 0), Kind::Registered);
    let (rib, report) = scene.learn(LearnOptions::default());
    let apps: Vec<(u32, &str, bool)> =
        rib.apps.iter().map(|app| (app.id, app.name.as_str(), app.users)).collect();
    assert_eq!(apps, [(1, "replay", false), (7, "pushed-7", true), (9, "pushed-9", true)]);
    assert_eq!((report.applications, report.prp), (3, 6));
}

#[test]
fn who_registers_has_that_push_id_device_and_mapping() {
    const SEEN: u128 = 0x31 << 120 | 1;
    let mut scene = Scene::new();
    scene.create(GGSN, ANN, "internet", "10.1.0.1", 0x100);
    scene.create(GGSN, ANN, "internet", "10.1.0.9", 0x300);
    let imsi: Imsi = ANN.parse().unwrap();
    // By its private address, whose gateway GTP-C told.
    let mut ann = register(SEEN, 1);
    ann.device(1).imsi(imsi).private_address(at("10.1.0.1", 2948)).nat_address(at("198.51.100.1", 40_001));
    scene.ask(at("198.51.100.1", 40_001), &mut ann, Kind::Registered);
    // By where it asks from, private and public; in a realm of which nothing else is known.
    scene.ask(at("10.7.0.1", 5000), &mut listening(7, 2, 0), Kind::Registered);
    scene.ask(at("198.51.100.2", 5000), &mut listening(8, 3, 6000), Kind::Registered);
    let mut realm = register(9, 4);
    realm.private_address(at("10.7.0.1", 1)).realm(5);
    scene.ask(at("10.7.0.9", 5000), &mut realm, Kind::Registered);
    // Refused, never answered, and by another server.
    scene.ask(at("10.7.0.2", 5000), &mut listening(10, 5, 0), Kind::Reject);
    let silent = listening(11, 6, 0).datagram(b"").unwrap();
    scene.send(at("10.7.0.3", 5000), at("203.0.113.250", 17_400), &silent);
    let mut roaming = register(12, 7);
    roaming.serving_server(at("203.0.113.9", 17_400));
    scene.ask(at("203.0.113.9", 17_400), &mut roaming, Kind::Registered);
    // An address that goes to another, and one that is released.
    scene.ask(at("10.7.0.4", 5000), &mut listening(13, 8, 0), Kind::Registered);
    scene.ask(at("10.7.0.4", 5001), &mut listening(14, 9, 0), Kind::Registered);
    let mut release = HeadBuilder::new(&Header::new(Kind::Release, PushId(14), PushId::NONE, 10));
    release.device(0);
    scene.ask(at("10.7.0.4", 5001), &mut release, Kind::Released);
    let (rib, report) = scene.learn(LearnOptions::default());
    let told = |user: &crate::table::rib::User| {
        let text = |endpoint: Option<Endpoint>| endpoint.map(|e| e.to_string()).unwrap_or_default();
        (user.push_id.0, user.device, user.realm, text(user.private), text(user.nat))
    };
    let none = String::new;
    assert_eq!(
        rib.users.iter().map(told).collect::<Vec<_>>(),
        [
            (7, 0, 0, "10.7.0.1:5000".into(), none()),
            (8, 0, 0, none(), "198.51.100.2:6000".into()),
            (9, 0, 1, "10.7.0.1:1".into(), none()),
            (13, 0, 0, none(), none()),
            (14, 0, 0, none(), none()),
            (SEEN, 0, 0, "10.1.0.9:17400".into(), none()),
            (SEEN, 1, 0, "10.1.0.1:2948".into(), "198.51.100.1:40001".into()),
        ]
    );
    assert_eq!(rib.names[0].1, PushId(SEEN));
    let prefixes: Vec<String> = rib.servers[0].prefixes.iter().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["0000", "0011"]);
    let counts = &report.registrations;
    assert_eq!((counts.registered, counts.released, counts.rejected), (6, 1, 1));
    assert_eq!((counts.unanswered, counts.roaming), (1, 1));
    assert_eq!((report.users.registered, report.users.without_address, report.users.gtp_control), (3, 2, 2));
    assert_eq!(found(&report, "from one registered user to another"), 1);
}
