//! What each server was asked and what it answered, as seen from outside, and what follows from that: to which
//! addresses it may send a user's messages, and what it must still know after a crash. Lists and scans over
//! what went over the wire; nothing of the engine's.
//!
//! A *claim* is a REGISTER that a server's controller took up: it may lead to the addresses in it until it is
//! *void*, which it is from the moment that
//!
//! 1. its validity is over, counted from the answer (without one, from as long as a server waits for another);
//! 2. the server has answered a newer REGISTER of the same terminal, or a newer RELEASE that means it; newer by the
//!    times of their signatures when one clock made both, else by the order in which they were taken up;
//! 3. the server has answered a REGISTER of another user for one of the same addresses that it took up later, or, as
//!    long as that holds, one that was signed later (without a signature: taken up), by clocks that are off by as much
//!    as they can be.
//!
//! A message of a user that leaves for an address without a claim that is not void is the fault that all this
//! looks for. What was taken up at one time may be in either order. A claim that was never answered may hold.
//!
//! What a server answered *must* hold if nothing taken up since, or still open then, can have changed it.

mod sessions;

use std::collections::BTreeMap;

use self::sessions::Session;
use crate::clock::Now;
use crate::id::{Endpoint, PushId};
use crate::reason::Reason;
use crate::sim::naive::{Letter, kind, option};
use crate::sim::operator::Site;
use crate::sim::oracle;
use crate::sim::port::Waiting;
use crate::table::live::{Live, LiveBindings};

/// Where a server sends messages for a terminal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Place {
    /// A private address of a realm, whatever the port.
    Private(u32, [u8; 16]),
    /// A public address and port.
    Public(Endpoint),
    /// Another server.
    Server(Endpoint),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Private(realm, octets) => {
                write!(f, "{} of realm {realm}", Endpoint::from_octets(*octets, 0).ip())
            }
            Self::Public(at) => write!(f, "{at}"),
            Self::Server(at) => write!(f, "the server {at}"),
        }
    }
}

impl Place {
    /// Whether it belongs to one user at a time.
    fn is_one_users(&self) -> bool {
        !matches!(self, Self::Server(_))
    }
}

/// Who signed a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Signer {
    key: u32,
    from: Option<Endpoint>,
}

/// What a request is about.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Wish {
    Bind { device: u8, places: Vec<Place>, lend: Lend },
    Release { device: Option<u8>, place: Option<Place> },
}

/// Whether a REGISTER asks for a lent Push ID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lend {
    No,
    Beside,
    /// The terminal has no other.
    Instead,
}

/// A REGISTER or RELEASE that a controller took up.
#[derive(Clone, Debug)]
struct Asked {
    /// The order in which they were taken up; those of one batch have one.
    turn: u64,
    /// The server's wall clock then.
    at_ms: u64,
    /// What the signature says of when it was made.
    signed: Option<(Signer, u64)>,
    /// None while a Push ID is to be lent to who has none.
    user: PushId,
    wish: Wish,
    /// The server that sent it.
    by_server: Option<Endpoint>,
    message: u64,
    from: Endpoint,
    /// The server's wall clock when the answer left.
    answered_ms: Option<u64>,
    refused: bool,
    /// The server's wall clock from which on it leads nowhere.
    until_ms: u64,
    /// The Push ID that was lent for it.
    lent: Option<PushId>,
    /// Whose request, of which turn, it became void by.
    void_by: Option<(PushId, u64)>,
    /// It was not asked: the network said so, of this session.
    session: Option<u64>,
}

/// A Push ID that was lent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Loan {
    user: PushId,
    device: u8,
    since_ms: u64,
    until_ms: u64,
}

/// What one server was asked and answered.
#[derive(Default)]
struct Heard {
    turn: u64,
    asked: Vec<Asked>,
    users: BTreeMap<PushId, Vec<usize>>,
    places: BTreeMap<Place, Vec<usize>>,
    messages: BTreeMap<(u64, Endpoint), Vec<usize>>,
    loans: BTreeMap<PushId, Loan>,
    sessions: BTreeMap<u64, Session>,
}

/// What all servers were asked and answered.
pub(super) struct Witness {
    heard: Vec<Heard>,
    /// How far two clocks can be apart.
    skew_ms: u64,
}

