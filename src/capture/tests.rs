use std::net::IpAddr;

use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::push::{PushOptions, pushes};
use super::tunnel::{Form, Found, Options, Tunnels};
use super::*;
use crate::id::PushId;
use crate::wire::{gtp, prp};

fn endpoint(text: &str) -> Endpoint {
    text.parse().unwrap()
}

/// An IP packet with a UDP datagram, without link layer.
fn ip_packet(from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
    let (from, to) = (endpoint(from), endpoint(to));
    let builder = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
        _ => panic!("two families"),
    };
    let mut packet = Vec::new();
    builder.udp(from.port(), to.port()).write(&mut packet, payload).unwrap();
    packet
}

/// A pcap file with microseconds in the given byte order.
fn pcap(link: u32, big_endian: bool, frames: &[Vec<u8>]) -> Vec<u8> {
    let word = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let mut file = word(0xA1B2_C3D4).to_vec();
    file.extend(if big_endian { [0, 2, 0, 4] } else { [2, 0, 4, 0] });
    for value in [0, 0, 65_535, link] {
        file.extend(word(value));
    }
    for (index, frame) in frames.iter().enumerate() {
        for value in [1_000 + index as u32, 5, frame.len() as u32, frame.len() as u32] {
            file.extend(word(value));
        }
        file.extend(frame);
    }
    file
}

/// What a capture holds, as text.
fn read(file: &[u8]) -> (Vec<String>, Counts) {
    let mut reader = Reader::new(file).unwrap();
    let mut found = Vec::new();
    while let Some(datagram) = reader.next_datagram() {
        let Datagram { time_ns, from, to, payload, frame_number } = datagram;
        found.push(format!("{frame_number} {time_ns} {from} {to} {}", String::from_utf8_lossy(payload)));
    }
    (found, *reader.counts())
}

const FROM: &str = "192.0.2.1:1000";
const TO: &str = "10.0.0.1:2000";

#[test]
fn link_layers() {
    let packet = ip_packet(FROM, TO, b"hello");
    let behind = |header: &[u8]| [header, &packet].concat();
    let ethernet = |kinds: &[u8]| behind(&[&[0; 12], kinds].concat());
    let mut cooked = vec![0; 14];
    cooked.extend([8, 0]);
    let mut cooked_2 = vec![8, 0];
    cooked_2.extend([0; 18]);
    let frames = [
        (1, ethernet(&[8, 0])),
        (1, ethernet(&[0x81, 0, 0, 7, 8, 0])),
        (1, ethernet(&[0x88, 0xA8, 0, 7, 0x81, 0, 0, 9, 8, 0])),
        (1, ethernet(&[0x88, 0x64, 0x11, 0, 0, 1, 0, 9, 0, 0x21])),
        (1 | 0x1400_0000, [ethernet(&[8, 0]), vec![1, 2, 3, 4]].concat()),
        (113, behind(&cooked)),
        (276, behind(&cooked_2)),
        (0, behind(&[2, 0, 0, 0])),
        (108, behind(&[0, 0, 0, 2])),
        (12, packet.clone()),
        (101, packet.clone()),
        (228, packet.clone()),
    ];
    for (link, frame) in frames {
        for big_endian in [false, true] {
            let (found, counts) = read(&pcap(link, big_endian, std::slice::from_ref(&frame)));
            assert_eq!(found, [format!("1 1000000005000 {FROM} {TO} hello")], "link type {link}");
            assert_eq!((counts.frames, counts.datagrams), (1, 1));
        }
    }
    let v6 = ip_packet("[2001:db8::1]:1", "[fd00::2]:2", b"six");
    assert_eq!(read(&pcap(229, false, &[v6])).0, ["1 1000000005000 [2001:db8::1]:1 [fd00::2]:2 six"]);
}

