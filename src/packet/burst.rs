//! The rows that a shard works on at once, and what leaves because of them.

use super::{Frame, FramePool};
use crate::id::Endpoint;

/// How many datagrams a burst holds at most.
pub const BURST_MAX: usize = 128;

/// One datagram as it was received.
#[derive(Debug)]
pub struct Row {
    /// The datagram; taken when it leaves again in its own buffer.
    pub frame: Option<Frame>,
    /// Who sent it.
    pub from: Endpoint,
    /// Which of the server's listening addresses received it.
    pub listener: u8,
    /// The datagram was longer than the frame: what is here is its beginning.
    pub truncated: bool,
}

/// In which order datagrams leave when not all of them can.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// Leaves first and is handed to the kernel at once.
    MinDelay,
    /// Leaves before the rest.
    Priority,
    /// The rest.
    Normal,
}

/// One datagram to send.
#[derive(Debug)]
pub struct Tx {
    /// What is sent.
    pub frame: Frame,
    /// Where to.
    pub to: Endpoint,
    /// From which of the server's listening addresses.
    pub listener: u8,
    /// When.
    pub class: Class,
    /// Which datagrams keep their order: those of one flow to one next hop do. [`crate::id::PushId::steer`] of the
    /// user it is for, say.
    pub flow: u32,
    /// The sender's word for it, handed back in [`Done`].
    pub token: u32,
}

/// What became of a [`Tx`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done {
    /// Of [`Tx::token`].
    pub token: u32,
    /// The datagram's length.
    pub bytes: u32,
    /// Zero, or the error number with which the kernel refused it (ENOBUFS where the port itself
    /// had no room).
    pub errno: i32,
}

/// Up to [`BURST_MAX`] received datagrams, those to send, and those whose sending ended, with the
/// pool that all their frames belong to. Allocates when it is made, never again: `tx` and `done`
/// are sized for every frame of the pool.
#[derive(Debug)]
pub struct Burst {
    /// Where frames come from.
    pub pool: FramePool,
    /// What was received.
    pub rows: Vec<Row>,
    /// What is to be sent, in the order it was decided.
    pub tx: Vec<Tx>,
    /// What was sent, since it was last looked at.
    pub done: Vec<Done>,
}

impl Burst {
    /// An empty burst over this pool.
    pub fn new(pool: FramePool) -> Self {
        let frames = pool.capacity();
        Self {
            pool,
            rows: Vec::with_capacity(BURST_MAX),
            tx: Vec::with_capacity(frames),
            done: Vec::with_capacity(frames + BURST_MAX),
        }
    }

    /// Whether no further row fits.
    pub fn is_full(&self) -> bool {
        self.rows.len() >= BURST_MAX
    }

    /// Appends a copy of a datagram. False when no row or no frame is free; a datagram longer than a
    /// frame is cut and marked.
    pub fn push_copy(&mut self, bytes: &[u8], from: Endpoint, listener: u8) -> bool {
        if self.is_full() {
            return false;
        }
        let Some(mut frame) = self.pool.take() else { return false };
        let max = self.pool.datagram_max();
        let truncated = bytes.len() > max;
        let filled = frame.fill(&bytes[..bytes.len().min(max)]);
        debug_assert!(filled);
        self.rows.push(Row { frame: Some(frame), from, listener, truncated });
        true
    }

    /// Ends the rows: frames that did not leave go back to the pool.
    pub fn clear_rows(&mut self) {
        for row in self.rows.drain(..) {
            if let Some(frame) = row.frame {
                self.pool.put(frame);
            }
        }
    }

    /// Puts `tx` in the order in which it should leave: by class, and within one as decided.
    pub fn order_tx(&mut self) {
        // Nearly always one class only.
        if self.tx.iter().any(|tx| tx.class != Class::Normal) {
            let first = to_front(&mut self.tx, Class::MinDelay);
            to_front(&mut self.tx[first..], Class::Priority);
        }
    }
}

/// Moves those of a class to the front, the order among them and among the others kept; returns how many.
/// Allocates nothing, as a stable sort would, and takes n log n moves however classes are mixed.
fn to_front(tx: &mut [Tx], class: Class) -> usize {
    if let [one] = tx {
        return usize::from(one.class == class);
    }
    let middle = tx.len() / 2;
    if middle == 0 {
        return 0;
    }
    let (left, right) = tx.split_at_mut(middle);
    let (of_left, of_right) = (to_front(left, class), to_front(right, class));
    tx[of_left..middle + of_right].rotate_left(middle - of_left);
    of_left + of_right
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tx_is_ordered_by_class_and_else_kept(classes in proptest::collection::vec(0usize..3, 0..200)) {
            let mut burst = Burst::new(FramePool::new(200, 1));
            let classes = classes.iter().map(|n| [Class::MinDelay, Class::Priority, Class::Normal][*n]);
            for (token, class) in (0..).zip(classes) {
                let frame = burst.pool.take().unwrap();
                burst.tx.push(Tx { frame, to: Endpoint::NONE, listener: 0, class, flow: 0, token });
            }
            let mut expected: Vec<(Class, u32)> = burst.tx.iter().map(|tx| (tx.class, tx.token)).collect();
            expected.sort();
            burst.order_tx();
            prop_assert!(burst.tx.iter().map(|tx| (tx.class, tx.token)).eq(expected));
            for tx in burst.tx.drain(..) {
                burst.pool.put(tx.frame);
            }
        }
    }

    #[test]
    fn a_datagram_longer_than_a_frame_is_cut_and_marked() {
        let mut burst = Burst::new(FramePool::new(1, 100));
        let long = vec![7; burst.pool.datagram_max() + 1];
        assert!(burst.push_copy(&long, Endpoint::NONE, 0));
        assert!(burst.rows[0].truncated);
        assert!(!burst.push_copy(b"no frame left", Endpoint::NONE, 0));
        burst.clear_rows();
        assert_eq!(burst.pool.available(), 1);
    }
}
