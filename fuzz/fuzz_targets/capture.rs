//! Captures: any file is read to its end, every frame is counted once, what is in tunnels is found
//! without a panic, and what is learned from it makes an image.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pushplane::capture::Reader;
use pushplane::capture::learn::{LearnOptions, Learner};
use pushplane::capture::tunnel::{Found, Options, Tunnels};
use pushplane::table::Image;

fuzz_target!(|data: &[u8]| {
    let Ok(mut reader) = Reader::new(data) else { return };
    let mut tunnels = Tunnels::new(Options::default());
    let mut opened = 0;
    while let Some(datagram) = reader.next_datagram() {
        opened += 1;
        if let Found::Inner(inner) = tunnels.open(&datagram)
            && let Some(inner) = inner.datagram
        {
            assert!(inner.payload.len() <= 65_535);
        }
    }
    let counts = reader.counts();
    let once = counts.datagrams
        + counts.fragments
        + counts.not_ip
        + counts.not_udp
        + counts.cut
        + counts.malformed
        + counts.unknown_link;
    assert_eq!(once, counts.frames);
    assert_eq!(opened, counts.datagrams);
    tunnels.finish();
    let in_tunnels = tunnels.counts();
    let once = in_tunnels.plain
        + in_tunnels.signalling
        + in_tunnels.no_packet
        + in_tunnels.datagrams
        + in_tunnels.fragments
        + in_tunnels.not_udp
        + in_tunnels.malformed;
    assert!(once >= opened);

    let mut learner = Learner::new(LearnOptions::default());
    learner.take("input", Reader::new(data).expect("read once already"));
    let (rib, _) = learner.finish();
    Image::build(&rib).expect("what is learned is consistent");
});