/// How long a server waits for another at most.
const RELAY_MS: u64 = 5_100;
/// How long requests are looked back at that may still have been open.
const OPEN_MS: u64 = 70_000;
/// How long a lent Push ID is not lent again (PROTOCOL.md, ruling 5).
const REST_MS: u64 = 600_000;

impl Witness {
    /// Servers that know what users.csv says.
    pub(super) fn new(sites: &[Site], skew_ms: u64) -> Self {
        let heard = |site: &Site| {
            let mut heard = Heard::default();
            for row in &site.rib.users {
                let places = places_of(row.realm, row.private, row.nat, row.serving);
                let wish = Wish::Bind { device: row.device, places, lend: Lend::No };
                heard.add(Asked {
                    turn: 0,
                    at_ms: 0,
                    signed: None,
                    user: row.push_id,
                    wish,
                    by_server: None,
                    message: 0,
                    from: Endpoint::NONE,
                    answered_ms: Some(0),
                    refused: false,
                    until_ms: row.valid_until.map_or(u64::MAX, |until| until * 1000),
                    lent: None,
                    void_by: None,
                    session: None,
                });
            }
            heard
        };
        Self { heard: sites.iter().map(heard).collect(), skew_ms }
    }

    /// A controller takes up what its shards handed to it.
    pub(super) fn taken(&mut self, at: usize, site: &Site, now: Now, requests: &[Waiting], default_s: u64) {
        let heard = &mut self.heard[at];
        heard.turn += 1;
        for request in requests {
            if let Some(asked) = read(site, heard.turn, now.unix_ms, request, default_s) {
                heard.add(asked);
                heard.void_if_late(self.skew_ms, now.unix_ms);
            }
        }
    }

    /// An answer leaves a server.
    ///
    /// # Errors
    /// What it must not say.
    pub(super) fn answered(
        &mut self,
        at: usize,
        now: Now,
        to: Endpoint,
        letter: &Letter,
    ) -> Result<(), String> {
        let heard = &mut self.heard[at];
        let Some(same) = heard.messages.get(&(letter.message, to)) else { return Ok(()) };
        let open = |at: &&usize| {
            let asked = &heard.asked[**at];
            asked.answered_ms.is_none() && !asked.refused
        };
        let Some(at) = same.iter().find(open).copied() else { return Ok(()) };
        if letter.kind == kind::REJECT {
            // Where the disk failed, what was refused may turn out to be written.
            heard.asked[at].refused = letter.reason() != Some(Reason::Overloaded);
            return Ok(());
        }
        heard.asked[at].answered_ms = Some(now.unix_ms);
        if let Wish::Bind { device, lend, .. } = heard.asked[at].wish {
            let granted_s = letter.number(option::VALIDITY).unwrap_or(0);
            let until_ms = if granted_s == 0 { u64::MAX } else { now.unix_ms + granted_s * 1000 };
            heard.asked[at].until_ms = until_ms;
            let lent = letter.id(option::DYNAMIC_ID);
            if (lend == Lend::No) != lent.is_none() {
                return Err("a Push ID is lent to who did not ask, or not to who did".to_owned());
            }
            if let Some(lent) = lent {
                if lend == Lend::Instead && heard.asked[at].user != lent {
                    heard.asked[at].user = lent;
                    heard.users.entry(lent).or_default().push(at);
                }
                let user = heard.asked[at].user;
                heard.asked[at].lent = Some(lent).filter(|lent| *lent != user);
                heard.lend(lent, Loan { user, device, since_ms: now.unix_ms, until_ms })?;
            }
        }
        heard.void_what_is_older(at);
        Ok(())
    }

    /// Whether a server may send a message for a user to a place now, as it decided at that time.
    pub(super) fn may_lead(
        &self,
        at: usize,
        decided: Now,
        (id, device): (PushId, Option<u8>),
        place: Place,
    ) -> bool {
        let heard = &self.heard[at];
        let loan = heard.loans.get(&id).filter(|loan| loan.user != id);
        let user = loan.map_or(id, |loan| loan.user);
        // One that is lent to device 0 leads to all of the user's.
        let lent_to = loan.map(|loan| loan.device).filter(|device| *device != 0);
        let is_over = loan.is_some_and(|loan| decided.unix_ms >= loan.until_ms);
        let claims = heard.users.get(&user).into_iter().flatten().map(|at| &heard.asked[*at]);
        let mut claims = claims
            .filter(|claim| claim.void_by.is_none() && !claim.refused && decided.unix_ms < claim.until_ms);
        claims.any(|claim| match &claim.wish {
            Wish::Bind { device: own, places, lend } => {
                let meant = [device, lent_to].into_iter().flatten().all(|device| device == *own);
                // A renewal that was never answered may have prolonged the loan.
                meant && places.contains(&place) && (!is_over || *lend == Lend::Beside)
            }
            Wish::Release { .. } => false,
        })
    }

