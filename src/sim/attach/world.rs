//! The world: servers, networks, terminals and application servers on virtual time, one event after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use xxhash_rust::xxh3::Xxh3;

use super::accounting::{self, Account};
use super::network::{NOTICE_PORT, Network, Notice};
use super::node::{End, Leaving, Node, unix_ms};
use super::options::{Options, VALIDITY_MAX_S};
use super::phone::Phone;
use super::trace::{Trace, What};
use super::witness::{Place, Witness};
use crate::clock::Now;
use crate::config::Limits;
use crate::control::Reply;
use crate::id::{Endpoint, PushId};
use crate::metrics::Counters;
use crate::reason::Reason;
use crate::sim::agenda::Agenda;
use crate::sim::cast::gateway::decapsulate;
use crate::sim::link::{Arrival, Flying, LinkCounters, Links};
use crate::sim::naive::{Letter, flag, kind, option};
use crate::sim::operator::{OPEN_REALM, Operator};
use crate::sim::options::LinkClass;
use crate::sim::oracle;
use crate::sim::port::{Offered, Waiting};
use crate::table::rib::Gateway;

/// How long a server takes from a datagram's arrival to its burst, at most.
const WORK_NS: u64 = 200_000;
/// How long the controller's thread takes to wake up, at most.
const WAKE_NS: u64 = 300_000;
/// Bindings that one part of a snapshot looks at: few, so that requests come between the parts.
const PART: u32 = 3;

/// What happens next.
#[derive(Debug)]
pub(super) enum Event {
    Arrive(Flying),
    /// A shard works, in this life of its server.
    Work {
        site: usize,
        life: u32,
        shard: usize,
    },
    /// The controller turns, at the time that it was last told to.
    Turn {
        site: usize,
        life: u32,
    },
    /// What a burst or the controller made leaves.
    Leave {
        site: usize,
        life: u32,
        datagrams: Vec<Leaving>,
    },
    /// A part of a snapshot of the journal is written.
    Compact {
        site: usize,
        life: u32,
    },
    Phone {
        phone: usize,
        timer: u64,
    },
    Notice(Notice),
    /// A report is repeated, unless it is answered.
    Account(usize),
    Script(super::run::Step),
}

/// A message that was pushed, and what became of it.
#[derive(Clone, Debug)]
pub(super) struct Pushed {
    pub(super) letter: Letter,
    pub(super) pusher: usize,
    /// How often links made two of one.
    pub(super) copies: u32,
    /// How often it reached which terminal that it was for, and at which address.
    pub(super) reached: BTreeMap<(usize, Endpoint), u32>,
    pub(super) receipts: usize,
    pub(super) rejects: Vec<Reason>,
}

/// How a message came to a server.
#[derive(Default)]
struct Heard {
    from: BTreeSet<Endpoint>,
    /// Each time marked as ROAMED.
    is_roamed: bool,
}

/// Everything. Every check that fails panics with the seed and what led there.
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) options: Options,
    pub(super) operator: Operator,
    pub(super) limits: Limits,
    pub(super) rng: Pcg64Mcg,
    pub(super) now_ns: u64,
    pub(super) nodes: Vec<Node>,
    pub(super) network: Network,
    pub(super) phones: Vec<Phone>,
    pub(super) accounts: Vec<Account>,
    pub(super) witness: Witness,
    /// Nothing goes wrong any more.
    pub(super) is_healed: bool,
    /// Some terminals have gone since, and servers need not know yet.
    pub(super) has_moved: bool,
    pub(super) links: Links,
    pub(super) agenda: Agenda<Event>,
    pub(super) pushed: BTreeMap<u64, Pushed>,
    /// By server, whom it is for and its identifier: how a message came to a server.
    heard: BTreeMap<(usize, PushId, u64), Heard>,
    pub(super) trace: Trace,
    pub(super) tally: super::Summary,
    digest: Xxh3,
}

