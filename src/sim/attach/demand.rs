//! What is demanded after healing: that everybody is registered, and that every message arrives.

use std::collections::BTreeSet;

use rand::RngExt;

use super::options::VALIDITY_MAX_S;
use super::phone::Phase;
use super::world::World;
use crate::id::PushId;
use crate::reason::Reason;

const SECOND_NS: u64 = 1_000_000_000;
/// The longest that a server remembers what has ended.
const MEMORY_S: u64 = 700;

impl World {
    /// Long enough that every terminal has registered again, what is not true any more has run out, and servers
    /// have told each other.
    pub(super) fn settle_down(&mut self) {
        // One that is bound without end never learns that its server was told otherwise, by what was under way.
        self.run_until(self.now_ns + 20 * SECOND_NS);
        for phone in 0..self.phones.len() {
            if self.phones[phone].is_static && self.phones[phone].phase == Phase::Registered {
                self.reboot(phone);
            }
        }
        let [_, longest] = self.options.validity_s;
        let validity_s = if self.options.static_bindings { VALIDITY_MAX_S } else { longest };
        self.run_until(self.now_ns + (u64::from(validity_s) + 75) * SECOND_NS);
        for site in 0..self.options.servers {
            self.check_memory(site);
        }
    }

    /// Everybody moves on once more, and this time what was true before ends at once: as soon as clocks that are off
    /// let a request through.
    pub(super) fn everybody_moves(&mut self) {
        self.has_moved = true;
        let phones: Vec<usize> =
            (0..self.phones.len()).filter(|at| self.phones[*at].lease.is_some()).collect();
        for phone in &phones {
            self.detach(*phone);
        }
        for phone in phones {
            self.attach_somewhere(phone);
        }
        self.run_until(self.now_ns + 60 * SECOND_NS);
    }

    /// Every message to somebody who is registered arrives exactly once at each terminal that it is for, and
    /// every receipt comes back; to somebody who is not, a rejection does.
    pub(super) fn demand_delivery(&mut self) {
        for (at, phone) in self.phones.iter().enumerate() {
            if phone.lease.is_some() && !phone.is_registered(self.now_ns) {
                let about = phone.identity().unwrap_or(PushId::NONE);
                self.fail(&format!("terminal {at} is attached and cannot register: {phone:?}"), &[about]);
            }
        }
        let mut targets: BTreeSet<(PushId, Option<u8>)> = BTreeSet::new();
        for phone in &self.phones {
            targets.extend(phone.own.map(|own| (own, None)));
            targets.extend(phone.own.filter(|_| phone.device != 0).map(|own| (own, Some(phone.device))));
            targets.extend(phone.lent.map(|lent| (lent, None)));
        }
        let mut demanded = Vec::new();
        for target in targets {
            let phones: Vec<usize> = (0..self.phones.len())
                .filter(|at| {
                    let phone = &self.phones[*at];
                    phone.is_registered(self.now_ns)
                        && phone.is(target.0)
                        && target.1.is_none_or(|device| device == phone.device)
                })
                .collect();
            let home = self.home(target.0);
            let serve = |site: usize| {
                phones.iter().any(|at| self.phones[*at].lease.is_some_and(|lease| lease.site == site))
            };
            // One that starts at a server that serves the user for another ends there (ruling 33).
            let enter: Vec<usize> =
                (0..self.options.servers).filter(|site| *site == home || !serve(*site)).collect();
            let site = enter[self.rng.random_range(0..enter.len())];
            let receipts = self.receipts_owed(&phones, site, home);
            demanded.push((self.push(site, target), phones, receipts));
        }
        self.run_until(self.now_ns + 5 * SECOND_NS);
        for (message, phones, receipts) in demanded {
            let pushed = &self.pushed[&message];
            let reached: Vec<(usize, u32)> =
                pushed.reached.iter().map(|((phone, _), times)| (*phone, *times)).collect();
            let expected: Vec<(usize, u32)> = phones.iter().map(|at| (*at, 1)).collect();
            // What users.csv or a binding without end says of nobody there cannot be known to be wrong.
            let may_be_rejected = phones.is_empty() || self.options.static_bindings || self.has_moved;
            let is_told = pushed.rejects.iter().all(|reason| {
                let is_not_there = matches!(
                    reason,
                    Reason::NotAttached | Reason::UnknownDestination | Reason::NoGateway | Reason::NoRoute
                );
                may_be_rejected && is_not_there
            });
            // A signed link takes a RECEIPT that follows a REJECT for its repetition, too.
            let fewest = receipts.saturating_sub(pushed.rejects.len());
            let is_receipted = (fewest..=receipts).contains(&pushed.receipts);
            if reached != expected || !is_receipted || !is_told {
                let what =
                    format!("after healing, expected {expected:?} and {receipts} receipts, but {pushed:?}");
                self.fail(&what, &[pushed.letter.destination]);
            }
            self.tally.demanded += expected.len();
        }
    }

    /// The server whose prefix a Push ID lies under.
    fn home(&self, id: PushId) -> usize {
        (id.0 >> 124) as usize
    }

    /// How many receipts come back: those that a signed link takes for repetitions of another do not (ruling 17
    /// looks at key, source, destination and message identifier, which two terminals of a user share).
    fn receipts_owed(&self, phones: &[usize], enter: usize, home: usize) -> usize {
        let mut seen: BTreeSet<(usize, u32)> = BTreeSet::new();
        let mut comes_back = |at: &&usize| {
            let phone = &self.phones[**at];
            let Some(lease) = phone.lease else { return false };
            let mut way = vec![lease.site, home, enter];
            way.dedup();
            let mut key = phone.key.map(|(id, _)| id);
            let mut before: Option<usize> = None;
            way.into_iter().all(|site| {
                if let Some(before) = before {
                    key = self.operator.sites[site].rib.servers[before].key;
                }
                before = Some(site);
                key.is_none_or(|key| seen.insert((site, key)))
            })
        };
        phones.iter().filter(|at| comes_back(at)).count()
    }

    /// Nobody asks anything any more, and everything comes to an end by itself: what terminals held, what servers say
    /// to each other, what is remembered of both.
    pub(super) fn everybody_leaves(&mut self) {
        for phone in 0..self.phones.len() {
            self.detach(phone);
        }
        self.run_until(self.now_ns + (u64::from(VALIDITY_MAX_S) + 75) * SECOND_NS);
        let sent = self.links.counters.sent;
        self.run_until(self.now_ns + MEMORY_S * SECOND_NS);
        let is_quiet = self.links.counters.sent == sent && self.links.counters.flying == 0;
        for (site, node) in self.nodes.iter().enumerate() {
            let Some(controller) = node.life.as_ref().map(|life| &life.controller) else { continue };
            let (bindings, due) = (controller.bindings(), controller.poll_timeout());
            let has_ended = bindings == 0 && due.is_none();
            if !is_quiet || (!has_ended && !self.options.static_bindings) {
                self.fail(&format!("server {site} holds {bindings} bindings, and waits for {due:?}"), &[]);
            }
        }
    }
}
