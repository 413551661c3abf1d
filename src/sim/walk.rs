//! The way of one message through the whole federation on clean links, by the oracle alone.

use std::collections::VecDeque;

use super::cast::Sender;
use super::cast::gateway::Inner;
use super::naive::{Letter, flag, kind};
use super::oracle::{Expected, Judged, Model, Outcome, Way};
use super::port::Waiting;
use super::world::{Host, World};
use crate::id::Endpoint;
use crate::reason::Reason;

/// What must become of a message.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Fate {
    /// Terminals that it must reach, in order.
    pub delivered: Vec<usize>,
    /// RECEIPTs that must come back.
    pub receipts: usize,
    /// REJECTs that must come back, in order.
    pub rejects: Vec<Reason>,
    /// ECHOEDs that must come back.
    pub echoed: usize,
    /// A replay window takes two messages for one (ruling 17 knows no kind: two terminals' receipts over a
    /// signed link are one): which of them passes is a race, and nothing is demanded.
    pub is_racy: bool,
}

/// A datagram on its way to a server.
struct Leg {
    site: usize,
    waiting: Waiting,
}

impl World {
    /// Walks a message from its sender to all its ends.
    pub fn walk(&self, sender: Sender, from: Endpoint, site: usize, bytes: &[u8]) -> Fate {
        let mut fate = Fate::default();
        let mut models: Vec<Model> =
            self.operator.sites.iter().map(|_| Model::new(1, self.options.datagram_max)).collect();
        let waiting = |from, bytes: &[u8], listener| Waiting { bytes: bytes.to_vec(), from, listener };
        let listening = self.host(self.listening(site, from));
        let Some(Host::Server(_, listener)) = listening else { return fate };
        let mut legs = VecDeque::from([Leg { site, waiting: waiting(from, bytes, listener) }]);
        for count in 0.. {
            let Some(Leg { site, waiting: datagram }) = legs.pop_front() else { break };
            if count > 1000 {
                self.fail(&format!("the oracle's walk does not end: {datagram:?} at {site}"));
            }
            let own = &self.operator.sites[site];
            for Judged { outcome, sends, .. } in models[site].judge(own, 0, self.now, &[datagram]) {
                fate.is_racy |= outcome == Outcome::Dropped(Reason::StaleOrReplayed) && count > 0;
                for send in sends {
                    let bytes = self.encode(site, &send);
                    let to = send.to;
                    let from = *own.listen.iter().find(|own| own.is_ipv4() == to.is_ipv4()).unwrap_or(&to);
                    match self.host(to) {
                        Some(Host::Server(next, listener)) => {
                            legs.push_back(Leg { site: next, waiting: waiting(from, &bytes, listener) });
                        }
                        _ => legs.extend(self.arrives(site, sender, &send, &bytes, &mut fate)),
                    }
                }
            }
        }
        fate.delivered.sort_unstable();
        fate.rejects.sort_unstable();
        fate
    }

    fn encode(&self, site: usize, send: &Expected) -> Vec<u8> {
        let key = self.operator.sites[site].rib.keys.iter().find(|key| Some(key.id) == send.key);
        send.letter.encode(key.map(|key| (key.id, key.value, self.now.unix_ms)), 0)
    }

    /// A datagram leaves the servers: what it does to the message's fate, and the receipt it causes.
    fn arrives(
        &self,
        site: usize,
        sender: Sender,
        send: &Expected,
        bytes: &[u8],
        fate: &mut Fate,
    ) -> Option<Leg> {
        let letter = &send.letter;
        let handset = match self.host(send.to)? {
            Host::Handset(at) => at,
            Host::Pusher(at) => {
                fate.answer(letter, Sender::Pusher(at) == sender && !letter.has(flag::ROAMED));
                return None;
            }
            Host::Gateway(_) => {
                let gateways = &self.operator.sites[site].rib.gateways;
                let (row, to, told) = match send.way {
                    Way::Tunnel(row, private) => (row, private, None),
                    _ => {
                        let Inner { row, to, realm, .. } =
                            super::cast::gateway::decapsulate(gateways, send.to, bytes).ok()?;
                        (row, to, realm)
                    }
                };
                let segments = &self.operator.sites[site].rib.segments;
                let led = segments.iter().find(|segment| segment.gateway as usize == row);
                let realm = told.or(led.map(|segment| segment.realm));
                self.operator.handsets.iter().position(|handset| {
                    (handset.site, Some(handset.realm), handset.private) == (site, realm, Some(to))
                })?
            }
            Host::Server(..) => return None,
        };
        if letter.kind != kind::PUSH {
            let own = self.operator.handsets[handset].user == letter.destination;
            fate.answer(letter, own || sender == Sender::Handset(handset));
            return None;
        }
        fate.delivered.push(handset);
        if !letter.has(flag::RECEIPT) {
            return None;
        }
        let (from, to, bytes) = self.receipt(handset, site, letter)?;
        let Some(Host::Server(site, listener)) = self.host(to) else { return None };
        Some(Leg { site, waiting: Waiting { bytes, from, listener } })
    }
}

impl Fate {
    fn answer(&mut self, letter: &Letter, counts: bool) {
        match letter.kind {
            _ if !counts => {}
            kind::PUSH => {}
            kind::RECEIPT => self.receipts += 1,
            kind::REJECT => self.rejects.extend(letter.reason()),
            _ => self.echoed += 1,
        }
    }
}
