//! Rows of `users.csv`, a cache line each, while an image is made of them: a hundred million take 6.4 GB, where
//! [`User`]s would take twice that.

use super::binding::Line;
use super::rib::User;

/// Where rows are put as they are read.
pub trait Store {
    /// Adds a row.
    fn push(&mut self, user: User);
    /// How many there are.
    fn len(&self) -> usize;
    /// Room for so many more.
    fn reserve(&mut self, more: usize);
    /// The row at this place.
    ///
    /// # Panics
    /// When there are not so many.
    fn get(&self, at: usize) -> User;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Store for Vec<User> {
    fn push(&mut self, user: User) {
        self.push(user);
    }

    fn len(&self) -> usize {
        self.len()
    }

    fn reserve(&mut self, more: usize) {
        self.reserve(more);
    }

    fn get(&self, at: usize) -> User {
        self[at]
    }
}

/// Rows, packed.
#[derive(Clone, Debug, Default)]
pub struct Users {
    pub(super) lines: Vec<Line>,
    /// Public IPv6 addresses.
    pub(super) nat6: Vec<[u8; 16]>,
}

impl Store for Users {
    fn push(&mut self, user: User) {
        let line = Line::new(&user, &mut self.nat6);
        self.lines.push(line);
    }

    fn len(&self) -> usize {
        self.lines.len()
    }

    fn reserve(&mut self, more: usize) {
        self.lines.reserve(more);
    }

    fn get(&self, at: usize) -> User {
        self.lines[at].to_user(&self.nat6)
    }
}

impl FromIterator<User> for Users {
    fn from_iter<T: IntoIterator<Item = User>>(users: T) -> Self {
        let mut packed = Self::default();
        let users = users.into_iter();
        packed.reserve(users.size_hint().0);
        users.for_each(|user| packed.push(user));
        packed
    }
}
