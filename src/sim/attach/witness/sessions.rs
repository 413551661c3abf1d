//! What follows from RADIUS accounting for who may be sent messages where. Where reports overtake each other only
//! what is certain is held against a server.
//!
//! A *Start* of a user who is at home is a claim as REGISTER is, but for what voids it: no REGISTER of the user's
//! own. Once it is answered, and nothing else was said of the address that need be newer, claims of other users to the
//! address are void that were taken up before; those of whom nothing is known may be those of the terminal itself. Once
//! a *Stop* is answered its session's claim is void, and with it, when it was certain that the session held the
//! address, everybody's that was answered before.

use super::{Asked, Heard, Lend, Place, Wish, Witness};
use crate::clock::Now;
use crate::id::{Endpoint, PushId};
use crate::sim::attach::accounting::Told;
use crate::table::live::{Live, LiveBindings};

/// A session, as far as a server was told.
pub(super) struct Session {
    pub(super) place: Place,
    user: Option<(PushId, u8)>,
    /// What was told last of it.
    at_ms: u64,
    /// When its Start, and its Stop, was taken up first: repetitions need not change anything.
    start_turn: Option<u64>,
    stop_turn: Option<u64>,
    /// It has surely held the address.
    is_certain: bool,
}

impl Witness {
    /// A controller takes up reports, together with what it was handed last.
    pub(in crate::sim::attach) fn told(&mut self, at: usize, now: Now, reports: &[Told]) {
        let heard = &mut self.heard[at];
        for told in reports {
            heard.session(told);
        }
        for told in reports.iter().filter(|told| told.starts) {
            // Each time: what is not answered may not have counted before.
            let Some((user, device)) = told.user else { continue };
            let wish = Wish::Bind { device, places: vec![told.place], lend: Lend::No };
            heard.add(Asked {
                turn: heard.turn,
                at_ms: now.unix_ms,
                signed: None,
                user,
                wish,
                by_server: None,
                message: told.session,
                from: Endpoint::NONE,
                answered_ms: None,
                refused: false,
                until_ms: u64::MAX,
                lent: None,
                void_by: None,
                session: Some(told.session),
            });
        }
    }

    /// The answer to a report leaves a server.
    pub(in crate::sim::attach) fn reported(&mut self, at: usize, told: &Told) {
        let skew_ms = self.skew_ms;
        let heard = &mut self.heard[at];
        let Some(own) = heard.sessions.get(&told.session) else { return };
        let mut others = heard.sessions.iter().filter(|(id, _)| **id != told.session).map(|(_, other)| other);
        let is_last = !others.any(|other| other.place == told.place && other.at_ms >= told.at_ms);
        let (turn, is_certain) = match told.starts {
            true => (own.start_turn, is_last && own.stop_turn.is_none()),
            false => (own.stop_turn, is_last && own.is_certain),
        };
        let Some(turn) = turn else { return };
        let own_user = told.user.map(|(user, _)| user);
        let is_void = |claim: &Asked| {
            let is_there = claim.places().contains(&told.place) && claim.turn < turn && is_certain;
            match (told.starts, own_user) {
                (true, Some(user)) => is_there && claim.user != user,
                (false, Some(_)) => {
                    claim.session == Some(told.session) || (is_there && claim.answered_ms.is_some())
                }
                (_, None) => {
                    let said_ms = claim.signed.map_or(claim.at_ms, |(_, signed_ms)| signed_ms);
                    let is_older = said_ms + skew_ms + 1000 < told.at_ms;
                    is_there && is_older && claim.answered_ms.is_some()
                }
            }
        };
        let by = (own_user.unwrap_or(PushId::NONE), turn);
        for claim in heard.asked.iter_mut().filter(|claim| is_void(claim)) {
            claim.void_by.get_or_insert(by);
        }
        if let Some(own) = heard.sessions.get_mut(&told.session).filter(|_| told.starts) {
            own.is_certain |= is_certain;
        }
    }

    /// Holds what a server's shards see against the reports that it answered: who was lent an address, and neither
    /// asked anything nor had it taken, is bound there.
    ///
    /// # Errors
    /// What it answered and does not hold. Ok: how many there were to hold it to.
    pub(in crate::sim::attach) fn must_hold_sessions(
        &self,
        at: usize,
        live: &LiveBindings,
    ) -> Result<u64, String> {
        let heard = &self.heard[at];
        let mut held = 0;
        for (id, session) in &heard.sessions {
            let Some((user, _)) = session.user.filter(|_| session.is_certain) else { continue };
            let Some(start_turn) = session.start_turn else { continue };
            let is_doubtful = |asked: &Asked| {
                let is_there = asked.places().contains(&session.place);
                let is_over = asked.turn < start_turn && (asked.answered_ms.is_some() || asked.refused);
                let said_ms = asked.signed.map_or(asked.at_ms, |(_, signed_ms)| signed_ms);
                let is_older = said_ms + self.skew_ms + 1000 < session.at_ms;
                asked.session.is_none() && (is_there || asked.user == user) && !(is_over && is_older)
            };
            let is_newer = |(other, said): (&u64, &Session)| {
                let is_about = said.place == session.place || said.user == session.user;
                other != id && is_about && said.at_ms >= session.at_ms
            };
            if session.stop_turn.is_some()
                || heard.sessions.iter().any(is_newer)
                || heard.asked.iter().any(is_doubtful)
            {
                continue;
            }
            let Place::Private(realm, octets) = session.place else { continue };
            let mut is_bound = false;
            live.find(user, live.hash(user), |entry| {
                if let Live::Bound(binding) = entry {
                    let private = binding.private.map(Endpoint::octets);
                    is_bound |= (binding.realm, private) == (realm, Some(octets));
                }
            });
            if !is_bound {
                return Err(format!("{user} was lent {}, as it was told and answered", session.place));
            }
            held += 1;
        }
        Ok(held)
    }
}

impl Heard {
    fn session(&mut self, told: &Told) {
        let Told { user, place, at_ms, .. } = *told;
        let session = self.sessions.entry(told.session).or_insert(Session {
            place,
            user,
            at_ms,
            start_turn: None,
            stop_turn: None,
            is_certain: false,
        });
        session.at_ms = session.at_ms.max(at_ms);
        if told.starts {
            session.start_turn.get_or_insert(self.turn);
        } else {
            session.stop_turn.get_or_insert(self.turn);
        }
    }
}
