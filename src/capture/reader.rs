//! From a file to its UDP datagrams.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use super::Datagram;
use super::file::{CaptureError, Damage, Frames};
use super::fragment::{Fragments, Key, Outcome};
use super::link::{self, Content};
use super::packet::{self, Packet, Udp};
use crate::id::Endpoint;

/// What became of a capture's frames. Each frame is in exactly one of `datagrams` to
/// `unknown_link`, so that they add up to `frames`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Counts {
    /// Frames read.
    pub frames: u64,
    /// Frames that held, or completed, a UDP datagram.
    pub datagrams: u64,
    /// Fragments of UDP datagrams that completed none.
    pub fragments: u64,
    /// Frames that hold no IP packet: ARP, signalling of the link, other protocols.
    pub not_ip: u64,
    /// IP packets of other protocols than UDP.
    pub not_udp: u64,
    /// Frames that the capture program cut (snapshot length) so that the datagram's end is missing.
    pub cut: u64,
    /// Frames whose headers contradict themselves or the frame's length, and fragments that
    /// contradict each other.
    pub malformed: u64,
    /// Frames of a link type that is not understood, or of an interface that is not described.
    pub unknown_link: u64,
    /// Of `datagrams`, those put together from fragments.
    pub reassembled: u64,
    /// Datagrams that were never whole because fragments are missing.
    pub incomplete: u64,
    /// Frames whose time is before that of the frame before.
    pub backwards: u64,
    /// Frames without a time, which got that of the frame before.
    pub without_time: u64,
}

/// How a capture's times run backwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Backwards {
    /// The first frame that is before the one before it.
    pub first_frame: u64,
    /// The longest step back, nanoseconds.
    pub longest_ns: u64,
}

/// Reads the UDP datagrams of a capture, pcap or pcapng, as it is or compressed by gzip or zstd.
pub struct Reader<R> {
    frames: Frames<R>,
    fragments: Fragments,
    counts: Counts,
    backwards: Option<Backwards>,
    time_ns: u64,
    finished: bool,
}

/// Where the bytes of a datagram are.
enum Place {
    Frame(Range<usize>),
    Whole(Range<usize>),
}

impl Reader<File> {
    /// Opens a capture file.
    ///
    /// # Errors
    /// When it cannot be read or is no capture.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        Self::new(File::open(path)?)
    }
}

impl<R: Read> Reader<R> {
    /// Reads a capture from anything: a file, a pipe, memory. Needs no buffering around it.
    ///
    /// # Errors
    /// When it cannot be read or does not start like a capture.
    pub fn new(input: R) -> Result<Self, CaptureError> {
        Ok(Self {
            frames: Frames::new(input)?,
            fragments: Fragments::default(),
            counts: Counts::default(),
            backwards: None,
            time_ns: 0,
            finished: false,
        })
    }

    /// The next datagram; `None` at the end, also at one that comes too early, see
    /// [`damage`](Self::damage).
    pub fn next_datagram(&mut self) -> Option<Datagram<'_>> {
        loop {
            let Some(frame) = self.frames.next_frame() else {
                if !self.finished {
                    self.finished = true;
                    self.fragments.finish();
                    self.counts.incomplete = self.fragments.incomplete;
                }
                return None;
            };
            self.counts.frames += 1;
            match frame.time_ns {
                Some(time_ns) => self.clock(time_ns),
                None => self.counts.without_time += 1,
            }
            let Some(link) = frame.link else {
                self.counts.unknown_link += 1;
                continue;
            };
            let place = frame.place.clone();
            let Some((from, to, place)) = self.take(link, place, frame.cut) else { continue };
            self.counts.datagrams += 1;
            let payload = match place {
                Place::Frame(range) => self.frames.bytes(range),
                Place::Whole(range) => &self.fragments.whole()[range],
            };
            let frame_number = self.counts.frames;
            return Some(Datagram { time_ns: self.time_ns, from, to, payload, frame_number });
        }
    }

    /// Takes a frame's time.
    fn clock(&mut self, time_ns: u64) {
        if time_ns < self.time_ns {
            self.counts.backwards += 1;
            let first = Backwards { first_frame: self.counts.frames, longest_ns: 0 };
            let backwards = self.backwards.get_or_insert(first);
            backwards.longest_ns = backwards.longest_ns.max(self.time_ns - time_ns);
        }
        self.time_ns = time_ns;
    }

    /// What became of the frames read so far. `incomplete` is known at the end.
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Where and how far the times run backwards, if they do; [`Counts::backwards`] says how often.
    pub const fn backwards(&self) -> Option<Backwards> {
        self.backwards
    }

    /// The first places where the file is damaged, and how many there are.
    pub fn damage(&self) -> (&[Damage], u64) {
        self.frames.damage()
    }

    /// Finds the datagram in a frame, and counts the frame when there is none.
    fn take(&mut self, link: u16, place: Range<usize>, cut: bool) -> Option<(Endpoint, Endpoint, Place)> {
        let base = place.start;
        let frame = self.frames.bytes(place);
        let bytes = match link::content(link, frame) {
            Content::Ip(bytes) => bytes,
            Content::Other => return count(&mut self.counts.not_ip),
            Content::Short if cut => return count(&mut self.counts.cut),
            Content::Short => return count(&mut self.counts.malformed),
            Content::UnknownLink => return count(&mut self.counts.unknown_link),
        };
        let Some(packet) = packet::ip(bytes) else {
            // A header that the capture program cut cannot be told from a broken one.
            return count(if cut { &mut self.counts.cut } else { &mut self.counts.malformed });
        };
        if packet.protocol != packet::UDP {
            return count(&mut self.counts.not_udp);
        }
        if packet.cut {
            return count(if cut { &mut self.counts.cut } else { &mut self.counts.malformed });
        }
        let Packet { from, to, protocol, fragment, payload, .. } = packet;
        let (udp, whole) = match fragment {
            None => (payload, false),
            Some(piece) => {
                let key = Key { from, to, protocol, id: piece.id, scope: 0 };
                match self.fragments.take(key, piece, payload, self.time_ns) {
                    Outcome::Held => return count(&mut self.counts.fragments),
                    Outcome::Bad => return count(&mut self.counts.malformed),
                    Outcome::Complete => (self.fragments.whole(), true),
                }
            }
        };
        let Udp::Whole(from_port, to_port, data) = packet::udp(udp) else {
            return count(&mut self.counts.malformed);
        };
        let (from, to) = (Endpoint::new(from, from_port), Endpoint::new(to, to_port));
        if whole {
            self.counts.reassembled += 1;
            return Some((from, to, Place::Whole(8..8 + data.len())));
        }
        let start = base + offset_in(frame, data);
        Some((from, to, Place::Frame(start..start + data.len())))
    }
}

/// Counts a frame that yields nothing.
fn count<T>(counter: &mut u64) -> Option<T> {
    *counter += 1;
    None
}

/// Where `part`, a subslice of `all`, starts in it.
fn offset_in(all: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr() - all.as_ptr().addr()
}
