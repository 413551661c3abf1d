//! A whole run from one seed: faults first, then heal, then demand delivery.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::cast::{Record, Sender};
use super::naive::{Letter, flag, kind, option, write_endpoint};
use super::operator::{APPS, Operator, v4};
use super::options::{Faults, Options};
use super::walk::Fate;
use super::world::{Event, World};
use crate::id::{Endpoint, PushId};
use crate::reason::Reason;

/// What the script of a run does at some time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Message,
    ChangeLinks,
    Reload,
}

/// What a run did, for those who want to know that something was tested.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// The number for all that happened.
    pub digest: u64,
    /// Datagrams that servers received.
    pub received: u64,
    /// Messages that reached terminals under faults, and after healing.
    pub delivered: [usize; 2],
    /// RECEIPTs that came back, likewise.
    pub receipts: [usize; 2],
    /// REJECTs that came back, likewise.
    pub rejects: [usize; 2],
    /// Datagrams that links changed and delivered.
    pub corrupted: u64,
    /// Deliveries that an address's move overtook.
    pub overtaken: usize,
    /// Messages that servers dropped, by [`Reason::index`].
    pub dropped: [u64; Reason::COUNT],
}

impl Summary {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.digest ^= other.digest;
        self.received += other.received;
        self.corrupted += other.corrupted;
        self.overtaken += other.overtaken;
        let pairs = [
            (&mut self.delivered, &other.delivered),
            (&mut self.receipts, &other.receipts),
            (&mut self.rejects, &other.rejects),
        ];
        for (sum, more) in pairs {
            sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
        self.dropped.iter_mut().zip(other.dropped).for_each(|(sum, more)| *sum += more);
    }
}

/// Runs one seed.
///
/// # Panics
/// When an invariant does not hold, with the seed and everything drawn from it.
pub fn run_seed(seed: u64) -> Summary {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let options = Options::swarm(&mut rng);
    let operator = Operator::draw(&mut rng, &options);
    let mut world = World::new(seed, options, operator);
    world.run_script();
    world.summary()
}

/// Where nobody is.
const NOWHERE: Endpoint = v4(198, 51, 100, 251, 9);

impl World {
    fn run_script(&mut self) {
        let Options { messages, changes, reloads, span_ms, .. } = self.options;
        for (count, step) in
            [(messages, Step::Message), (changes, Step::ChangeLinks), (reloads, Step::Reload)]
        {
            for _ in 0..count {
                let at_ns = self.rng.random_range(0..span_ms * 1_000_000);
                self.after(at_ns, Event::Script(step));
            }
        }
        self.run();
        self.heal();
        // What expires during a run has expired by now.
        self.run_until(self.now.mono_ns.max(11_000_000_000));
        self.demand_delivery();
        self.close();
    }

    fn summary(&self) -> Summary {
        let mut summary = Summary {
            digest: self.digest(),
            corrupted: self.link_counters().corrupted,
            overtaken: self.overtaken,
            received: (0..self.operator.sites.len()).map(|site| self.counters(site).rx).sum(),
            ..Summary::default()
        };
        for site in 0..self.operator.sites.len() {
            let dropped = self.counters(site).dropped;
            summary.dropped.iter_mut().zip(dropped).for_each(|(sum, more)| *sum += more);
        }
        for record in self.records.values() {
            let healed = usize::from(record.is_healed);
            summary.delivered[healed] += record.delivered.len();
            summary.receipts[healed] += record.receipts;
            summary.rejects[healed] += record.rejects.len();
        }
        summary
    }

    pub(super) fn step(&mut self, step: Step) {
        match step {
            Step::Message => self.random_message(),
            Step::ChangeLinks => {
                let class = self.rng.random_range(0..3);
                self.links.faults[class] = Faults::draw(&mut self.rng);
            }
            Step::Reload => self.reload(),
        }
    }

    /// Addresses move between users, applications come and go, terminals leave; then the tables say so.
    fn reload(&mut self) {
        let site = self.rng.random_range(0..self.operator.sites.len());
        for _ in 0..self.rng.random_range(0..3) {
            let moved = self.operator.move_address(&mut self.rng, site);
            self.changed_hands(site, &moved);
        }
        let rows = self.operator.sites[site].rib.users.len();
        if rows > 0 && self.rng.random_bool(0.3) {
            let at = self.rng.random_range(0..rows);
            self.operator.sites[site].rib.users[at].valid_until = Some(self.now.unix_s());
        }
        self.publish(site);
    }

