//! Everybody who is not a Push server: gateways, terminals, application servers. They know the wire
//! from [`super::naive`] and the tunnels from the standards, nothing of the engine.

pub mod gateway;

use super::naive::Letter;
use crate::id::Endpoint;
use crate::reason::Reason;

/// Who sent a message: where its answers go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sender {
    /// An application server, by its place.
    Pusher(usize),
    /// A terminal, by its place.
    Handset(usize),
}

/// One message of the cast and what became of it, as the cast saw it.
#[derive(Clone, Debug)]
pub struct Record {
    /// As it was sent.
    pub letter: Letter,
    /// By whom.
    pub sender: Sender,
    /// From which address.
    pub from: Endpoint,
    /// To which server.
    pub site: usize,
    /// Terminals that it reached, one entry each time.
    pub delivered: Vec<usize>,
    /// RECEIPTs that came back.
    pub receipts: usize,
    /// Reasons of REJECTs that came back.
    pub rejects: Vec<Reason>,
    /// ECHOEDs that came back.
    pub echoed: usize,
    /// It was sent after the links were healed.
    pub is_healed: bool,
    /// How often a server received it as PUSH, or an answer to it.
    pub hops: [usize; 2],
    /// How often a link sent one of these twice, or made one out of another message.
    pub copies: [usize; 2],
}

impl Record {
    /// A message that was just sent.
    pub fn new(letter: Letter, sender: Sender, from: Endpoint, site: usize) -> Self {
        Self {
            letter,
            sender,
            from,
            site,
            delivered: Vec::new(),
            receipts: 0,
            rejects: Vec::new(),
            echoed: 0,
            is_healed: false,
            hops: [0; 2],
            copies: [0; 2],
        }
    }
}
