//! A whole run from one seed: faults first, then heal, then demand delivery.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::Summary;
use super::accounting;
use super::draw::{self, APP_KEY, OPEN_APP, SIGNED_APP};
use super::network::Network;
use super::node::End;
use super::options::{Disks, Options};
use super::trace::What;
use super::world::{Event, Pushed, World};
use crate::id::PushId;
use crate::journal::Failure;
use crate::sim::dataplane::compile;
use crate::sim::link::LinkCounters;
use crate::sim::naive::{Letter, flag, kind, option};
use crate::sim::options::{Faults, LinkClass};

/// What the script of a run does at some time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// A user does something.
    Move,
    Push,
    /// Somebody pushes to this terminal's user, through this server.
    PushTo(usize, usize),
    /// A server ends, or will.
    Crash,
    Start(usize),
    /// Servers do not hear each other for a while.
    Partition,
    Mend(Faults),
    /// A server's tables are applied again.
    Reload,
}

const SECOND_NS: u64 = 1_000_000_000;

/// Runs one seed.
///
/// # Panics
/// When something does not hold, with the seed and what led there.
pub fn run_seed(seed: u64) -> Summary {
    run_with(seed, Options::of(seed))
}

/// Runs one seed with options of the caller's.
///
/// # Panics
/// As [`run_seed`].
pub fn run_with(seed: u64, options: Options) -> Summary {
    let mut rng = Pcg64Mcg::seed_from_u64(!seed);
    let mut operator = draw::operator(&options);
    let network = Network::draw(&mut rng, &operator.sites, options.pools, options.addresses);
    let phones = draw::phones(&mut rng, &options, &mut operator, &network);
    accounting::add_names(&mut operator, &phones);
    let mut world = World::new(seed, options, operator, network, phones);
    world.run_script();
    Summary { digest: world.digest(), ..world.tally }
}

impl World {
    fn run_script(&mut self) {
        for site in 0..self.options.servers {
            self.start(site);
        }
        for phone in 0..self.phones.len() {
            if self.rng.random_bool(0.7) {
                self.attach_somewhere(phone);
            }
        }
        let Options { moves, pushes, crashes, partitions, reloads, span_s, .. } = self.options;
        let steps = [
            (moves, Step::Move),
            (pushes, Step::Push),
            (crashes, Step::Crash),
            (partitions, Step::Partition),
            (reloads, Step::Reload),
        ];
        for (count, step) in steps {
            for _ in 0..count {
                let at_ns = self.rng.random_range(0..span_s * SECOND_NS);
                self.after(at_ns, Event::Script(step));
            }
        }
        self.run_until(self.now_ns + span_s * SECOND_NS);
        self.heal();
        self.settle_down();
        self.demand_delivery();
        self.everybody_moves();
        self.demand_delivery();
        self.everybody_leaves();
        self.close();
    }

    pub(super) fn step(&mut self, step: Step) {
        if self.is_healed && !matches!(step, Step::Start(_)) {
            return;
        }
        match step {
            Step::Move => self.move_somebody(),
            Step::Push => self.push_to_somebody(),
            Step::PushTo(phone, site) => {
                if let Some(user) = self.phones[phone].identity() {
                    self.push(site, (user, None));
                }
            }
            Step::Crash => self.crash(),
            Step::Start(site) if self.nodes[site].life.is_none() => self.start(site),
            Step::Start(_) => {}
            Step::Partition => {
                let federation = &mut self.links.faults[LinkClass::Federation as usize];
                if federation.loss == 1000 {
                    return;
                }
                let before = std::mem::replace(federation, Faults { loss: 1000, ..Faults::CLEAN });
                self.note(0, What::Partition(true));
                let length_ns = self.rng.random_range(SECOND_NS..40 * SECOND_NS);
                self.after(length_ns, Event::Script(Step::Mend(before)));
            }
            Step::Reload => self.reload(),
            Step::Mend(before) => {
                self.links.faults[LinkClass::Federation as usize] = before;
                self.note(0, What::Partition(false));
            }
        }
    }

    fn reload(&mut self) {
        let site = self.rng.random_range(0..self.options.servers);
        let Some(life) = &mut self.nodes[site].life else { return };
        let current = life.dataplane.publisher.current();
        match compile(&self.operator.sites[site], current.generation() + 1, Some(current)) {
            Ok(tables) => life.dataplane.publish(tables),
            Err(error) => self.fail(&error, &[]),
        }
        self.turn_at(site, self.now_ns);
    }

    pub(super) fn attach_somewhere(&mut self, phone: usize) {
        let home = self.phones[phone].identity().map_or(0, |user| (user.0 >> 124) as usize);
        let site = match self.rng.random_bool(0.6) {
            true => home.min(self.options.servers - 1),
            false => self.rng.random_range(0..self.options.servers),
        };
        self.attach(phone, site);
    }

