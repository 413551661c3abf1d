//! First stage: from bytes to messages, or to the reason why not; the lookup of the destination starts
//! here, so that its cache lines come while the rest of the burst is parsed and judged.

use super::{Cell, Grant, Moment, Plane, Read, Trace, Verdict};
use crate::packet::Burst;
use crate::reason::Reason;
use crate::wire::prp::{self, Header, Kind};

impl Plane {
    pub(super) fn parse(&mut self, moment: &Moment<'_>, burst: &Burst, trace: &mut impl Trace) {
        // Each cell is written where it stays.
        self.cells.resize_with(burst.rows.len(), Cell::default);
        self.sends.clear();
        for (at, (row, cell)) in burst.rows.iter().zip(&mut self.cells).enumerate() {
            let Cell { read, verdict, peer, grant, first_send, sends } = cell;
            (*verdict, *peer, *grant, *first_send, *sends) = (Verdict::Pending, None, Grant::default(), 0, 0);
            let bytes = row.frame.as_ref().map_or(&[][..], |frame| frame.bytes());
            self.ledger.received(bytes.len());
            let too_large = row.truncated || bytes.len() > moment.site.datagram_max;
            let parsed = if too_large { Err(Reason::TooLarge) } else { prp::parse(bytes) };
            match parsed {
                Ok(message) => {
                    moment.look_for(&mut self.looks, at, message.header.destination);
                    trace.step(at, || {
                        format!("{} of {} bytes, well-formed", message.kind.name(), bytes.len())
                    });
                    *read = Read::Message(message);
                }
                Err(reason) => {
                    self.looks.skip(at);
                    let header = Header::read(bytes);
                    let reason = earlier(reason, header);
                    trace.step(at, || format!("{reason}: {}", reason.text()));
                    (*read, *verdict) = (header.map_or(Read::Nothing, Read::Head), Verdict::Drop(reason));
                }
            }
        }
        moment.look(&mut self.looks, burst.rows.len());
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
