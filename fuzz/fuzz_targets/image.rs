//! Images: the bytes of a good one, changed as the input says (offset and value, five bytes a change),
//! with the checksum put right. Refused, or every lookup ends within the arrays.

#![no_main]

#[path = "../../tests/common/lab.rs"]
mod lab;

use std::sync::OnceLock;

use lab::*;
use libfuzzer_sys::fuzz_target;
use pushplane::config::Policy;
use pushplane::id::PushId;
use pushplane::table::{Image, Tables};

fn base() -> &'static [u8] {
    static BASE: OnceLock<Vec<u8>> = OnceLock::new();
    BASE.get_or_init(|| {
        let mut rib = rib();
        rib.names = vec![("anna".into(), own(1)), ("berta".into(), own(2))];
        rib.groups = vec![(own(900), own(1)), (own(900), own(2)), (own(901), own(3))];
        Image::build(&rib).unwrap().bytes().to_vec()
    })
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = base().to_vec();
    for change in data.chunks_exact(5) {
        let offset = u32::from_le_bytes([change[0], change[1], change[2], change[3]]) as usize;
        let at = 64 + offset % (bytes.len() - 64);
        bytes[at] = change[4];
    }
    bytes[32..48].fill(0);
    let digest = xxhash_rust::xxh3::xxh3_128(&bytes);
    bytes[32..48].copy_from_slice(&digest.to_le_bytes());
    let Ok(image) = Image::from_bytes(&bytes) else { return };
    let arrays = image.arrays();
    for n in 0..40 {
        for id in [own(n), abroad(n), PushId(n << 120), PushId(n * 0x0123_4567_89AB_CDEF)] {
            arrays.bindings().find(id);
            arrays.bindings().of(id).count();
            arrays.group(id);
        }
    }
    for name in ["anna", "berta", "", "zoe"] {
        arrays.name(name);
    }
    for line in arrays.lines() {
        if let Some(private) = line.private() {
            assert!(arrays.owners(line.realm(), private).count() > 0);
        }
    }
    let rib = image.to_rib();
    assert_eq!(rib.users.len(), image.terminals());
    // And a burst through the plane over it.
    let site = site(Policy::default(), 0, std::sync::Arc::new(pushplane::plane::Shared::new(&FEW, 1, 7)));
    let mut lab = Lab::at_site(site, Tables::new(image, 1, "home", None));
    let burst: Vec<_> = (0..32).map(|n| (push(n).bytes(), at(SENDER))).collect();
    lab.take(&burst);
});

const FEW: pushplane::config::Limits =
    pushplane::config::Limits { receipts: 16, replays: 16, reject_sources: 16, ..LIMITS };
