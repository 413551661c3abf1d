//! Counting: every datagram read ends in exactly one counter, and the sums prove it.
//!
//! A shard counts in plain words of its own and shows them once a burst through a [`Board`]: a reader
//! sees the counters of one moment, so that `received = delivered + forwarded + answered + dropped +
//! punted + in flight` holds in every scrape, not only at rest. Costs some sixty stores a burst.

use crossbeam::utils::CachePadded;

use crate::reason::Reason;
use crate::sync::Seqlock;

macro_rules! counters {
    ($($field:ident: $text:literal;)+) => {
        /// What one shard has counted since it started.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct Counters {
            $(#[doc = $text] pub $field: u64,)+
            /// Messages dropped, by [`Reason::index`].
            pub dropped: [u64; Reason::COUNT],
        }

        const SCALARS: usize = [$(stringify!($field)),+].len();

        impl Counters {
            fn words(&self) -> [u64; WORDS] {
                let mut words = [0; WORDS];
                let scalars = [$(self.$field),+];
                words[..SCALARS].copy_from_slice(&scalars);
                words[SCALARS..].copy_from_slice(&self.dropped);
                words
            }

            fn from_words(words: &[u64; WORDS]) -> Self {
                let [$($field,)+ ..] = *words;
                let mut dropped = [0; Reason::COUNT];
                dropped.copy_from_slice(&words[SCALARS..]);
                Self { $($field,)+ dropped }
            }

            /// Adds another shard's.
            pub fn add(&mut self, other: &Self) {
                $(self.$field += other.$field;)+
                for (sum, more) in self.dropped.iter_mut().zip(other.dropped) {
                    *sum += more;
                }
            }
        }
    };
}

counters! {
    rx: "Datagrams received.";
    rx_bytes: "Their bytes.";
    tx: "Datagrams that the kernel took, copies and REJECTs included.";
    tx_bytes: "Their bytes.";
    tx_failed: "Datagrams that the kernel refused.";
    delivered: "Messages sent to at least one terminal.";
    forwarded: "Messages sent to another Push server only.";
    answered: "Messages answered by this server.";
    in_flight: "Messages received and not yet in another counter: a gauge.";
    punted: "Messages handed to the next thread: by a shard to the controller, by the controller to the fan-out.";
    taken: "Messages that were handed over and taken: counted again by who took them.";
    terminals_failed: "Terminals of delivered messages that could not be served.";
    copies_delivered: "Copies of messages for groups sent to at least one terminal of a member.";
    copies_forwarded: "Copies sent to another Push server only.";
    copies_dropped: "Copies for members who could not be served.";
    rejects: "REJECTs sent.";
    rejects_suppressed: "REJECTs not sent: over the limit of a source address.";
    bursts: "Bursts worked on.";
    kernel_drops: "Datagrams that the kernel dropped before they could be received.";
}

const WORDS: usize = SCALARS + Reason::COUNT;

impl Counters {
    /// Counts a dropped message.
    pub fn drop(&mut self, reason: Reason) {
        self.dropped[reason.index()] += 1;
    }

    /// All dropped messages.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// Received messages that are in no counter: always 0, of a shard, of the controller and of their sum.
    pub fn unaccounted(&self) -> i64 {
        let ended = self.delivered + self.forwarded + self.answered + self.dropped_total() + self.punted;
        (self.rx + self.taken) as i64 - (ended + self.in_flight) as i64
    }

    /// Messages on their way, those included that wait for the controller.
    pub fn under_way(&self) -> u64 {
        self.in_flight + self.punted.saturating_sub(self.taken)
    }
}

/// Where one shard shows its counters. One writer, any number of readers.
#[derive(Debug, Default)]
pub struct Board(CachePadded<Seqlock<WORDS>>);

impl Board {
    /// Shows these. Only the shard that owns the board calls this.
    pub fn show(&self, counters: &Counters) {
        self.0.write(&counters.words());
    }

    /// What was shown last, of one moment.
    pub fn read(&self) -> Counters {
        Counters::from_words(&self.0.read())
    }
}

#[cfg(all(test, not(pushplane_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_one_moment() {
        let board = Board::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut counters = Counters::default();
                for n in 0..100_000 {
                    counters.rx += 1;
                    if n % 3 == 0 {
                        counters.drop(Reason::ALL[n % Reason::COUNT]);
                    } else {
                        counters.delivered += 1;
                    }
                    board.show(&counters);
                }
            });
            loop {
                let seen = board.read();
                assert_eq!(seen.unaccounted(), 0);
                if seen.rx == 100_000 {
                    break;
                }
            }
        });
    }
}
