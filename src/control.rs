//! The controller's decisions: what a request changes and how it is answered.

use crate::clock::Now;
use crate::config::{Limits, Policy};
use crate::id::Endpoint;
use crate::reason::Reason;
use crate::table::{Change, Tables};
use crate::wire::prp::{HeadBuilder, Header, Kind};

/// Who and where the server is.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its listening addresses.
    pub listen: Vec<Endpoint>,
    /// What is allowed.
    pub policy: Policy,
    /// What is bounded.
    pub limits: Limits,
    /// Of hashes and identifiers.
    pub seed: u64,
}

/// A datagram that a shard passed on.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The datagram, with its Auth.
    pub bytes: &'a [u8],
    /// Where it came from.
    pub from: Endpoint,
    /// Which listening address it came to.
    pub listener: u8,
    /// The identifier of the key whose tag was found right and fresh.
    pub signed_by: Option<u32>,
    /// When.
    pub now: Now,
}

/// A datagram to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// Where to.
    pub to: Endpoint,
    /// From which listening address.
    pub listener: u8,
    /// The datagram.
    pub datagram: Vec<u8>,
    /// It is a REJECT.
    pub is_reject: bool,
}

/// What comes of requests and of time.
#[derive(Clone, Default, Debug)]
pub struct Outbox {
    /// To make durable and to apply, in this order.
    pub changes: Vec<Change>,
    /// To send afterwards.
    pub replies: Vec<Reply>,
    /// Requests that were answered.
    pub answered: u64,
    /// Why requests failed.
    pub dropped: Vec<Reason>,
}

/// How much the engine holds.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Live {
    /// Requests that wait.
    pub pending: usize,
}

/// Refuses everything.
#[derive(Debug)]
pub struct Engine {
    site: Site,
}

impl Engine {
    /// An engine that knows nothing.
    pub fn new(site: Site) -> Self {
        Self { site }
    }

    /// Replays a change of the journal.
    pub fn restore(&mut self, _: &Change) {}

    /// Everything was replayed.
    pub fn restored(&mut self, _: &Tables, _: Now, _: &mut Outbox) {}

    /// Other tables serve.
    pub fn tables_changed(&mut self, _: &Tables, _: Now, _: &mut Outbox) {}

    /// Decides a request.
    pub fn handle(&mut self, _: &Tables, request: &Request<'_>, out: &mut Outbox) {
        out.dropped.push(Reason::UnsupportedKind);
        let Some(header) = Header::read(request.bytes).filter(|_| self.site.policy.rejects) else { return };
        let mut head = HeadBuilder::new(&header.answer(Kind::Reject));
        head.reason(Reason::UnsupportedKind);
        let Ok(datagram) = head.datagram(&[]) else { return };
        out.replies.push(Reply { to: request.from, listener: request.listener, datagram, is_reject: true });
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, _: &Tables, _: Now, _: &mut Outbox) {}

    /// When time should be told.
    pub fn poll_timeout(&self) -> Option<u64> {
        None
    }

    /// The whole state.
    pub fn changes(&self) -> impl Iterator<Item = Change> + '_ {
        std::iter::empty()
    }

    /// How much it holds.
    pub fn live(&self) -> Live {
        Live::default()
    }
}
