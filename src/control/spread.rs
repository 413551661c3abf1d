//! A PUSH for a group: who gets a copy, and what its sender is told (PROTOCOL.md, ruling 7).
//!
//! The engine says who the members are at this moment; whoever sends the copies tells it, by way of [`GroupPush`],
//! whom they did not reach. The sender of a message that wants a receipt then gets one from the group itself,
//! beside those of the members' terminals: its payload holds the Push IDs of members that could not be served,
//! 16 bytes each, as many as fit 1200 bytes. It is left out when all could. A message that reached no member is
//! rejected as a whole, for the reason of the first.

use super::answer::Asker;
use super::group::LIST_BYTES_MAX;
use super::{Engine, Outbox, Outcome, Reply, Request};
use crate::clock::Now;
use crate::id::{Endpoint, PushId};
use crate::reason::Reason;
use crate::table::Tables;
use crate::wire::prp::{Kind, Message, copy_for_members, flag};

/// How many members a receipt names at most.
pub const NAMED_MAX: usize = LIST_BYTES_MAX / 16;

/// A message for a group, and who is in it.
#[derive(Clone, Debug)]
pub struct GroupPush {
    /// The group.
    pub group: PushId,
    /// What every member gets, but for the destination.
    pub copy: Vec<u8>,
    /// The members, each once, its sender not among them.
    pub members: Vec<PushId>,
    asker: Asker,
}

impl GroupPush {
    /// Where the message came from, and to which listening address.
    pub fn came(&self) -> (Endpoint, u8) {
        (self.asker.to, self.asker.listener)
    }

    /// What the sender of a message that reached somebody is told of those whom it did not reach; none when it
    /// need not be told.
    pub fn receipt(&self, tables: &Tables, missed: &[PushId], now: Now) -> Option<Reply> {
        if missed.is_empty() || self.asker.header.flags & flag::RECEIPT == 0 {
            return None;
        }
        let named: Vec<u8> = missed.iter().take(NAMED_MAX).flat_map(|member| member.to_bytes()).collect();
        self.asker.reply(tables, &mut self.asker.head(Kind::Receipt), &named, now).ok()
    }

    /// What the sender of a message that reached nobody is told.
    pub fn reject(&self, tables: &Tables, reason: Reason, now: Now) -> Option<Reply> {
        self.asker.rejection(tables, reason, now)
    }
}

impl Engine {
    pub(super) fn push_to_group(
        &self,
        tables: &Tables,
        request: &Request<'_>,
        message: &Message,
        out: &mut Outbox,
    ) -> Result<Outcome, Reason> {
        let (group, source) = (message.header.destination, message.header.source);
        if !message.has(flag::GROUP) {
            return Err(Reason::UnsupportedKind);
        }
        if !Self::is_own(tables, group) || !self.groups.exists(group, tables) {
            return Err(Reason::UnknownGroup);
        }
        let mut members = self.groups.list(group, tables);
        members.retain(|member| *member != source);
        if members.is_empty() {
            return Err(Reason::NotAttached);
        }
        let copy = copy_for_members(message, request.bytes, group)?;
        out.copies.push(GroupPush { group, copy, members, asker: Asker::new(request, message.header) });
        Ok(Outcome::Spread)
    }
}