    /// After healing, each message that is pushed ends exactly as the oracle says: at these terminals,
    /// with so many receipts, with these rejections, all at who asked.
    fn demand_delivery(&mut self) {
        let mut demanded: Vec<(u64, Fate)> = Vec::new();
        let suppressed = self.suppressed;
        for _ in 0..self.options.healed_messages {
            let (record, bytes) = self.draw_message(true);
            let fate = self.walk(record.sender, record.from, record.site, &bytes);
            demanded.push((record.letter.message, fate));
            self.push_bytes(record, bytes);
            if self.options.frames < 128 {
                self.run();
            }
        }
        self.run();
        if self.suppressed > suppressed {
            return;
        }
        for (message, fate) in demanded {
            let record = self.record(message);
            let mut delivered = record.delivered.clone();
            let mut rejects = record.rejects.clone();
            delivered.sort_unstable();
            rejects.sort_unstable();
            if fate.is_racy {
                continue;
            }
            let is_same = (&delivered, record.receipts, &rejects, record.echoed)
                == (&fate.delivered, fate.receipts, &fate.rejects, fate.echoed);
            if !is_same {
                self.fail(&format!("after healing, expected {fate:?}\n  but {record:?}"));
            }
        }
    }

    fn random_message(&mut self) {
        if self.rng.random_bool(0.03) {
            let len = self.rng.random_range(0..200);
            let bytes: Vec<u8> = (0..len).map(|_| self.rng.random()).collect();
            let from = self.operator.pushers[0];
            let to = self.operator.sites[0].listen[0];
            if let Some(head) = Letter::head(&bytes) {
                self.loose.insert(head.message);
            }
            self.send(from, to, bytes);
            return;
        }
        let (record, bytes) = self.draw_message(false);
        let again = self.rng.random_bool(0.05);
        let (message, from, site) = (record.letter.message, record.from, record.site);
        self.push_bytes(record, bytes.clone());
        if again {
            // Somebody heard it and sends it once more.
            if let Some(record) = self.records.get_mut(&message) {
                record.copies[usize::from(super::naive::is_answer(record.letter.kind))] += 1;
            }
            let to = self.listening(site, from);
            let delay_ns = self.rng.random_range(0..20_000_000);
            self.after(delay_ns, Event::Send { from, to, bytes });
        }
    }

    /// Sends a message of somebody to a site, signed with a key where one is given. Returns its
    /// identifier, by which [`World::record`] tells its fate.
    ///
    /// # Panics
    /// When the sender has no address to send from.
    pub fn push(&mut self, sender: Sender, site: usize, letter: Letter, key: Option<(u32, [u8; 16])>) -> u64 {
        let from = match sender {
            Sender::Pusher(at) => Some(self.operator.pushers[at]),
            Sender::Handset(at) => self.operator.handsets[at].uplink,
        };
        let Some(from) = from else { self.fail("this sender has no address to send from") };
        let bytes = letter.encode(key.map(|(id, value)| (id, value, self.now.unix_ms)), 0);
        let message = letter.message;
        self.push_bytes(Record::new(letter, sender, from, site), bytes);
        message
    }

    /// The address of a site that hears this family; where none does, one that is never reached from it.
    pub(super) fn listening(&self, site: usize, from: Endpoint) -> Endpoint {
        let listen = &self.operator.sites[site].listen;
        *listen.iter().find(|own| own.is_ipv4() == from.is_ipv4()).unwrap_or(&NOWHERE)
    }

    /// Sends a message of the cast and remembers it.
    pub(super) fn push_bytes(&mut self, record: Record, bytes: Vec<u8>) {
        let (from, to) = (record.from, self.listening(record.site, record.from));
        self.records.insert(record.letter.message, record);
        self.send(from, to, bytes);
    }