    /// What a server was asked of a user last, a line each: for whoever looks at a failure.
    pub(super) fn tell(&self, at: usize, id: PushId) -> String {
        let heard = &self.heard[at];
        let user = heard.loans.get(&id).map_or(id, |loan| loan.user);
        let asked = heard.users.get(&user).into_iter().flatten().map(|at| &heard.asked[*at]);
        let lines: Vec<String> = asked.rev().take(6).map(|asked| format!("  asked: {asked:?}")).collect();
        lines.join("\n")
    }

    /// Everybody of whom a server was told something.
    pub(super) fn terminals(&self, at: usize) -> Vec<(PushId, u8)> {
        let heard = &self.heard[at];
        let bound = heard.asked.iter().filter_map(|asked| match asked.wish {
            Wish::Bind { device, .. }
                if asked.turn > 0 && asked.session.is_none() && !asked.user.is_none() =>
            {
                Some((asked.user, device))
            }
            _ => None,
        });
        let mut all: Vec<(PushId, u8)> = bound.collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Holds what a server's shards see of a terminal against what it answered.
    ///
    /// # Errors
    /// What it answered and does not hold. Ok: whether there was anything to hold it to.
    pub(super) fn must_hold(
        &self,
        at: usize,
        now: Now,
        (user, device): (PushId, u8),
        live: &LiveBindings,
    ) -> Result<bool, String> {
        let Some(newest) = self.heard[at].newest(user, device) else { return Ok(false) };
        let mut found = Vec::new();
        live.find(user, live.hash(user), |entry| {
            if let Live::Bound(binding) = entry
                && binding.device == device
            {
                let places = places_of(binding.realm, binding.private, binding.nat, binding.serving);
                found.push((places, binding.valid_until_ms.unwrap_or(u64::MAX)));
            }
        });
        let is_at = |place: &Place| found.iter().any(|(places, _)| places.contains(place));
        let holds = match &newest.wish {
            Wish::Bind { places, .. } if newest.user == user => {
                // Its time counts from some moment between the question and the answer.
                let answering_ms = newest.answered_ms.unwrap_or(newest.at_ms) - newest.at_ms;
                if now.unix_ms.saturating_add(answering_ms) >= newest.until_ms {
                    return Ok(false);
                }
                let is_bound =
                    |(now_at, until_ms): &(Vec<Place>, u64)| now_at == places && *until_ms <= newest.until_ms;
                let leads = |lent| live.alias(lent, now.unix_ms) == Some((user, device));
                found.len() == 1 && found.iter().all(is_bound) && newest.lent.is_none_or(leads)
            }
            Wish::Bind { places, .. } => !places.iter().any(|place| place.is_one_users() && is_at(place)),
            Wish::Release { place: Some(place), .. } => !is_at(place),
            Wish::Release { place: None, .. } => found.is_empty(),
        };
        if holds { Ok(true) } else { Err(format!("answered {newest:?}\n  but holds {found:?}")) }
    }
}

impl Heard {
    fn add(&mut self, asked: Asked) {
        let at = self.asked.len();
        if !asked.user.is_none() {
            self.users.entry(asked.user).or_default().push(at);
        }
        if let Wish::Bind { places, .. } = &asked.wish {
            for place in places {
                self.places.entry(*place).or_default().push(at);
            }
        }
        self.messages.entry((asked.message, asked.from)).or_default().push(at);
        // One that was signed before what has been answered leads nowhere from the start.
        let mut asked = asked;
        let of_user = self.users.get(&asked.user).into_iter().flatten().map(|at| self.asked.get(*at));
        let newer = of_user.flatten().find(|other| other.answered_ms.is_some() && other.voids(&asked));
        asked.void_by = newer.map(|newer| (newer.user, newer.turn));
        self.asked.push(asked);
    }

