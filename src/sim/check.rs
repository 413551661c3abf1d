//! Holds each burst of the engine against the oracle's verdicts.

use super::cast::gateway::decapsulate;
use super::naive::Letter;
use super::oracle::{Expected, Judged, Outcome, Sender, Way};
use super::port::{Offered, Waiting};
use super::world::World;
use crate::id::Endpoint;
use crate::metrics::Counters;
use crate::reason::Reason;

/// What the port said to the datagrams of one message.
struct Fate {
    sender: Option<Sender>,
    left: bool,
    /// Of the last that it refused.
    refused: Option<Reason>,
}

impl Fate {
    /// The REJECT of a message of which nothing left.
    fn owes(&self) -> Option<Expected> {
        let reason = self.refused.filter(|_| !self.left)?;
        self.sender.as_ref().map(|sender| sender.reject(reason))
    }
}

impl World {
    /// Everything that a server did with a burst is what the oracle says, datagram by datagram and
    /// counter by counter.
    pub(super) fn check_burst(
        &mut self,
        site: usize,
        received: &[Waiting],
        judged: Vec<Judged>,
        offered: &[Offered],
        before: &Counters,
        after: &Counters,
    ) {
        if after.unaccounted() != 0 || after.rx - before.rx != received.len() as u64 {
            self.fail(&format!("server {site} read {} datagrams and counts {after:?}", received.len()));
        }
        if !offered.is_sorted_by_key(|offered| offered.class) {
            self.fail("datagrams leave out of the order of their classes");
        }
        let outcomes: Vec<Outcome> = judged.iter().map(|judged| judged.outcome).collect();
        let (mut missing, mut fates) = (Vec::new(), Vec::new());
        for Judged { sends, sender, .. } in judged {
            missing.extend(sends.into_iter().map(|expected| (fates.len(), expected)));
            fates.push(Fate { sender, left: false, refused: None });
        }
        let scarce = self.options.is_scarce();
        for offer in offered {
            let matching = missing.iter().position(|(_, expected)| self.is_same(site, offer, expected));
            if let Some(at) = matching {
                let fate: &mut Fate = &mut fates[missing.swap_remove(at).0];
                fate.left |= offer.is_sent;
                let is_long = offer.bytes.len() > self.options.local_mtu;
                let reason = if is_long { Reason::TooLarge } else { Reason::Overloaded };
                if !offer.is_sent {
                    fate.refused = Some(reason);
                }
                continue;
            }
            // Who is told of what did not leave is told after all that did.
            let is_owed = |fate: &Fate| fate.owes().is_some_and(|owed| self.is_same(site, offer, &owed));
            if let Some(at) = fates.iter().position(is_owed) {
                fates[at].sender = None;
                continue;
            }
            let overloaded = || Letter::decode(&offer.bytes).ok()?.reason();
            if scarce && offer.is_reject && overloaded() == Some(Reason::Overloaded) {
                continue;
            }
            let near: Vec<_> = missing.iter().filter(|(_, expected)| expected.to == offer.to).collect();
            self.fail(&format!(
                "server {site} sends to {} ({:?}) what it should not: {:?}\n  expected there: {near:?}\n  of {outcomes:?}",
                offer.to,
                offer.class,
                self.inner(site, offer).and_then(|bytes| Letter::decode(&bytes).ok()),
            ));
        }
        let mut missing: Vec<Expected> = missing.into_iter().map(|(_, expected)| expected).collect();
        missing.extend(fates.iter().filter_map(Fate::owes));
        self.check_missing(site, &missing, &outcomes, before, after);
        let refused = offered.iter().any(|offered| !offered.is_sent);
        self.check_counters(site, &outcomes, scarce || refused, before, after);
        let now_ns = self.now.mono_ns;
        for offer in offered.iter().filter(|offer| offer.is_reject) {
            self.servers[site].rejects.entry(offer.to).or_default().push(now_ns);
        }
    }

