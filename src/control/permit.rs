//! Who may ask (`policy.register`, INTERFACE.md, ruling 2), and which addresses a terminal can have.

use super::{Engine, Request};
use crate::config::RegisterPolicy;
use crate::id::{Endpoint, PushId};
use crate::reason::Reason;
use crate::table::Tables;
use crate::wire::prp::Message;
use crate::wire::prp::auth::Auth;

impl Engine {
    /// Whether the request may speak for the user.
    pub(super) fn permit(
        &self,
        tables: &Tables,
        request: &Request<'_>,
        message: &Message,
        user: PushId,
    ) -> Result<(), Reason> {
        let by_user = || {
            let own = tables.user_key(user).map(|key| tables.key_id(key));
            own.is_some() && own == request.signed_by
        };
        let permitted = match self.site.policy.register {
            RegisterPolicy::Any => true,
            RegisterPolicy::Signed => by_user() || self.by_server(tables, request).is_some(),
            RegisterPolicy::Segment => by_user() || self.in_segment(tables, request, message),
        };
        if permitted { Ok(()) } else { Err(Reason::NotPermitted) }
    }

    /// The [[server]] whose key the request is rightly signed with.
    fn by_server(&self, tables: &Tables, request: &Request<'_>) -> Option<u32> {
        let key = tables.server_key(tables.peer(request.from)?)?;
        request.signed_by.filter(|id| *id == tables.key_id(key))
    }

    /// The [[server]] that sent the request; an error when it has a key and did not sign with it.
    pub(super) fn peer(tables: &Tables, request: &Request<'_>) -> Result<Option<u32>, Reason> {
        let Some(peer) = tables.peer(request.from) else { return Ok(None) };
        match tables.server_key(peer).map(|key| tables.key_id(key)) {
            Some(key) if request.signed_by != Some(key) => Err(Reason::AuthenticationFailed),
            _ => Ok(Some(peer)),
        }
    }

    /// Whether the datagram comes from a gateway's address, or from an address inside a segment of the
    /// realm, which is that of PrivateAddress if there is one.
    fn in_segment(&self, tables: &Tables, request: &Request<'_>, message: &Message) -> bool {
        let Request { bytes, from, .. } = *request;
        if self.gateways.contains(&from.octets()) {
            return true;
        }
        let realm = message.options.realm(bytes).unwrap_or(0);
        let private = message.options.private_address(bytes);
        tables.gateway(realm, from).is_some()
            && private.is_none_or(|private| private.octets() == from.octets())
    }

    /// Whether a terminal can be at this address: one host's, and neither this server's nor another
    /// Push server's, where a PUSH to the terminal would come back as a new one.
    pub(super) fn is_usable(&self, tables: &Tables, at: Endpoint) -> bool {
        let ip = at.ip();
        let is_broadcast = ip == std::net::IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
        let is_host = !ip.is_unspecified() && !ip.is_multicast() && !is_broadcast && at.port() != 0;
        let own = tables.own().map(|own| tables.server_address(own));
        is_host && own != Some(at) && !self.site.listen.contains(&at) && tables.peer(at).is_none()
    }
}

/// How old a request is: the time in its Auth, of an unsigned one that of its arrival (ruling 18).
#[derive(Clone, Copy, Debug)]
pub(super) struct Age {
    /// Milliseconds since 1970.
    pub(super) heard_ms: u64,
    pub(super) is_signed: bool,
}

impl Age {
    pub(super) fn of(request: &Request<'_>, message: &Message) -> Self {
        let auth = request.signed_by.and_then(|_| Auth::of(&message.options, request.bytes));
        Self { heard_ms: auth.map_or(request.now.unix_ms, |auth| auth.unix_ms), is_signed: auth.is_some() }
    }
}