    /// The request that was added last is void if it was signed before what another user holds was taken up.
    fn void_if_late(&mut self, skew_ms: u64, now_ms: u64) {
        let Some(late) = self.asked.last() else { return };
        let Some((_, signed_ms)) = late.signed else { return };
        let rivals =
            late.places().iter().filter_map(|place| self.places.get(place).filter(|_| place.is_one_users()));
        let mut rivals = rivals.flatten().map(|at| &self.asked[*at]);
        let holder = rivals.find(|rival| {
            let latest = self.users.get(&rival.user).and_then(|all| all.last());
            let holds = rival.void_by.is_none() && rival.answered_ms.is_some() && now_ms < rival.until_ms;
            let is_last = latest.is_some_and(|at| self.asked[*at].turn == rival.turn);
            let heard_ms = rival.signed.map_or(rival.at_ms, |(_, signed_ms)| signed_ms);
            let has_spoken = rival.session.is_none();
            rival.user != late.user && has_spoken && holds && is_last && signed_ms + skew_ms < heard_ms
        });
        let holder = holder.map(|holder| (holder.user, holder.turn));
        if let Some(late) = self.asked.last_mut() {
            late.void_by = late.void_by.or(holder);
        }
    }

    /// The request of this place was answered: older claims that contradict it are void.
    fn void_what_is_older(&mut self, at: usize) {
        let newer = self.asked[at].clone();
        let mut touched: Vec<usize> = self.users.get(&newer.user).into_iter().flatten().copied().collect();
        if let Wish::Bind { places, .. } = &newer.wish {
            touched.extend(places.iter().filter_map(|place| self.places.get(place)).flatten());
        }
        for other in touched {
            if other != at && newer.voids(&self.asked[other]) {
                self.asked[other].void_by.get_or_insert((newer.user, newer.turn));
            }
        }
    }

    fn lend(&mut self, lent: PushId, loan: Loan) -> Result<(), String> {
        let before = self.loans.insert(lent, loan);
        match before {
            Some(Loan { user, device, since_ms, .. })
                if (user, device) != (loan.user, loan.device) && loan.since_ms < since_ms + REST_MS =>
            {
                Err(format!("{lent} is lent to {loan:?} and was lent to {before:?}"))
            }
            _ => Ok(()),
        }
    }

    /// The one request that decides what must be known of a terminal; none when several can.
    fn newest(&self, user: PushId, device: u8) -> Option<&Asked> {
        let own = self.users.get(&user)?.iter().copied();
        let mut all: Vec<usize> = own.filter(|at| self.asked[*at].is_about(device)).collect();
        let places = all.iter().flat_map(|at| self.asked[*at].places().iter().copied());
        let places: Vec<Place> = places.filter(Place::is_one_users).collect();
        if self.sessions.values().any(|session| places.contains(&session.place)) {
            return None;
        }
        let others = places.iter().filter_map(|place| self.places.get(place)).flatten();
        all.extend(others.filter(|at| self.asked[**at].user != user));
        all.sort_unstable();
        all.dedup();
        all.retain(|at| !self.asked[*at].refused);
        let newest = &self.asked[*all.last()?];
        newest.answered_ms.filter(|_| newest.void_by.is_none())?;
        let is_doubtful = |at: &usize| {
            let other = &self.asked[*at];
            let is_open = other.answered_ms.is_none_or(|at_ms| at_ms >= newest.at_ms);
            other.turn == newest.turn || (is_open && other.at_ms + OPEN_MS > newest.at_ms)
        };
        let before = &all[..all.len() - 1];
        if before.iter().any(is_doubtful) { None } else { Some(newest) }
    }
}

impl Asked {
    fn places(&self) -> &[Place] {
        match &self.wish {
            Wish::Bind { places, .. } => places,
            Wish::Release { .. } => &[],
        }
    }

    /// The one device that it names.
    fn device(&self) -> Option<u8> {
        match self.wish {
            Wish::Bind { device, .. } => Some(device),
            Wish::Release { device, .. } => device,
        }
    }

    /// Whether it changes what is known of this device of its user.
    fn is_about(&self, device: u8) -> bool {
        match self.wish {
            Wish::Bind { device: own, .. } => own == device,
            Wish::Release { device: own, .. } => own.is_none_or(|own| own == device),
        }
    }

