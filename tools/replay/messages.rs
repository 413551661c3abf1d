//! The messages of a capture, chosen and mapped: what every kind of replay goes through.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use pushplane::capture::Reader;
use pushplane::capture::push::{Owners, PushOptions, Pushes, pushes};
use pushplane::capture::tunnel::Layer;
use pushplane::id::{Endpoint, PushId};
use pushplane::wire::prp::PORT;

use super::map::{AddressRule, IdRule, Maps};
use super::report::Contents;
use super::select::{Condition, Selection};
use crate::Stop;
use crate::capture::{self, Faults, Input, Position};

/// Which messages, on the command line.
#[derive(clap::Args, Clone)]
pub(super) struct Choice {
    /// The capture: pcap or pcapng, as it is or compressed by gzip or zstd; - is standard input
    pub(super) capture: PathBuf,
    /// Make a push of each datagram to a user's address
    #[arg(long)]
    pub(super) as_push: bool,
    /// The application that those pushes are for [default: the first of the tables]
    #[arg(long, value_name = "N", requires = "as_push")]
    pub(super) app: Option<u32>,
    /// Those pushes want a RECEIPT
    #[arg(long, requires = "as_push")]
    pub(super) receipts: bool,
    /// The port of PRP in the capture
    #[arg(long, value_name = "PORT", default_value_t = PORT)]
    pub(super) port: u16,
    /// Look for GTP-U on every port, not only 2152
    #[arg(long)]
    pub(super) gtpu_any_port: bool,
    /// Stop after so many messages
    #[arg(long, value_name = "N")]
    pub(super) limit: Option<u64>,
    /// Only messages like this: kind=push, app=7, to=0x30/4, source=ID, from=192.0.2.0/24, frames=10-20; given more
    /// than once, any of them
    #[arg(long, value_name = "FIELD=VALUE")]
    pub(super) include: Vec<Condition>,
    /// No messages like this
    #[arg(long, value_name = "FIELD=VALUE")]
    pub(super) exclude: Vec<Condition>,
    /// Put other Push IDs: those under a prefix, or a single one. A signature that is then wrong is taken off
    #[arg(long, value_name = "FROM=TO")]
    pub(super) map_ids: Vec<IdRule>,
    /// Put other addresses: of senders, and in messages
    #[arg(long, value_name = "FROM=TO")]
    pub(super) map_addr: Vec<AddressRule>,
}

impl Choice {
    /// Every message of a capture, as it is.
    pub(super) fn all_of(capture: &Path) -> Self {
        Self {
            capture: capture.to_owned(),
            as_push: false,
            app: None,
            receipts: false,
            port: PORT,
            gtpu_any_port: false,
            limit: None,
            include: Vec::new(),
            exclude: Vec::new(),
            map_ids: Vec::new(),
            map_addr: Vec::new(),
        }
    }
}

/// One message: a PRP datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    /// When it was captured, nanoseconds since 1970.
    pub(super) time_ns: u64,
    pub(super) frame_number: u64,
    pub(super) from: Endpoint,
    pub(super) to: Endpoint,
    pub(super) bytes: &'a [u8],
    /// The sender's address is one that a captured one was mapped to.
    pub(super) mapped: bool,
}

/// Who owns the users' addresses, and which addresses the server itself sends from; where none is known, a server is
/// who sends from the port of PRP to another port.
#[derive(Clone, Default)]
pub(super) struct World {
    pub(super) owners: Option<Owners>,
    pub(super) own: HashSet<Endpoint>,
    /// The application of pushes that are made.
    pub(super) app: u32,
}

type Owner<'a> = Box<dyn Fn(IpAddr, Option<&Layer>) -> Option<PushId> + Send + 'a>;

/// Reads them.
pub(super) struct Messages<'a> {
    pushes: Pushes<Input, Owner<'a>>,
    pub(super) position: Position,
    own: &'a HashSet<Endpoint>,
    prp_port: u16,
    selection: Selection,
    maps: Maps,
    mapped: Vec<u8>,
    limit: u64,
    taken: u64,
    sent_by_server: u64,
    left_out: u64,
    unsigned: u64,
}

impl<'a> Messages<'a> {
    pub(super) fn open(choice: &Choice, world: &'a World) -> Result<Self, Stop> {
        let (reader, position) = capture::open(&choice.capture)?;
        let mut options = PushOptions {
            app: world.app,
            prp_port: choice.port,
            receipts: choice.receipts,
            ..PushOptions::default()
        };
        options.tunnels.gtpu_any_port = choice.gtpu_any_port;
        let owner: Owner<'a> = Box::new(|address, layer| world.owners.as_ref()?.owner(address, layer));
        Ok(Self {
            pushes: pushes(reader, options, owner),
            position,
            own: &world.own,
            prp_port: choice.port,
            selection: Selection { include: choice.include.clone(), exclude: choice.exclude.clone() },
            maps: Maps { ids: choice.map_ids.clone(), addresses: choice.map_addr.clone() },
            mapped: Vec::new(),
            limit: choice.limit.unwrap_or(u64::MAX),
            taken: 0,
            sent_by_server: 0,
            left_out: 0,
            unsigned: 0,
        })
    }

    /// The next one; `None` at the end, or at the limit.
    pub(super) fn next(&mut self) -> Option<Message<'_>> {
        if self.taken == self.limit {
            return None;
        }
        let Self { pushes, own, prp_port, selection, maps, mapped, .. } = self;
        let is_server = |from: Endpoint, to: Endpoint| {
            own.contains(&from) || own.is_empty() && from.port() == *prp_port && to.port() != *prp_port
        };
        let (time_ns, frame_number, from, to) = loop {
            let push = pushes.next_push()?;
            let (from, to) = (push.from, push.to);
            if push.as_it_is && is_server(from, to) {
                self.sent_by_server += 1;
                continue;
            }
            let (time_ns, frame_number) = (push.time_ns, push.frame_number);
            if !selection.takes(&Message {
                time_ns,
                frame_number,
                from,
                to,
                bytes: push.bytes,
                mapped: false,
            }) {
                self.left_out += 1;
                continue;
            }
            break (time_ns, frame_number, from, to);
        };
        self.taken += 1;
        let mut message = Message { time_ns, frame_number, from, to, bytes: pushes.last(), mapped: false };
        if !maps.is_empty() {
            mapped.clear();
            mapped.extend_from_slice(message.bytes);
            self.unsigned += u64::from(maps.apply(mapped));
            message.bytes = mapped;
            if let Some(from) = maps.endpoint(from) {
                (message.from, message.mapped) = (from, true);
            }
        }
        Some(message)
    }

    pub(super) fn reader(&self) -> &Reader<Input> {
        self.pushes.reader()
    }

    /// What the capture held, so far.
    pub(super) fn contents(&self) -> Contents {
        Contents {
            sent_by_server: self.sent_by_server,
            left_out: self.left_out,
            unsigned: self.unsigned,
            frames: *self.reader().counts(),
            tunnels: self.pushes.tunnel_counts(),
            datagrams: self.pushes.counts(),
            faults: Faults::of(self.reader()),
        }
    }
}
