//! How far the making of an image has come.

/// What is told to who waits: large tables take minutes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// So many bytes of `users.csv` have been read.
    Read(u64),
    /// What begins now, in words.
    Begins(&'static str),
}
