//! The fast path: what a Push server does with a burst of datagrams (PROTOCOL.md, "What a Push server
//! does with a PUSH"). Pure: tables, time and bytes go in, datagrams to send come out.
//!
//! Four loops over the burst, each reading some columns and writing others:
//!
//! | stage | reads | decides |
//! |---|---|---|
//! | [`parse`] | the bytes | what the message is, or why it is none; starts the lookup |
//! | [`authorize`] | message, allowlist, keys | whether the sender may |
//! | [`resolve`] | destination, bindings, segments | where it goes: [`Hop`]s |
//! | [`rewrite`] | hops | the datagrams, made in the buffers that the burst came in |
//!
//! Nothing here allocates after the first burst, locks, logs or reads a clock.

mod authorize;
pub mod explain;
mod heard;
mod ledger;
mod parse;
mod receipts;
mod rejects;
mod replay;
mod resolve;
mod rewrite;
mod trace;

use std::sync::Arc;

pub use ledger::{Account, EXTRA, Ledger};
pub use receipts::{Asker, Exchange, Receipts};
pub use rejects::RejectLimiter;
pub use replay::{ReplayWindow, Seen};
pub use trace::{NoTrace, Trace};

use crate::clock::Now;
use crate::config::{Limits, Policy};
use crate::id::{Endpoint, PushId};
use crate::packet::{BURST_MAX, Burst, Class};
use crate::reason::Reason;
use crate::table::Tables;
use crate::wire::prp::{HeadBuilder, Header, Kind, Message};

/// What all shards of a server share and change: everything that must hold "over the whole server".
#[derive(Debug)]
pub struct Shared {
    replay: ReplayWindow,
    rejects: RejectLimiter,
    receipts: Box<[Receipts]>,
    heard: heard::Heard,
}

impl Shared {
    /// For so many shards. The seed keys the hashes: from the system in a server, fixed in a simulation.
    pub fn new(limits: &Limits, shards: usize, seed: u64) -> Self {
        Self {
            replay: ReplayWindow::new(limits.replays, seed),
            rejects: RejectLimiter::new(limits.reject_sources, seed),
            receipts: (0..shards).map(|_| Receipts::new(limits.receipts, seed)).collect(),
            heard: heard::Heard::new(seed),
        }
    }
}

/// Who and where a shard is.
#[derive(Clone, Debug)]
pub struct Site {
    /// What is allowed.
    pub policy: Policy,
    /// The server's listening addresses; their places are the `listener`s of rows and sends.
    pub listen: Vec<Endpoint>,
    /// The longest datagram taken, bytes.
    pub datagram_max: usize,
    /// Which shard: its place in what is shared.
    pub shard: usize,
    /// What the shards share.
    pub shared: Arc<Shared>,
}

impl Site {
    /// The listening address that reaches `to`: the one that it last wrote to, else the first of its family.
    fn listener_for(&self, to: Endpoint) -> Option<u8> {
        if self.listen.len() > 1
            && let Some(listener) = self.shared.heard.listener(to)
        {
            return Some(listener);
        }
        self.listen.iter().position(|own| own.is_ipv4() == to.is_ipv4()).map(|at| at as u8)
    }
}

/// What becomes of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Verdict {
    /// Not decided yet.
    #[default]
    Pending,
    /// At least one terminal is served.
    Deliver,
    /// The network must be asked first.
    Query,
    /// Another Push server gets it, or the asker that it answers.
    Forward,
    /// This server answers it.
    Answer,
    /// Dropped.
    Drop(Reason),
}

/// A terminal as the tables showed it when the message was resolved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terminal {
    /// Whose.
    pub user: PushId,
    /// Which of the user's.
    pub device: u8,
    /// The private address space.
    pub realm: u32,
    /// Private address and port.
    pub private: Option<Endpoint>,
    /// The user has a key of its own.
    pub has_key: bool,
}

