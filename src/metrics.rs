//! Counting: every datagram read ends in exactly one counter, and the sums prove it.
//!
//! A shard counts in plain words of its own and shows them once a burst through a [`Board`]: a reader
//! sees the counters of one moment, so that `received = delivered + forwarded + answered + dropped +
//! punted + in flight` holds in every scrape, not only at rest. Costs some sixty stores a burst.

use crossbeam::utils::CachePadded;

use crate::reason::{Reason, Unanswered};
use crate::sync::Seqlock;

macro_rules! counters {
    (
        $(#[$doc:meta])* $name:ident,
        $(#[$board_doc:meta])* $board:ident,
        $dropped_by:ident
        $($field:ident: $text:literal;)+
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct $name {
            $(#[doc = $text] pub $field: u64,)+
            #[doc = concat!("Dropped, by [`", stringify!($dropped_by), "::index`].")]
            pub dropped: [u64; $dropped_by::COUNT],
        }

        impl $name {
            const SCALARS: usize = [$(stringify!($field)),+].len();
            const WORDS: usize = Self::SCALARS + $dropped_by::COUNT;

            fn words(&self) -> [u64; Self::WORDS] {
                let mut words = [0; Self::WORDS];
                let scalars = [$(self.$field),+];
                words[..Self::SCALARS].copy_from_slice(&scalars);
                words[Self::SCALARS..].copy_from_slice(&self.dropped);
                words
            }

            fn from_words(words: &[u64; Self::WORDS]) -> Self {
                let [$($field,)+ ..] = *words;
                let mut dropped = [0; $dropped_by::COUNT];
                dropped.copy_from_slice(&words[Self::SCALARS..]);
                Self { $($field,)+ dropped }
            }

            /// Adds what another one counted.
            pub fn add(&mut self, other: &Self) {
                $(self.$field += other.$field;)+
                for (sum, more) in self.dropped.iter_mut().zip(other.dropped) {
                    *sum += more;
                }
            }

            /// Counts what is dropped.
            pub fn drop(&mut self, why: $dropped_by) {
                self.dropped[why.index()] += 1;
            }

            /// All that was dropped.
            pub fn dropped_total(&self) -> u64 {
                self.dropped.iter().sum()
            }
        }

        $(#[$board_doc])*
        #[derive(Debug, Default)]
        pub struct $board(CachePadded<Seqlock<{ $name::WORDS }>>);

        impl $board {
            /// Shows these. Only the thread that owns the board calls this.
            pub fn show(&self, counters: &$name) {
                self.0.write(&counters.words());
            }

            /// What was shown last, of one moment.
            pub fn read(&self) -> $name {
                $name::from_words(&self.0.read())
            }
        }
    };
}

counters! {
    /// What one shard has counted since it started.
    Counters,
    /// Where one shard shows its counters. One writer, any number of readers.
    Board,
    Reason
    rx: "Datagrams received.";
    rx_bytes: "Their bytes.";
    tx: "Datagrams that the kernel took, copies and REJECTs included.";
    tx_bytes: "Their bytes.";
    tx_failed: "Datagrams that the kernel refused.";
    tx_full: "Of these: it had no room for more.";
    tx_too_long: "Of these: longer than the way to the next hop takes.";
    tx_unreachable: "Of these: no way, or not allowed.";
    receives: "Receives: of a datagram, or of several that came as one.";
    sends: "Sends: of a datagram, or of several that left as one.";
    groups_refused: "Groups of datagrams that the kernel did not take as one: they left one by one.";
    rx_starved: "Receives that ended because no buffer was left.";
    rx_interrupted: "Receives that ended because no completion could be written.";
    rx_errors: "Receives that failed.";
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

counters! {
    /// What a RADIUS listener, or the controller, has counted of Accounting-Requests since it started.
    ReportCounters,
    /// Where one of them shows its counters. One writer, any number of readers.
    ReportBoard,
    Unanswered
    rx: "Packets received.";
    handed: "Those that were handed to the controller.";
    taken: "Those that the controller took: counted again by it, as answered, dropped or in flight.";
    in_flight: "Those that the controller took and that are in no other counter: a gauge.";
    applied: "Those answered that told of a session, a terminal or a whole NAS.";
    late: "Those answered that came too late to change anything.";
    repeated: "Those answered that had been answered before.";
    ignored: "Those answered that say nothing of addresses.";
    tx_failed: "Answers that the kernel refused.";
    sessions: "Sessions that are under way: a gauge.";
    sessions_unknown: "Those of them whose subscriber is not known here: a gauge.";
}

impl Counters {
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

impl ReportCounters {
    /// All that were answered.
    pub fn answered(&self) -> u64 {
        self.applied + self.late + self.repeated + self.ignored
    }

    /// Packets on their way, those included that wait for the controller.
    pub fn under_way(&self) -> u64 {
        self.in_flight + self.handed.saturating_sub(self.taken)
    }

    /// Received packets that are in no counter: always 0, of a listener, of the controller and of their sum.
    pub fn unaccounted(&self) -> i64 {
        let ended = self.answered() + self.dropped_total() + self.handed;
        (self.rx + self.taken) as i64 - (ended + self.in_flight) as i64
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
