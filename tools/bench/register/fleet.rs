//! Who registers next, and what each terminal was told last.

use pushplane::id::PushId;
use pushplane::wire::prp::{HeadBuilder, Header, Kind};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::operator::Operator;

/// Validity asked for, seconds: longer than any bench.
const VALIDITY_S: u32 = 86_400;

/// A bit a terminal.
struct Bits {
    words: Vec<u64>,
    count: u64,
}

impl Bits {
    fn new(len: u64) -> Self {
        Self { words: vec![0; len.div_ceil(64) as usize], count: 0 }
    }

    fn has(&self, n: u64) -> bool {
        self.words[(n / 64) as usize] >> (n % 64) & 1 == 1
    }

    fn set(&mut self, n: u64, value: bool) {
        if self.has(n) != value {
            self.words[(n / 64) as usize] ^= 1 << (n % 64);
            self.count = if value { self.count + 1 } else { self.count - 1 };
        }
    }
}

/// What a run of requests is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mix {
    /// Every terminal once, in an order without pattern.
    New,
    /// Terminals by chance: of those bound, so many in a hundred release, the others renew; who is not bound
    /// registers.
    Churn {
        /// In a hundred.
        releases: u32,
    },
}

/// The terminals.
pub(super) struct Fleet<'a> {
    operator: &'a Operator,
    users: u64,
    /// Terminals that registered so far, in the order of [`Fleet::shuffled`].
    started: u64,
    chance: Pcg64Mcg,
    /// What the server acknowledged last: REGISTERED, or not.
    bound: Bits,
    /// A request of it is on its way, or was lost: what the server thinks of it is not known.
    asking: Bits,
    head: HeadBuilder,
}

/// A request to send.
pub(super) struct Ask {
    /// Which terminal's.
    pub(super) n: u64,
    /// REGISTER, or RELEASE.
    pub(super) kind: Kind,
}

impl<'a> Fleet<'a> {
    pub(super) fn new(operator: &'a Operator, users: u64, seed: u64) -> Self {
        Self {
            operator,
            users,
            started: 0,
            chance: Pcg64Mcg::seed_from_u64(seed),
            bound: Bits::new(users),
            asking: Bits::new(users),
            head: HeadBuilder::new(&Header::new(Kind::Register, PushId::NONE, PushId::NONE, 0)),
        }
    }

    /// How many terminals were told REGISTERED last.
    pub(super) fn bound(&self) -> u64 {
        self.bound.count
    }

    /// How many requests were never answered: what became of them is not known.
    pub(super) fn in_doubt(&self) -> u64 {
        self.asking.count
    }

    /// Number `at` of an order without pattern.
    fn shuffled(&self, at: u64) -> u64 {
        // A step that shares no factor with their number visits every terminal once.
        let step = (0x9E37_79B9 % self.users.max(1)).max(1);
        let step = (step..).find(|step| gcd(*step, self.users) == 1).unwrap_or(1);
        (u128::from(at) * u128::from(step) % u128::from(self.users)) as u64
    }

    /// The next request; none when every terminal has one.
    pub(super) fn next(&mut self, mix: Mix) -> Option<Ask> {
        let n = match mix {
            Mix::New if self.started >= self.users => return None,
            Mix::New => {
                self.started += 1;
                self.shuffled(self.started - 1)
            }
            Mix::Churn { .. } => {
                let asking = &self.asking;
                let chance = &mut self.chance;
                (0..64).map(|_| chance.random_range(0..self.users)).find(|n| !asking.has(*n))?
            }
        };
        let releases = match mix {
            Mix::Churn { releases } if self.bound.has(n) => self.chance.random_range(0..100) < releases,
            _ => false,
        };
        self.asking.set(n, true);
        Some(Ask { n, kind: if releases { Kind::Release } else { Kind::Register } })
    }

    /// A terminal by chance that is bound, for sure.
    pub(super) fn target(&mut self) -> Option<PushId> {
        let Self { asking, bound, chance, users, .. } = self;
        let found =
            (0..64).map(|_| chance.random_range(0..*users)).find(|n| bound.has(*n) && !asking.has(*n))?;
        Some(self.operator.id(found))
    }

    /// The datagram of a request.
    pub(super) fn datagram(&mut self, ask: &Ask, message: u64) -> &[u8] {
        let header = Header::new(ask.kind, self.operator.id(ask.n), PushId::NONE, message);
        let (realm, private) = self.operator.private(ask.n);
        self.head.restart(&header).private_address(private).realm(realm);
        if ask.kind == Kind::Register {
            self.head.validity(VALIDITY_S);
        }
        self.head.finish().unwrap_or_default()
    }

    /// What the server said of it.
    pub(super) fn acknowledged(&mut self, ask: &Ask) {
        self.asking.set(ask.n, false);
        self.bound.set(ask.n, ask.kind == Kind::Register);
    }
}

const fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
