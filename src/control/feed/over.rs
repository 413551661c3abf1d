//! Sessions that are over and must not come back, remembered for ten minutes: in the order in which they ended, so that
//! forgetting the oldest costs no look at the others.

use std::collections::HashMap;
use std::sync::Arc;

use ahash::RandomState;

use crate::control::REMEMBER_MS;
use crate::control::kept::Kept;
use crate::table::{Change, SessionId};

/// Forgotten at most at once.
const FORGET_MAX: usize = 64;

/// A session that is over.
#[derive(Clone, Debug)]
struct Ended {
    id: Arc<SessionId>,
    ended_ms: u64,
    /// When that was heard.
    tick: u64,
}

/// All that are remembered.
#[derive(Debug)]
pub(super) struct Over {
    places: HashMap<Arc<SessionId>, u64, RandomState>,
    ended: Kept<u64, Ended>,
    next: u64,
    /// The time that was told last.
    tick: u64,
    max: usize,
}

impl Over {
    /// So many at most.
    pub(super) fn new(max: usize, hasher: &RandomState) -> Self {
        let places = HashMap::with_hasher(hasher.clone());
        Self { places, ended: Kept::default(), next: 0, tick: 0, max }
    }

    /// A session is over since then, or, as far as is known of it, later.
    pub(super) fn insert(&mut self, id: Arc<SessionId>, ended_ms: u64) {
        let ended_ms = self.get(&id).unwrap_or(0).max(ended_ms);
        self.forget(&id);
        if self.ended.len() >= self.max {
            self.forget_first();
        }
        self.places.insert(Arc::clone(&id), self.next);
        self.ended.insert(self.next, Ended { id, ended_ms, tick: self.tick });
        self.next += 1;
    }

    /// Until when a session lasted.
    pub(super) fn get(&self, id: &SessionId) -> Option<u64> {
        Some(self.ended.get(self.places.get(id)?)?.ended_ms)
    }

    /// It is not over.
    pub(super) fn forget(&mut self, id: &SessionId) {
        if let Some(place) = self.places.remove(id) {
            self.ended.remove(&place);
        }
    }

    /// Time passes: forgets what was over long ago.
    pub(super) fn turn(&mut self, tick: u64) {
        self.tick = tick;
        for _ in 0..FORGET_MAX {
            let first = self.ended.iter().next();
            if first.is_none_or(|(_, ended)| tick.saturating_sub(ended.tick) < REMEMBER_MS) {
                break;
            }
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let Some(first) = self.ended.iter().next().map(|(place, _)| *place) else { return };
        if let Some(Ended { id, .. }) = self.ended.remove(&first) {
            self.places.remove(&id);
        }
    }

    /// The journal is replayed: what it told was heard now, for all that is known.
    pub(super) fn restored(&mut self, tick: u64) {
        self.tick = tick;
        let places: Vec<u64> = self.places.values().copied().collect();
        for place in places {
            if let Some(ended) = self.ended.get_mut(&place) {
                ended.tick = tick;
            }
        }
    }

    /// What makes these of none.
    pub(super) fn changes(&self) -> impl Iterator<Item = Change> {
        self.ended.iter().map(|(_, ended)| ended.change())
    }

    pub(super) fn begin_cut(&mut self) {
        self.ended.begin_cut();
    }

    pub(super) fn cut_some(&mut self, entries: usize) -> Option<Vec<Change>> {
        let part = self.ended.cut_some(entries)?;
        Some(part.iter().map(|(_, ended)| ended.change()).collect())
    }

    pub(super) fn end_cut(&mut self) {
        self.ended.end_cut();
    }
}

impl Ended {
    fn change(&self) -> Change {
        Change::Detach { id: Arc::clone(&self.id), ended_ms: Some(self.ended_ms) }
    }
}
