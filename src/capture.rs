//! Captures: pcap and pcapng files as the traffic that they hold, and back.
//!
//! | layer | what it does | what it holds in memory |
//! |---|---|---|
//! | [`Reader`] | file, perhaps compressed → frames → UDP datagrams, fragments put together | one buffer of 256 KiB, grown to the longest block, at most [`MAX_BLOCK_BYTES`]; fragments, at most 32 MiB; a window of gzip or zstd |
//! | [`tunnel::Tunnels`] | a datagram that is GTP-U or VXLAN → what is inside | fragments of inner packets, at most 32 MiB |
//! | [`push::Pushes`] | a downlink datagram → a PRP PUSH to the user who owns its destination | one datagram |
//! | [`learn::learn`] | whole captures → source tables | one entry for each terminal and tunnel found |
//! | [`CaptureWriter`], [`CommentedWriter`] | datagrams → pcap, or pcapng with comments | one frame |
//!
//! Files are read once, from front to back, from anything that is [`std::io::Read`]; a file of any
//! length takes the same memory. Reading a datagram costs one copy from the file into the buffer and
//! no allocation, unless it was fragmented.
//!
//! Nothing is dropped without being counted: [`Counts`] has one counter for each way in which a
//! frame can end, and their sum is the number of frames. A file that is damaged is used up to the
//! damage and on from the next place where a frame surely starts; [`Damage`] names the place, and
//! [`Backwards`] where times run backwards.

mod file;
mod fragment;
pub mod learn;
mod link;
mod packed;
mod packet;
mod payload;
pub mod push;
mod reader;
pub mod tunnel;
mod writer;

pub use file::{CaptureError, Damage, MAX_BLOCK_BYTES};
pub use reader::{Backwards, Counts, Reader};
pub use writer::{CaptureWriter, CommentedWriter};

use crate::id::Endpoint;

/// One UDP datagram of a capture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Datagram<'a> {
    /// When it was captured, nanoseconds since 1970.
    pub time_ns: u64,
    /// Source address and port.
    pub from: Endpoint,
    /// Destination address and port.
    pub to: Endpoint,
    /// What UDP carries.
    pub payload: &'a [u8],
    /// The frame, from 1 as packet analysers count, that holds it or its last fragment.
    pub frame_number: u64,
}

#[cfg(test)]
mod tests;