#[test]
fn what_is_no_datagram_is_counted_by_its_cause() {
    let packet = ip_packet(FROM, TO, b"hello");
    let mut tcp = packet.clone();
    tcp[9] = 6;
    let mut long = packet.clone();
    long[3] += 1;
    let mut bad_udp = packet.clone();
    bad_udp[25] = 7;
    let frames = [tcp, long, bad_udp, vec![0x50; 40], vec![], packet[..10].to_vec(), packet.clone()];
    let (found, counts) = read(&pcap(101, false, &frames));
    assert_eq!(found.len(), 1);
    assert_eq!((counts.not_udp, counts.malformed, counts.not_ip), (1, 4, 1));
    assert_eq!(read(&pcap(147, false, std::slice::from_ref(&packet))).1.unknown_link, 1);
    // Cut by a snapshot length: the record says that the frame was longer.
    let mut file = pcap(101, false, &[packet[..30].to_vec(), packet[..10].to_vec()]);
    for original in [36, 36 + 46] {
        file[original] = 33;
    }
    let counts = read(&file).1;
    assert_eq!((counts.cut, counts.malformed), (2, 0));
}

/// Cuts an IPv4 packet into fragments of `size` payload bytes.
fn fragments(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
    let (header, payload) = packet.split_at(20);
    let count = payload.len().div_ceil(size);
    let piece = |(index, part): (usize, &[u8])| {
        let mut header = header.to_vec();
        header[2..4].copy_from_slice(&(20 + part.len() as u16).to_be_bytes());
        header[4..6].copy_from_slice(&[7, 7]);
        let more = if index + 1 < count { 0x2000 } else { 0 };
        header[6..8].copy_from_slice(&(more | (index * size / 8) as u16).to_be_bytes());
        [&header, part].concat()
    };
    payload.chunks(size).enumerate().map(piece).collect()
}

#[test]
fn fragments_in_any_order_once_or_twice() {
    let packet = ip_packet(FROM, TO, b"a datagram that comes in many pieces");
    let pieces = fragments(&packet, 16);
    assert_eq!(pieces.len(), 3);
    for order in [[0, 1, 2, 2], [2, 1, 0, 2], [1, 1, 0, 2], [0, 2, 2, 1]] {
        let frames: Vec<Vec<u8>> = order.iter().map(|index| pieces[*index].clone()).collect();
        let (found, counts) = read(&pcap(101, false, &frames));
        assert_eq!(found.len(), 1, "{order:?}");
        assert!(found[0].ends_with("a datagram that comes in many pieces"));
        assert_eq!((counts.reassembled, counts.fragments, counts.malformed), (1, 3, 0));
    }
    // One missing.
    let counts = read(&pcap(101, false, &pieces[1..])).1;
    assert_eq!((counts.datagrams, counts.fragments, counts.incomplete), (0, 2, 1));
    // One that contradicts another.
    let mut other = pieces[0].clone();
    other[30] ^= 1;
    let counts = read(&pcap(101, false, &[pieces[0].clone(), other, pieces[1].clone(), pieces[2].clone()])).1;
    assert_eq!((counts.datagrams, counts.malformed, counts.incomplete), (0, 1, 1));
}

#[test]
fn fragments_of_ipv6() {
    let packet = ip_packet("[2001:db8::1]:1", "[fd00::2]:2", b"sixteen and some more");
    let (header, payload) = packet.split_at(40);
    let piece = |offset: usize, part: &[u8], more: u8| {
        let mut frame = header.to_vec();
        frame[4..6].copy_from_slice(&(8 + part.len() as u16).to_be_bytes());
        frame[6] = 44;
        frame.extend([17, 0, (offset >> 8) as u8, offset as u8 | more, 0, 0, 0, 9]);
        frame.extend(part);
        frame
    };
    let frames = [piece(16, &payload[16..], 0), piece(0, &payload[..16], 1)];
    let (found, counts) = read(&pcap(229, false, &frames));
    assert_eq!(found, ["2 1001000005000 [2001:db8::1]:1 [fd00::2]:2 sixteen and some more"]);
    assert_eq!((counts.reassembled, counts.fragments), (1, 1));
}

