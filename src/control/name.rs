//! RESOLVE: the network's address book (PROTOCOL.md, ruling 29).

use super::answer::Asker;
use super::{Engine, Outbox, Outcome, Request};
use crate::id::PushId;
use crate::reason::Reason;
use crate::table::Tables;
use crate::wire::prp::{HeadBuilder, Header, Kind, Message};

impl Engine {
    pub(super) fn resolve_name(
        tables: &Tables,
        request: &Request<'_>,
        message: &Message,
        out: &mut Outbox,
    ) -> Result<Outcome, Reason> {
        let name = message.options.name(request.bytes).ok_or(Reason::Malformed)?;
        let found = tables.arrays().name(name.trim()).ok_or(Reason::UnknownName)?;
        let asker = Asker::new(request, message.header);
        let header = Header::new(Kind::Resolved, found, PushId::NONE, message.header.message);
        asker.answer(tables, &mut HeadBuilder::new(&header), &[], request.now, out)?;
        Ok(Outcome::Answered)
    }
}