    /// What was not sent: REJECTs beyond the limit of an address (ruling 31), or what there was no
    /// frame for.
    fn check_missing(
        &mut self,
        site: usize,
        missing: &[Expected],
        outcomes: &[Outcome],
        before: &Counters,
        after: &Counters,
    ) {
        let suppressed = after.rejects_suppressed - before.rejects_suppressed;
        self.suppressed += suppressed;
        let scarce = self.options.is_scarce();
        let is_reject = |expected: &&Expected| expected.way == Way::Reject;
        let rejects = missing.iter().filter(is_reject).count() as u64;
        if rejects > suppressed || (!scarce && rejects < suppressed) {
            self.fail(&format!("server {site} does not send REJECTs: {missing:?}\n  of {outcomes:?}"));
        }
        for expected in missing.iter().filter(is_reject) {
            let ip = |to: Endpoint| if to.is_ipv4() { to.octets() } else { network(to) };
            let second_ago = self.now.mono_ns - 1_000_000_000;
            let times = self.servers[site].rejects.iter().filter(|(to, _)| ip(**to) == ip(expected.to));
            let recent = times.flat_map(|(_, times)| times).filter(|at| **at >= second_ago).count();
            if recent < 60 {
                self.fail(&format!("server {site} holds back a REJECT after {recent} within a second"));
            }
        }
        if let Some(lost) = missing.iter().find(|expected| expected.way != Way::Reject && !scarce) {
            self.fail(&format!("server {site} does not send {lost:?}\n  of {outcomes:?}"));
        }
    }

    /// The counters move as the oracle says; where something could not be sent, only by how much in sum.
    fn check_counters(
        &self,
        site: usize,
        outcomes: &[Outcome],
        refused: bool,
        before: &Counters,
        after: &Counters,
    ) {
        let count = |outcome: Outcome| outcomes.iter().filter(|other| **other == outcome).count() as u64;
        for reason in Reason::ALL {
            let counted = after.dropped[reason.index()] - before.dropped[reason.index()];
            let expected = count(Outcome::Dropped(*reason));
            let may_differ = refused && matches!(reason, Reason::Overloaded | Reason::TooLarge);
            if counted != expected && !may_differ {
                self.fail(&format!(
                    "server {site} dropped {counted} as {reason}, expected {expected}\n  of {outcomes:?}"
                ));
            }
        }
        if refused || self.options.lag {
            return;
        }
        let moved = [
            (after.delivered - before.delivered, Outcome::Delivered),
            (after.forwarded - before.forwarded, Outcome::Forwarded),
            (after.answered - before.answered, Outcome::Answered),
            (after.punted - before.punted, Outcome::Handed),
        ];
        for (counted, outcome) in moved {
            if counted != count(outcome) {
                self.fail(&format!("server {site} counts {counted} {outcome:?}, expected {outcomes:?}"));
            }
        }
    }

    /// The PRP datagram that a server sends, out of its tunnel.
    fn inner(&self, site: usize, offer: &Offered) -> Option<Vec<u8>> {
        match decapsulate(&self.operator.sites[site].rib.gateways, offer.to, &offer.bytes) {
            Ok(inner) => Some(inner.bytes),
            Err(_) => Some(offer.bytes.clone()),
        }
    }

    /// Whether a datagram is the expected one: its way, its every field, its signature.
    fn is_same(&self, site: usize, offer: &Offered, expected: &Expected) -> bool {
        let is_reject = expected.way == Way::Reject;
        if (offer.to, offer.class, offer.is_reject) != (expected.to, expected.class, is_reject) {
            return false;
        }
        let bytes = match expected.way {
            Way::Tunnel(row, private) => {
                let gateways = &self.operator.sites[site].rib.gateways;
                match decapsulate(gateways, offer.to, &offer.bytes) {
                    Ok(inner) if (inner.row, inner.to) == (row, private) => inner.bytes,
                    _ => return false,
                }
            }
            Way::Bare | Way::Server | Way::Reject => offer.bytes.clone(),
        };
        let Ok(mut letter) = Letter::decode(&bytes) else { return false };
        let is_signed = match (letter.auth.take(), expected.key) {
            (None, None) => true,
            (Some(auth), Some(id)) => {
                let key = self.operator.sites[site].rib.keys.iter().find(|key| key.id == id);
                let right = key.is_some_and(|key| auth.is_right(&bytes, key.value));
                auth.key == id && right && auth.unix_ms == self.now.unix_ms
            }
            _ => false,
        };
        is_signed && letter == expected.letter
    }
}

fn network(to: Endpoint) -> [u8; 16] {
    let mut octets = to.octets();
    octets[8..].fill(0);
    octets
}
