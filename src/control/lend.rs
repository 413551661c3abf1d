//! Push IDs that are lent (PROTOCOL.md, DynamicId and ruling 5).

use std::collections::HashMap;

use ahash::RandomState;

use super::kept::Kept;
use super::timer::TimerId;
use crate::id::PushId;
use crate::table::Change;

/// A Push ID that is lent, or was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loan {
    /// Whom it leads to, and which device; none: it ran out, and is not lent again yet.
    pub(super) holder: Option<(PushId, u8)>,
    pub(super) until_ms: u64,
    pub(super) timer: Option<TimerId>,
}

impl Loan {
    fn change(&self, lent: PushId) -> Option<Change> {
        let (user, device) = self.holder?;
        Some(Change::Lend { lent, user, device, until_ms: self.until_ms })
    }
}

/// All of them. A terminal holds one at most.
#[derive(Debug)]
pub(super) struct Loans {
    loans: Kept<PushId, Loan>,
    holders: HashMap<(PushId, u8), PushId, RandomState>,
}

impl Loans {
    pub(super) fn new(hasher: &RandomState) -> Self {
        Self { loans: Kept::default(), holders: HashMap::with_hasher(hasher.clone()) }
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

    /// As [`Loans::get`], to set its timer.
    pub(super) fn get_mut(&mut self, lent: PushId) -> Option<&mut Loan> {
        self.loans.get_mut(&lent)
    }

    /// What a terminal holds.
    pub(super) fn held_by(&self, user: PushId, device: u8) -> Option<PushId> {
        self.holders.get(&(user, device)).copied()
    }

    /// What makes of none those that lead somewhere.
    pub(super) fn changes(&self) -> impl Iterator<Item = Change> {
        self.loans.iter().filter_map(|(lent, loan)| loan.change(*lent))
    }

    pub(super) fn begin_cut(&mut self) {
        self.loans.begin_cut();
    }

    /// What [`Loans::changes`] were at the moment of the cut, after looking at so many more.
    pub(super) fn cut_some(&mut self, loans: usize) -> Option<Vec<Change>> {
        let part = self.loans.cut_some(loans)?;
        Some(part.iter().filter_map(|(lent, loan)| loan.change(*lent)).collect())
    }

    pub(super) fn end_cut(&mut self) {
        self.loans.end_cut();
    }

    /// All, those that ran out too.
    pub(super) fn ids(&self) -> Vec<PushId> {
        self.loans.iter().map(|(lent, _)| *lent).collect()
    }

    pub(super) fn lend(&mut self, lent: PushId, user: PushId, device: u8, until_ms: u64) {
        self.take_back(lent);
        if let Some(other) = self.holders.insert((user, device), lent)
            && other != lent
            && let Some(loan) = self.loans.change(&other)
        {
            loan.holder = None;
        }
        let timer = self.loans.get(&lent).and_then(|loan| loan.timer);
        self.loans.insert(lent, Loan { holder: Some((user, device)), until_ms, timer });
    }

    /// It leads nowhere any more.
    pub(super) fn take_back(&mut self, lent: PushId) {
        if let Some(loan) = self.loans.change(&lent)
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
