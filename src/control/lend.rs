//! Push IDs that are lent (PROTOCOL.md, DynamicId and ruling 5).

use std::collections::HashMap;

use ahash::RandomState;

use super::timer::TimerId;
use crate::id::PushId;

/// A Push ID that is lent, or was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loan {
    /// Whom it leads to, and which device; none: it ran out, and is not lent again yet.
    pub(super) holder: Option<(PushId, u8)>,
    pub(super) until_ms: u64,
    pub(super) timer: Option<TimerId>,
}

/// All of them. A terminal holds one at most.
#[derive(Debug)]
pub(super) struct Loans {
    loans: HashMap<PushId, Loan, RandomState>,
    holders: HashMap<(PushId, u8), PushId, RandomState>,
}

impl Loans {
    pub(super) fn new(hasher: &RandomState) -> Self {
        Self { loans: HashMap::with_hasher(hasher.clone()), holders: HashMap::with_hasher(hasher.clone()) }
    }

    /// How many are lent now.
    pub(super) fn lent(&self) -> usize {
        self.holders.len()
    }

    /// How many are lent or must not be lent again yet.
    pub(super) fn len(&self) -> usize {
        self.loans.len()
    }

    pub(super) fn get(&self, lent: PushId) -> Option<&Loan> {
        self.loans.get(&lent)
    }

    pub(super) fn get_mut(&mut self, lent: PushId) -> Option<&mut Loan> {
        self.loans.get_mut(&lent)
    }

    /// What a terminal holds.
    pub(super) fn held_by(&self, user: PushId, device: u8) -> Option<PushId> {
        self.holders.get(&(user, device)).copied()
    }

    /// Those that lead somewhere.
    pub(super) fn iter(&self) -> impl Iterator<Item = (PushId, PushId, u8, u64)> {
        self.loans
            .iter()
            .filter_map(|(lent, loan)| loan.holder.map(|(user, device)| (*lent, user, device, loan.until_ms)))
    }

    /// All, those that ran out too.
    pub(super) fn ids(&self) -> Vec<PushId> {
        let mut ids: Vec<PushId> = self.loans.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    pub(super) fn lend(&mut self, lent: PushId, user: PushId, device: u8, until_ms: u64) {
        self.take_back(lent);
        if let Some(other) = self.holders.insert((user, device), lent)
            && let Some(loan) = self.loans.get_mut(&other).filter(|_| other != lent)
        {
            loan.holder = None;
        }
        let loan = self.loans.entry(lent).or_insert(Loan { holder: None, until_ms, timer: None });
        (loan.holder, loan.until_ms) = (Some((user, device)), until_ms);
    }

    /// It leads nowhere any more.
    pub(super) fn take_back(&mut self, lent: PushId) {
        if let Some(loan) = self.loans.get_mut(&lent)
            && let Some(holder) = loan.holder.take()
        {
            self.holders.remove(&holder);
        }
    }

    /// It may be lent again.
    pub(super) fn forget(&mut self, lent: PushId) {
        self.take_back(lent);
        self.loans.remove(&lent);
    }
}
