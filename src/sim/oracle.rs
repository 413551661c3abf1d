//! What must become of each datagram, written plainly over the [`Rib`]: linear
//! scans, maps of the standard library, [`Letter`]s. Follows `PROTOCOL.md` by its steps and rulings; shares no code with
//! the plane.

use std::collections::HashMap;

use super::naive::{FIXED, Letter, flag, is_answer, kind, option, write_endpoint};
use super::operator::Site;
use super::port::Waiting;
use crate::clock::Now;
use crate::id::{Endpoint, PushId};
use crate::packet::Class;
use crate::reason::Reason;
use crate::table::rib::{App, Rib, Rule, Server, Tunnel, User};

/// Which counter a message ends in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Outcome {
    /// To a terminal.
    Delivered,
    /// To a server or an asker.
    Forwarded,
    /// ECHO.
    Answered,
    /// To the controller, which is not of these worlds.
    Handed,
    /// Not at all.
    Dropped(Reason),
}

/// How a datagram leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Inside a tunnel without PRP of its own (vxlan, gtpu), to this gateway (its row) and this
    /// private address.
    Tunnel(usize, Endpoint),
    /// As it is.
    Bare,
    /// As it is, to another server.
    Server,
    /// A REJECT of this server.
    Reject,
}

/// A datagram that must be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expected {
    /// Where to.
    pub to: Endpoint,
    /// When.
    pub class: Class,
    /// How.
    pub way: Way,
    /// What it says, inside every tunnel.
    pub letter: Letter,
    /// The identifier of the key that signs it.
    pub key: Option<u32>,
}

/// What must become of one datagram.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Judged {
    /// The counter.
    pub outcome: Outcome,
    /// What leaves, a REJECT too.
    pub sends: Vec<Expected>,
    /// Who is told when nothing of it can be sent.
    pub sender: Option<Sender>,
}

/// Who gets a REJECT, for whatever reason.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sender {
    to: Endpoint,
    head: Letter,
    key: Option<u32>,
}

impl Sender {
    /// The REJECT for this reason.
    pub fn reject(&self, reason: Reason) -> Expected {
        let Self { to, ref head, key } = *self;
        Expected { to, class: Class::Normal, way: Way::Reject, letter: reject(head, reason), key }
    }
}