    /// Any message of anybody, and its bytes. With `healed`, one whose fate does not hang on a rate.
    fn draw_message(&mut self, healed: bool) -> (Record, Vec<u8>) {
        let rng = &mut self.rng;
        let operator = &self.operator;
        let sites = operator.sites.len();
        let mut site = rng.random_range(0..sites);
        let pusher = rng.random_range(0..operator.pushers.len());
        let (mut sender, mut from) = (Sender::Pusher(pusher), operator.pushers[pusher]);
        let mut source = if rng.random_bool(0.5) { PushId::NONE } else { operator.draw_id(rng) };
        let mut user_key = None;
        if !operator.handsets.is_empty() && rng.random_bool(0.35) {
            let at = rng.random_range(0..operator.handsets.len());
            let handset = &operator.handsets[at];
            if let Some(uplink) = handset.uplink {
                (sender, from, site, source) = (Sender::Handset(at), uplink, handset.site, handset.user);
                user_key = handset.key.filter(|_| rng.random_bool(0.5));
                if rng.random_bool(0.05) {
                    source = operator.draw_id(rng);
                }
            }
        }
        let users = &operator.sites[rng.random_range(0..sites)].rib.users;
        let destination = match rng.random_range(0..20) {
            0 => PushId(rng.random()),
            1 => operator.draw_id(rng),
            _ if users.is_empty() => operator.draw_id(rng),
            _ => users[rng.random_range(0..users.len())].push_id,
        };
        let kinds = [kind::PUSH; 16].iter().chain(&[kind::ECHO, kind::RECEIPT, kind::REJECT, 7]);
        let kind = *kinds.clone().nth(rng.random_range(0..20)).unwrap_or(&kind::PUSH);
        let mut letter = Letter::new(kind, destination, source, rng.random());
        if kind == kind::PUSH {
            // Mostly the one that anybody may push for: more of them come further.
            letter.app = if rng.random_bool(0.4) { 1 } else { APPS[rng.random_range(0..APPS.len())] };
            if healed && letter.app == 5 {
                letter.app = 1;
            }
            let mut maybe = |odds: f64, flag: u8| if rng.random_bool(odds) { flag } else { 0 };
            letter.flags = maybe(0.6, flag::RECEIPT)
                | maybe(0.1, flag::PRIORITY)
                | maybe(0.04, flag::ROAMED)
                | maybe(0.03, flag::GROUP)
                | maybe(0.05, 0xA0);
        }
        if rng.random_bool(0.1) {
            letter.hops = rng.random_range(0..4);
        }
        if kind == kind::REJECT {
            letter.options.push((option::REASON, vec![0, 13]));
        }
        draw_options(rng, &mut letter, self.now.unix_ms);
        let sizes = [0, 1, 16, 17, 64, 64, 65, 300, 301, 900, 1200, 1401, 2040];
        let payload_len = sizes[rng.random_range(0..sizes.len())];
        letter.payload = (0..payload_len).map(|at| (at as u8) ^ letter.message as u8).collect();
        let now_ms = self.now.unix_ms;
        let sign = sign_with(rng, operator, &letter, user_key, now_ms);
        let padding = if rng.random_bool(0.05) { rng.random_range(1..40) } else { 0 };
        let mut bytes = letter.encode(sign, padding);
        if rng.random_bool(0.02) {
            bytes[0] = bytes[0] & 15 | 0x20;
        }
        let record = Record { is_healed: healed, ..Record::new(letter, sender, from, site) };
        (record, bytes)
    }
}

fn draw_options(rng: &mut Pcg64Mcg, letter: &mut Letter, now_ms: u64) {
    let mut options: Vec<(u8, Vec<u8>)> = Vec::new();
    if rng.random_bool(0.1) {
        let deadline = if rng.random_bool(0.3) { now_ms - 1 } else { now_ms + 3_600_000 };
        options.push((option::DEADLINE, deadline.to_be_bytes().to_vec()));
    }
    if rng.random_bool(0.25) {
        options.push((option::DEVICE, vec![rng.random_range(0..5)]));
    }
    if rng.random_bool(0.1) {
        options.push((option::CONTENT_TYPE, b"text/plain".to_vec()));
    }
    if rng.random_bool(0.1) {
        options.push((77, vec![1; rng.random_range(0..9)]));
        options.push((77, vec![2; 3]));
    }
    if rng.random_bool(0.02) {
        options.push((200, vec![3]));
    }
    if rng.random_bool(0.1) {
        let claimed = Endpoint::new([192, 0, 2, 9].into(), 1);
        options.push((option::SOURCE_ADDRESS, write_endpoint(claimed)));
    }
    if rng.random_bool(0.1) {
        let claimed = Endpoint::new([10, 0, 0, 9].into(), 1);
        options.push((option::PRIVATE_ADDRESS, write_endpoint(claimed)));
        options.push((option::REALM, vec![0, 0, 0, 1]));
    }
    while !options.is_empty() {
        letter.options.push(options.swap_remove(rng.random_range(0..options.len())));
    }
}

/// The key to sign with: the application's where it has one, else the user's; now and then none, another,
/// or at a wrong time.
fn sign_with(
    rng: &mut Pcg64Mcg,
    operator: &Operator,
    letter: &Letter,
    user_key: Option<(u32, [u8; 16])>,
    now_ms: u64,
) -> Option<(u32, [u8; 16], u64)> {
    let app_key =
        operator.app_keys.iter().find(|key| letter.kind == kind::PUSH && key.id == letter.app + 100);
    let own = app_key.map(|key| (key.id, key.value)).or(user_key);
    let (id, value) = own.or_else(|| rng.random_bool(0.02).then_some((104, [7; 16])))?;
    match rng.random_range(0..30) {
        0 => None,
        1 => Some((id, [9; 16], now_ms)),
        2 => Some((id, value, now_ms - 31_000)),
        3 => Some((104, operator.app_keys.first()?.value, now_ms)),
        _ => Some((id, value, now_ms)),
    }
}