#[test]
fn unfinished_datagrams_are_bounded() {
    let packet = ip_packet(FROM, TO, &[0; 64]);
    let first = &fragments(&packet, 32)[0];
    let frames: Vec<Vec<u8>> = (0..10_000u32)
        .map(|id| {
            let mut frame = first.clone();
            frame[4..6].copy_from_slice(&(id as u16).to_be_bytes());
            frame[15] = (id >> 16) as u8;
            frame
        })
        .collect();
    let counts = read(&pcap(101, false, &frames)).1;
    assert_eq!((counts.fragments, counts.incomplete), (10_000, 10_000));
}

/// A pcapng block.
fn block(kind: u32, big_endian: bool, body: &[u8]) -> Vec<u8> {
    let word = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let len = word(body.len() as u32 + 12);
    [&word(kind)[..], &len, body, &len].concat()
}

#[test]
fn pcapng_in_both_orders_with_other_clocks_and_old_blocks() {
    let packet = ip_packet(FROM, TO, b"hello");
    let mut padded = packet.clone();
    padded.resize(packet.len().next_multiple_of(4), 0);
    for big in [false, true] {
        let word = |value: u32| if big { value.to_be_bytes() } else { value.to_le_bytes() };
        let half = |value: u16| if big { value.to_be_bytes() } else { value.to_le_bytes() };
        let header = |len: usize| [word(len as u32), word(len as u32)].concat();
        let section =
            [word(0x1A2B_3C4D).to_vec(), half(1).to_vec(), half(0).to_vec(), vec![0xFF; 8]].concat();
        // Raw IP, no snapshot length, then if_tsresol: 2^-10 s, and if_tsoffset: 100 s.
        let offset: [u8; 8] = if big { 100u64.to_be_bytes() } else { 100u64.to_le_bytes() };
        let interface = [&half(101)[..], &half(0), &word(0), &half(9), &half(1), &[0x8A, 0, 0, 0]].concat();
        let shifted = [&interface[..], &half(14), &half(8), &offset, &word(0)].concat();
        let enhanced = |interface: u32| {
            [&word(interface)[..], &word(0), &word(2048 + 512), &header(packet.len()), &padded].concat()
        };
        let old = [&half(0)[..], &half(0), &word(0), &word(1024), &header(packet.len()), &padded].concat();
        let simple = [&word(packet.len() as u32)[..], &padded].concat();
        let file = [
            block(0x0A0D_0D0A, big, &section),
            block(1, big, &interface),
            block(6, big, &enhanced(0)),
            block(0x77, big, &[1, 2, 3, 4]),
            block(2, big, &old),
            block(3, big, &simple),
            block(6, big, &enhanced(1)),
            block(1, big, &shifted),
            block(6, big, &enhanced(1)),
            // A packet that is longer than its block: stepped over.
            block(6, big, &[&word(0)[..], &word(0), &word(0), &header(1000)].concat()),
            block(6, big, &enhanced(0)),
        ]
        .concat();
        let (found, counts) = read(&file);
        let times: Vec<u64> =
            found.iter().map(|line| line.split(' ').nth(1).unwrap().parse().unwrap()).collect();
        let half_past = 2_500_000_000;
        assert_eq!(times, [half_past, 1_000_000_000, 1_000_000_000, 102_500_000_000, half_past]);
        assert_eq!((counts.frames, counts.unknown_link, counts.without_time), (6, 1, 2));
        assert_eq!(counts.backwards, 2);
        let mut reader = Reader::new(&file[..]).unwrap();
        while reader.next_datagram().is_some() {}
        let (damage, damages) = reader.damage();
        assert_eq!((damages, damage[0].after_frame), (1, 5));
        assert!(damage[0].what.contains("type 0x6"), "{}", damage[0]);
    }
}

