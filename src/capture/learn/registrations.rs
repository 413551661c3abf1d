//! What PRP in a capture shows: terminals as they registered, by a REGISTER and the REGISTERED that answers it, and the
//! applications of PUSHes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::report::Findings;
use super::{Datagram, is_private};
use crate::id::{Endpoint, Imsi, PushId};
use crate::table::rib::User;
use crate::wire::prp::{Kind, Message, parse};

/// Requests that wait for their answer. Beyond, none is looked at until the older ones are forgotten.
const PENDING_MAX: usize = 1 << 16;
/// Applications that are kept: a capture of noise names them all.
const APPLICATIONS_MAX: usize = 1 << 16;
/// How long a request waits when there are many: a client has given up by then.
const PENDING_NS: u64 = 60_000_000_000;

/// PRP messages about bindings.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct RegistrationCounts {
    /// A REGISTER and its REGISTERED.
    pub registered: u64,
    /// A RELEASE and its RELEASED.
    pub released: u64,
    /// Requests that were rejected.
    pub rejected: u64,
    /// Requests without an answer in the capture.
    pub unanswered: u64,
    /// Registrations of a roaming user by the server where it is, left out.
    pub roaming: u64,
}

/// A terminal as it registered last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Registered {
    /// The private address, if it has one.
    pub(super) private: Option<Endpoint>,
    pub(super) nat: Option<Endpoint>,
    pub(super) realm: u32,
    pub(super) imsi: Option<Imsi>,
    pub(super) bearers: u8,
}

/// What was asked.
struct Asked {
    time_ns: u64,
    user: PushId,
    device: Option<u8>,
    /// None: to be released.
    terminal: Option<Registered>,
    /// Of a RELEASE: the one address that is meant.
    private: Option<Endpoint>,
    realm: u32,
}

/// Who asks, whom, by which identifier.
type Question = (Endpoint, Endpoint, u64);

/// All registrations of a capture.
#[derive(Default)]
pub(super) struct Registrations {
    pending: HashMap<Question, Asked>,
    /// Everybody who ever registered; without addresses when they went.
    terminals: BTreeMap<(PushId, u8), Registered>,
    /// Who has an address, of those.
    owners: HashMap<(u32, std::net::IpAddr), (PushId, u8)>,
    mapped: HashMap<Endpoint, (PushId, u8)>,
    /// What PUSHes were for.
    pub(super) applications: BTreeSet<u32>,
    pub(super) counts: RegistrationCounts,
}

impl Registrations {
    /// Takes a datagram that may be PRP. `segments` are private besides the usual prefixes.
    pub(super) fn take(
        &mut self,
        datagram: &Datagram<'_>,
        segments: &[(std::net::IpAddr, u8)],
        findings: &mut Findings,
    ) {
        let Ok(message) = parse(datagram.payload) else { return };
        match message.kind {
            Kind::Register | Kind::Release => self.asked(datagram, &message, segments),
            Kind::Registered | Kind::Released | Kind::Reject => self.answered(datagram, &message, findings),
            Kind::Push if self.applications.len() < APPLICATIONS_MAX => {
                self.applications.insert(message.header.app);
            }
            _ => {}
        }
    }

    /// The capture has ended: everybody who registered, and those that wait are unanswered.
    pub(super) fn finish(&mut self) -> BTreeMap<(PushId, u8), Registered> {
        self.counts.unanswered += self.pending.len() as u64;
        self.pending.clear();
        std::mem::take(&mut self.terminals)
    }