impl World {
    pub(super) fn new(
        seed: u64,
        options: Options,
        operator: Operator,
        network: Network,
        phones: Vec<Phone>,
    ) -> Self {
        let mut rng = Pcg64Mcg::seed_from_u64(seed ^ 0x6174_7461_6368);
        let limits = Limits {
            frames: 128,
            receipts: 1 << 12,
            replays: 1 << 13,
            reject_sources: 1 << 10,
            punts: 1 << 6,
            bindings: 1 << 10,
            journal: options.journal,
            validity_default_s: 30,
            validity_max_s: VALIDITY_MAX_S as usize,
            ..Limits::default()
        };
        let nodes = (0..options.servers).map(|site| {
            let skew_ms = rng.random_range(-options.skew_ms..=options.skew_ms);
            let radius = options.feeds.then(|| accounting::radius(accounting::listen(site)));
            Node::new(rng.random(), skew_ms, radius)
        });
        let nodes = nodes.collect();
        // Clocks that are off are set at times, too.
        let apart_ms = if options.skew_ms == 0 { 0 } else { 2 * options.skew_ms.unsigned_abs() + 1000 };
        Self {
            seed,
            witness: Witness::new(&operator.sites, apart_ms),
            is_healed: false,
            has_moved: false,
            links: Links { faults: options.links, counters: LinkCounters::default() },
            options,
            operator,
            limits,
            rng,
            now_ns: 1_000_000_000,
            nodes,
            network,
            phones,
            accounts: Vec::new(),
            agenda: Agenda::default(),
            pushed: BTreeMap::new(),
            heard: BTreeMap::new(),
            trace: Trace::default(),
            tally: super::Summary::default(),
            digest: Xxh3::new(),
        }
    }

    /// Panics with the seed, the options, what went wrong and what led there.
    #[track_caller]
    pub(super) fn fail(&self, what: &str, about: &[PushId]) -> ! {
        panic!(
            "{what}\n  at {} ms of seed {}: {:?}\n{}\n  run it alone: PUSHPLANE_SEED={} PUSHPLANE_SEEDS=1 cargo test --test attach every_seed",
            self.now_ns / 1_000_000,
            self.seed,
            self.options,
            self.trace.about(about),
            self.seed,
        )
    }

    pub(super) fn digest(&self) -> u64 {
        self.digest.digest()
    }

    pub(super) fn after(&mut self, delay_ns: u64, event: Event) {
        self.agenda.at(self.now_ns + delay_ns, event);
    }

    pub(super) fn note(&mut self, site: usize, what: What) {
        self.trace.note(self.now_ns, site, what);
    }

    /// Runs what happens before this time, and lets it become this time.
    pub(super) fn run_until(&mut self, until_ns: u64) {
        while let Some((at_ns, event)) = self.agenda.pop_before(until_ns) {
            self.now_ns = at_ns;
            match event {
                Event::Arrive(datagram) => self.arrive(datagram),
                Event::Work { site, life, shard } if self.is_life(site, life) => self.work(site, shard),
                Event::Turn { site, life } if self.is_life(site, life) => self.turn(site),
                Event::Leave { site, life, datagrams } if self.is_life(site, life) => {
                    datagrams.into_iter().for_each(|datagram| self.leave(site, datagram));
                }
                Event::Compact { site, life } if self.is_life(site, life) => self.compact(site),
                // Of a process that is no more.
                Event::Work { .. } | Event::Turn { .. } | Event::Leave { .. } | Event::Compact { .. } => {}
                Event::Phone { phone, timer } => self.phone_timer(phone, timer),
                Event::Notice(notice) => self.notice(notice),
                Event::Account(account) => self.report(account),
                Event::Script(step) => self.step(step),
            }
            if self.links.counters.missing() != 0 {
                self.fail("a datagram between two addresses is in no counter", &[]);
            }
        }
        self.now_ns = self.now_ns.max(until_ns);
    }

    fn is_life(&self, site: usize, life: u32) -> bool {
        let node = &self.nodes[site];
        node.life.is_some() && node.lives == life
    }

    // ---- links -----------------------------------------------------------------------------------

