//! The fast path: what a Push server does with a burst of datagrams (PROTOCOL.md, "What a Push server
//! does with a PUSH"). Pure: tables, time and bytes go in, datagrams to send come out.
//!
//! Four loops over the burst, each reading some columns and writing others:
//!
//! | stage | reads | decides |
//! |---|---|---|
//! | [`parse`] | the bytes | what the message is, or why it is none; starts the lookup |
//! | [`authorize`] | message, allowlist, keys | whether the sender may |
//! | [`resolve`] | destination, bindings, segments | where it goes: [`Hop`]s; or that the controller handles it |
//! | [`rewrite`] | hops | the datagrams, made in the buffers that the burst came in |
//!
//! Nothing here allocates after the first burst, locks, logs or reads a clock.

mod authorize;
mod copies;
pub mod explain;
mod heard;
mod ledger;
mod parse;
mod punt;
mod receipts;
mod rejects;
mod replay;
mod resolve;
mod rewrite;
mod terminals;
mod trace;
mod unsent;

use std::sync::{Arc, OnceLock};
use std::thread::Thread;

pub use ledger::{Account, EXTRA, Ledger};
pub use punt::{Handoff, PUNT_BYTES_MAX, Punt};
pub use receipts::{Asker, Exchange, Receipts};
pub use rejects::RejectLimiter;
pub use replay::{ReplayWindow, Seen};
pub use terminals::{Known, Looks, Moment, Visit};
pub use trace::{NoTrace, Trace};
pub use unsent::{Asked, Origin};

use crate::clock::Now;
use crate::config::{Limits, Policy};
use crate::id::{Endpoint, PushId};
use crate::packet::{BURST_MAX, Burst, Class};
use crate::reason::Reason;
use crate::table::{LiveBindings, LiveWriter, Tables};
use crate::wire::prp::{HeadBuilder, Header, Kind, Message};

/// What all shards of a server share and change: everything that must hold "over the whole server".
#[derive(Debug)]
pub struct Shared {
    replay: ReplayWindow,
    rejects: RejectLimiter,
    receipts: Box<[Receipts]>,
    heard: heard::Heard,
    live: Arc<LiveBindings>,
    punts: Box<[Handoff<Punt>]>,
    /// Who empties the rings, if somebody does.
    controller: OnceLock<Thread>,
}

impl Shared {
    /// For so many shards. The seed keys the hashes: from the system in a server, fixed in a simulation.
    pub fn new(limits: &Limits, shards: usize, seed: u64) -> Self {
        Self {
            replay: ReplayWindow::new(limits.replays, seed),
            rejects: RejectLimiter::new(limits.reject_sources, seed),
            receipts: (0..shards).map(|_| Receipts::new(limits.receipts, seed)).collect(),
            heard: heard::Heard::new(seed),
            live: Arc::new(LiveBindings::new(limits.bindings + limits.bindings / 4 + 1024, seed)),
            punts: (0..shards).map(|_| Handoff::new(limits.punts)).collect(),
            controller: OnceLock::new(),
        }
    }

    /// What terminals changed.
    pub fn live(&self) -> &Arc<LiveBindings> {
        &self.live
    }

    /// Who changes it: for who asks first.
    pub fn live_writer(&self) -> Option<LiveWriter> {
        self.live.writer()
    }

    /// The limit of REJECTs, for those that the controller sends.
    pub fn rejects(&self) -> &RejectLimiter {
        &self.rejects
    }

    /// Who waits for the answer to a question, whichever shard it came to.
    fn asker(&self, exchange: &Exchange, now: Now) -> Option<Asker> {
        self.receipts.iter().find_map(|table| table.asker(exchange, now.mono_ns))
    }

    /// What the shards hand to the controller, a ring a shard.
    pub fn punts(&self) -> &[Handoff<Punt>] {
        &self.punts
    }

    /// From now on the calling thread is woken when there is something in the rings.
    pub fn wake_me(&self) {
        let _ = self.controller.set(std::thread::current());
    }

    /// Called by a shard when it has shown that it handed over so many messages since it started; `more`
    /// when some of them are of this burst.
    pub fn punted(&self, shard: usize, total: u64, more: bool) {
        if more {
            self.punts[shard].show(total);
            self.wake();
        }
    }

    /// Wakes the controller: there is something for it.
    pub fn wake(&self) {
        if let Some(controller) = self.controller.get() {
            controller.unpark();
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
    /// The controller handles it.
    Punt,
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
    /// The user may have a key of its own.
    pub has_key: bool,
    /// The listening address that it last wrote to, where that is known (ruling 22).
    pub listener: Option<u8>,
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
    /// It is one member's copy of a message that was judged, and answered for, as a whole.
    is_copy: bool,
}

/// A shard's plane: the columns of the burst that is being worked on, and the accounts of what was
/// sent and is not yet known to have left.
#[derive(Debug)]
pub struct Plane {
    cells: Vec<Cell>,
    /// Where the destinations are looked for.
    looks: Box<Looks>,
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
            looks: Box::default(),
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
        let moment = Moment::new(site, tables, now);
        self.decide_in(&moment, burst, trace);
        self.rewrite(&moment, burst);
        burst.order_tx();
    }

    /// The first three stages: what would become of each row, without making any datagram.
    pub fn decide(&mut self, site: &Site, tables: &Tables, now: Now, burst: &Burst, trace: &mut impl Trace) {
        self.decide_in(&Moment::new(site, tables, now), burst, trace);
    }

    fn decide_in(&mut self, moment: &Moment<'_>, burst: &Burst, trace: &mut impl Trace) {
        self.parse(moment, burst, trace);
        self.authorize(moment, burst, trace);
        self.resolve(moment, burst, trace);
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
