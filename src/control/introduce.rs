//! INTRODUCE: each of two terminals learns where the other can be reached (PROTOCOL.md, ruling 1).
//!
//! PeerAddress is the public address, else, within one realm, the private one. Two terminals of one
//! realm behind one public address may find that their NAT does not turn packets round (RFC 4787,
//! REQ-9): they get each other's private address besides, as PrivateAddress and Realm.
//!
//! Who asks is one of its registered terminals; or, where the request carries ListenPort, the socket that
//! it asks from, as in REGISTER: a client may make one for each peer, and behind a NAT each has a mapping
//! of its own. What the network shows is told to the peer then, but binds nothing: only REGISTER does.

use super::answer::{Asker, datagram};
use super::{Engine, Outbox, Outcome, Reply, Request};
use crate::id::{Endpoint, PushId};
use crate::reason::Reason;
use crate::table::rib::User;
use crate::table::{Binding, Tables};
use crate::wire::prp::{HeadBuilder, Header, Kind, Message, option_type as ty};

/// Where one terminal can reach the other.
#[derive(Clone, Copy, Debug)]
struct Way {
    peer: Endpoint,
    /// Realm and private address, where the public one may not do.
    inside: Option<(u32, Endpoint)>,
}

impl Engine {
    pub(super) fn introduce(
        &mut self,
        tables: &Tables,
        request: &Request<'_>,
        message: &Message,
        out: &mut Outbox,
    ) -> Result<Outcome, Reason> {
        let Request { bytes, now, .. } = *request;
        let (user, other) = (message.header.destination, message.header.source);
        self.permit(tables, request, message, user)?;
        if user.is_none() || other.is_none() {
            return Err(Reason::NoPeerAddress);
        }
        let asking = self.asking_terminal(tables, request, message, user)?;
        let wanted = message.options.device(bytes).filter(|device| *device != 0);
        let others = self.terminals(tables, other, now);
        let mut others = others.iter().filter(|terminal| wanted.is_none_or(|w| w == terminal.device));
        let found =
            others.find_map(|terminal| Some((terminal, way(&asking, terminal)?, way(terminal, &asking)?)));
        let (terminal, to_other, to_asking) = found.ok_or(Reason::NoPeerAddress)?;

        let head = |to: PushId, about: PushId, way: Way| {
            let mut head = HeadBuilder::new(&Header::new(Kind::Introduce, to, about, message.header.message));
            head.peer_address(way.peer);
            head
        };
        self.deliver(tables, terminal, &mut head(other, user, to_asking), to_asking.inside, now, out)
            .map_err(|_| Reason::NoPeerAddress)?;
        // The asker is where it asks from, and is answered as it asks.
        let asker = Asker::new(request, message.header);
        let key = asker.key.or_else(|| tables.user_key(user).map(|key| tables.key_id(key)));
        let mut head = head(user, other, to_other);
        if let Some((realm, private)) = to_other.inside {
            head.private_address(private).realm(realm);
        }
        let datagram = datagram(tables, &mut head, &[], key, now)?;
        out.replies.push(Reply { to: asker.to, listener: asker.listener, datagram, is_reject: false });
        Ok(Outcome::Answered)
    }

    /// The terminal that asks: the socket that the request says it listens on; else the one of the
    /// user's terminals that is where the request came from; else the first; of a user that is not
    /// attached, what the network shows.
    fn asking_terminal(
        &self,
        tables: &Tables,
        request: &Request<'_>,
        message: &Message,
        user: PushId,
    ) -> Result<Binding, Reason> {
        let from = request.from;
        if message.options.has(ty::LISTEN_PORT) {
            let shown = self.addresses(tables, request, message, user)?;
            // No public address but the one that the network shows: the peer will write to it.
            return Ok(Binding { nat: shown.nat.filter(|nat| nat.octets() == from.octets()), ..shown });
        }
        let terminals = self.terminals(tables, user, request.now);
        let is_it = |terminal: &&Binding| {
            let private = terminal.private.map(Endpoint::octets);
            terminal.nat == Some(from) || private == Some(from.octets())
        };
        let addressed = |terminal: &&Binding| terminal.private.is_some() || terminal.nat.is_some();
        if let Some(found) = terminals.iter().find(is_it).or_else(|| terminals.iter().find(addressed)) {
            return Ok(*found);
        }
        let realm = message.options.realm(request.bytes).unwrap_or(0);
        let is_private = tables.gateway(realm, from).is_some();
        Ok(Binding {
            realm,
            private: is_private.then_some(from),
            nat: (!is_private).then_some(from),
            bearers: User::DEFAULT_BEARERS,
            ..super::store::nothing(user, 0)
        })
    }
}

/// Where `to` can be reached by `from`.
fn way(from: &Binding, to: &Binding) -> Option<Way> {
    let inside = to.private.filter(|_| from.private.is_some() && from.realm == to.realm);
    let Some(nat) = to.nat else { return inside.map(|peer| Way { peer, inside: None }) };
    let is_shared = from.nat.is_some_and(|own| own.octets() == nat.octets());
    Some(Way { peer: nat, inside: inside.filter(|_| is_shared).map(|private| (to.realm, private)) })
}