    fn asked(&mut self, datagram: &Datagram<'_>, message: &Message, segments: &[(std::net::IpAddr, u8)]) {
        let (bytes, options) = (datagram.payload, &message.options);
        if options.serving_server(bytes).is_some() {
            return self.counts.roaming += u64::from(message.kind == Kind::Register);
        }
        if self.pending.len() >= PENDING_MAX {
            let before = self.pending.len();
            self.pending.retain(|_, asked| datagram.time_ns.saturating_sub(asked.time_ns) < PENDING_NS);
            self.counts.unanswered += (before - self.pending.len()) as u64;
            if self.pending.len() >= PENDING_MAX {
                return self.counts.unanswered += 1;
            }
        }
        let realm = options.realm(bytes).unwrap_or(0);
        let private = options.private_address(bytes);
        let terminal = (message.kind == Kind::Register).then(|| {
            let mut terminal = Registered {
                private,
                nat: options.nat_address(bytes),
                realm,
                imsi: options.imsi(bytes),
                bearers: options.bearers(bytes).map_or(User::DEFAULT_BEARERS, |bits| (bits & 15) as u8),
            };
            if private.is_none()
                && let Some(port) = options.listen_port(bytes)
            {
                let port = if port == 0 { datagram.from.port() } else { port };
                let seen = Endpoint::new(datagram.from.ip(), port);
                if is_private(seen.ip(), segments) {
                    terminal.private = Some(seen);
                } else {
                    terminal.nat = Some(seen);
                }
            }
            terminal
        });
        let asked = Asked {
            time_ns: datagram.time_ns,
            user: message.header.destination,
            device: options.device(bytes),
            terminal,
            private,
            realm,
        };
        // A request that was sent again is the same request.
        self.pending.insert((datagram.from, datagram.to, message.header.message), asked);
    }

    fn answered(&mut self, datagram: &Datagram<'_>, message: &Message, findings: &mut Findings) {
        let question = (datagram.to, datagram.from, message.header.message);
        let Some(asked) = self.pending.remove(&question) else { return };
        match (message.kind, asked.terminal) {
            (Kind::Registered, Some(terminal)) => {
                self.counts.registered += 1;
                let lent = message.options.dynamic_id(datagram.payload);
                let user = match (asked.user, lent) {
                    (PushId::NONE, Some(lent)) => lent,
                    (PushId::NONE, None) => return,
                    (user, Some(lent)) => {
                        findings.note("lent Push IDs beside a user's own, left out", || lent.to_string());
                        user
                    }
                    (user, None) => user,
                };
                self.bind((user, asked.device.unwrap_or(0)), terminal, findings);
            }
            (Kind::Released, None) => {
                self.counts.released += 1;
                self.release(&asked);
            }
            _ => self.counts.rejected += 1,
        }
    }

    /// An address has one user: who had it before is without (ruling 6).
    fn bind(&mut self, who: (PushId, u8), terminal: Registered, findings: &mut Findings) {
        self.unbind(who);
        let rivals = [
            terminal.private.and_then(|private| self.owners.get(&(terminal.realm, private.ip())).copied()),
            terminal.nat.and_then(|nat| self.mapped.get(&nat).copied()),
        ];
        for rival in rivals.into_iter().flatten() {
            if rival.0 == who.0 {
                findings.note("terminals of one user at one address, all but the last left out", || {
                    format!("{} devices {} and {}", who.0, rival.1, who.1)
                });
            } else {
                findings.note("addresses that went from one registered user to another", || {
                    format!("{} to {}", rival.0, who.0)
                });
            }
            self.unbind(rival);
        }
        if let Some(private) = terminal.private {
            self.owners.insert((terminal.realm, private.ip()), who);
        }
        if let Some(nat) = terminal.nat {
            self.mapped.insert(nat, who);
        }
        self.terminals.insert(who, terminal);
    }

    /// The terminals that a RELEASE means: of that device, at that address, or all of the user's.
    fn release(&mut self, asked: &Asked) {
        let of_user = self.terminals.range((asked.user, 0)..=(asked.user, u8::MAX));
        let meant = of_user.filter(|((_, device), terminal)| {
            asked.device.is_none_or(|only| only == 0 || only == *device)
                && asked
                    .private
                    .is_none_or(|private| terminal.private == Some(private) && terminal.realm == asked.realm)
        });
        for who in meant.map(|(who, _)| *who).collect::<Vec<_>>() {
            self.unbind(who);
        }
    }

    fn unbind(&mut self, who: (PushId, u8)) {
        let Some(terminal) = self.terminals.get_mut(&who) else { return };
        if let Some(private) = terminal.private.take() {
            self.owners.remove(&(terminal.realm, private.ip()));
        }
        if let Some(nat) = terminal.nat.take() {
            self.mapped.remove(&nat);
        }
    }
}
