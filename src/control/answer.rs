//! Datagrams that answer.

use super::{Engine, Outbox, Reply, Request};
use crate::clock::Now;
use crate::id::Endpoint;
use crate::reason::Reason;
use crate::table::Tables;
use crate::wire::prp::{HeadBuilder, Header, Kind};

/// Who asked, and how it is answered: to the address and port that the request came from, from where
/// it arrived (rulings 22 and 35), signed with the key that it was signed with (ruling 15).
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    pub(super) to: Endpoint,
    pub(super) listener: u8,
    /// The key's identifier on the wire.
    pub(super) key: Option<u32>,
    pub(super) header: Header,
}

impl Asker {
    pub(super) const fn new(request: &Request<'_>, header: Header) -> Self {
        Self { to: request.from, listener: request.listener, key: request.signed_by, header }
    }

    /// The beginning of an answer: source and destination swapped, the same message identifier.
    pub(super) fn head(&self, kind: Kind) -> HeadBuilder {
        HeadBuilder::new(&self.header.answer(kind))
    }

    /// Sends an answer.
    pub(super) fn answer(
        &self,
        tables: &Tables,
        head: &mut HeadBuilder,
        payload: &[u8],
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Reason> {
        out.replies.push(self.reply(tables, head, payload, now)?);
        Ok(())
    }

    /// The REJECT, at most 108 bytes long, so always within the limit of 128.
    pub(super) fn rejection(&self, tables: &Tables, reason: Reason, now: Now) -> Option<Reply> {
        let mut head = self.head(Kind::Reject);
        head.reason(reason);
        let reply = self.reply(tables, &mut head, &[], now).ok()?;
        Some(Reply { is_reject: true, ..reply })
    }

    /// An answer, to be sent.
    pub(super) fn reply(
        &self,
        tables: &Tables,
        head: &mut HeadBuilder,
        payload: &[u8],
        now: Now,
    ) -> Result<Reply, Reason> {
        let datagram = datagram(tables, head, payload, self.key, now)?;
        Ok(Reply { to: self.to, listener: self.listener, datagram, is_reject: false })
    }
}

/// A whole datagram, signed with the key that has this identifier, if it is known.
pub(super) fn datagram(
    tables: &Tables,
    head: &mut HeadBuilder,
    payload: &[u8],
    key: Option<u32>,
    now: Now,
) -> Result<Vec<u8>, Reason> {
    let key = key.and_then(|id| Some((id, tables.key(tables.key_index(id)?)?)));
    if let Some((id, _)) = key {
        head.auth(id, now.unix_ms);
    }
    let head_bytes = head.finish()?.len();
    let mut datagram = head.datagram(payload)?;
    match key {
        Some((_, key)) if !key.sign(&mut datagram, head_bytes) => Err(Reason::TooLarge),
        _ => Ok(datagram),
    }
}

impl Engine {
    /// Counts a request that failed, and says so to who asked, where that is allowed: never to an
    /// answer.
    pub(super) fn refuse(&self, tables: &Tables, asker: &Asker, reason: Reason, now: Now, out: &mut Outbox) {
        out.dropped.push(reason);
        let is_answer = Kind::from_code(asker.header.kind).is_some_and(Kind::is_answer);
        if is_answer || !self.site.policy.rejects {
            return;
        }
        out.replies.extend(asker.rejection(tables, reason, now));
    }

    /// The listening address that a datagram leaves from: this one if it is of the right family, else
    /// the first that is.
    pub(super) fn listener_for(&self, to: Endpoint, wanted: u8) -> Option<u8> {
        let fits = |own: &Endpoint| own.is_ipv4() == to.is_ipv4();
        if self.site.listen.get(usize::from(wanted)).is_some_and(fits) {
            return Some(wanted);
        }
        self.site.listen.iter().position(fits).and_then(|at| u8::try_from(at).ok())
    }
}
