//! What happens where a datagram arrives: at a server's port, or at somebody of the cast, who holds it
//! against what it may get.

use rand::RngExt;

use super::cast::gateway::decapsulate;
use super::cast::{Record, Sender};
use super::link::Flying;
use super::naive::{self, Letter, flag, kind, option};
use super::operator::Handset;
use super::port::Waiting;
use super::world::{Event, Host, World};
use crate::id::{Endpoint, PushId};

impl World {
    pub(super) fn arrive(&mut self, datagram: Flying) {
        self.links.counters.flying -= 1;
        self.note(&[b"arrive", &datagram.to.octets(), &datagram.bytes]);
        let host = self.host(datagram.to);
        match host {
            None => {
                self.links.counters.nobody += 1;
                return;
            }
            Some(Host::Server(site, listener)) => {
                self.arrive_at_server(site, listener, datagram);
                return;
            }
            Some(_) => self.links.counters.delivered += 1,
        }
        match host {
            Some(Host::Gateway(site)) => self.arrive_at_gateway(site, &datagram),
            Some(Host::Handset(at)) => {
                let site = self.site_of(datagram.from);
                self.handset_receives(at, site, &datagram, &datagram.bytes, None);
            }
            Some(Host::Pusher(at)) => self.pusher_receives(at, &datagram),
            _ => {}
        }
    }

    /// The site whose server sends from this address.
    fn site_of(&self, from: Endpoint) -> usize {
        match self.host(from) {
            Some(Host::Server(site, _)) => site,
            _ => self.fail("the cast only hears from servers"),
        }
    }

    fn arrive_at_server(&mut self, site: usize, listener: u8, datagram: Flying) {
        self.check_hops(&datagram);
        let shards = self.options.shards;
        let shard = match Letter::head(&datagram.bytes) {
            Some(head) if self.options.steered => head.destination.0 as u32 as usize % shards,
            _ => self.rng.random_range(0..shards),
        };
        let waiting = Waiting { bytes: datagram.bytes, from: datagram.from, listener };
        if self.servers[site].dataplane.shards[shard].port_mut().arrive(waiting) {
            self.links.counters.delivered += 1;
        } else {
            self.links.counters.overflow += 1;
        }
        self.wake(site, shard);
    }

    /// Nothing loops: how often one message and its answers reach servers is bounded. Eight hops, and
    /// one more to each server that a terminal of the user roams at.
    fn check_hops(&mut self, datagram: &Flying) {
        let Some(head) = Letter::head(&datagram.bytes) else { return };
        let is_claimed = !self.loose.contains(&head.message) && !self.garbled.contains(&head.message);
        let Some(record) = self.records.get_mut(&head.message) else { return };
        record.hops[Self::side(head.kind)] += 1;
        let [pushes, answers] = record.hops;
        let [push_copies, answer_copies] = record.copies;
        let started = 1 + pushes + record.delivered.len() + answer_copies;
        if is_claimed && (pushes > (1 + push_copies) * 12 || answers > started * 9) {
            let what = format!("message {:016x} loops: {record:?}", head.message);
            self.fail(&what);
        }
    }

    fn arrive_at_gateway(&mut self, site: usize, datagram: &Flying) {
        let gateways = &self.operator.sites[site].rib.gateways;
        if self.site_of(datagram.from) != site {
            self.fail("a server sent to another's gateway");
        }
        let inner = match decapsulate(gateways, datagram.to, &datagram.bytes) {
            Ok(inner) => inner,
            Err(_) if datagram.is_corrupt => return,
            Err(fault) => self.fail(&format!("gateway {} got what it cannot take: {fault}", datagram.to)),
        };
        let segments = &self.operator.sites[site].rib.segments;
        let told = segments.iter().find(|segment| segment.gateway as usize == inner.row);
        let realm = inner.realm.or(told.map(|segment| segment.realm));
        let own = |handset: &Handset| {
            (handset.site, Some(handset.realm), handset.private) == (site, realm, Some(inner.to))
        };
        let key = realm.map(|realm| (site, realm, inner.to));
        match self.operator.handsets.iter().position(own) {
            Some(at) => self.handset_receives(at, site, datagram, &inner.bytes, key),
            None if datagram.is_corrupt || self.is_overtaken(key, datagram) => self.overtaken += 1,
            None => self.fail(&format!("nobody is at {} of realm {realm:?}", inner.to)),
        }
    }

