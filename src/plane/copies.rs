//! The copies of a message for a group, one a member (PROTOCOL.md, ruling 7).
//!
//! The message was judged as a whole, by [`Plane::process`], before the controller was asked who is in the group:
//! its copies go from the first stage straight to the third. A copy that fails is counted, not answered: whoever made
//! the copies reports what became of the message.

use super::{Moment, NoTrace, Plane, Read, Site, Trace, Verdict};
use crate::clock::Now;
use crate::packet::Burst;
use crate::reason::Reason;
use crate::table::Tables;
use crate::table::rib::Rule;

impl Plane {
    /// Decides every row of a burst, each a member's copy of a message that was judged, and fills `burst.tx`.
    pub fn process_copies(&mut self, site: &Site, tables: &Tables, now: Now, burst: &mut Burst) {
        let moment = Moment::new(site, tables, now);
        self.decide_copies(&moment, burst, &mut NoTrace);
        self.rewrite(&moment, burst);
        burst.order_tx();
    }

    pub(super) fn decide_copies(&mut self, moment: &Moment<'_>, burst: &Burst, trace: &mut impl Trace) {
        self.parse(moment, burst, trace);
        for (cell, row) in self.cells.iter_mut().zip(&burst.rows) {
            cell.grant.is_copy = true;
            cell.peer = moment.tables.peer(row.from);
            let Read::Message(message) = &cell.read else { continue };
            match moment.tables.app(message.header.app) {
                Some(app) => {
                    cell.grant.class = Some(app.rule().into());
                    cell.grant.sets_priority = app.rule() == Rule::Priority;
                }
                // The tables have changed meanwhile.
                None => cell.verdict = Verdict::Drop(Reason::ApplicationNotAllowed),
            }
        }
        self.resolve(moment, burst, trace);
    }
}
