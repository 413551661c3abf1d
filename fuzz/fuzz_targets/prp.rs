//! PRP/1: whatever is taken for a message is written again from its parts and means the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pushplane::wire::prp::auth::{Auth, MacKey};
use pushplane::wire::prp::{HEADER_BYTES, HeadBuilder, Header, option_type as ty, parse};

fuzz_target!(|data: &[u8]| {
    let header = Header::read(data);
    assert_eq!(header.is_some(), data.len() >= HEADER_BYTES);
    if let Some(header) = header {
        assert_eq!(header.to_bytes(), data[..HEADER_BYTES]);
    }
    let Ok(message) = parse(data) else { return };
    assert_eq!(Some(message.header), header);
    let (start, end) = (message.payload_start, message.payload_end);
    assert!(HEADER_BYTES <= start && start <= end && end <= data.len());
    assert_eq!(message.payload(data), &data[start..end]);

    // Each accessor gives something exactly where the option is.
    let options = &message.options;
    let found = [
        (ty::DEADLINE, options.deadline(data).is_some()),
        (ty::DEVICE, options.device(data).is_some()),
        (ty::PRIVATE_ADDRESS, options.private_address(data).is_some()),
        (ty::NAT_ADDRESS, options.nat_address(data).is_some()),
        (ty::REALM, options.realm(data).is_some()),
        (ty::IMSI, options.imsi(data).is_some()),
        (ty::VALIDITY, options.validity(data).is_some()),
        (ty::DYNAMIC_ID, options.dynamic_id(data).is_some()),
        (ty::REASON, options.reason(data).is_some()),
        (ty::NAME, options.name(data).is_some()),
        (ty::GROUP_ID, options.group_id(data).is_some()),
        (ty::SERVING_SERVER, options.serving_server(data).is_some()),
        (ty::BEARERS, options.bearers(data).is_some()),
        (ty::SOURCE_ADDRESS, options.source_address(data).is_some()),
        (ty::PEER_ADDRESS, options.peer_address(data).is_some()),
        (ty::LISTEN_PORT, options.listen_port(data).is_some()),
        (ty::CONTENT_TYPE, options.content_type(data).is_some()),
        (ty::GROUP_REQUEST, options.group_request(data).is_some()),
        (ty::PAYLOAD_LENGTH, options.payload_length(data).is_some()),
        (ty::AUTH, Auth::of(options, data).is_some()),
    ];
    for (option, there) in found {
        assert_eq!(there, options.has(option), "option {option}");
        assert_eq!(there, options.value(data, option).is_some(), "option {option}");
    }

    let mut copy = HeadBuilder::new(&message.header)
        .keep(&message, data, |_| true)
        .datagram(&data[start..])
        .expect("a head that was one");
    let again = parse(&copy).expect("what was a message is one");
    assert_eq!(again, message);
    for option in 0..=255 {
        assert_eq!(again.options.value(&copy, option), options.value(data, option));
    }
    if let Some(auth) = Auth::of(&again.options, &copy) {
        let key = MacKey::new([3; 16]);
        assert!(key.sign(&mut copy, start));
        assert!(key.verify(&copy, &auth));
    }
});
