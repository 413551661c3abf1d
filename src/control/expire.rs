//! What ends by itself: bindings, lent Push IDs, and what is remembered of both.

use super::timer::{TimerId, Wheel, tick, tick_after};
use super::{Engine, Nothing, Outbox, RELEASED_MS, REMEMBER_MS};
use crate::clock::Now;
use crate::id::{Endpoint, PushId};
use crate::table::binding::Line;
use crate::table::{Change, Tables};
use crate::wire::prp::auth::SKEW_MS;

/// Timers that one call of [`Engine::handle_timeout`] works on: what is left is due at once.
const TIMERS_A_CALL: usize = 1024;

impl Engine {
    /// Makes the engine ready once the journal is replayed (or when there is none): ends what ran out
    /// meanwhile and what contradicts the tables, sets timers, goes on with visits.
    pub fn restored(&mut self, tables: &Tables, now: Now, out: &mut Outbox) {
        self.start_relays(now);
        // The wheels' own time begins here.
        self.expiry.pop(tick(now));
        self.loan_expiry.pop(tick(now));
        self.released_expiry.pop(tick(now));
        self.feed.expiry.pop(tick(now));
        self.groups.prune_all(tables);
        self.take_tables(tables, now, out);
        let places: Vec<u32> = self.store.iter().map(|(at, _)| at).collect();
        for at in places {
            match self.store.get(at).map(|entry| entry.is_ended()) {
                Some(true) => self.arm_ended(tables, at, now),
                Some(false) => {
                    self.end_if_over(tables, at, now, out);
                    self.resume_visit(tables, at, now);
                }
                None => {}
            }
        }
        for lent in self.loans.ids() {
            self.end_loan_if_over(tables, lent, now, out);
        }
        self.forget_released_before(now.unix_ms.saturating_sub(RELEASED_MS + SKEW_MS));
        let released: Vec<Nothing> = self.released.iter().map(|(key, _)| *key).collect();
        for key in released {
            self.arm_released(key, now);
        }
        self.resume_debts(tables, now, out);
        self.feed_restored(tables, now, out);
    }

    /// Takes notice of new tables.
    pub fn tables_changed(&mut self, tables: &Tables, now: Now, out: &mut Outbox) {
        self.take_tables(tables, now, out);
        self.settle_everybody(tables, now, out);
    }

    fn take_tables(&mut self, tables: &Tables, now: Now, out: &mut Outbox) {
        let arrays = tables.arrays();
        let nat = |(at, line): (u32, &Line)| Some((line.nat(arrays.nat6())?, at));
        self.static_nats = (0..).zip(arrays.lines()).filter_map(nat).collect();
        self.static_nats.sort_unstable();
        self.gateways.clear();
        self.gateways.extend(tables.gateway_addresses().map(Endpoint::octets));
        let places: Vec<u32> = self.store.iter().map(|(at, _)| at).collect();
        for at in places {
            let Some(entry) = self.store.get(at) else { continue };
            if !entry.is_ended() {
                // What the network said while this server ran goes before the tables.
                let binding = entry.binding();
                self.end_rows(tables, &binding, now, out);
            } else if entry.timer.is_none() || Self::row(tables, entry.user(), entry.device()).is_some() {
                self.arm_ended(tables, at, now);
            }
        }
        self.feed_tables_changed(tables, now, out);
    }

