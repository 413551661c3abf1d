//! The controller's part in RADIUS accounting: what a listener found genuine is decided in the same batches as what
//! the shards hand over, and answered as late.

use super::{Controller, ROOM_MIN};
use crate::control::{Effect, Report, ReportAnswer, ReportEnd};
use crate::journal::Disk;
use crate::metrics::ReportCounters;
use crate::reason::Unanswered;
use crate::table::Tables;
use crate::wire::radius::{Accounting, Packet, Status};

impl<D: Disk> Controller<D> {
    /// Takes a report; it ends with a later [`Controller::decide`].
    pub fn report(&mut self, tables: &Tables, report: &Report<'_>) {
        self.handle_new_tables(tables, report.now);
        self.reports.taken += 1;
        if self.poisoned || (!self.has_room() && takes_room(report.bytes)) {
            self.reports.drop(Unanswered::Overloaded);
            return;
        }
        self.engine.handle_report(tables, report, &mut self.out);
    }

    /// The next answer to a report, which is durable and seen by every shard; then it wants to know by
    /// [`Controller::report_sent`] whether it left.
    pub fn poll_report(&mut self) -> Option<ReportAnswer> {
        self.report_answers.pop_front()
    }

    /// Counts an answer that left, or could not.
    pub fn report_sent(&mut self, has_left: bool) {
        self.reports.tx_failed += u64::from(!has_left);
    }

    /// What was counted of reports: every one taken is answered, dropped or in flight.
    pub fn report_counters(&self) -> &ReportCounters {
        &self.reports
    }

    /// Nobody will decide what was taken and is under way: its sender tries again.
    pub fn give_up_reports(&mut self) {
        let rest = self.reports.taken - self.reports.answered() - self.reports.dropped_total();
        self.reports.dropped[Unanswered::Overloaded.index()] += rest;
        self.reports.in_flight = 0;
    }

    /// Whether one more request finds room in the live tables, whatever it asks: what was decided and is not in them
    /// yet takes at most two slots a change.
    pub(super) fn has_room(&self) -> bool {
        self.writer.room() >= ROOM_MIN + 2 * self.out.changes.len()
    }

    /// Counts reports that ended, once what they changed is durable.
    pub(super) fn end_reports(&mut self, ends: impl Iterator<Item = ReportEnd>) {
        let counters = &mut self.reports;
        for end in ends {
            let (answer, effect) = match end {
                ReportEnd::Answered(answer, effect) => (answer, effect),
                ReportEnd::Dropped(why) => {
                    counters.drop(why);
                    continue;
                }
            };
            match effect {
                Effect::Taken => counters.applied += 1,
                Effect::Late => counters.late += 1,
                Effect::Repeated => counters.repeated += 1,
                Effect::Ignored => counters.ignored += 1,
            }
            self.report_answers.push_back(answer);
        }
        let live = self.engine.live();
        counters.in_flight = live.reports as u64;
        counters.sessions = live.sessions as u64;
        counters.sessions_unknown = live.sessions_unknown as u64;
    }
}

/// Whether a report may need more room in the live tables than it gives back.
fn takes_room(bytes: &[u8]) -> bool {
    let said = Packet::parse(bytes).and_then(|packet| Accounting::read(&packet));
    said.is_ok_and(|said| matches!(said.status, Status::Start | Status::Interim))
}