#[test]
fn absurd_lengths_and_other_files_are_named() {
    let packet = ip_packet(FROM, TO, b"hello");
    let mut file = pcap(101, false, &[packet.clone(), packet.clone(), packet.clone(), packet]);
    let second = 24 + 16 + 33;
    file[second + 8..second + 12].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut reader = Reader::new(&file[..]).unwrap();
    assert_eq!(std::iter::from_fn(|| reader.next_datagram().map(|found| found.time_ns)).count(), 3);
    let (damage, _) = reader.damage();
    assert_eq!(
        damage[0].to_string(),
        format!(
            "byte {second}, after frame 1: a frame of 4294967295 bytes, expected at most 262144; 49 bytes are left \
             out"
        )
    );
    file.truncate(second + 16);
    let mut reader = Reader::new(&file[..]).unwrap();
    assert!(reader.next_datagram().is_some() && reader.next_datagram().is_none());
    assert!(reader.damage().0[0].what.ends_with("the rest of the file is left out"));
    let error = |bytes: &[u8]| Reader::new(bytes).map(|_| ()).unwrap_err().to_string();
    assert_eq!(error(&[]), "expected a pcap or pcapng file, found an empty file");
    assert!(error(b"BZh91AY&SY").contains("unpack it first"));
    assert!(error(&[0x1F, 0x8B, 8, 0]).contains("cannot be read"));
    assert!(error(b"push_id,device,realm,private\n").contains("starts with [70, 75, 73, 68]"));
    assert!(error(&0xA1B2_C3D4u32.to_le_bytes()).contains("4 bytes"));
}

#[test]
fn times_that_run_backwards_are_named() {
    let packet = ip_packet(FROM, TO, b"hello");
    let mut file = pcap(101, false, &vec![packet; 5]);
    // The seconds of the third and the fourth frame.
    for (frame, seconds) in [(2, 400), (3, 1_003u32)] {
        let at = 24 + frame * (16 + 33);
        file[at..at + 4].copy_from_slice(&seconds.to_le_bytes());
    }
    let mut reader = Reader::new(&file[..]).unwrap();
    let mut found = 0;
    while reader.next_datagram().is_some() {
        found += 1;
    }
    assert_eq!((found, reader.counts().backwards, reader.damage().1), (5, 1, 0));
    assert_eq!(reader.backwards(), Some(Backwards { first_frame: 3, longest_ns: 601_000_000_000 }));
}

/// As `cat` and `zcat` put them together. Of frames of 154 bytes, with 16 in front, a header read a byte too early
/// seems to be one of a frame that is 256 times as long, at whose end another such one stands.
#[test]
fn files_one_after_the_other_are_one() {
    let packet = ip_packet(FROM, TO, &[7; 126]);
    assert_eq!(packet.len(), 154);
    let part = |big, frames| pcap(101, big, &vec![packet.clone(); frames]);
    let file = [part(false, 700), part(true, 3), part(true, 0), part(false, 700)].concat();
    let mut reader = Reader::new(&file[..]).unwrap();
    let mut found = 0;
    while reader.next_datagram().is_some() {
        found += 1;
    }
    assert_eq!((found, reader.damage().1), (1403, 0), "{:?}", reader.damage().0.first());
}

/// A file of frames that differ in length, and where each of them starts in it.
fn numbered(pcapng: bool, lengths: &[u8]) -> (Vec<u8>, Vec<usize>) {
    let frame = |(number, length): (usize, &u8)| {
        let text = format!("{number:08}{}", "\u{AB}".repeat((*length).into()));
        ip_packet(FROM, TO, text.as_bytes())
    };
    let frames: Vec<Vec<u8>> = lengths.iter().enumerate().map(frame).collect();
    let mut starts = Vec::new();
    if !pcapng {
        let mut at = 24;
        for frame in &frames {
            starts.push(at);
            at += 16 + frame.len();
        }
        let mut file = pcap(101, false, &frames);
        for start in &starts {
            file[*start..start + 4].copy_from_slice(&1_700_000_000u32.to_le_bytes());
        }
        return (file, starts);
    }
    let section = [&0x1A2B_3C4Du32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xFF; 8]].concat();
    let mut file =
        [block(0x0A0D_0D0A, false, &section), block(1, false, &[101, 0, 0, 0, 0, 0, 0, 0])].concat();
    for frame in frames {
        starts.push(file.len());
        let len = (frame.len() as u32).to_le_bytes();
        let mut body = [&[0; 12][..], &len, &len, &frame].concat();
        body.resize(body.len().next_multiple_of(4), 0);
        file.extend(block(6, false, &body));
    }
    (file, starts)
}

