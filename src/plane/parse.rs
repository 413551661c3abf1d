//! First stage: from bytes to messages, or to the reason why not; the lookup of the destination starts
//! here, so that its cache lines come while the rest of the burst is parsed.

use super::{Cell, Moment, Plane, Read, Trace, Verdict};
use crate::packet::Burst;
use crate::reason::Reason;
use crate::wire::prp::{self, Header, Kind};

impl Plane {
    pub(super) fn parse(&mut self, moment: &Moment<'_>, burst: &Burst, trace: &mut impl Trace) {
        self.cells.clear();
        self.sends.clear();
        for (at, row) in burst.rows.iter().enumerate() {
            let bytes = row.frame.as_ref().map_or(&[][..], |frame| frame.bytes());
            self.ledger.received(bytes.len());
            let mut cell = Cell::default();
            let too_large = row.truncated || bytes.len() > moment.site.datagram_max;
            let parsed = if too_large { Err(Reason::TooLarge) } else { prp::parse(bytes) };
            match parsed {
                Ok(message) => {
                    cell.key = moment.key(message.header.destination);
                    moment.prefetch(&cell.key);
                    cell.read = Read::Message(message);
                    trace.step(at, || {
                        format!("{} of {} bytes, well-formed", message.kind.name(), bytes.len())
                    });
                }
                Err(reason) => {
                    let header = Header::read(bytes);
                    cell.read = header.map_or(Read::Nothing, Read::Head);
                    let reason = earlier(reason, header);
                    cell.verdict = Verdict::Drop(reason);
                    trace.step(at, || format!("{reason}: {}", reason.text()));
                }
            }
            self.cells.push(cell);
        }
    }
}

/// Of an unknown option and a kind that is not taken, the kind is named (PROTOCOL.md, ruling 11).
fn earlier(reason: Reason, header: Option<Header>) -> Reason {
    let kind = header.and_then(|header| Kind::from_code(header.kind));
    let taken = kind.is_some_and(is_taken);
    if reason == Reason::UnsupportedOption && !taken { Reason::UnsupportedKind } else { reason }
}

/// Whether this server does something with messages of this kind.
pub(super) fn is_taken(kind: Kind) -> bool {
    !matches!(kind, Kind::Grouped | Kind::Resolved | Kind::Echoed)
}
