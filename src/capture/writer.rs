//! From datagrams to a capture.

use std::io::{self, Write};
use std::net::IpAddr;

use etherparse::PacketBuilder;

use crate::id::Endpoint;

/// Writes datagrams as Ethernet frames into a pcap file with nanosecond times. Headers and
/// checksums are right; the Ethernet addresses are made from the last four bytes of the IP ones.
pub struct CaptureWriter<W> {
    output: W,
    frame: Vec<u8>,
}

impl<W: Write> CaptureWriter<W> {
    /// Writes the file's header.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn new(mut output: W) -> io::Result<Self> {
        // Magic for nanoseconds, version 2.4, zone, accuracy, snapshot length, Ethernet.
        let words: [u32; 6] = [0xA1B2_3C4D, 2 | 4 << 16, 0, 0, 262_144, super::link::ETHERNET.into()];
        for word in words {
            output.write_all(&word.to_le_bytes())?;
        }
        Ok(Self { output, frame: Vec::new() })
    }

    /// Writes one datagram, captured at `time_ns` nanoseconds since 1970 (until 2106, as pcap has
    /// it).
    ///
    /// # Errors
    /// When the output cannot be written; `InvalidInput` when the two addresses are of different
    /// families or the payload is longer than UDP allows.
    pub fn write(&mut self, time_ns: u64, from: Endpoint, to: Endpoint, payload: &[u8]) -> io::Result<()> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what);
        let ethernet = PacketBuilder::ethernet2(mac(from), mac(to));
        let ip = match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
            _ => return Err(invalid("source and destination are of different address families")),
        };
        self.frame.clear();
        ip.udp(from.port(), to.port())
            .write(&mut self.frame, payload)
            .map_err(|_| invalid("the payload is longer than a UDP datagram"))?;
        self.write_frame(time_ns)
    }

    /// Writes everything that is buffered and gives the output back.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.output.flush()?;
        Ok(self.output)
    }

    fn write_frame(&mut self, time_ns: u64) -> io::Result<()> {
        let seconds = u32::try_from(time_ns / 1_000_000_000).unwrap_or(u32::MAX);
        let fraction = (time_ns % 1_000_000_000) as u32;
        let len = self.frame.len() as u32;
        for word in [seconds, fraction, len, len] {
            self.output.write_all(&word.to_le_bytes())?;
        }
        self.output.write_all(&self.frame)
    }
}

/// A locally administered Ethernet address for a host.
fn mac(host: Endpoint) -> [u8; 6] {
    let [.., a, b, c, d] = host.octets();
    [2, 0, a, b, c, d]
}