/// The numbers of the datagrams that a file of [`numbered`] ones still holds.
fn numbers(file: &[u8]) -> (Vec<usize>, u64) {
    let mut reader = Reader::new(file).unwrap();
    let mut found = Vec::new();
    while let Some(datagram) = reader.next_datagram() {
        // What was written over has no number.
        let text = datagram.payload.get(..8).and_then(|text| std::str::from_utf8(text).ok());
        found.extend(text.and_then(|text| text.parse::<usize>().ok()));
    }
    (found, reader.damage().1)
}

/// A reader that gives one byte at a time, and fails at the end.
struct Slow<'a>(&'a [u8]);

impl std::io::Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let Some((first, rest)) = self.0.split_first() else {
            return Err(std::io::Error::other("the line is down"));
        };
        (buffer[0], self.0) = (*first, rest);
        Ok(1)
    }
}

#[test]
fn a_slow_and_failing_input_is_read_as_far_as_it_goes() {
    let file = pcap(101, false, &[ip_packet(FROM, TO, b"hello")]);
    let mut reader = Reader::new(Slow(&file)).unwrap();
    assert!(reader.next_datagram().is_some() && reader.next_datagram().is_none());
    assert!(reader.damage().0[0].what.contains("the line is down"));
}

/// A G-PDU around a packet.
fn gpdu(teid: u32, packet: &[u8]) -> Vec<u8> {
    let mut header = [0; 8];
    gtp::write_gpdu_header(&mut header, teid, packet.len() as u16);
    [&header, packet].concat()
}

fn vxlan(vni: u32, packet: &[u8]) -> Vec<u8> {
    let [_, v2, v1, v0] = vni.to_be_bytes();
    let mut frame = vec![8, 0, 0, 0, v2, v1, v0, 0];
    frame.extend([0; 12]);
    frame.extend([8, 0]);
    frame.extend(packet);
    frame
}

#[test]
fn tunnels_in_tunnels() {
    let inner = ip_packet(FROM, TO, b"hello");
    let middle = ip_packet("10.9.0.2:2152", "10.9.0.1:2152", &gpdu(77, &inner));
    let datagram = |to: &str, payload: &'static [u8]| Datagram {
        time_ns: 5,
        from: endpoint("198.51.100.1:40000"),
        to: endpoint(to),
        payload,
        frame_number: 1,
    };
    let mut tunnels = Tunnels::default();
    let Found::Inner(found) = tunnels.open(&datagram("198.51.100.2:4789", vxlan(100, &middle).leak())) else {
        panic!("no tunnel")
    };
    assert_eq!((found.layer.form, found.outer.unwrap().form), (Form::Gtpu(77), Form::Vxlan(100)));
    let innermost = found.datagram.unwrap();
    assert_eq!((innermost.to, innermost.payload), (endpoint(TO), &b"hello"[..]));
    // Inner fragments, a foreign port, and what only looks like a tunnel.
    let pieces = fragments(&ip_packet(FROM, TO, &[7; 64]), 40);
    let mut whole = 0;
    for piece in &pieces {
        let payload = gpdu(9, piece).leak();
        if let Found::Inner(found) = tunnels.open(&datagram("198.51.100.2:2152", payload)) {
            whole += found.datagram.map_or(0, |datagram| datagram.payload.len());
        }
    }
    assert_eq!((whole, tunnels.counts().fragments), (64, 1));
    let elsewhere = datagram("198.51.100.2:9999", gpdu(9, &inner).leak());
    assert_eq!(tunnels.open(&elsewhere), Found::Plain);
    let mut any = Tunnels::new(Options { gtpu_any_port: true, ..Options::default() });
    assert!(matches!(any.open(&elsewhere), Found::Inner(_)));
    let mut broken = gpdu(9, &inner);
    broken[18] ^= 1;
    assert_eq!(any.open(&datagram("198.51.100.2:9999", broken.leak())), Found::Plain);
    assert!(matches!(
        any.open(&datagram("198.51.100.2:2152", &[0x32, 1, 0, 4, 0, 0, 0, 0, 0, 1, 0, 0])),
        Found::Signalling(_)
    ));
    assert!(matches!(any.open(&datagram("198.51.100.2:2152", gpdu(1, &[0; 9]).leak())), Found::NoPacket(_)));
    assert_eq!(any.open(&datagram("198.51.100.2:4789", &[0; 8])), Found::Plain);
}