    fn server_at(&self, at: Endpoint) -> Option<(usize, u8)> {
        self.operator.sites.iter().enumerate().find_map(|(site, own)| {
            own.listen.iter().position(|listen| *listen == at).map(|listener| (site, listener as u8))
        })
    }

    /// The site whose gateway has this address and port.
    fn gateway_at(&self, at: Endpoint) -> Option<usize> {
        let has = |gateway: &Gateway| gateway.address == at;
        self.operator.sites.iter().position(|site| site.rib.gateways.iter().any(has))
    }

    /// Sends a datagram that carries this message.
    pub(super) fn send(&mut self, from: Endpoint, to: Endpoint, message: u64, bytes: Vec<u8>) {
        self.hash(&[b"send", &from.octets(), &to.octets(), &to.port().to_le_bytes(), &bytes]);
        let class = match (self.server_at(from), self.server_at(to)) {
            (Some(_), Some(_)) => LinkClass::Federation,
            _ if self.operator.pushers.iter().any(|own| *own == from || *own == to) => LinkClass::Client,
            _ => LinkClass::Access,
        };
        let twice = self.links.counters.twice;
        let datagram = Flying { from, to, bytes, sent_ns: self.now_ns, is_corrupt: false };
        let arrivals = self.links.carry(&mut self.rng, class, datagram);
        if self.links.counters.twice > twice
            && let Some(pushed) = self.pushed.get_mut(&message)
        {
            pushed.copies += 1;
        }
        for Arrival { at_ns, datagram } in arrivals {
            self.agenda.at(at_ns, Event::Arrive(datagram));
        }
    }

    fn hash(&mut self, parts: &[&[u8]]) {
        self.digest.update(&self.now_ns.to_le_bytes());
        parts.iter().for_each(|part| self.digest.update(part));
    }

    fn arrive(&mut self, datagram: Flying) {
        self.links.counters.flying -= 1;
        self.hash(&[b"arrive", &datagram.to.octets(), &datagram.bytes]);
        if let Some((site, listener)) = self.server_at(datagram.to) {
            self.arrive_at_server(site, listener, datagram);
            return;
        }
        let Some(datagram) = self.report_arrives(datagram) else { return };
        let pusher = self.operator.pushers.iter().position(|own| *own == datagram.to);
        let gateway = self.gateway_at(datagram.to);
        let phone = self.network.at(datagram.to);
        let is_notice = datagram.to.port() == NOTICE_PORT;
        if pusher.is_none() && gateway.is_none() && phone.is_none() && !is_notice {
            self.links.counters.nobody += 1;
            return;
        }
        self.links.counters.delivered += 1;
        if let Some(pusher) = pusher {
            self.pusher_hears(pusher, &datagram.bytes);
        } else if let Some(site) = gateway {
            self.gateway_hears(site, &datagram);
        } else if let Some(phone) = phone {
            self.phone_hears(phone, &datagram.bytes);
        }
    }

    fn gateway_hears(&mut self, site: usize, datagram: &Flying) {
        let rib = &self.operator.sites[site].rib;
        let inner = match decapsulate(&rib.gateways, datagram.to, &datagram.bytes) {
            Ok(inner) => inner,
            Err(fault) => {
                self.fail(&format!("gateway {} got what it cannot take: {fault}", datagram.to), &[])
            }
        };
        let row = rib.segments.iter().find(|segment| segment.gateway as usize == inner.row);
        let realm = inner.realm.or(row.map(|segment| segment.realm)).unwrap_or(0);
        match self.network.behind(site, realm, inner.to) {
            Some(phone) => self.phone_hears(phone, &inner.bytes),
            None => self.tally.to_nobody += 1,
        }
    }

    fn pusher_hears(&mut self, pusher: usize, bytes: &[u8]) {
        let Ok(letter) = Letter::decode(bytes) else {
            self.fail("an application server got no message", &[])
        };
        self.hash(&[b"heard", &[letter.kind], &letter.message.to_le_bytes()]);
        let Some(pushed) = self.pushed.get_mut(&letter.message).filter(|pushed| pushed.pusher == pusher)
        else {
            self.fail(&format!("an application server got what it did not ask for: {letter:?}"), &[])
        };
        match letter.kind {
            kind::RECEIPT => pushed.receipts += 1,
            kind::REJECT => pushed.rejects.extend(letter.reason()),
            _ => self.fail(&format!("an application server got {letter:?}"), &[letter.source]),
        }
    }

