//! A terminal: registers, asks again, renews at half of its validity, answers messages, releases.

use rand::RngExt;
use rand_pcg::Pcg64Mcg;

use super::network::{Lease, Way};
use crate::id::{Endpoint, PushId};
use crate::sim::naive::{Letter, flag, kind, option, write_endpoint};

/// A terminal of a user.
#[derive(Clone, Debug)]
pub(super) struct Phone {
    /// None: it lives on Push IDs that it is lent.
    pub(super) own: Option<PushId>,
    pub(super) device: u8,
    pub(super) key: Option<(u32, [u8; 16])>,
    /// How far its clock is off.
    pub(super) skew_ms: i64,
    /// It wants to be lent a Push ID beside its own.
    pub(super) borrows: bool,
    pub(super) has_imsi: bool,
    /// It wants to be bound without end.
    pub(super) is_static: bool,
    /// Gateways tell of it by accounting, and of which session.
    pub(super) is_told: bool,
    pub(super) session: u64,
    pub(super) lease: Option<Lease>,
    pub(super) lent: Option<PushId>,
    pub(super) phase: Phase,
    /// Until when it is registered, as it knows; 0: it is not.
    pub(super) until_ns: u64,
    /// Requests about this lease, by their message identifiers.
    pub(super) asked: Vec<u64>,
    /// How often it asked in this phase.
    pub(super) attempt: u32,
    /// The one timer that counts.
    pub(super) timer: u64,
}

/// What a terminal is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Nothing: it is not attached, or not yet registering.
    Idle,
    /// It wants to be registered, for the first time or again.
    Registering,
    /// It is, and will renew.
    Registered,
    /// It wants to be released.
    Leaving,
}

/// How often a terminal asks to be released.
pub(super) const RELEASES_MAX: u32 = 4;

impl Phone {
    pub(super) fn new(own: Option<PushId>, device: u8) -> Self {
        Self {
            own,
            device,
            key: None,
            skew_ms: 0,
            borrows: false,
            has_imsi: false,
            is_static: false,
            is_told: false,
            session: 0,
            lease: None,
            lent: None,
            phase: Phase::Idle,
            until_ns: 0,
            asked: Vec::new(),
            attempt: 0,
            timer: 0,
        }
    }

    /// The Push ID that it registers, where it has one.
    pub(super) fn identity(&self) -> Option<PushId> {
        self.own.or(self.lent)
    }

    /// Whether messages to this Push ID are for this terminal.
    pub(super) fn is(&self, id: PushId) -> bool {
        self.own == Some(id) || self.lent == Some(id)
    }

    /// Whether it is registered, as it knows.
    pub(super) fn is_registered(&self, now_ns: u64) -> bool {
        self.lease.is_some() && now_ns < self.until_ns
    }

    /// How long it waits before it asks again.
    pub(super) fn patience_ns(&self, rng: &mut Pcg64Mcg) -> u64 {
        let seconds = 1u64 << self.attempt.min(3);
        seconds * 1_000_000_000 + rng.random_range(0..500_000_000)
    }

    /// A REGISTER for the address that it has.
    pub(super) fn register(
        &self,
        rng: &mut Pcg64Mcg,
        lease: &Lease,
        message: u64,
        validity_s: u32,
    ) -> Letter {
        let destination = self.own.unwrap_or(PushId::NONE);
        let mut letter = Letter::new(kind::REGISTER, destination, PushId::NONE, message);
        let options = &mut letter.options;
        if self.device != 0 || rng.random_bool(0.2) {
            options.push((option::DEVICE, vec![self.device]));
        }
        if lease.realm != 0 {
            options.push((option::REALM, lease.realm.to_be_bytes().to_vec()));
        }
        match (lease.way, lease.private, lease.public) {
            (Way::Open, Some(private), _) if rng.random_bool(0.5) => {
                let port = if rng.random_bool(0.5) { 0 } else { private.port() };
                options.push((option::LISTEN_PORT, port.to_be_bytes().to_vec()));
            }
            (Way::Nat, ..) => options.push((option::LISTEN_PORT, vec![0, 0])),
            (_, Some(private), public) => {
                options.push((option::PRIVATE_ADDRESS, write_endpoint(private)));
                options.extend(public.map(|public| (option::NAT_ADDRESS, write_endpoint(public))));
            }
            _ => {}
        }
        options.push((option::VALIDITY, validity_s.to_be_bytes().to_vec()));
        if self.own.is_none() || self.borrows {
            let held = if self.own.is_none() { self.lent } else { None };
            options.push((option::DYNAMIC_ID, held.unwrap_or(PushId::NONE).0.to_be_bytes().to_vec()));
        }
        if self.has_imsi {
            options.push((option::IMSI, vec![0x64, 0, 0x10, 0x32, 0x54, 0x76, 0x98, 0xF0]));
        }
        letter
    }

    /// A RELEASE of the address that it has, or of itself wherever it is. A terminal without a device number
    /// would release all of its user's.
    pub(super) fn release(&self, rng: &mut Pcg64Mcg, lease: &Lease, message: u64) -> Option<Letter> {
        let mut letter = Letter::new(kind::RELEASE, self.identity()?, PushId::NONE, message);
        match lease.private {
            Some(private) if self.device == 0 || rng.random_bool(0.3) => {
                letter.options.push((option::PRIVATE_ADDRESS, write_endpoint(private)));
                letter.options.push((option::REALM, lease.realm.to_be_bytes().to_vec()));
            }
            _ => letter.options.push((option::DEVICE, vec![self.device])),
        }
        Some(letter)
    }

    /// The RECEIPT for a message that wants one.
    pub(super) fn receipt(&self, push: &Letter) -> Option<Letter> {
        push.has(flag::RECEIPT).then(|| push.answer(kind::RECEIPT))
    }

    /// A letter as it goes out, signed where it has a key.
    pub(super) fn encode(&self, letter: &Letter, unix_ms: u64) -> Vec<u8> {
        letter.encode(self.key.map(|(id, value)| (id, value, unix_ms)), 0)
    }

    /// It has no address any more.
    pub(super) fn leave(&mut self) -> Option<Lease> {
        (self.phase, self.until_ns, self.attempt) = (Phase::Idle, 0, 0);
        self.asked.clear();
        self.lease.take()
    }

    /// Where it sends from.
    pub(super) fn uplink(&self) -> Option<Endpoint> {
        self.lease.map(|lease| lease.uplink)
    }
}