#[test]
fn pushes_take_prp_as_it_is() {
    let mut prp = vec![0; 60];
    prp[0] = 0x12;
    let mut writer = CaptureWriter::new(Vec::new()).unwrap();
    let (server, client) = (endpoint("192.0.2.1:17400"), endpoint("10.0.0.1:2000"));
    writer.write(1, server, client, &prp).unwrap();
    writer.write(2, server, client, b"short").unwrap();
    writer.write(3, client, server, b"up").unwrap();
    writer.write(4, server, endpoint("192.0.2.9:1"), b"elsewhere").unwrap();
    let file = writer.finish().unwrap();
    let user = PushId(5);
    let owner = |ip: IpAddr, _: Option<&tunnel::Layer>| (ip == client.ip()).then_some(user);
    let mut pushes = pushes(Reader::new(&file[..]).unwrap(), PushOptions::default(), owner);
    let first = pushes.next_push().unwrap();
    assert_eq!((first.bytes, first.as_it_is, first.time_ns), (&prp[..], true, 1));
    let second = pushes.next_push().unwrap();
    assert_eq!((&second.bytes[48..], second.as_it_is, second.frame_number), (&b"short"[..], false, 2));
    assert!(pushes.next_push().is_none());
    let counts = pushes.counts();
    assert_eq!((counts.prp, counts.pushes, counts.uplink, counts.unowned), (1, 1, 1, 1));
}

#[test]
fn pushes_say_what_they_bring_where_that_is_known() {
    let mut writer = CaptureWriter::new(Vec::new()).unwrap();
    let (server, sip, wap) =
        (endpoint("192.0.2.1:5060"), endpoint("10.0.0.1:5060"), endpoint("10.0.0.1:2948"));
    let message = b"MESSAGE sip:ann@example.org SIP/2.0\r\nContent-Length: 5\r\n\r\nhello";
    let indication = [9, 6, 2, 0xAE, 0xAF, 2, 5, 0x6A, 0];
    writer.write(1, server, sip, message).unwrap();
    writer.write(2, server, wap, &indication).unwrap();
    writer.write(3, server, wap, b"neither").unwrap();
    let file = writer.finish().unwrap();
    let options = PushOptions { receipts: true, ..PushOptions::default() };
    let owner = |ip: IpAddr, _: Option<&tunnel::Layer>| (ip == wap.ip()).then_some(PushId(5));
    let mut pushes = pushes(Reader::new(&file[..]).unwrap(), options, owner);
    for (media_type, payload) in [
        (Some("message/sip"), &message[..]),
        (Some("application/vnd.wap.sic"), &indication),
        (None, b"neither"),
    ] {
        let push = pushes.next_push().unwrap();
        let parsed = prp::parse(push.bytes).unwrap();
        assert_eq!(parsed.options.content_type(push.bytes), media_type);
        assert_eq!(parsed.payload(push.bytes), payload);
        assert!(parsed.has(prp::flag::RECEIPT));
    }
    assert!(pushes.next_push().is_none());
    let counts = pushes.counts();
    assert_eq!((counts.pushes, counts.sip_messages, counts.wap_pushes), (3, 1, 1));
}

#[test]
fn what_cannot_be_written_is_refused() {
    let mut writer = CaptureWriter::new(Vec::new()).unwrap();
    let (v4, v6) = (endpoint("192.0.2.1:1"), endpoint("[2001:db8::1]:1"));
    assert!(writer.write(0, v4, v6, b"").unwrap_err().to_string().contains("families"));
    assert!(writer.write(0, v4, v4, &[0; 65_536]).unwrap_err().to_string().contains("longer"));
    assert_eq!(writer.finish().unwrap().len(), 24);
}