    fn is_overtaken(&self, key: Option<(usize, u32, Endpoint)>, datagram: &Flying) -> bool {
        key.and_then(|key| self.moved.get(&key)).is_some_and(|moved| datagram.sent_ns <= *moved)
    }

    /// A datagram reaches a terminal: directly, or out of a tunnel (`place`).
    fn handset_receives(
        &mut self,
        at: usize,
        site: usize,
        datagram: &Flying,
        bytes: &[u8],
        place: Option<(usize, u32, Endpoint)>,
    ) {
        let handset = self.operator.handsets[at].clone();
        let letter = match Letter::decode(bytes) {
            Ok(letter) => letter,
            Err(_) if datagram.is_corrupt => return,
            Err(reason) => self.fail(&format!("a terminal got what is no message: {reason}")),
        };
        if !self.is_rightly_signed(site, handset.user, &letter, bytes) {
            if !datagram.is_corrupt && letter.kind == kind::PUSH && letter.destination == handset.user {
                self.fail(&format!(
                    "a terminal got a message that is not signed as it should be: {letter:?}"
                ));
            }
            if datagram.is_corrupt {
                return;
            }
        }
        let place = place.or(datagram_place(site, &handset, datagram));
        let is_claimed = !datagram.is_corrupt && !self.loose.contains(&letter.message);
        // An answer goes to the address that asked, whoever has it by now.
        let asked = |record: &Record| record.sender == Sender::Handset(at) || record.from == datagram.to;
        let is_asker = self.records.get(&letter.message).is_some_and(asked);
        let is_answer = naive::is_answer(letter.kind);
        if letter.destination != handset.user && !(is_answer && is_asker) {
            if self.is_overtaken(place, datagram) {
                self.overtaken += 1;
            } else if is_claimed && !(is_answer && self.garbled.contains(&letter.message)) {
                self.fail(&format!(
                    "a message reached user {} that it was not for: {letter:?}",
                    handset.user
                ));
            }
            return;
        }
        if is_answer {
            self.answered(Sender::Handset(at), &letter, is_claimed && !is_asker);
            return;
        }
        let wanted = letter.number(option::DEVICE).unwrap_or(0);
        if wanted != 0 && wanted != u64::from(handset.device) {
            if self.is_overtaken(place, datagram) {
                self.overtaken += 1;
            } else if is_claimed {
                self.fail(&format!("device {} got a message for device {wanted}", handset.device));
            }
            return;
        }
        let Some(record) = self.records.get_mut(&letter.message) else {
            if is_claimed {
                self.fail(&format!("a terminal got a message that nobody sent: {letter:?}"));
            }
            return;
        };
        let sent = &record.letter;
        let same = (sent.destination, sent.source, sent.app, &sent.payload)
            == (letter.destination, letter.source, letter.app, &letter.payload);
        record.delivered.push(at);
        if is_claimed && !same {
            let what = format!("a terminal got another message than was sent: {sent:?}\nbut {letter:?}");
            self.fail(&what);
        }
        self.note(&[b"reached", &at.to_le_bytes(), &letter.message.to_le_bytes()]);
        if letter.has(flag::RECEIPT)
            && let Some((from, to, bytes)) = self.receipt(at, site, &letter)
        {
            let delay_ns = self.rng.random_range(1..2_000_000);
            self.after(delay_ns, Event::Send { from, to, bytes });
        }
    }

