//! GTPv1: every part of a message lies within it, and a G-PDU is what its header says.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pushplane::wire::gtp::{self, Pdp};

fuzz_target!(|data: &[u8]| {
    let Ok(message) = gtp::parse(data) else { return };
    let said = usize::from(u16::from_be_bytes([data[2], data[3]]));
    assert_eq!(8 + said + message.trailing, data.len());
    assert!(message.body.len() <= said);
    assert_eq!(message.user_packet().is_some(), message.kind == gtp::kind::G_PDU);
    for (_, content) in message.extensions {
        assert!(content.len() < said);
    }
    let _ = message.unknown_required_extension(&[0x85, 0xC0]);
    let bytes: usize = message.ies().filter_map(Result::ok).map(|element| 1 + element.value.len()).sum();
    assert!(bytes <= message.body.len());
    let pdp = Pdp::read(message.ies());
    let _ = (pdp.accepted(), format!("{pdp:?}"));
    if let Some(end_user) = pdp.end_user {
        assert!(end_user.addresses().count() <= 2);
    }
    if let Some(msisdn) = pdp.msisdn {
        assert!(msisdn.digits().all(|digit| digit <= 15));
    }
    if let Some(packet) = message.user_packet() {
        let mut again = [0; gtp::GPDU_HEADER_LEN];
        gtp::write_gpdu_header(&mut again, message.teid, packet.len() as u16);
        let again = [&again[..], packet].concat();
        let read = gtp::parse(&again).expect("what was written");
        assert_eq!((read.teid, read.user_packet()), (message.teid, Some(packet)));
    }
});
