//! Users to look up, and what is known of them.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use pushplane::id::PushId;

use super::contest::{Job, Questions};
use super::operator::{id, mix, private};
use super::own::{World, answer, right_answer};

/// Which users are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Draw {
    /// Each as often as any other.
    Uniform,
    /// The one with rank k about 1/k as often as the first.
    Zipf,
}

/// How many questions are for users that there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Hits {
    /// All.
    All,
    /// None.
    None,
    /// Every other one, by chance.
    Mixed,
}

/// The users that every contestant's table has.
pub(crate) struct Population {
    pub(crate) users: u64,
    world: RefCell<Weak<World>>,
}

impl Population {
    pub(crate) const fn new(users: u64) -> Self {
        Self { users, world: RefCell::new(Weak::new()) }
    }

    /// Our own tables: all who have them have the same, and nobody keeps them for others to come.
    pub(crate) fn world(&self) -> Rc<World> {
        let there = self.world.borrow().upgrade();
        there.unwrap_or_else(|| {
            let world = Rc::new(World::new(self.users));
            *self.world.borrow_mut() = Rc::downgrade(&world);
            world
        })
    }
}

/// What the tables of the peers hold of a user: as much as ours, a cache line.
#[derive(Clone, Copy)]
pub(crate) struct Value(pub(crate) [u64; 8]);

impl Value {
    pub(crate) const fn of(n: u64) -> Self {
        Self([n, !n, n << 1, mix(n), n << 3, n << 4, n << 5, n << 6])
    }

    /// What is read of it.
    pub(crate) const fn word(&self) -> u64 {
        self.0[3]
    }
}

/// Whom to look up, in this order.
pub(crate) struct Users {
    pub(crate) ids: Vec<PushId>,
    values: u64,
    bindings: u64,
    resolutions: u64,
}

/// The user number that stands for a draw: of unknown users, one that there is not.
struct Drawing {
    users: u64,
    draw: Draw,
    hits: Hits,
}

impl Drawing {
    /// Number `k` of a stream of draws.
    fn number(&self, k: u64) -> u64 {
        let chance = mix(k);
        let n = match self.draw {
            Draw::Uniform => (u128::from(chance) * u128::from(self.users)) >> 64,
            // The inverse of the distribution of 1/k, taken as continuous: the rank is log-uniform.
            Draw::Zipf => {
                let even = (chance >> 11) as f64 / (1u64 << 53) as f64;
                (((self.users + 1) as f64).powf(even) - 1.0) as u128
            }
        };
        let n = (n as u64).min(self.users - 1);
        let is_known = match self.hits {
            Hits::All => true,
            Hits::None => false,
            Hits::Mixed => mix(!k) & 1 == 0,
        };
        if is_known { n } else { n + self.users }
    }
}

impl Users {
    /// So many questions for users by chance among so many, from this one on.
    pub(crate) fn range(first: u64, users: u64, count: usize) -> Self {
        let number = |k| first + ((u128::from(mix(k)) * u128::from(users)) >> 64) as u64;
        let mut asked = Self { ids: Vec::with_capacity(count), values: 0, bindings: 0, resolutions: 0 };
        asked.ids.extend((0..count as u64).map(|k| id(number(k))));
        asked
    }

    /// So many questions, other ones each round.
    pub(crate) fn draw(users: u64, draw: Draw, hits: Hits, count: usize, round: usize) -> Self {
        let drawing = Drawing { users, draw, hits };
        let mut asked = Self { ids: Vec::with_capacity(count), values: 0, bindings: 0, resolutions: 0 };
        for k in 0..count as u64 {
            let n = drawing.number((round as u64) << 40 | k);
            asked.ids.push(id(n));
            if n < users {
                asked.values = asked.values.wrapping_add(Value::of(n).word());
                asked.bindings = asked.bindings.wrapping_add(answer(0, private(n)));
                asked.resolutions = asked.resolutions.wrapping_add(right_answer(n));
            }
        }
        asked
    }
}

impl Questions for Users {
    fn len(&self) -> usize {
        self.ids.len()
    }

    fn expected(&self, job: Job) -> Option<u64> {
        match job {
            Job::Line => None,
            Job::Value => Some(self.values),
            Job::Binding => Some(self.bindings),
            // Whoever is asked for, known or not, has this server's prefix.
            Job::Yes => Some(self.ids.len() as u64),
            Job::Resolution => Some(self.resolutions),
        }
    }
}