    /// Works on what is due.
    pub fn handle_timeout(&mut self, tables: &Tables, now: Now, out: &mut Outbox) {
        let to = tick(now);
        for _ in 0..TIMERS_A_CALL {
            if let Some(at) = self.expiry.pop(to) {
                let Some(entry) = self.store.get_mut(at) else { continue };
                entry.timer = None;
                if !entry.is_ended() {
                    self.end_if_over(tables, at, now, out);
                    continue;
                }
                let (user, device) = (entry.user(), entry.device());
                if Self::row(tables, user, device).is_none() {
                    self.commit(tables, Change::Forget { user, device }, now, out);
                } else {
                    self.store.set_hiding(at, true);
                }
            } else if let Some(lent) = self.loan_expiry.pop(to) {
                let Some(loan) = self.loans.get_mut(lent) else { continue };
                loan.timer = None;
                if loan.holder.is_none() {
                    self.loans.forget(lent);
                } else {
                    self.end_loan_if_over(tables, lent, now, out);
                }
            } else if let Some(key) = self.released_expiry.pop(to) {
                self.released.remove(&key);
            } else if let Some(at) = self.feed.expiry.pop(to) {
                self.session_timeout(tables, at, now, out);
            } else if self.sweep(tables, now, out) {
                // There may be more.
            } else if !self.relay_timeout(tables, to, now, out) {
                break;
            }
        }
        self.settle_users(tables, now, out);
    }

    /// Ends a binding whose validity has run out by the wall clock; else waits for that.
    fn end_if_over(&mut self, tables: &Tables, at: u32, now: Now, out: &mut Outbox) {
        let Some(entry) = self.store.get(at) else { return };
        if entry.is_live(now.unix_ms) {
            self.arm_binding(at, now);
            return;
        }
        let (user, device, heard_ms) = (entry.user(), entry.device(), entry.heard_ms);
        self.commit(tables, Change::End { user, device, heard_ms }, now, out);
    }

    fn end_loan_if_over(&mut self, tables: &Tables, lent: PushId, now: Now, out: &mut Outbox) {
        let Some(loan) = self.loans.get(lent) else { return };
        if loan.holder.is_some() && loan.until_ms <= now.unix_ms {
            self.commit(tables, Change::Unlend { lent }, now, out);
        } else {
            self.arm_loan(lent, now);
        }
    }

    /// Sets the timer that ends a binding.
    pub(super) fn arm_binding(&mut self, at: u32, now: Now) {
        let Some(entry) = self.store.get_mut(at) else { return };
        let wait = entry.valid_until_ms().map(|until| until.saturating_sub(now.unix_ms));
        rearm(&mut self.expiry, &mut entry.timer, at, now, wait);
    }

    /// Sets the timer that forgets an ended binding; one with a row in users.csv must go on to hide it.
    pub(super) fn arm_ended(&mut self, tables: &Tables, at: u32, now: Now) {
        let Some(entry) = self.store.get_mut(at) else { return };
        entry.set_ended_at(tick(now));
        let has_row = Self::row(tables, entry.user(), entry.device()).is_some();
        let wait = (!has_row).then_some(REMEMBER_MS);
        rearm(&mut self.expiry, &mut entry.timer, at, now, wait);
        self.store.set_hiding(at, has_row);
    }

    pub(super) fn arm_loan(&mut self, lent: PushId, now: Now) {
        let Some(loan) = self.loans.get_mut(lent) else { return };
        let wait = match loan.holder {
            Some(_) if loan.until_ms == u64::MAX => None,
            Some(_) => Some(loan.until_ms.saturating_sub(now.unix_ms)),
            None => Some(REMEMBER_MS),
        };
        rearm(&mut self.loan_expiry, &mut loan.timer, lent, now, wait);
    }

    pub(super) fn arm_released(&mut self, key: Nothing, now: Now) {
        if let Some((_, timer)) = self.released.get_mut(&key) {
            rearm(&mut self.released_expiry, timer, key, now, Some(RELEASED_MS));
        }
    }
}

/// Sets a timer, or none, in place of the one that was set.
pub(super) fn rearm<K: Copy>(
    wheel: &mut Wheel<K>,
    timer: &mut Option<TimerId>,
    key: K,
    now: Now,
    wait_ms: Option<u64>,
) {
    if let Some(timer) = timer.take() {
        wheel.cancel(timer);
    }
    *timer = wait_ms.map(|wait| wheel.set(tick_after(now, wait), key));
}