/// Where a datagram goes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hop {
    /// To a terminal, in the tunnel of this gateway.
    Gateway {
        /// The gateway's index.
        gateway: u32,
        /// The terminal.
        terminal: Terminal,
    },
    /// To a terminal's public address.
    Nat {
        /// The public address and port.
        to: Endpoint,
        /// The terminal.
        terminal: Terminal,
    },
    /// To another Push server.
    Server {
        /// The server's index, if it is in the tables.
        server: Option<u32>,
        /// Its address.
        to: Endpoint,
        /// The user roams there: ROAMED is set.
        roaming: bool,
    },
    /// To whoever waits for this answer.
    Asker(Asker),
}

/// One datagram that will leave: which row it comes from, and where it goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Send {
    /// The row.
    pub row: usize,
    /// The next hop.
    pub hop: Hop,
}

/// What could be read of a row.
#[derive(Clone, Copy, Debug, Default)]
enum Read {
    /// Less than a header.
    #[default]
    Nothing,
    /// A header, of something that breaks a rule.
    Head(Header),
    /// A message that keeps every rule.
    Message(Message),
}

impl Read {
    const fn header(&self) -> Option<&Header> {
        match self {
            Self::Nothing => None,
            Self::Head(header) => Some(header),
            Self::Message(message) => Some(&message.header),
        }
    }
}

/// What the stages know of one row.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    read: Read,
    verdict: Verdict,
    /// Of the destination, for the bindings.
    hash: u64,
    /// The line that the destination's is likely to be.
    candidate: Option<usize>,
    /// The sending server's index.
    peer: Option<u32>,
    grant: Grant,
    /// This row's part of `sends`.
    first_send: usize,
    sends: usize,
}

/// What the sender may, as far as it was looked at.
#[derive(Clone, Copy, Debug, Default)]
struct Grant {
    /// The index of the key whose signature was found right.
    signed_by: Option<u32>,
    /// The application's rule.
    class: Option<Class>,
    /// That rule sets PRIORITY.
    sets_priority: bool,
}

/// A shard's plane: the columns of the burst that is being worked on, and the accounts of what was
/// sent and is not yet known to have left.
#[derive(Debug)]
pub struct Plane {
    cells: Vec<Cell>,
    sends: Vec<Send>,
    ledger: Ledger,
    /// Where heads are written before they go in front of a payload.
    head: HeadBuilder,
}

/// The most terminals that a user can have: one for each value of Device.
const TERMINALS_MAX: usize = 256;

impl Plane {
    /// A plane for bursts over a pool of so many frames.
    pub fn new(frames: usize) -> Self {
        Self {
            cells: Vec::with_capacity(BURST_MAX),
            sends: Vec::with_capacity(BURST_MAX * TERMINALS_MAX),
            ledger: Ledger::new(frames + BURST_MAX),
            head: HeadBuilder::new(&Header::new(Kind::Push, PushId::NONE, PushId::NONE, 0)),
        }
    }

    /// Decides every row of a burst and fills `burst.tx`. Rows whose frame does not leave keep it.
    pub fn process(
        &mut self,
        site: &Site,
        tables: &Tables,
        now: Now,
        burst: &mut Burst,
        trace: &mut impl Trace,
    ) {
        self.decide(site, tables, now, burst, trace);
        self.rewrite(site, tables, now, burst);
        burst.order_tx();
    }

    /// The first three stages: what would become of each row, without making any datagram.
    pub fn decide(&mut self, site: &Site, tables: &Tables, now: Now, burst: &Burst, trace: &mut impl Trace) {
        self.parse(site, tables, burst, trace);
        self.authorize(site, tables, now, burst, trace);
        self.resolve(site, tables, now, burst, trace);
    }

    /// What became of a row of the burst that was processed last.
    pub fn verdict(&self, row: usize) -> Verdict {
        self.cells[row].verdict
    }

    /// What leaves because of a row of the burst that was processed last.
    pub fn sends(&self, row: usize) -> &[Send] {
        let cell = &self.cells[row];
        &self.sends[cell.first_send..cell.first_send + cell.sends]
    }

    /// The accounts.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The accounts, to settle what was sent.
    pub fn ledger_mut(&mut self) -> &mut Ledger {
        &mut self.ledger
    }
}
