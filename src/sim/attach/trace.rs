//! The last things that happened, for whoever looks at a failure.

use std::collections::VecDeque;
use std::fmt::Write;

use super::node::End;
use super::witness::Place;
use crate::id::{Endpoint, PushId};
use crate::reason::Reason;
use crate::sim::naive::kind;

/// Something that happened.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Started,
    Ended(End),
    /// A server's disk will fail: so many operations later, by losing power or with an error.
    WillFail(u64, bool),
    Partition(bool),
    Healed,
    /// A terminal got an address: whose, which device, and what servers see of it.
    Attached(PushId, u8, Endpoint),
    Detached(PushId, u8, Endpoint),
    /// A client or gateway sends a request: kind, about whom, message identifier, from where.
    Requests(u8, PushId, u64, Endpoint),
    /// A server asks another.
    Asks(u8, PushId, u64, Endpoint),
    /// A server's answer leaves.
    Answers(u8, PushId, u64, Option<Reason>),
    /// A message leaves for a terminal or the server that serves it.
    Leads(PushId, u64, Place),
    /// A message reached a terminal.
    Reached(PushId, u64, usize),
    Pushed(PushId, u64),
}

/// How many are kept.
const KEPT: usize = 4096;
/// How many are printed, a line each.
const PRINTED: usize = 80;

/// The last of them.
#[derive(Debug, Default)]
pub(super) struct Trace(VecDeque<(u64, usize, What)>);

impl Trace {
    pub(super) fn note(&mut self, at_ns: u64, site: usize, what: What) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back((at_ns, site, what));
    }

    /// What concerns these users, or everybody; a line each, the last ones.
    pub(super) fn about(&self, users: &[PushId]) -> String {
        let concerns = |(_, _, what): &&(u64, usize, What)| {
            users.is_empty() || what.user().is_none_or(|user| users.contains(&user))
        };
        let mut last: Vec<_> = self.0.iter().rev().filter(concerns).take(PRINTED).collect();
        last.reverse();
        let mut lines = String::new();
        for (at_ns, site, what) in last {
            let _ = writeln!(lines, "  {:>9.3} ms server {site}: {}", *at_ns as f64 / 1e6, what.line());
        }
        lines
    }
}

impl What {
    fn user(&self) -> Option<PushId> {
        match *self {
            Self::Started | Self::Ended(_) | Self::WillFail(..) | Self::Partition(_) | Self::Healed => None,
            Self::Attached(user, ..)
            | Self::Detached(user, ..)
            | Self::Requests(_, user, ..)
            | Self::Asks(_, user, ..)
            | Self::Answers(_, user, ..)
            | Self::Leads(user, ..)
            | Self::Reached(user, ..)
            | Self::Pushed(user, ..) => Some(user),
        }
    }

    fn line(&self) -> String {
        match *self {
            Self::Requests(kind, user, message, from) => {
                format!("{} {user} ({message:016x}) goes out from {from}", name(kind))
            }
            Self::Asks(kind, user, message, to) => format!("{} {user} ({message:016x}) to {to}", name(kind)),
            Self::Answers(kind, user, message, reason) => {
                let why = reason.map_or("", Reason::name);
                format!("{} {why} {user} ({message:016x})", name(kind))
            }
            Self::Leads(user, message, place) => format!("PUSH {user} ({message:016x}) leaves for {place}"),
            Self::Reached(user, message, phone) => {
                format!("PUSH {user} ({message:016x}) reached terminal {phone}")
            }
            Self::Pushed(user, message) => format!("PUSH {user} ({message:016x}) goes out"),
            Self::Attached(user, device, at) => format!("{user}, device {device}, is lent {at}"),
            Self::Detached(user, device, at) => format!("{user}, device {device}, gives {at} back"),
            Self::Started => "starts".to_owned(),
            Self::Ended(how) => format!("ends: {how:?}"),
            Self::WillFail(after, true) => format!("loses power after {after} operations of its disk"),
            Self::WillFail(after, false) => format!("has an error after {after} operations of its disk"),
            Self::Partition(true) => "no server hears another".to_owned(),
            Self::Partition(false) => "servers hear each other again".to_owned(),
            Self::Healed => "everything is healed".to_owned(),
        }
    }
}

fn name(code: u8) -> &'static str {
    match code {
        kind::REGISTER => "REGISTER",
        kind::REGISTERED => "REGISTERED",
        kind::RELEASE => "RELEASE",
        kind::RELEASED => "RELEASED",
        kind::REJECT => "REJECT",
        _ => "?",
    }
}