    // ---- servers ---------------------------------------------------------------------------------

    fn arrive_at_server(&mut self, site: usize, listener: u8, datagram: Flying) {
        let shard = match Letter::head(&datagram.bytes) {
            Some(head) => head.destination.0 as u32 as usize % self.options.shards,
            None => 0,
        };
        if self.nodes[site].life.is_none() {
            self.links.counters.nobody += 1;
            return;
        }
        if let Some(head) = Letter::head(&datagram.bytes).filter(|head| head.kind == kind::PUSH) {
            let heard = self.heard.entry((site, head.destination, head.message)).or_default();
            heard.from.insert(datagram.from);
            // Of copies that came different ways one may go on.
            heard.is_roamed = head.has(flag::ROAMED) && (heard.is_roamed || heard.from.len() == 1);
        }
        let Some(life) = &mut self.nodes[site].life else { return };
        let waiting = Waiting { bytes: datagram.bytes, from: datagram.from, listener };
        if life.dataplane.shards[shard].port_mut().arrive(waiting) {
            self.links.counters.delivered += 1;
        } else {
            self.links.counters.overflow += 1;
        }
        if !std::mem::replace(&mut life.dataplane.awake[shard], true) {
            let delay_ns = self.rng.random_range(1..WORK_NS);
            let life = self.nodes[site].lives;
            self.after(delay_ns, Event::Work { site, life, shard });
        }
    }

    /// A burst: what it makes leaves a little later, so that changes can overtake it.
    fn work(&mut self, site: usize, shard: usize) {
        let now = self.nodes[site].clock(self.now_ns);
        let burst_ns = self.rng.random_range(1..=self.options.burst_us) * 1000;
        let node = &mut self.nodes[site];
        let Some(life) = &mut node.life else { return };
        life.dataplane.awake[shard] = false;
        let running = &mut life.dataplane.shards[shard];
        let worked = running.receive(Duration::ZERO).and_then(|()| running.work(now));
        let received = running.port_mut().take_received();
        let offered = running.port_mut().take_offered();
        let more = running.port_mut().waiting() > 0;
        let counters = life.dataplane.boards[shard].read();
        life.handed.extend(handed(received, &offered));
        let listen = &self.operator.sites[site].listen;
        let leaving = |offered: Offered| Leaving {
            from: listen[usize::from(offered.listener)],
            to: offered.to,
            bytes: offered.bytes,
            decided: now,
            by_shard: true,
        };
        let datagrams: Vec<Leaving> = offered.into_iter().map(leaving).collect();
        life.bursts_until = life.bursts_until.max(self.now_ns + burst_ns);
        let life = node.lives;
        if worked.is_err() || counters.unaccounted() != 0 {
            self.fail(&format!("a shard of server {site} stopped or does not account: {counters:?}"), &[]);
        }
        self.after(burst_ns, Event::Leave { site, life, datagrams });
        if more {
            self.after(burst_ns, Event::Work { site, life, shard });
        }
        let wake_ns = self.now_ns + self.rng.random_range(1..WAKE_NS);
        self.turn_at(site, wake_ns);
    }

    /// The controller turns at this time, or when it can, unless it does before.
    pub(super) fn turn_at(&mut self, site: usize, at_ns: u64) {
        let number = self.nodes[site].lives;
        let Some(life) = &mut self.nodes[site].life else { return };
        let at_ns = at_ns.max(life.busy_until).max(self.now_ns + 1);
        if life.turn_at.is_none_or(|before| before > at_ns) {
            life.turn_at = Some(at_ns);
            self.agenda.at(at_ns, Event::Turn { site, life: number });
        }
    }

