//! Sessions that end without a Stop: all those of a NAS that started or ends, and those of which nothing more is heard.
//!
//! A NAS may have a million sessions: they end a few at a time, so that nobody else waits for it, and the NAS is
//! answered after the last of them.

use super::repeats::{Key, Repeated};
use super::said::Said;
use super::sessions::Names;
use super::{Effect, ReportAnswer, ReportEnd};
use crate::clock::Now;
use crate::control::expire::rearm;
use crate::control::{Engine, Outbox};
use crate::table::{Session, SessionId, Tables};

/// All sessions of a NAS are over.
#[derive(Debug)]
pub(super) struct Sweep {
    domain: u32,
    names: Names,
    at_ms: u64,
    /// Those that are left, if they still are what they were.
    places: Vec<u32>,
    asker: Option<(ReportAnswer, Key, [u8; 16])>,
}

impl Sweep {
    /// What is sent when it is done, and to which request.
    pub(super) fn then(self, answer: ReportAnswer, key: Key, authenticator: [u8; 16]) -> Self {
        Self { asker: Some((answer, key, authenticator)), ..self }
    }

    /// Whether a session is over by it: nothing was heard of it since.
    fn ends(&self, session: &Session) -> bool {
        session.id.domain == self.domain && self.names.are_of(session) && session.heard_ms < self.at_ms
    }
}

impl Engine {
    /// What an On or Off ends.
    pub(super) fn sweep_of(&self, said: &Said<'_>) -> Sweep {
        let (domain, names) = (said.id.domain, said.names());
        let places = self.feed.sessions.of_nas(domain, &names);
        Sweep { domain, names, at_ms: said.at_ms, places, asker: None }
    }

    /// Ends one session of a sweep, or the sweep; false when there is none.
    pub(in crate::control) fn sweep(&mut self, tables: &Tables, now: Now, out: &mut Outbox) -> bool {
        let Some(sweep) = self.feed.sweeps.front_mut() else { return false };
        if let Some(at) = sweep.places.pop() {
            let found = self.feed.sessions.get(at).filter(|session| sweep.ends(session)).cloned();
            let at_ms = sweep.at_ms;
            if let Some(session) = found {
                self.end_session(tables, &session, Some(at_ms), None, now, out);
            }
            return true;
        }
        if let Some(Sweep { asker: Some((answer, key, authenticator)), .. }) = self.feed.sweeps.pop_front() {
            self.feed.repeats.remember(key, authenticator, Repeated::Decided, now);
            out.reports.push(ReportEnd::Answered(answer, Effect::Taken));
        }
        true
    }

    /// Works on a session whose time may be over.
    pub(in crate::control) fn session_timeout(
        &mut self,
        tables: &Tables,
        at: u32,
        now: Now,
        out: &mut Outbox,
    ) {
        let Some(held) = self.feed.sessions.get_mut(at) else { return };
        held.timer = None;
        if held.session.is_live(now.unix_ms) {
            self.arm_session_at(at, now);
        } else {
            let session = held.session.clone();
            self.end_session(tables, &session, None, None, now, out);
        }
    }

    /// Sets the timer of a session.
    pub(in crate::control) fn arm_session(&mut self, id: &SessionId, now: Now) {
        if let Some(at) = self.feed.sessions.find(id).map(|(at, _)| at) {
            self.arm_session_at(at, now);
        }
    }

    fn arm_session_at(&mut self, at: u32, now: Now) {
        let Some(held) = self.feed.sessions.get_mut(at) else { return };
        let wait = held.session.until_ms.map(|until| until.saturating_sub(now.unix_ms));
        rearm(&mut self.feed.expiry, &mut held.timer, at, now, wait);
    }

    /// Takes notice of new tables.
    pub(in crate::control) fn feed_tables_changed(&mut self, tables: &Tables, now: Now, out: &mut Outbox) {
        self.index_tables(tables);
        self.end_rows_of_sessions(tables, now, out);
    }

    /// Makes the feed ready once the journal is replayed. A crash may have kept the first of the changes that belong
    /// together, of which a session that has an address is the last: everything before it is there, too. And where
    /// nobody is listened to any more, nothing that was said counts.
    pub(in crate::control) fn feed_restored(&mut self, tables: &Tables, now: Now, out: &mut Outbox) {
        self.feed.sessions.restored(now);
        let sessions: Vec<Session> = self.feed.sessions.iter().map(|(_, session)| session.clone()).collect();
        for session in &sessions {
            if self.feed.config.is_none() || !session.is_live(now.unix_ms) {
                self.end_session(tables, session, None, None, now, out);
            } else {
                self.arm_session(&session.id, now);
            }
        }
        self.settle_everybody(tables, now, out);
    }

    /// Settles whoever has a session or is bound by the network's word.
    pub(in crate::control) fn settle_everybody(&mut self, tables: &Tables, now: Now, out: &mut Outbox) {
        let assigned = self.store.iter().filter(|(_, entry)| entry.is_assigned() && !entry.is_ended());
        let sessions = self.feed.sessions.iter().filter_map(|(_, session)| session.user);
        let users = assigned.map(|(_, entry)| entry.user()).chain(sessions.map(|(user, _)| user));
        self.feed.unsettled.extend(users);
        self.settle_users(tables, now, out);
    }
}
