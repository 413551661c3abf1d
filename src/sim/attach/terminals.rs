//! What terminals do in the world: they come, register, move, answer and go.

use rand::RngExt;

use super::network::{NOTICE_PORT, Notice, Way};
use super::phone::{Phase, RELEASES_MAX};
use super::run::Step;
use super::trace::What;
use super::world::{Event, World};
use crate::config::RegisterPolicy;
use crate::id::{Endpoint, PushId};
use crate::sim::naive::{Letter, kind, option};

/// How often a gateway tells that a terminal has left.
const NOTICES_MAX: u32 = 4;

impl World {
    /// Whether a terminal can be registered where it would get an address by this way.
    fn is_welcome(&self, phone: usize, site: usize, way: Way) -> bool {
        let phone = &self.phones[phone];
        match self.options.policies[site] {
            RegisterPolicy::Any => true,
            RegisterPolicy::Segment => phone.key.is_some() || way != Way::Nat,
            RegisterPolicy::Signed => phone.key.is_some(),
        }
    }

    /// A terminal gets an address of a site's network, if one is free, and will register before long.
    pub(super) fn attach(&mut self, phone: usize, site: usize) {
        let offers: Vec<usize> = self
            .network
            .offers(site)
            .filter(|(_, way)| self.is_welcome(phone, site, *way))
            .map(|(pool, _)| pool)
            .collect();
        if offers.is_empty() || self.phones[phone].lease.is_some() {
            return;
        }
        let pool = offers[self.rng.random_range(0..offers.len())];
        self.attach_to(phone, pool);
        let wait_ns = match self.rng.random_range(0..10) {
            0..7 => self.rng.random_range(0..100_000_000),
            7..9 => self.rng.random_range(0..3_000_000_000),
            _ => self.rng.random_range(0..20_000_000_000),
        };
        self.set_timer(phone, wait_ns);
    }

    /// A terminal gets an address of a pool.
    fn attach_to(&mut self, phone: usize, pool: usize) {
        let Some(lease) = self.network.lend(pool, phone) else { return };
        let own = &mut self.phones[phone];
        (own.lease, own.phase) = (Some(lease), Phase::Registering);
        own.session = self.rng.random();
        let (who, device) = (own.identity().unwrap_or(PushId::NONE), own.device);
        self.note(lease.site, What::Attached(who, device, lease.uplink));
        self.tell(phone, &lease, true);
    }

    /// A terminal asks to be registered once more, perhaps to be released at once, and goes; another one gets its
    /// address, and registers before that has arrived everywhere.
    pub(super) fn hand_over(&mut self, phone: usize, next: usize) {
        let Some(lease) = self.phones[phone].lease else { return };
        self.ask_to_be_registered(phone);
        if self.rng.random_bool(0.5) {
            self.release(phone);
        }
        self.detach(phone);
        if self.phones[next].lease.is_none() && self.is_welcome(next, lease.site, lease.way) {
            self.attach_to(next, lease.pool);
            let wait_ns = self.rng.random_range(1..50_000_000);
            self.set_timer(next, wait_ns);
        }
    }

    /// A terminal's address is the network's again. Whoever is lent it next has it from now on.
    pub(super) fn detach(&mut self, phone: usize) {
        let own = &mut self.phones[phone];
        own.timer += 1;
        let (who, device) = (own.identity().unwrap_or(PushId::NONE), own.device);
        let Some(lease) = own.leave() else { return };
        self.network.take_back(&lease);
        self.note(lease.site, What::Detached(who, device, lease.uplink));
        self.tell(phone, &lease, false);
    }

    /// A terminal detaches, and its gateway tells the server.
    pub(super) fn detach_by_gateway(&mut self, phone: usize) {
        let own = &self.phones[phone];
        let (lease, user) = (own.lease, own.identity());
        self.detach(phone);
        if let (Some(lease), Some(user)) = (lease, user)
            && matches!(lease.way, Way::Tunnel | Way::Both)
        {
            self.notice(Notice { user, lease, attempt: 0 });
        }
    }

    /// A gateway says who left, again until the address is somebody else's.
    pub(super) fn notice(&mut self, notice: Notice) {
        let Notice { user, lease, attempt } = notice;
        if attempt >= NOTICES_MAX || !self.network.is_free(&lease) {
            return;
        }
        let Some(private) = lease.private else { return };
        let message = self.rng.random();
        let mut letter = Letter::new(kind::RELEASE, user, PushId::NONE, message);
        let address = crate::sim::naive::write_endpoint(private);
        letter.options.push((option::PRIVATE_ADDRESS, address));
        letter.options.push((option::REALM, lease.realm.to_be_bytes().to_vec()));
        self.request(lease.site, lease.uplink.with_port(NOTICE_PORT), &letter, letter.encode(None, 0));
        self.after(2_000_000_000, Event::Notice(Notice { attempt: attempt + 1, ..notice }));
    }