    fn turn(&mut self, site: usize) {
        let now_ns = self.now_ns;
        let now = self.nodes[site].clock(now_ns);
        let commit_ns = self.rng.random_range(1..=self.options.commit_us) * 1000;
        let Some(life) = self.nodes[site].life.as_mut().filter(|life| life.turn_at == Some(now_ns)) else {
            return;
        };
        life.turn_at = None;
        let told = self.take_reports(site, now);
        let Some(life) = &mut self.nodes[site].life else { return };
        let tables = life.dataplane.reader.enter();
        let decided = life.controller.decide(&tables, now);
        drop(tables);
        let handed = std::mem::take(&mut life.handed);
        let counters = *life.controller.counters();
        let unaccounted_reports = life.controller.report_counters().unaccounted();
        let has_failed = life.controller.is_poisoned();
        let ready_ns = match decided.changed {
            true if self.options.grace => now_ns.max(life.bursts_until) + commit_ns,
            _ => now_ns,
        };
        life.busy_until = ready_ns;
        let due_ns = life.controller.poll_timeout().map(|mono_ns| life.world_ns(mono_ns));
        self.tally.refusing += u64::from(has_failed && decided.worked);
        let has_lost_power = has_failed && life.power_fails;
        let default_s = self.limits.validity_default_s as u64;
        self.witness.taken(site, &self.operator.sites[site], now, &handed, default_s);
        self.witness.told(site, now, &told);
        if has_lost_power {
            self.end(site, End::Power);
            return;
        }
        if counters.unaccounted() != 0 || unaccounted_reports != 0 {
            self.fail(&format!("the controller of server {site} does not account: {counters:?}"), &[]);
        }
        self.answer(site, now, ready_ns);
        if let Some(due_ns) = due_ns {
            self.turn_at(site, due_ns);
        }
        self.begin_compaction(site);
    }

    /// What the controller has to say leaves at this time.
    fn answer(&mut self, site: usize, now: Now, ready_ns: u64) {
        let number = self.nodes[site].lives;
        let Some(life) = &mut self.nodes[site].life else { return };
        let listen = &self.operator.sites[site].listen;
        let mut datagrams = Vec::new();
        while let Some(reply) = life.controller.poll_transmit(now) {
            life.controller.sent(&reply, true);
            let Reply { to, listener, datagram: bytes, .. } = reply;
            let from = listen[usize::from(listener)];
            datagrams.push(Leaving { from, to, bytes, decided: now, by_shard: false });
        }
        while let Some(answer) = life.controller.poll_report() {
            life.controller.report_sent(true);
            let (from, to) = (accounting::listen(site), answer.to);
            datagrams.push(Leaving { from, to, bytes: answer.datagram, decided: now, by_shard: false });
        }
        self.agenda.at(ready_ns + 1, Event::Leave { site, life: number, datagrams });
    }

    fn begin_compaction(&mut self, site: usize) {
        let Some(life) = self.nodes[site].life.as_mut().filter(|life| life.compaction.is_none()) else {
            return;
        };
        match life.controller.compaction() {
            Ok(Some(compaction)) => {
                life.compaction = Some(compaction);
                self.compact_later(site);
            }
            Ok(None) => {}
            Err(_) if life.power_fails => self.end(site, End::Power),
            Err(_) => life.controller.not_compacted(),
        }
    }

    fn compact(&mut self, site: usize) {
        let Some(life) = &mut self.nodes[site].life else { return };
        let Some(mut compaction) = life.compaction.take() else { return };
        let finished = match life.controller.part(PART) {
            Some(part) => match compaction.write(&part) {
                Ok(()) => {
                    life.compaction = Some(compaction);
                    self.compact_later(site);
                    return;
                }
                Err(error) => Err(error),
            },
            None => compaction.finish(),
        };
        match finished {
            Ok(finished) => {
                life.controller.compacted(finished);
                self.tally.compactions += 1;
            }
            Err(_) if life.power_fails => self.end(site, End::Power),
            Err(_) => life.controller.not_compacted(),
        }
    }

