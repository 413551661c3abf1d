//! The words of a datagram: whatever is taken for an IMSI or a Push ID is written back unchanged.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pushplane::id::{Imsi, PushId};

fuzz_target!(|data: &[u8]| {
    if let Some(octets) = data.first_chunk()
        && let Some(imsi) = Imsi::from_tbcd(*octets)
    {
        assert_eq!(imsi.to_string().parse(), Ok(imsi));
        assert_eq!(imsi.to_tbcd(), *octets);
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(id) = text.parse::<PushId>()
    {
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(PushId::from_bytes(id.to_bytes()), id);
    }
});