    fn move_somebody(&mut self) {
        let phone = self.rng.random_range(0..self.phones.len());
        if self.phones[phone].lease.is_none() {
            self.attach_somewhere(phone);
            return;
        }
        match self.rng.random_range(0..100) {
            0..25 => self.detach(phone),
            25..45 => self.release(phone),
            45..55 => {
                // It asks, and does not wait for the answer.
                self.release(phone);
                self.detach(phone);
            }
            55..70 => self.detach_by_gateway(phone),
            70..85 => {
                self.detach(phone);
                self.attach_somewhere(phone);
            }
            85..90 => self.rebind(phone),
            90..97 => {
                let next = self.rng.random_range(0..self.phones.len());
                self.hand_over(phone, next);
            }
            _ => self.reboot(phone),
        }
        // What one gives back another gets.
        if self.phones[phone].lease.is_none() && self.rng.random_bool(0.6) {
            let next = self.rng.random_range(0..self.phones.len());
            if next != phone {
                self.attach_somewhere(next);
            }
        }
    }

    fn crash(&mut self) {
        let site = self.rng.random_range(0..self.options.servers);
        let node = &mut self.nodes[site];
        let Some(life) = &mut node.life else { return };
        let later = self.rng.random_range(0..6);
        match self.rng.random_range(0..10) {
            0 => self.stop(site),
            1..4 => self.end(site, End::Kill),
            4..6 => self.end(site, End::Power),
            6..8 if self.options.disks == Disks::Failing => {
                // It runs on for a while, and refuses.
                life.disk_fails = true;
                let at = node.disk.operations() + later;
                node.disk.fail_at(at, Failure::Error(ErrorKind::StorageFull));
                self.note(site, What::WillFail(later, false));
                let lame_ns = self.rng.random_range(0..30 * SECOND_NS);
                self.after(lame_ns, Event::Script(Step::Crash));
            }
            _ => {
                // In the midst of what it writes next.
                life.power_fails = true;
                node.disk.fail_at(node.disk.operations() + later, Failure::Power);
                self.note(site, What::WillFail(later, true));
            }
        }
    }

    fn draw_target(&mut self) -> (PushId, Option<u8>) {
        let phone = &self.phones[self.rng.random_range(0..self.phones.len())];
        let lent = phone.lent.filter(|_| phone.own.is_none() || self.rng.random_bool(0.4));
        let id = lent.or(phone.own).unwrap_or(PushId(0x0500_0000));
        let device = (phone.own == Some(id) && self.rng.random_bool(0.2)).then_some(phone.device);
        (id, device)
    }

    fn push_to_somebody(&mut self) {
        let target = self.draw_target();
        let site = self.rng.random_range(0..self.options.servers);
        self.push(site, target);
    }

    /// An application server pushes a message that wants a receipt.
    pub(super) fn push(&mut self, site: usize, (user, device): (PushId, Option<u8>)) -> u64 {
        let pusher = self.rng.random_range(0..self.operator.pushers.len());
        let from = self.operator.pushers[pusher];
        let message = self.rng.random();
        let source = if self.rng.random_bool(0.5) { PushId::NONE } else { PushId(0x0900_0000) };
        let mut letter = Letter::new(kind::PUSH, user, source, message);
        (letter.app, letter.flags) = (OPEN_APP, flag::RECEIPT);
        letter.payload = message.to_be_bytes().to_vec();
        if let Some(device) = device {
            letter.options.push((option::DEVICE, vec![device]));
        }
        if self.rng.random_bool(0.05) && !self.is_healed {
            // As if it had passed its home: it must not pass anything more.
            letter.flags |= flag::ROAMED;
        }
        let mut sign = None;
        if self.rng.random_bool(0.2) {
            letter.app = SIGNED_APP;
            sign = Some((APP_KEY.0, APP_KEY.1, self.unix_ms(0)));
        }
        let bytes = letter.encode(sign, 0);
        self.note(site, What::Pushed(user, message));
        let pushed =
            Pushed { letter, pusher, copies: 0, reached: BTreeMap::new(), receipts: 0, rejects: Vec::new() };
        self.pushed.insert(message, pushed);
        let to = self.operator.sites[site].listen[0];
        self.send(from, to, message, bytes);
        message
    }

    fn heal(&mut self) {
        self.is_healed = true;
        self.links.faults = [Faults::CLEAN; 3];
        for site in 0..self.options.servers {
            let node = &self.nodes[site];
            let is_well = node.life.as_ref().is_some_and(|life| !life.disk_fails && !life.power_fails);
            if !is_well {
                self.end(site, End::Kill);
                self.nodes[site].disk.lose_power();
                self.start(site);
            }
            // An error that was to come does not.
            self.nodes[site].disk.fail_at(u64::MAX, Failure::Power);
        }
        self.note(0, What::Healed);
    }

    /// Every server ends well, and everything is accounted for.
    fn close(&mut self) {
        for site in 0..self.options.servers {
            let now = self.nodes[site].clock(self.now_ns);
            if let Some(life) = &mut self.nodes[site].life {
                let counters = life.counters();
                let is_at_rest = counters.under_way() == 0 && counters.unaccounted() == 0;
                let frames = self.limits.frames;
                let all_free = life
                    .dataplane
                    .shards
                    .iter_mut()
                    .all(|shard| shard.close(now).is_ok() && shard.frames_free() == frames);
                if !is_at_rest || !all_free {
                    self.fail(&format!("server {site} is not at rest: {counters:?}"), &[]);
                }
            }
            self.stop(site);
        }
        let LinkCounters { flying, .. } = self.links.counters;
        if self.links.counters.missing() != 0 {
            self.fail(&format!("the links do not account for everything, {flying} flying"), &[]);
        }
    }
}