    /// The next part of a snapshot is made: between two batches, while requests go on.
    fn compact_later(&mut self, site: usize) {
        let delay_ns = self.rng.random_range(1..500_000_000);
        let life = self.nodes[site].lives;
        self.after(delay_ns, Event::Compact { site, life });
    }

    /// A server's process begins.
    pub(super) fn start(&mut self, site: usize) {
        let (shards, seed) = (self.options.shards, self.rng.random());
        if self.options.skew_ms > 0 && self.nodes[site].lives > 0 {
            // Somebody set its clock meanwhile.
            self.nodes[site].skew_ms += self.rng.random_range(-100..=100);
        }
        let own = &self.operator.sites[site];
        match self.nodes[site].start(own, &self.limits, (shards, seed), self.now_ns) {
            Ok(recovery) => self.tally.torn += u64::from(recovery.cut.is_some()),
            Err(error) => self.fail(&format!("server {site} does not start: {error}"), &[]),
        }
        self.note(site, What::Started);
        self.turn_at(site, self.now_ns);
        self.run_until(self.now_ns + 2);
        self.check_memory(site);
    }

    /// A server is told to stop: who waits for an answer of another server is told before it ends.
    pub(super) fn stop(&mut self, site: usize) {
        let now = self.nodes[site].clock(self.now_ns);
        let Some(life) = &mut self.nodes[site].life else { return };
        let tables = life.dataplane.reader.enter();
        life.controller.give_up(&tables, now);
        drop(tables);
        self.answer(site, now, self.now_ns);
        self.run_until(self.now_ns + 2);
        self.end(site, End::Stop);
    }

    /// A server's process ends. What it had counted is complete.
    pub(super) fn end(&mut self, site: usize, how: End) {
        let Some(counters) = self.nodes[site].end(how, self.options.disks) else { return };
        self.note(site, What::Ended(how));
        self.account(site, &counters);
        self.tally.ends += 1;
        let down_ns = self.rng.random_range(100_000_000..20_000_000_000);
        self.after(down_ns, Event::Script(super::run::Step::Start(site)));
    }

    pub(super) fn account(&mut self, site: usize, counters: &Counters) {
        if counters.unaccounted() != 0 {
            self.fail(&format!("server {site} does not account for everything: {counters:?}"), &[]);
        }
        self.tally.received += counters.rx;
    }

    /// A server's shards see everything that it answered and that must still hold.
    pub(super) fn check_memory(&mut self, site: usize) {
        let now = self.nodes[site].clock(self.now_ns);
        let Some(life) = &self.nodes[site].life else { return };
        let live = life.dataplane.shared.live();
        let mut held = 0;
        for terminal in self.witness.terminals(site) {
            match self.witness.must_hold(site, now, terminal, live) {
                Ok(certain) => held += u64::from(certain),
                Err(what) => {
                    let (user, device) = terminal;
                    let what =
                        format!("server {site} lost what it knew of {user}, device {device}: it {what}");
                    self.fail(&what, &[user]);
                }
            }
        }
        match self.witness.must_hold_sessions(site, live) {
            Ok(certain) => self.tally.told += certain,
            Err(what) => self.fail(&format!("server {site} lost a session: {what}"), &[]),
        }
        self.tally.remembered += held;
    }

    // ---- what leaves a server --------------------------------------------------------------------

