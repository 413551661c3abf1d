//! What other servers are owed: the RELEASE of a visitor to its home, or of an own user to the server that served it
//! before.
//!
//! Nobody waits for it, and who asked for what made it necessary has been answered. So it is as durable as that: a
//! [`Change::Owe`] goes before the changes that it follows from, a [`Change::Settle`] says that it was answered, given
//! up, or is not true any more. A server that crashed in between asks anew when it is back, unless what it knows then
//! contradicts: the debt was written in the midst of a commit that was torn.
//!
//! Costs two records a move from server to server, and 48 bytes as long as it is owed.

use super::relay::{Relay, Task};
use super::{Engine, Outbox};
use crate::clock::Now;
use crate::id::{Endpoint, PushId};
use crate::table::{Change, Owed, Parting, Tables};

impl Engine {
    /// Owes a server a RELEASE, if there is room for it: what it would end runs out by itself, too.
    pub(super) fn owe(&mut self, tables: &Tables, owed: Owed, now: Now, out: &mut Outbox) {
        self.supersede(tables, (owed.user, owed.device), owed.to, now, out);
        if !self.relays.is_full(owed.user, owed.device, self.site.limits.relays) {
            self.commit(tables, Change::Owe(owed), now, out);
            self.pay(tables, owed, now, out);
        }
    }

    fn pay(&mut self, tables: &Tables, owed: Owed, now: Now, out: &mut Outbox) {
        let Owed { to, user, device, parting } = owed;
        let id = self.relays.add(Relay::new(Task::Release(parting), to, (user, device), 0, now));
        self.transmit(tables, id, now, out);
    }

    /// A terminal is registered anew at `to`, or from there: nothing that is owed there about it holds any more.
    pub(super) fn supersede(
        &mut self,
        tables: &Tables,
        (user, device): (PushId, u8),
        to: Endpoint,
        now: Now,
        out: &mut Outbox,
    ) {
        for relay in self.relays.supersede(user, device, to) {
            self.settle_debt(tables, &relay, now, out);
        }
    }

    /// A request is over: what it was owed by is.
    pub(super) fn settle_debt(&mut self, tables: &Tables, relay: &Relay, now: Now, out: &mut Outbox) {
        if let Some(owed) = relay.owed().filter(|owed| self.owed.get(owed).is_some()) {
            self.commit(tables, Change::Settle(owed), now, out);
        }
    }

    /// After a restart: what was owed when the server ended still is.
    pub(super) fn resume_debts(&mut self, tables: &Tables, now: Now, out: &mut Outbox) {
        let all: Vec<Owed> = self.owed.iter().map(|(owed, ())| *owed).collect();
        for owed in all {
            let is_full = self.relays.is_full(owed.user, owed.device, self.site.limits.relays);
            if is_full || self.contradicts(&owed, now) {
                self.commit(tables, Change::Settle(owed), now, out);
            } else {
                self.pay(tables, owed, now, out);
            }
        }
    }

    /// Whether a terminal that a server is to be told of has not left: it is here, or there.
    fn contradicts(&self, owed: &Owed, now: Now) -> bool {
        let live = self.store.of_user(owed.user).map(|(_, entry)| entry);
        live.filter(|entry| entry.is_live(now.unix_ms) && owed.means(entry.device())).any(|entry| {
            let serving = entry.binding().serving;
            match owed.parting {
                Parting::Visit => serving.is_none(),
                Parting::Terminal | Parting::User => serving == Some(owed.to),
            }
        })
    }
}
