//! From datagrams to a capture.

use std::io::{self, Write};
use std::net::IpAddr;

use etherparse::PacketBuilder;

use super::link::ETHERNET;
use crate::id::Endpoint;

/// The longest frame that is written: a UDP datagram in IPv6 in Ethernet.
const SNAPLEN: u32 = 262_144;

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
        for word in [0xA1B2_3C4D, 2 | 4 << 16, 0, 0, SNAPLEN, ETHERNET.into()] {
            output.write_all(&u32::to_le_bytes(word))?;
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
        frame(&mut self.frame, from, to, payload)?;
        let seconds = u32::try_from(time_ns / 1_000_000_000).unwrap_or(u32::MAX);
        let fraction = (time_ns % 1_000_000_000) as u32;
        let len = self.frame.len() as u32;
        for word in [seconds, fraction, len, len] {
            self.output.write_all(&word.to_le_bytes())?;
        }
        self.output.write_all(&self.frame)
    }

    /// Writes everything that is buffered and gives the output back.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.output.flush()?;
        Ok(self.output)
    }
}

/// Writes datagrams as [`CaptureWriter`] does into a pcapng file, each with a comment and as one of
/// several interfaces.
pub struct CommentedWriter<W> {
    output: W,
    frame: Vec<u8>,
    block: Vec<u8>,
}

/// Types of blocks and codes of options (draft-ietf-opsawg-pcapng).
mod ng {
    pub(super) const SECTION: u32 = 0x0A0D_0D0A;
    pub(super) const INTERFACE: u32 = 1;
    pub(super) const PACKET: u32 = 6;
    pub(super) const COMMENT: u16 = 1;
    pub(super) const NAME: u16 = 2;
    pub(super) const RESOLUTION: u16 = 9;
}

impl<W: Write> CommentedWriter<W> {
    /// Writes the file's header and the names of its interfaces.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn new(output: W, interfaces: &[&str]) -> io::Result<Self> {
        let mut writer = Self { output, frame: Vec::new(), block: Vec::new() };
        // Byte order, version 1.0, a section of unknown length.
        for word in [0x1A2B_3C4D, 1, u32::MAX, u32::MAX] {
            writer.word(word);
        }
        writer.end_block(ng::SECTION)?;
        for name in interfaces {
            writer.word(ETHERNET.into());
            writer.word(SNAPLEN);
            writer.option(ng::NAME, name.as_bytes());
            // 10^-9 s.
            writer.option(ng::RESOLUTION, &[9]);
            writer.option(0, &[]);
            writer.end_block(ng::INTERFACE)?;
        }
        Ok(writer)
    }

    /// Writes one datagram, captured at `time_ns` nanoseconds since 1970 by the interface of this place.
    ///
    /// # Errors
    /// As [`CaptureWriter::write`].
    pub fn write(
        &mut self,
        interface: u32,
        time_ns: u64,
        from: Endpoint,
        to: Endpoint,
        payload: &[u8],
        comment: &str,
    ) -> io::Result<()> {
        frame(&mut self.frame, from, to, payload)?;
        let len = self.frame.len() as u32;
        for word in [interface, (time_ns >> 32) as u32, time_ns as u32, len, len] {
            self.word(word);
        }
        self.block.extend_from_slice(&self.frame);
        self.pad();
        // As long as an option can say.
        let end = comment.floor_char_boundary(u16::MAX.into());
        self.option(ng::COMMENT, &comment.as_bytes()[..end]);
        self.option(0, &[]);
        self.end_block(ng::PACKET)
    }

    /// Writes everything that is buffered.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    /// As [`CommentedWriter::flush`], and gives the output back.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.flush()?;
        Ok(self.output)
    }

    fn word(&mut self, word: u32) {
        self.block.extend_from_slice(&word.to_le_bytes());
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        self.block.extend_from_slice(&code.to_le_bytes());
        self.block.extend_from_slice(&(value.len() as u16).to_le_bytes());
        self.block.extend_from_slice(value);
        self.pad();
    }

    fn pad(&mut self) {
        self.block.resize(self.block.len().next_multiple_of(4), 0);
    }

    /// Writes what was gathered as a block of this type.
    fn end_block(&mut self, kind: u32) -> io::Result<()> {
        let len = (self.block.len() as u32 + 12).to_le_bytes();
        self.output.write_all(&kind.to_le_bytes())?;
        self.output.write_all(&len)?;
        self.output.write_all(&self.block)?;
        self.block.clear();
        self.output.write_all(&len)
    }
}

/// An Ethernet frame with this datagram.
fn frame(frame: &mut Vec<u8>, from: Endpoint, to: Endpoint, payload: &[u8]) -> io::Result<()> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what);
    let ethernet = PacketBuilder::ethernet2(mac(from), mac(to));
    let ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        _ => return Err(invalid("source and destination are of different address families")),
    };
    frame.clear();
    ip.udp(from.port(), to.port())
        .write(frame, payload)
        .map_err(|_| invalid("the payload is longer than a UDP datagram"))
}

/// A locally administered Ethernet address for a host.
fn mac(host: Endpoint) -> [u8; 6] {
    let [.., a, b, c, d] = host.octets();
    [2, 0, a, b, c, d]
}