    fn leave(&mut self, site: usize, Leaving { from, to, bytes, decided, by_shard }: Leaving) {
        if from == accounting::listen(site) {
            self.report_is_answered(site, to);
            self.send(from, to, 0, bytes);
            return;
        }
        let gateways = &self.operator.sites[site].rib.gateways;
        let (letter, behind) = match decapsulate(gateways, to, &bytes) {
            Ok(inner) => {
                let segments = &self.operator.sites[site].rib.segments;
                let row = segments.iter().find(|segment| segment.gateway as usize == inner.row);
                let realm = inner.realm.or(row.map(|segment| segment.realm)).unwrap_or(0);
                (Letter::decode(&inner.bytes), Some(Place::Private(realm, inner.to.octets())))
            }
            Err(_) => (Letter::decode(&bytes), None),
        };
        let Ok(letter) = letter else { self.fail(&format!("server {site} sends no message to {to}"), &[]) };
        let now = self.nodes[site].clock(self.now_ns);
        match letter.kind {
            kind::PUSH => self.check_push(site, &letter, behind, to, decided),
            kind::REGISTERED | kind::RELEASED | kind::REJECT if !by_shard => {
                self.note(site, What::Answers(letter.kind, letter.source, letter.message, letter.reason()));
                if let Err(what) = self.witness.answered(site, now, to, &letter) {
                    self.fail(&format!("server {site} answers {letter:?}: {what}"), &[letter.source]);
                }
            }
            kind::REGISTER | kind::RELEASE => {
                self.note(site, What::Asks(letter.kind, letter.destination, letter.message, to));
            }
            _ => {}
        }
        self.send(from, to, letter.message, bytes);
    }

    /// A message for a user leaves for an address: only for one that may be the user's, as far as the server was
    /// told.
    fn check_push(
        &mut self,
        site: usize,
        letter: &Letter,
        behind: Option<Place>,
        to: Endpoint,
        decided: Now,
    ) {
        let is_server = self.server_at(to).is_some();
        if is_server {
            self.check_horizon(site, letter, to);
        }
        if is_server && !letter.has(flag::ROAMED) {
            return;
        }
        let open = self.operator.sites[site].rib.segments.iter();
        let mut open = open.filter(|segment| segment.realm == OPEN_REALM);
        let is_open = open.any(|segment| oracle::lies_in(to, segment.ip, segment.len));
        let place = behind.unwrap_or(match (is_server, is_open) {
            (true, _) => Place::Server(to),
            (false, true) => Place::Private(OPEN_REALM, to.octets()),
            (false, false) => Place::Public(to),
        });
        let device = letter.number(option::DEVICE).filter(|device| *device != 0).map(|device| device as u8);
        let who = (letter.destination, device);
        self.note(site, What::Leads(letter.destination, letter.message, place));
        if !self.witness.may_lead(site, decided, who, place) {
            let asked = self.witness.tell(site, letter.destination);
            let what = format!("server {site} sends to {place} what is not for there: {letter:?}\n{asked}");
            self.fail(&what, &[letter.destination]);
        }
        self.tally.led += 1;
    }

    /// No message goes back to the server it came from (ruling 33), and one that was marked as ROAMED before it came
    /// goes to no other (step 4).
    fn check_horizon(&self, site: usize, letter: &Letter, to: Endpoint) {
        let heard = self.heard.get(&(site, letter.destination, letter.message));
        let is_back = heard.is_some_and(|heard| heard.from.iter().all(|from| *from == to));
        let goes_on = heard.is_some_and(|heard| heard.is_roamed);
        if is_back || goes_on {
            let what = format!("server {site} sends on to {to} what has come the whole way: {letter:?}");
            self.fail(&what, &[letter.destination]);
        }
    }

    /// The clock of somebody who is not a server.
    pub(super) fn unix_ms(&self, skew_ms: i64) -> u64 {
        unix_ms(self.now_ns, skew_ms)
    }
}

/// The requests among what a shard received that it handed to the controller: all that it did not reject.
fn handed(received: Vec<Waiting>, offered: &[Offered]) -> Vec<Waiting> {
    let rejects = offered.iter().filter(|offered| offered.is_reject);
    let mut rejected: Vec<(u64, Endpoint)> =
        rejects.filter_map(|reject| Some((Letter::head(&reject.bytes)?.message, reject.to))).collect();
    let mut handed = received;
    // Of two that are alike the second is the repetition.
    handed.reverse();
    handed.retain(|waiting| {
        let Some(head) = Letter::head(&waiting.bytes) else { return false };
        let who = (head.message, waiting.from);
        match rejected.iter().position(|rejected| *rejected == who) {
            Some(at) => {
                rejected.swap_remove(at);
                false
            }
            None => matches!(head.kind, kind::REGISTER | kind::RELEASE),
        }
    });
    handed.reverse();
    handed
}