    /// A terminal begins to leave politely.
    pub(super) fn release(&mut self, phone: usize) {
        let own = &mut self.phones[phone];
        if own.lease.is_none() || own.identity().is_none() {
            self.detach(phone);
            return;
        }
        (own.phase, own.attempt) = (Phase::Leaving, 0);
        self.ask_to_be_released(phone);
    }

    /// A NAT shows a terminal at another address from now on, and gives the former one to the next. The terminal does
    /// not notice.
    pub(super) fn rebind(&mut self, phone: usize) {
        let own = &self.phones[phone];
        let (who, device) = (own.identity().unwrap_or(PushId::NONE), own.device);
        let Some(before) = own.lease.filter(|lease| lease.way == Way::Nat) else { return };
        let Some(lease) = self.network.exchange(&before, phone) else { return };
        self.phones[phone].lease = Some(lease);
        self.note(before.site, What::Detached(who, device, before.uplink));
        self.note(lease.site, What::Attached(who, device, lease.uplink));
    }

    /// A terminal begins anew, and has forgotten everything but who it is.
    pub(super) fn reboot(&mut self, phone: usize) {
        let own = &mut self.phones[phone];
        own.asked.clear();
        (own.phase, own.attempt, own.until_ns) = (Phase::Registering, 0, 0);
        if own.own.is_none() {
            own.lent = None;
        }
        self.set_timer(phone, 1);
    }

    fn set_timer(&mut self, phone: usize, wait_ns: u64) {
        self.phones[phone].timer += 1;
        let timer = self.phones[phone].timer;
        self.after(wait_ns, Event::Phone { phone, timer });
    }

    pub(super) fn phone_timer(&mut self, phone: usize, timer: u64) {
        let own = &mut self.phones[phone];
        if own.timer != timer {
            return;
        }
        match own.phase {
            Phase::Idle => {}
            Phase::Registered => {
                (own.phase, own.attempt) = (Phase::Registering, 0);
                self.ask_to_be_registered(phone);
            }
            Phase::Registering => self.ask_to_be_registered(phone),
            Phase::Leaving => self.ask_to_be_released(phone),
        }
    }

    /// Sends a request of a client or gateway to a site's server.
    fn request(&mut self, site: usize, from: Endpoint, letter: &Letter, bytes: Vec<u8>) {
        self.note(site, What::Requests(letter.kind, letter.destination, letter.message, from));
        let listen = &self.operator.sites[site].listen;
        if let Some(to) = listen.iter().find(|own| own.is_ipv4() == from.is_ipv4()).copied() {
            self.send(from, to, letter.message, bytes);
        }
    }

    fn ask_to_be_registered(&mut self, phone: usize) {
        let message = self.rng.random();
        let [least, most] = self.options.validity_s;
        let validity_s = match self.phones[phone].is_static {
            true => 0,
            false => self.rng.random_range(least..=most),
        };
        let unix_ms = self.unix_ms(self.phones[phone].skew_ms);
        let own = &mut self.phones[phone];
        let Some(lease) = own.lease else { return };
        let letter = own.register(&mut self.rng, &lease, message, validity_s);
        own.asked.push(message);
        let wait_ns = own.patience_ns(&mut self.rng);
        own.attempt += 1;
        let is_first = own.asked.len() == 1;
        let bytes = own.encode(&letter, unix_ms);
        self.request(lease.site, lease.uplink, &letter, bytes);
        self.set_timer(phone, wait_ns);
        if let Some(former) = self.network.former(&lease).filter(|former| is_first && *former != phone) {
            self.push_to_former(former, lease.site);
        }
    }

    /// Whoever had the address before gets messages just while the server learns who has it now.
    fn push_to_former(&mut self, former: usize, site: usize) {
        let [client, _, access] = self.links.faults;
        let way_us = 2 * (access.delay_us + access.jitter_us) + client.jitter_us + 1000;
        for _ in 0..2 {
            let wait_ns = self.rng.random_range(0..way_us * 1000);
            self.after(wait_ns, Event::Script(Step::PushTo(former, site)));
        }
    }