    /// Whether a message to a user carries the signature that its server owes it (ruling 15).
    fn is_rightly_signed(&self, site: usize, user: PushId, letter: &Letter, bytes: &[u8]) -> bool {
        let key = self.operator.sites[site].rib.keys.iter().find(|key| key.user == Some(user));
        match (key, &letter.auth) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(key), Some(auth)) => auth.key == key.id && auth.is_right(bytes, key.value),
        }
    }

    /// The RECEIPT with which a terminal answers a PUSH that came from a site's server: where from and
    /// to, and its bytes. A terminal without an address of its own stays silent.
    pub(super) fn receipt(
        &self,
        at: usize,
        site: usize,
        letter: &Letter,
    ) -> Option<(Endpoint, Endpoint, Vec<u8>)> {
        let handset = &self.operator.handsets[at];
        let from = handset.uplink?;
        let site = &self.operator.sites[site];
        let to = *site.listen.iter().find(|own| own.is_ipv4() == from.is_ipv4())?;
        let known = |(id, _): &(u32, _)| site.rib.keys.iter().any(|key| key.id == *id);
        let sign = handset.key.filter(known).map(|(id, value)| (id, value, self.now.unix_ms));
        // Some come from clients that spend all their hops at once.
        let hops = if letter.message.is_multiple_of(16) { 1 } else { 8 };
        Some((from, to, Letter { hops, ..letter.answer(kind::RECEIPT) }.encode(sign, 0)))
    }

    fn pusher_receives(&mut self, at: usize, datagram: &Flying) {
        let letter = match Letter::decode(&datagram.bytes) {
            Ok(letter) => letter,
            Err(_) if datagram.is_corrupt => return,
            Err(reason) => self.fail(&format!("an application server got what is no message: {reason}")),
        };
        let is_claimed = !datagram.is_corrupt && !self.loose.contains(&letter.message);
        // It may stand as the serving server of a roaming user.
        if letter.has(flag::ROAMED) {
            return;
        }
        if !naive::is_answer(letter.kind) {
            if is_claimed {
                self.fail(&format!("an application server got what is no answer: {letter:?}"));
            }
            return;
        }
        self.answered(Sender::Pusher(at), &letter, is_claimed);
    }

    /// An answer reaches somebody: who asked, or the user as whom it was asked.
    fn answered(&mut self, who: Sender, letter: &Letter, is_claimed: bool) {
        let is_garbled = self.garbled.contains(&letter.message);
        let user = match who {
            Sender::Handset(at) => Some(self.operator.handsets[at].user),
            Sender::Pusher(_) => None,
        };
        let Some(record) = self.records.get_mut(&letter.message) else {
            if is_claimed && !is_garbled {
                self.fail(&format!("somebody got an answer to what nobody sent: {letter:?}"));
            }
            return;
        };
        let is_spontaneous = naive::is_answer(record.letter.kind);
        if is_claimed && record.sender != who && user.is_none_or(|user| user != letter.destination) {
            let what = format!("{who:?} got an answer to what {:?} sent: {letter:?}", record.sender);
            self.fail(&what);
        }
        match letter.kind {
            kind::RECEIPT => record.receipts += 1,
            kind::REJECT => {
                if is_spontaneous && is_claimed && !is_garbled && letter.reason() != record.letter.reason() {
                    let what = format!("an answer was rejected: {letter:?}");
                    self.fail(&what);
                }
                record.rejects.extend(letter.reason());
            }
            _ => record.echoed += 1,
        }
        self.note(&[b"answer", &[letter.kind], &letter.message.to_le_bytes()]);
    }
}

/// The private address at which a datagram without a tunnel reached a terminal.
fn datagram_place(site: usize, handset: &Handset, datagram: &Flying) -> Option<(usize, u32, Endpoint)> {
    (handset.private == Some(datagram.to)).then_some((site, handset.realm, datagram.to))
}