/// What a server remembers, and by what it judges.
#[derive(Clone, Debug, Default)]
pub struct Model {
    datagram_max: usize,
    /// Key, source, destination, message: when.
    replays: HashMap<(u32, PushId, PushId, u64), u64>,
    /// Each shard's: source and message to the address and key that wait for an answer.
    askers: Vec<HashMap<(PushId, PushId, u64), Asker>>,
    /// What each application has left of its second, nanoseconds, and when that was.
    credits: HashMap<u32, (u64, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Asker {
    from: Endpoint,
    key: Option<u32>,
    at_ns: u64,
}

impl Asker {
    /// For at least 30 s, and rounding.
    const fn waits(&self, now: Now) -> bool {
        self.at_ns + 32 * SECOND_NS > now.mono_ns
    }
}

/// A message that passed step 2.
struct Passed {
    letter: Letter,
    class: Class,
    sets_priority: bool,
}

/// What is known of a datagram between the steps.
struct Row {
    head: Option<Letter>,
    peer: Option<usize>,
    signed: Option<u32>,
    passed: Result<Passed, Reason>,
}

const SECOND_NS: u64 = 1_000_000_000;

impl Model {
    /// A server that has seen nothing.
    pub fn new(shards: usize, datagram_max: usize) -> Self {
        Self { datagram_max, askers: vec![HashMap::new(); shards], ..Self::default() }
    }

    /// Judges a burst of one shard.
    pub fn judge(&mut self, site: &Site, shard: usize, now: Now, burst: &[Waiting]) -> Vec<Judged> {
        let rows: Vec<Row> = burst.iter().map(|datagram| self.authorize(site, now, datagram)).collect();
        let resolved: Vec<Result<(Outcome, Vec<Expected>), Reason>> =
            rows.iter().zip(burst).map(|(row, datagram)| self.resolve(site, now, row, datagram)).collect();
        let all = rows.into_iter().zip(resolved).zip(burst);
        all.map(|((row, resolved), datagram)| {
            if resolved.is_ok() {
                self.remember(shard, now, &row, datagram.from);
            }
            let sent = resolved.and_then(|sends| reachable(site, datagram.listener, sends));
            let answerable = row.head.filter(|head| site.policy.rejects && !is_answer(head.kind));
            let sender = answerable.map(|head| Sender { to: datagram.from, head, key: row.signed });
            match sent {
                Ok((outcome, sends)) => {
                    let sender = sender.filter(|_| outcome != Outcome::Answered);
                    Judged { outcome, sends, sender }
                }
                Err(reason) => {
                    let sends = sender.map(|sender| sender.reject(reason)).into_iter().collect();
                    Judged { outcome: Outcome::Dropped(reason), sends, sender: None }
                }
            }
        })
        .collect()
    }

    /// Who waits for a receipt (ruling 3). Who asked first keeps the answers.
    fn remember(&mut self, shard: usize, now: Now, row: &Row, from: Endpoint) {
        let Ok(Passed { letter, .. }) = &row.passed else { return };
        if letter.kind != kind::PUSH || !letter.has(flag::RECEIPT) {
            return;
        }
        let asker = Asker { from, key: row.signed, at_ns: now.mono_ns };
        // Who is in a group, so who answers, only its server knows.
        let anybody = (letter.source, PushId::NONE, letter.message);
        let one = (letter.source, letter.destination, letter.message);
        let asked = if letter.has(flag::GROUP) { anybody } else { one };
        let is_copy = letter.options.iter().any(|(option, _)| *option == option::GROUP_ID);
        let first = self.asker(asked, now).or_else(|| self.asker(anybody, now).filter(|_| is_copy));
        if first.is_none_or(|first| first.from == asker.from) {
            self.askers[shard].insert(asked, asker);
        }
    }

    /// Who waits for this answer, whichever shard was asked.
    fn asker(&self, asked: (PushId, PushId, u64), now: Now) -> Option<Asker> {
        self.askers.iter().find_map(|shard| shard.get(&asked).filter(|asker| asker.waits(now)).copied())
    }

    /// Steps 1 and 2, in the order of ruling 11.
    fn authorize(&mut self, site: &Site, now: Now, datagram: &Waiting) -> Row {
        let bytes = &datagram.bytes;
        let peer = site.rib.servers.iter().position(|server| server.address == datagram.from);
        let mut row = Row { head: Letter::head(bytes), peer, signed: None, passed: Err(Reason::Malformed) };
        if bytes.len() > self.datagram_max {
            row.passed = Err(Reason::TooLarge);
            return row;
        }
        let letter = match Letter::decode(bytes) {
            Ok(letter) => letter,
            Err(Reason::UnsupportedOption) if !row.head.as_ref().is_some_and(|head| is_taken(head.kind)) => {
                row.passed = Err(Reason::UnsupportedKind);
                return row;
            }
            Err(reason) => {
                row.passed = Err(reason);
                return row;
            }
        };
        let app = site.rib.apps.iter().find(|app| letter.kind == kind::PUSH && app.id == letter.app);
        // Who signed it rightly gets a signed answer, whatever the message fails at (ruling 15).
        let signed = signature(site, row.peer, app, &letter, bytes);
        row.signed = signed.unwrap_or(None);
        row.passed = self.may_pass(site, now, datagram, &row, app, signed, letter);
        row
    }

    #[expect(clippy::too_many_arguments, reason = "all that step 2 looks at")]
    fn may_pass(
        &mut self,
        site: &Site,
        now: Now,
        datagram: &Waiting,
        row: &Row,
        app: Option<&App>,
        signed: Result<Option<u32>, Reason>,
        letter: Letter,
    ) -> Result<Passed, Reason> {
        let is_push = letter.kind == kind::PUSH;
        // Only another server answers what a server asks.
        let is_servers = matches!(letter.kind, kind::REGISTERED | kind::RELEASED);
        if !is_taken(letter.kind) || (is_servers && row.peer.is_none()) {
            return Err(Reason::UnsupportedKind);
        }
        if is_push {
            let app = app.ok_or(Reason::ApplicationNotAllowed)?;
            may_send(site, now, datagram.from, row.peer, app, &letter)?;
        }
        if let Some(key) = signed? {
            let auth = letter.auth.ok_or(Reason::AuthenticationFailed)?;
            if auth.unix_ms.abs_diff(now.unix_ms) > 30_000 {
                return Err(Reason::StaleOrReplayed);
            }
            let seen = (key, letter.source, letter.destination, letter.message);
            let second = now.mono_ns / SECOND_NS;
            if self.replays.get(&seen).is_some_and(|before| second - before <= 60) {
                return Err(Reason::StaleOrReplayed);
            }
            self.replays.insert(seen, second);
        }
        let mut class = Class::Normal;
        if let Some(app) = app {
            if site.policy.known_sources && !is_legal(site, datagram.from, row.peer, app, letter.source) {
                return Err(Reason::UnknownSource);
            }
            if let Some(rate) = app.rate.filter(|_| row.peer.is_none()) {
                let cost = SECOND_NS / u64::from(rate);
                let (left, then) = self.credits.get(&app.id).copied().unwrap_or((SECOND_NS, now.mono_ns));
                let left = (left + (now.mono_ns - then)).min(SECOND_NS);
                let passes = left >= cost;
                self.credits.insert(app.id, (if passes { left - cost } else { left }, now.mono_ns));
                if !passes {
                    return Err(Reason::RateLimited);
                }
            }
            class = match app.rule {
                Rule::MinDelay => Class::MinDelay,
                Rule::Priority => Class::Priority,
                Rule::Normal => Class::Normal,
            };
        }
        if letter.number(option::DEADLINE).is_some_and(|deadline| deadline < now.unix_ms) {
            return Err(Reason::Expired);
        }
        Ok(Passed { sets_priority: app.is_some_and(|app| app.rule == Rule::Priority), class, letter })
    }

    /// Steps 3 to 6.
    fn resolve(
        &self,
        site: &Site,
        now: Now,
        row: &Row,
        datagram: &Waiting,
    ) -> Result<(Outcome, Vec<Expected>), Reason> {
        let passed = row.passed.as_ref().map_err(|reason| *reason)?;
        let Passed { letter, class, .. } = passed;
        let way = Steps { site, now, from: datagram.from, peer: row.peer, passed };
        if letter.kind == kind::ECHO {
            let echoed = Letter {
                kind: kind::ECHOED,
                flags: letter.flags & 15,
                destination: letter.source,
                source: letter.destination,
                options: Vec::new(),
                auth: None,
                ..letter.clone()
            };
            let to = datagram.from;
            let send = Expected { to, class: *class, way: Way::Bare, letter: echoed, key: row.signed };
            return Ok((Outcome::Answered, vec![send]));
        }
        let handed = || match datagram.bytes.len() {
            ..=HANDED_MAX => Ok((Outcome::Handed, Vec::new())),
            _ => Err(Reason::TooLarge),
        };
        if !matches!(letter.kind, kind::PUSH | kind::RECEIPT | kind::REJECT) {
            return handed();
        }
        if letter.kind != kind::PUSH {
            let asked = (letter.destination, letter.source, letter.message);
            let of_anybody = (letter.destination, PushId::NONE, letter.message);
            if let Some(asker) = self.asker(asked, now).or_else(|| self.asker(of_anybody, now)) {
                let server = site.rib.servers.iter().position(|server| server.address == asker.from);
                let mut letter = way.letter(&[]);
                if server.is_some() {
                    way.may_forward(asker.from, server)?;
                    letter.hops -= 1;
                }
                let way = if server.is_some() { Way::Server } else { Way::Bare };
                let key = asker.key;
                let send = Expected { to: asker.from, class: Class::Normal, way, letter, key };
                return Ok((Outcome::Forwarded, vec![send]));
            }
            // Of what the controller asked for itself, perhaps.
            if letter.kind == kind::REJECT && row.peer.is_some() && letter.destination.is_none() {
                return handed();
            }
            if letter.destination.is_none() {
                return Err(Reason::NoRoute);
            }
        }
        if !letter.has(flag::ROAMED) {
            let server = route(&site.rib, letter.destination).ok_or(Reason::NoRoute)?;
            if site.rib.servers[server].name != site.name {
                let send = way.forward(site.rib.servers[server].address, Some(server), false)?;
                return Ok((Outcome::Forwarded, vec![send]));
            }
        }
        if letter.kind == kind::PUSH && letter.has(flag::GROUP) {
            return handed();
        }
        way.home()
    }
}

/// Leaves out what cannot be sent: no listening address of the family, or options beyond 255 words
/// (ruling 32). The reason, when nothing is left.
fn reachable(
    site: &Site,
    listener: u8,
    (outcome, mut sends): (Outcome, Vec<Expected>),
) -> Result<(Outcome, Vec<Expected>), Reason> {
    if outcome == Outcome::Handed {
        return Ok((outcome, sends));
    }
    let answers = site.listen[usize::from(listener)].is_ipv4();
    let mut fault = Reason::NoRoute;
    sends.retain(|send| {
        let options = send.letter.options.iter().map(|(_, value)| (2 + value.len()).next_multiple_of(4));
        let head = FIXED + options.sum::<usize>() + if send.key.is_some() { 32 } else { 0 };
        let is_v4 = send.to.is_ipv4();
        let has_way = is_v4 == answers || site.listen.iter().any(|own| own.is_ipv4() == is_v4);
        let fits = head <= 255 * 4;
        if !fits || !has_way {
            fault = if fits { Reason::NoRoute } else { Reason::TooLarge };
        }
        fits && has_way
    });
    if sends.is_empty() { Err(fault) } else { Ok((outcome, sends)) }
}

/// The longest request that a controller takes.
const HANDED_MAX: usize = 1472;

/// Whether a server does something with messages of this kind.
fn is_taken(kind: u8) -> bool {
    matches!(kind, 1..=14) && !matches!(kind, kind::GROUPED | kind::RESOLVED | kind::ECHOED)
}

/// The REJECT that answers a message.
fn reject(head: &Letter, reason: Reason) -> Letter {
    let mut letter = head.answer(kind::REJECT);
    let value = [&reason.code().to_be_bytes()[..], reason.name().as_bytes()].concat();
    letter.options.push((option::REASON, value));
    letter
}

/// The server with the longest prefix.
pub fn route(rib: &Rib, user: PushId) -> Option<usize> {
    let mut best: Option<(u8, usize)> = None;
    for (at, server) in rib.servers.iter().enumerate() {
        for prefix in &server.prefixes {
            let has =
                (0..prefix.len()).all(|bit| prefix.bits() >> (63 - bit) & 1 == user.high() >> (63 - bit) & 1);
            if has && best.is_none_or(|(len, _)| prefix.len() > len) {
                best = Some((prefix.len(), at));
            }
        }
    }
    best.map(|(_, at)| at)
}

/// Whether an address lies in a prefix.
pub(super) fn lies_in(address: Endpoint, ip: std::net::IpAddr, len: u8) -> bool {
    let bits = |ip: std::net::IpAddr| match ip {
        std::net::IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, true),
        std::net::IpAddr::V6(v6) => (v6.to_bits(), false),
    };
    let ((one, one_is_v4), (two, two_is_v4)) = (bits(address.ip()), bits(ip));
    one_is_v4 == two_is_v4 && (0..len).all(|bit| one >> (127 - bit) & 1 == two >> (127 - bit) & 1)
}

/// The gateway (its row) of the longest segment.
pub fn gateway(rib: &Rib, realm: u32, private: Endpoint) -> Option<usize> {
    let segments = rib.segments.iter().filter(|segment| segment.realm == realm);
    let hit = segments.filter(|segment| lies_in(private, segment.ip, segment.len));
    hit.max_by_key(|segment| segment.len).map(|segment| segment.gateway as usize)
}

/// The identifier of a user's own key.
fn user_key(rib: &Rib, user: PushId) -> Option<u32> {
    rib.keys.iter().find(|key| !user.is_none() && key.user == Some(user)).map(|key| key.id)
}

fn is_live(user: &User, now: Now) -> bool {
    user.valid_until.is_none_or(|until| now.unix_ms / 1000 < until)
}

/// The rows of a user, by device.
fn rows_of(rib: &Rib, user: PushId) -> Vec<&User> {
    let mut rows: Vec<&User> = rib.users.iter().filter(|row| row.push_id == user).collect();
    rows.sort_by_key(|row| row.device);
    rows
}

fn same_ip(one: Endpoint, two: Endpoint) -> bool {
    one.ip() == two.ip()
}

/// Step 2: the sender's address against the application.
fn may_send(
    site: &Site,
    now: Now,
    from: Endpoint,
    peer: Option<usize>,
    app: &App,
    letter: &Letter,
) -> Result<(), Reason> {
    let Some(sources) = &app.sources else { return Ok(()) };
    let judged = if peer.is_some() { letter.endpoint(option::SOURCE_ADDRESS) } else { Some(from) };
    let Some(judged) = judged else { return Ok(()) };
    if sources.iter().any(|(ip, len)| lies_in(judged, *ip, *len)) {
        return Ok(());
    }
    let is_terminal = |row: &&User| {
        let through = |private| {
            gateway(&site.rib, row.realm, private)
                .is_some_and(|gateway| same_ip(site.rib.gateways[gateway].address, from))
        };
        row.nat == Some(from) || row.private.is_some_and(|own| same_ip(own, from) || through(own))
    };
    let live = rows_of(&site.rib, letter.source);
    let mut live = live.iter().filter(|row| is_live(row, now));
    let may = peer.is_none() && app.users && !letter.source.is_none() && live.any(is_terminal);
    if may { Ok(()) } else { Err(Reason::SourceAddressNotAllowed) }
}

/// Step 2: the signature. `Ok(Some)`: rightly signed with this key.
fn signature(
    site: &Site,
    peer: Option<usize>,
    app: Option<&App>,
    letter: &Letter,
    bytes: &[u8],
) -> Result<Option<u32>, Reason> {
    let app_key = app.and_then(|app| app.key);
    let wanted = peer.map_or(app_key, |peer| site.rib.servers[peer].key);
    let Some(auth) = letter.auth else {
        let needed = wanted.is_some() || site.policy.require_auth;
        return if needed { Err(Reason::AuthenticationFailed) } else { Ok(None) };
    };
    let key = site.rib.keys.iter().find(|key| key.id == auth.key).ok_or(Reason::AuthenticationFailed)?;
    let is_users = |user| user_key(&site.rib, user) == Some(key.id);
    // Of what is asked for oneself the destination is who asks.
    let asks = matches!(letter.kind, kind::REGISTER | kind::RELEASE | kind::GROUP | kind::INTRODUCE);
    let belongs = match wanted {
        Some(wanted) => wanted == key.id,
        None => app_key == Some(key.id) || is_users(letter.source) || (asks && is_users(letter.destination)),
    };
    if belongs && auth.is_right(bytes, key.value) {
        Ok(Some(key.id))
    } else {
        Err(Reason::AuthenticationFailed)
    }
}

/// Step 2: policy.known_sources (INTERFACE.md, ruling 4).
fn is_legal(site: &Site, from: Endpoint, peer: Option<usize>, app: &App, source: PushId) -> bool {
    if source.is_none() {
        let listed = app.sources.iter().flatten().any(|(ip, len)| lies_in(from, *ip, *len));
        return peer.is_some() || listed;
    }
    let foreign = route(&site.rib, source).is_some_and(|server| site.rib.servers[server].name != site.name);
    !rows_of(&site.rib, source).is_empty() || (peer.is_some() && foreign)
}

/// Steps 3 to 5 for one message.
struct Steps<'a> {
    site: &'a Site,
    now: Now,
    from: Endpoint,
    peer: Option<usize>,
    passed: &'a Passed,
}

