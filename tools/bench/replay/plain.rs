//! The plain version of an offline replay: well-kept libraries in a loop, and a map.

use std::collections::HashMap;
use std::fs::File;
use std::hint::black_box;
use std::path::Path;

use etherparse::{SlicedPacket, TransportSlice};
use pcap_parser::traits::PcapReaderIterator;
use pcap_parser::{LegacyPcapReader, PcapBlockOwned, PcapError};
use pushplane::id::{Endpoint, PushId};
use pushplane::wire::prp;

use crate::Stop;

/// Where each user's terminal is.
pub(super) type Lookup = HashMap<PushId, Endpoint>;

/// What it counts.
#[derive(Default)]
pub(super) struct Found {
    pub(super) datagrams: u64,
    /// Of users that are in the map.
    pub(super) known: u64,
}

pub(super) fn replay(capture: &Path, lookup: &Lookup) -> Result<Found, Stop> {
    let failed = |error: &dyn std::fmt::Debug| Stop::Failed(format!("{}: {error:?}", capture.display()));
    let file = File::open(capture).map_err(|error| Stop::file(capture, error))?;
    let mut reader = LegacyPcapReader::new(1 << 20, file).map_err(|error| failed(&error))?;
    let mut found = Found::default();
    loop {
        match reader.next() {
            Ok((length, block)) => {
                if let PcapBlockOwned::Legacy(frame) = block {
                    found.take(frame.data, lookup);
                }
                reader.consume(length);
            }
            Err(PcapError::Incomplete(_)) => reader.refill().map_err(|error| failed(&error))?,
            Err(PcapError::Eof) => return Ok(found),
            Err(error) => return Err(failed(&error)),
        }
    }
}

impl Found {
    fn take(&mut self, frame: &[u8], lookup: &Lookup) {
        let Ok(packet) = SlicedPacket::from_ethernet(frame) else { return };
        let Some(TransportSlice::Udp(udp)) = packet.transport else { return };
        let Ok(message) = prp::parse(udp.payload()) else { return };
        self.datagrams += 1;
        if let Some(terminal) = lookup.get(&message.header.destination) {
            self.known += 1;
            black_box(terminal);
        }
    }
}