    /// Whether a claim is void once this was answered.
    fn voids(&self, claim: &Self) -> bool {
        let Wish::Bind { device, places, .. } = &claim.wish else { return false };
        let is_release = matches!(self.wish, Wish::Release { .. });
        if self.session.is_some() || (claim.session.is_some() && self.user == claim.user && !is_release) {
            // What the network says holds again when the terminal has nothing to say any more.
            return false;
        }
        if self.user == claim.user {
            let means = match &self.wish {
                Wish::Bind { device: own, .. } => own == device,
                Wish::Release { device: own, place } => {
                    own.is_none_or(|own| own == *device) && place.is_none_or(|place| places.contains(&place))
                }
            };
            return means && claim.is_older_than(self);
        }
        let takes = |place: &Place| place.is_one_users() && self.places().contains(place);
        claim.turn < self.turn && places.iter().any(takes)
    }

    fn is_older_than(&self, newer: &Self) -> bool {
        match (self.signed, newer.signed) {
            // Each of a user's terminals has a clock of its own.
            (Some((one, before)), Some((two, after))) if one == two && self.device() == newer.device() => {
                before < after
            }
            // What another server says ends only what it can know of.
            _ if newer.by_server.is_some() => {
                self.turn < newer.turn && self.answered_ms.is_some_and(|at_ms| at_ms <= newer.at_ms)
            }
            _ => self.turn < newer.turn,
        }
    }
}

fn places_of(
    realm: u32,
    private: Option<Endpoint>,
    public: Option<Endpoint>,
    serving: Option<Endpoint>,
) -> Vec<Place> {
    let private = private.map(|private| Place::Private(realm, private.octets()));
    private.into_iter().chain(public.map(Place::Public)).chain(serving.map(Place::Server)).collect()
}

/// Reads a request as PROTOCOL.md has it.
fn read(site: &Site, turn: u64, at_ms: u64, request: &Waiting, default_s: u64) -> Option<Asked> {
    let letter = Letter::decode(&request.bytes).ok()?;
    let from = request.from;
    let server = site.rib.servers.iter().find(|server| server.address == from).map(|server| server.address);
    let realm = letter.number(option::REALM).unwrap_or(0) as u32;
    let device = letter.number(option::DEVICE).map(|device| device as u8);
    let private = letter.endpoint(option::PRIVATE_ADDRESS);
    let mut until_ms = u64::MAX;
    let wish = match letter.kind {
        kind::REGISTER => {
            let (mut private, mut public) = (private, letter.endpoint(option::NAT_ADDRESS));
            if let Some(port) = letter.number(option::LISTEN_PORT) {
                let at = if port == 0 { from } else { from.with_port(port as u16) };
                if oracle::gateway(&site.rib, realm, at).is_some() {
                    private = private.or(Some(at));
                } else {
                    public = Some(at);
                }
            }
            let serving = letter.endpoint(option::SERVING_SERVER);
            let places = match serving {
                Some(serving) => vec![Place::Server(serving)],
                None => places_of(realm, private, public, None),
            };
            let asked_ms = match letter.number(option::VALIDITY) {
                None => default_s * 1000,
                Some(0) => u64::MAX,
                Some(seconds) => seconds * 1000,
            };
            until_ms = at_ms.saturating_add(RELAY_MS).saturating_add(asked_ms);
            let lend = match letter.option(option::DYNAMIC_ID) {
                None => Lend::No,
                Some(_) if letter.destination.is_none() => Lend::Instead,
                Some(_) => Lend::Beside,
            };
            Wish::Bind { device: device.unwrap_or(0), places, lend }
        }
        kind::RELEASE => {
            let is_home = server.is_some() && is_home(site, letter.destination);
            let place = match server {
                Some(server) => is_home.then_some(Place::Server(server)),
                None => private.map(|private| Place::Private(realm, private.octets())),
            };
            let is_one = server.is_some() && letter.option(option::SERVING_SERVER).is_some();
            Wish::Release { device: device.filter(|device| *device != 0 || is_one), place }
        }
        _ => return None,
    };
    let key = letter.auth.map(|auth| (Signer { key: auth.key, from: server }, auth.unix_ms));
    let lent = letter.id(option::DYNAMIC_ID).filter(|_| letter.destination.is_none());
    Some(Asked {
        turn,
        at_ms,
        signed: key,
        user: lent.unwrap_or(letter.destination),
        wish,
        by_server: server,
        message: letter.message,
        from,
        answered_ms: None,
        refused: false,
        until_ms,
        lent: None,
        void_by: None,
        session: None,
    })
}

fn is_home(site: &Site, user: PushId) -> bool {
    oracle::route(&site.rib, user).is_some_and(|server| site.rib.servers[server].name == site.name)
}
