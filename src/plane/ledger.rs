//! The accounts: a message that was read is in exactly one counter once all that it caused has left.
//!
//! A message with datagrams on their way has a slot; when the kernel has said the last word on each of
//! them, the slot is closed into `delivered`, `forwarded` or `answered` if one of them left, else into
//! the drop reason of the error. Costs 96 bytes a message in flight.

use super::unsent::{Origin, Unsent};
use crate::metrics::Counters;
use crate::packet::Done;
use crate::reason::Reason;

/// The token of a datagram that belongs to no account: a REJECT, whose message is counted as dropped.
pub const EXTRA: u32 = u32::MAX;

/// Which counter a message goes to when it left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Account {
    /// To a terminal.
    Delivered,
    /// To another Push server, or as an answer to an asker.
    Forwarded,
    /// Answered by this server.
    Answered,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    account: Account,
    pending: u32,
    left: bool,
    reason: Reason,
    origin: Origin,
}

/// The accounts of one shard.
#[derive(Debug)]
pub struct Ledger {
    counters: Counters,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Accounts that were closed without anything having left, and that nobody looked at yet.
    unsent: Vec<Unsent>,
}

/// An account just opened.
const fn opened(account: Account, pending: u32, origin: Origin) -> Slot {
    Slot { account, pending, left: false, reason: Reason::Overloaded, origin }
}

impl Ledger {
    /// For so many messages in flight.
    pub fn new(messages: usize) -> Self {
        let empty = opened(Account::Answered, 0, Origin::Nobody);
        let free = (0..messages as u32).rev().collect();
        let unsent = Vec::with_capacity(messages);
        Self { counters: Counters::default(), slots: vec![empty; messages], free, unsent }
    }

    /// What was counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What was counted, to add what the ledger does not see.
    pub fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// A datagram was read.
    pub fn received(&mut self, bytes: usize) {
        self.counters.rx += 1;
        self.counters.rx_bytes += bytes as u64;
    }

    /// A message was dropped without anything sent for it.
    pub fn dropped(&mut self, reason: Reason) {
        self.counters.drop(reason);
    }

    /// Opens the account of a message that will cause `datagrams` datagrams on behalf of `origin`. `None` when as
    /// many are in flight as there are slots.
    #[inline(always)]
    pub fn open(&mut self, account: Account, datagrams: usize, origin: Origin) -> Option<u32> {
        let token = self.free.pop()?;
        self.slots[token as usize] = opened(account, datagrams as u32, origin);
        self.counters.in_flight += 1;
        Some(token)
    }

    /// Takes back an account of which no datagram could be made: the message is counted otherwise.
    pub fn cancel(&mut self, token: u32) {
        self.free.push(token);
        self.counters.in_flight -= 1;
    }

    /// One datagram of an account will not be made.
    pub fn failed(&mut self, token: u32, reason: Reason) {
        self.end_one(token, Err(reason));
    }

    /// Messages of which nothing left.
    pub(super) fn unsent_mut(&mut self) -> &mut Vec<Unsent> {
        &mut self.unsent
    }

    /// The kernel has said the last word on these datagrams.
    pub fn settle(&mut self, done: &[Done]) {
        for done in done {
            let result = if done.errno == 0 {
                self.counters.tx += 1;
                self.counters.tx_bytes += u64::from(done.bytes);
                Ok(())
            } else {
                self.counters.tx_failed += 1;
                let reason = reason_of(done.errno);
                let kind = match reason {
                    Reason::Overloaded => &mut self.counters.tx_full,
                    Reason::TooLarge => &mut self.counters.tx_too_long,
                    _ => &mut self.counters.tx_unreachable,
                };
                *kind += 1;
                Err(reason)
            };
            if done.token == EXTRA {
                self.counters.rejects += u64::from(result.is_ok());
            } else {
                self.end_one(done.token, result);
            }
        }
    }

    #[inline(always)]
    fn end_one(&mut self, token: u32, result: Result<(), Reason>) {
        let slot = &mut self.slots[token as usize];
        debug_assert!(slot.pending > 0, "an account was settled twice");
        match result {
            Ok(()) => slot.left = true,
            Err(reason) => {
                slot.reason = reason;
                self.counters.terminals_failed += u64::from(slot.account == Account::Delivered);
            }
        }
        slot.pending -= 1;
        if slot.pending > 0 {
            return;
        }
        let closed = (slot.left, slot.account);
        self.free.push(token);
        self.counters.in_flight -= 1;
        match closed {
            (false, _) => self.end_unsent(token),
            (true, Account::Delivered) => self.counters.delivered += 1,
            (true, Account::Forwarded) => self.counters.forwarded += 1,
            (true, Account::Answered) => self.counters.answered += 1,
        }
    }

    /// An account was closed and nothing had left.
    #[cold]
    fn end_unsent(&mut self, token: u32) {
        let Slot { reason, origin, .. } = self.slots[token as usize];
        self.counters.drop(reason);
        // Within what was allocated: whoever has this many not looked at does not look at all.
        if origin != Origin::Nobody && self.unsent.len() < self.slots.len() {
            self.unsent.push(Unsent { origin, reason });
        }
    }
}

/// What an error of the kernel means for the message.
fn reason_of(errno: i32) -> Reason {
    match errno {
        libc::EMSGSIZE => Reason::TooLarge,
        libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::ECANCELED | libc::ESHUTDOWN => Reason::Overloaded,
        libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EAFNOSUPPORT | libc::EINVAL => {
            Reason::NoRoute
        }
        _ => Reason::GatewayFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_counted_once_when_its_last_datagram_is_done() {
        let mut ledger = Ledger::new(2);
        let done = |token, errno| [Done { token, bytes: 10, errno }];
        ledger.received(10);
        let token = ledger.open(Account::Delivered, 3, Origin::Nobody).unwrap();
        assert_eq!((ledger.counters().in_flight, ledger.counters().unaccounted()), (1, 0));
        ledger.settle(&done(token, 0));
        ledger.failed(token, Reason::Overloaded);
        ledger.settle(&done(token, libc::EPERM));
        assert_eq!((ledger.counters().delivered, ledger.counters().in_flight), (1, 0));
        assert_eq!((ledger.counters().terminals_failed, ledger.counters().unaccounted()), (2, 0));
        ledger.received(10);
        let token = ledger.open(Account::Forwarded, 1, Origin::Nobody).unwrap();
        ledger.settle(&done(token, libc::EMSGSIZE));
        assert_eq!(ledger.counters().dropped[Reason::TooLarge.index()], 1);
        assert_eq!(ledger.counters().unaccounted(), 0);
        ledger.settle(&done(EXTRA, 0));
        assert_eq!((ledger.counters().tx, ledger.counters().rejects), (2, 1));
        ledger.received(10);
        let token = ledger.open(Account::Delivered, 2, Origin::Nobody).unwrap();
        ledger.cancel(token);
        ledger.dropped(Reason::TooLarge);
        assert_eq!((ledger.counters().unaccounted(), ledger.counters().terminals_failed), (0, 2));
    }

    #[test]
    fn without_a_slot_nothing_is_opened() {
        let mut ledger = Ledger::new(1);
        assert!(ledger.open(Account::Answered, 1, Origin::Nobody).is_some());
        assert!(ledger.open(Account::Answered, 1, Origin::Nobody).is_none());
    }
}