    fn ask_to_be_released(&mut self, phone: usize) {
        let message = self.rng.random();
        let unix_ms = self.unix_ms(self.phones[phone].skew_ms);
        let own = &mut self.phones[phone];
        let letter = own.lease.and_then(|lease| Some((lease, own.release(&mut self.rng, &lease, message)?)));
        let Some((lease, letter)) = letter.filter(|_| own.attempt < RELEASES_MAX) else {
            self.detach(phone);
            return;
        };
        own.asked.push(message);
        let wait_ns = own.patience_ns(&mut self.rng);
        own.attempt += 1;
        let bytes = own.encode(&letter, unix_ms);
        self.request(lease.site, lease.uplink, &letter, bytes);
        self.set_timer(phone, wait_ns);
    }

    /// A datagram reaches a terminal.
    pub(super) fn phone_hears(&mut self, phone: usize, bytes: &[u8]) {
        let letter = match Letter::decode(bytes) {
            Ok(letter) => letter,
            Err(reason) => self.fail(&format!("a terminal got what is no message: {reason}"), &[]),
        };
        match letter.kind {
            kind::PUSH => self.phone_is_pushed(phone, &letter, bytes),
            _ if !self.phones[phone].asked.contains(&letter.message) => {}
            kind::REGISTERED => self.phone_is_registered(phone, &letter),
            kind::RELEASED if self.phones[phone].phase == Phase::Leaving => self.detach(phone),
            // It asks again when its patience is over.
            _ => {}
        }
    }

    fn phone_is_registered(&mut self, phone: usize, letter: &Letter) {
        let now_ns = self.now_ns;
        let own = &mut self.phones[phone];
        if !matches!(own.phase, Phase::Registering | Phase::Registered) {
            return;
        }
        let granted_s = letter.number(option::VALIDITY).unwrap_or(0);
        let until_ns = if granted_s == 0 { u64::MAX } else { now_ns + granted_s * 1_000_000_000 };
        if own.phase == Phase::Registered && until_ns > own.until_ns {
            // Of several that it sent, any may be what the server took last.
            return;
        }
        own.until_ns = until_ns;
        own.lent = letter.id(option::DYNAMIC_ID).or(own.lent);
        (own.phase, own.attempt) = (Phase::Registered, 0);
        self.tally.registered += 1;
        if granted_s == 0 {
            self.phones[phone].timer += 1;
        } else {
            self.set_timer(phone, granted_s * 500_000_000);
        }
    }

    fn phone_is_pushed(&mut self, phone: usize, letter: &Letter, bytes: &[u8]) {
        let own = &self.phones[phone];
        let wanted = letter.number(option::DEVICE).unwrap_or(0);
        let is_for_it = own.is(letter.destination) && (wanted == 0 || wanted == u64::from(own.device));
        if !is_for_it {
            // The server had not been told yet, or it would have failed as this left: the address was given on, or
            // the terminal has forgotten the Push ID that it was lent.
            self.tally.overtaken += 1;
            return;
        }
        let is_signed = |key: (u32, [u8; 16])| {
            letter.auth.as_ref().is_some_and(|auth| auth.key == key.0 && auth.is_right(bytes, key.1))
        };
        if !own.key.is_none_or(is_signed) {
            self.fail(
                &format!("a terminal got a message that is not signed as it should be: {letter:?}"),
                &[],
            );
        }
        let (uplink, lease, skew_ms) = (own.uplink(), own.lease, own.skew_ms);
        let receipt =
            own.receipt(letter).map(|receipt| (own.encode(&receipt, self.unix_ms(skew_ms)), receipt));
        let site = lease.map_or(0, |lease| lease.site);
        self.note(site, What::Reached(letter.destination, letter.message, phone));
        let Some(pushed) = self.pushed.get_mut(&letter.message) else {
            self.fail(
                &format!("a terminal got a message that nobody sent: {letter:?}"),
                &[letter.destination],
            )
        };
        let sent = &pushed.letter;
        let is_same = (sent.destination, sent.source, sent.app, &sent.payload)
            == (letter.destination, letter.source, letter.app, &letter.payload);
        let times = pushed.reached.entry((phone, uplink.unwrap_or(Endpoint::NONE))).or_default();
        *times += 1;
        let is_once_more = *times > 1 + pushed.copies;
        if !is_same || is_once_more {
            let what = format!("a terminal got {letter:?} of {pushed:?}");
            self.fail(&what, &[letter.destination]);
        }
        if let (Some((bytes, receipt)), Some(uplink)) = (receipt, uplink) {
            let listen = &self.operator.sites[site].listen;
            if let Some(to) = listen.iter().find(|own| own.is_ipv4() == uplink.is_ipv4()).copied() {
                self.send(uplink, to, receipt.message, bytes);
            }
        }
    }
}