#[test]
fn comments_are_written_beside_datagrams() {
    let mut writer = CommentedWriter::new(Vec::new(), &["out", "dropped"]).unwrap();
    let (from, to) = (endpoint("192.0.2.1:1"), endpoint("10.0.0.1:2"));
    let six = endpoint("[2001:db8::1]:3");
    writer.write(0, 5_000_000_000_000_000_001, from, to, b"hello", "sent").unwrap();
    writer.write(1, 7, six, six, b"six", "no-route: überall").unwrap();
    assert!(writer.write(1, 7, six, to, b"", "").is_err());
    writer.write(1, 8, to, from, b"", &"é".repeat(40_000)).unwrap();
    let file = writer.finish().unwrap();
    let (found, counts) = read(&file);
    assert_eq!(
        found,
        [
            "1 5000000000000000001 192.0.2.1:1 10.0.0.1:2 hello",
            "2 7 [2001:db8::1]:3 [2001:db8::1]:3 six",
            "3 8 10.0.0.1:2 192.0.2.1:1 ",
        ]
    );
    assert_eq!((counts.frames, counts.datagrams), (3, 3));
    let text = String::from_utf8_lossy(&file);
    assert!(text.contains("no-route: überall") && text.contains("dropped"));
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        datagrams in prop::collection::vec((any::<bool>(), any::<u32>(), any::<u64>(), any::<u16>(),
            prop::collection::vec(any::<u8>(), 0..1500)), 0..20)
    ) {
        let mut writer = CaptureWriter::new(Vec::new()).unwrap();
        let mut expected = Vec::new();
        for (v4, address, time_ns, port, payload) in &datagrams {
            let ip = |low: u32| if *v4 {
                IpAddr::V4(low.into())
            } else {
                IpAddr::V6((0x2001_0DB8u128 << 96 | u128::from(low)).into())
            };
            let (from, to) = (Endpoint::new(ip(*address), *port), Endpoint::new(ip(!address), port ^ 1));
            let time_ns = time_ns % (u64::from(u32::MAX) * 1_000_000_000);
            writer.write(time_ns, from, to, payload).unwrap();
            expected.push((time_ns, from, to, payload.clone()));
        }
        let file = writer.finish().unwrap();
        let mut reader = Reader::new(&file[..]).unwrap();
        let mut found = Vec::new();
        while let Some(datagram) = reader.next_datagram() {
            found.push((datagram.time_ns, datagram.from, datagram.to, datagram.payload.to_vec()));
        }
        prop_assert_eq!(found, expected);
        prop_assert_eq!(reader.counts().datagrams, reader.counts().frames);
    }

    /// Whatever is missing or written over, everything before it and everything behind it is read.
    #[test]
    fn damage_costs_only_what_is_damaged(
        pcapng: bool,
        over: bool,
        lengths in prop::collection::vec(any::<u8>(), 12..30),
        from in any::<prop::sample::Index>(),
        len in 1usize..700,
    ) {
        let (whole, starts) = numbered(pcapng, &lengths);
        prop_assert_eq!(numbers(&whole), ((0..lengths.len()).collect(), 0));
        let from = starts[0] + from.index(whole.len() - starts[0]);
        let to = (from + len).min(whole.len());
        let mut damaged = whole.clone();
        if over {
            damaged[from..to].fill(0xAB);
        } else {
            damaged.drain(from..to);
        }
        let end = |number: usize| starts.get(number + 1).copied().unwrap_or(whole.len());
        // A frame whose missing bytes are made up for exactly by those of whole others cannot be told from one.
        let cut = starts.partition_point(|start| *start <= from) - 1;
        let joined = end(cut) + to - from;
        prop_assume!(over || !(starts.contains(&joined) || joined == whole.len()));
        let (found, _) = numbers(&damaged);
        let mut rest = found.iter();
        for number in 0..lengths.len() {
            // The end of the one before may look like the bytes that are missing.
            let touched = end(number) >= from && starts[number] < to;
            prop_assert!(
                touched || rest.any(|found| *found == number),
                "{} of {:?}, {}..{}: {:?}", number, starts, from, to, found
            );
        }
    }
}
