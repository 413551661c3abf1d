use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// A PDU Notification Request whose elements scapy 2.8 and pycrate 0.8.1 built alike and tshark
/// 4.0.17 decodes without a warning.
#[test]
fn the_reference_pdu_notification() {
    let bytes = hex("321b0032 00000000 0201 00 00 02 64001032547698f0 11 00001000 80 0006 f1 21 ac10de01
        83 000d 0470757368076578616d706c65 85 0004 0a090002");
    let message = parse(&bytes).unwrap();
    assert_eq!(message.kind, kind::PDU_NOTIFICATION_REQUEST);
    assert_eq!((message.teid, message.sequence, message.npdu), (0, Some(0x201), None));
    assert_eq!((message.trailing, message.user_packet()), (0, None));
    let pdp = Pdp::read(message.ies());
    assert_eq!(pdp.imsi.unwrap().to_string(), "460001234567890");
    assert_eq!(pdp.teid_control, Some(0x1000));
    assert_eq!(pdp.apn.unwrap().to_string(), "push.example");
    assert_eq!(pdp.gsn_control, Some("10.9.0.2".parse::<IpAddr>().unwrap()));
    let addresses: Vec<IpAddr> = pdp.end_user.unwrap().addresses().collect();
    assert_eq!(addresses, ["172.16.222.1".parse::<IpAddr>().unwrap()]);
    assert_eq!((pdp.fault, pdp.bad_values), (None, 0));
}

/// Frames 3 and 4 of live-osmo-ggsn-sgsnemu-push.pcap, sent by sgsnemu 1.9.0 and osmo-ggsn 1.9.0.
#[test]
fn a_real_create_and_its_answer() {
    let request = include_bytes!("../../../tests/captures/live-osmo-ggsn-sgsnemu-push.pcap");
    // Frame 3 starts behind the file header and two frames; see tests/captures.rs for the reader.
    let at = request.windows(8).position(|window| window == [0x32, 16, 0, 105, 0, 0, 0, 0]).unwrap();
    let message = parse(&request[at..at + 113]).unwrap();
    assert_eq!((message.kind, message.teid), (kind::CREATE_PDP_REQUEST, 0));
    let pdp = Pdp::read(message.ies());
    assert_eq!(pdp.imsi.unwrap().to_string(), "460001234567890");
    assert_eq!(pdp.msisdn.unwrap().to_string(), "8613800138000");
    assert_eq!(pdp.apn.unwrap().to_string(), "internet");
    assert_eq!(pdp.nsapi, Some(5));
    assert_eq!(pdp.end_user, Some(EndUserAddress { organisation: 1, number: 0x21, v4: None, v6: None }));
    assert_eq!(pdp.gsn_control, Some("10.9.0.1".parse::<IpAddr>().unwrap()));
    assert_eq!(pdp.gsn_user, pdp.gsn_control);
    assert_eq!((pdp.fault, pdp.bad_values), (None, 0));
}

#[test]
fn a_pdu_session_container_is_walked() {
    // TS 38.415 downlink container, QFI 5, as gNBs and UPFs exchange it.
    let bytes = hex("34 ff 000c 00000001 0000 00 85 01 00 05 00 45 00 00 00");
    let message = parse(&bytes).unwrap();
    assert_eq!(message.extensions.collect::<Vec<_>>(), [(0x85, &[0x00, 0x05][..])]);
    assert_eq!(message.user_packet(), Some(&[0x45, 0, 0, 0][..]));
    assert_eq!(message.unknown_required_extension(&[]), Some(0x85));
    assert_eq!(message.unknown_required_extension(&[0x85]), None);
}

#[test]
fn broken_chains_and_lengths_are_named() {
    assert_eq!(parse(&[]), Err(Malformed::Short(8)));
    assert_eq!(parse(&hex("48 20 0004 00000000 00000000")), Err(Malformed::Version(2)));
    assert_eq!(parse(&hex("20 01 0000 00000000")), Err(Malformed::Prime));
    assert_eq!(parse(&hex("30 ff 0004 00000001 45")), Err(Malformed::LengthBeyond { said: 4, there: 1 }));
    assert_eq!(parse(&hex("32 ff 0003 00000001 000000")), Err(Malformed::Short(12)));
    assert_eq!(parse(&hex("34 ff 0008 00000001 00000085 00000000")), Err(Malformed::Extension));
    assert_eq!(parse(&hex("34 ff 0008 00000001 00000085 02000000")), Err(Malformed::Extension));
    assert_eq!(parse(&hex("34 ff 0004 00000001 00000085")), Err(Malformed::Extension));
    let longer = hex("30 ff 0001 00000001 45 aa bb");
    let message = parse(&longer).unwrap();
    assert_eq!((message.body, message.trailing), (&[0x45][..], 2));
}

#[test]
fn elements_end_at_what_cannot_be_read() {
    let fault = |text: &str| Pdp::read(Ies::new(&hex(text))).fault;
    assert_eq!(fault("01 80 07 00"), Some(IeFault::UnknownTv(7)));
    assert_eq!(fault("02 6400"), Some(IeFault::Cut(2)));
    assert_eq!(fault("80 00"), Some(IeFault::Cut(0x80)));
    assert_eq!(fault("80 0006 f121 01"), Some(IeFault::Cut(0x80)));
    // Type 141 has a length of one octet.
    assert_eq!(fault("01 80 8d 02 85 c0 ff 0003 7ed9 01"), None);
    // IPv4v6 with both, and a wrong length.
    let both = hex("80 0016 f18d 0a000001 20010db8000000000000000000000001");
    assert_eq!(Pdp::read(Ies::new(&both)).end_user.unwrap().addresses().count(), 2);
    let wrong = hex("80 0005 f121 0a0000");
    let pdp = Pdp::read(Ies::new(&wrong));
    assert_eq!((pdp.end_user, pdp.bad_values), (None, 1));
    // A label that passes the name's end.
    assert_eq!(Apn::parse(&hex("05 6162")), None);
}

#[test]
fn tv_lengths_are_those_of_table_37() {
    let known: Vec<(u8, usize)> = (0..128).filter_map(|kind| Some((kind, tv_length(kind)?))).collect();
    assert_eq!(known.len(), 28);
    assert!(known.contains(&(18, 5)) && known.contains(&(22, 9)) && known.contains(&(127, 4)));
}

proptest! {
    #[test]
    fn what_is_written_is_read(teid: u32, payload in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut bytes = vec![0; GPDU_HEADER_LEN];
        write_gpdu_header(bytes.as_mut_slice().first_chunk_mut().unwrap(), teid, payload.len() as u16);
        bytes.extend_from_slice(&payload);
        let message = parse(&bytes).unwrap();
        prop_assert_eq!(message.teid, teid);
        prop_assert_eq!(message.user_packet(), Some(&payload[..]));
        prop_assert_eq!(message.sequence, None);
        prop_assert_eq!(message.trailing, 0);
    }

    #[test]
    fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), flags in 0x30u8..0x38) {
        if let Some(first) = bytes.first_mut() {
            *first = flags;
        }
        if let Some(length) = bytes.get_mut(2..4) {
            length.copy_from_slice(&[0, length[1] & 127]);
        }
        if let Ok(message) = parse(&bytes) {
            let extensions: usize = message.extensions.map(|(_, content)| content.len() + 2).sum();
            prop_assert!(extensions + message.body.len() + message.trailing + 8 <= bytes.len());
            let pdp = Pdp::read(message.ies());
            let _ = format!("{pdp:?}");
        }
    }
}
