//! Watching the plane decide: `explain` hands it a listener, a shard [`NoTrace`], which costs nothing.

/// Hears each step of a decision.
pub trait Trace {
    /// The sentence is only made when somebody listens.
    fn step(&mut self, row: usize, sentence: impl FnOnce() -> String);
}

/// Hears nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoTrace;

impl Trace for NoTrace {
    #[inline(always)]
    fn step(&mut self, _: usize, _: impl FnOnce() -> String) {}
}

/// Keeps the sentences of all rows.
impl Trace for Vec<String> {
    fn step(&mut self, _: usize, sentence: impl FnOnce() -> String) {
        self.push(sentence());
    }
}