impl Steps<'_> {
    /// The message with what always changes, and without these options.
    fn letter(&self, without: &[u8]) -> Letter {
        let mut letter = self.passed.letter.clone();
        letter.flags &= 15;
        if self.passed.sets_priority {
            letter.flags |= flag::PRIORITY;
        }
        letter.options.retain(|(option, _)| *option != option::PAYLOAD_LENGTH && !without.contains(option));
        letter.auth = None;
        letter
    }

    /// Never back to where it came from (ruling 33), and only with a hop left (ruling 12).
    fn may_forward(&self, to: Endpoint, server: Option<usize>) -> Result<(), Reason> {
        if to == self.from || (server.is_some() && server == self.peer) {
            return Err(Reason::NoRoute);
        }
        if self.passed.letter.hops <= 1 { Err(Reason::HopLimit) } else { Ok(()) }
    }

    fn forward(&self, to: Endpoint, server: Option<usize>, roaming: bool) -> Result<Expected, Reason> {
        self.may_forward(to, server)?;
        let translates = self.passed.letter.kind == kind::PUSH && self.peer.is_none();
        let mut letter = self.letter(if translates { &[option::SOURCE_ADDRESS] } else { &[] });
        letter.hops -= 1;
        letter.flags |= if roaming { flag::ROAMED } else { 0 };
        if translates {
            letter.options.push((option::SOURCE_ADDRESS, write_endpoint(self.public_source())));
        }
        let key = server.and_then(|server| self.site.rib.servers[server].key);
        Ok(Expected { to, class: self.passed.class, way: Way::Server, letter, key })
    }

    /// Ruling 14: the binding that it sent from, else any with a public address, else where it came from.
    fn public_source(&self) -> Endpoint {
        let rows = rows_of(&self.site.rib, self.passed.letter.source);
        let public: Vec<_> = rows.iter().filter(|row| is_live(row, self.now) && row.nat.is_some()).collect();
        let own = public
            .iter()
            .find(|row| row.nat == Some(self.from) || row.private.is_some_and(|own| same_ip(own, self.from)));
        own.or(public.first()).and_then(|row| row.nat).unwrap_or(self.from)
    }

    fn home(&self) -> Result<(Outcome, Vec<Expected>), Reason> {
        let letter = &self.passed.letter;
        let roamed = letter.has(flag::ROAMED);
        let rows = rows_of(&self.site.rib, letter.destination);
        if rows.is_empty() {
            return Err(if roamed { Reason::NotAttached } else { Reason::UnknownDestination });
        }
        let wanted = letter.number(option::DEVICE).unwrap_or(0);
        let mut sends: Vec<Expected> = Vec::new();
        let (mut delivered, mut queried, mut failure) = (false, false, None);
        for row in rows.into_iter().filter(|row| wanted == 0 || u64::from(row.device) == wanted) {
            match self.terminal(row, roamed) {
                Ok(Some(send)) => {
                    delivered |= send.way != Way::Server;
                    if !(send.way == Way::Server
                        && sends.iter().any(|other| other.to == send.to && other.way == Way::Server))
                    {
                        sends.push(send);
                    }
                }
                Ok(None) => queried = true,
                Err(reason) => failure = failure.or(Some(reason)),
            }
        }
        match () {
            () if delivered => Ok((Outcome::Delivered, sends)),
            () if !sends.is_empty() => Ok((Outcome::Forwarded, sends)),
            // Nobody to ask here (ruling 30).
            () if queried => Err(Reason::NoGateway),
            () if roamed => Err(Reason::NotAttached),
            () => Err(failure.unwrap_or(Reason::NotAttached)),
        }
    }

    /// Step 5 for one terminal; `None`: the network would have to be asked.
    fn terminal(&self, row: &User, roamed: bool) -> Result<Option<Expected>, Reason> {
        if !is_live(row, self.now) {
            return Err(Reason::NotAttached);
        }
        if let Some(serving) = row.serving {
            let own = |server: &Server| server.name == self.site.name && server.address == serving;
            if roamed || self.site.rib.servers.iter().any(own) || self.site.listen.contains(&serving) {
                return Err(Reason::NotAttached);
            }
            let server = self.site.rib.servers.iter().position(|server| server.address == serving);
            return self.forward(serving, server, true).map(Some);
        }
        let key = user_key(&self.site.rib, row.push_id);
        let class = self.passed.class;
        if (row.private.is_some() || row.nat.is_some()) && row.bearers & 1 == 0 {
            return Err(Reason::BearerFailed);
        }
        if let Some(private) = row.private
            && let Some(at) = gateway(&self.site.rib, row.realm, private)
        {
            let gateway = &self.site.rib.gateways[at];
            let send = |to, way, letter| Ok(Some(Expected { to, class, way, letter, key }));
            return match gateway.tunnel {
                Tunnel::None => send(private, Way::Bare, self.letter(&[])),
                Tunnel::Plain => {
                    let mut letter = self.letter(&[option::PRIVATE_ADDRESS, option::REALM, option::IMSI]);
                    letter.options.push((option::PRIVATE_ADDRESS, write_endpoint(private)));
                    letter.options.push((option::REALM, row.realm.to_be_bytes().to_vec()));
                    send(gateway.address, Way::Bare, letter)
                }
                Tunnel::Vxlan { .. } | Tunnel::Gtpu { .. } => {
                    send(gateway.address, Way::Tunnel(at, private), self.letter(&[]))
                }
            };
        }
        if let Some(to) = row.nat {
            return Ok(Some(Expected { to, class, way: Way::Bare, letter: self.letter(&[]), key }));
        }
        if row.imsi.is_some() {
            return if row.bearers & 2 == 0 { Err(Reason::BearerFailed) } else { Ok(None) };
        }
        Err(if row.private.is_some() { Reason::NoGateway } else { Reason::NotAttached })
    }
}
