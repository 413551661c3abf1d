//! What came back, matched by message identifier.
//!
//! Identifiers are numbers in a row, so a message's place in a ring of those that wait is its identifier less the
//! first one: 24 bytes a message, for as long as answers are waited for, and never more than [`WAITING_MAX`].

use std::collections::VecDeque;

use hdrhistogram::Histogram;
use pushplane::reason::Reason;
use pushplane::wire::prp::{Kind, Message};

use crate::outcome::histogram;

/// Messages that may wait for their answer at once: 96 MiB. The oldest is given up for a newer one.
const WAITING_MAX: usize = 4 << 20;

/// A message that was sent.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// When it was due, or sent where there is no schedule, and when it was sent.
    due_ns: u64,
    sent_ns: u64,
    wants: bool,
    answered: bool,
}

/// All that were sent.
pub(crate) struct Answers {
    first_id: u64,
    waiting: VecDeque<Waiting>,
    /// Messages before the first in `waiting`.
    gone: u64,
    /// Those in `waiting` that want an answer and have none.
    wanted: u64,
    wait_ns: u64,
    pub(crate) counts: AnswerCounts,
    /// From when a message was due to its first answer, nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// From when it was sent.
    pub(crate) service: Histogram<u64>,
}

/// What became of the messages that were sent: `delivered`, `answered`, `dropped`, `lost` and `silent` are all of them.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct AnswerCounts {
    /// Answered by a RECEIPT.
    pub(crate) delivered: u64,
    /// Answered otherwise, but by a REJECT.
    pub(crate) answered: u64,
    /// Answered by a REJECT, by reason.
    pub(crate) dropped: [u64; Reason::COUNT],
    /// Wanted an answer and had none in time.
    pub(crate) lost: u64,
    /// Wanted none and had none.
    pub(crate) silent: u64,
    /// Answers after the first to the same message: of other terminals.
    pub(crate) more: u64,
    /// Datagrams that answer nothing that was sent, or came too late.
    pub(crate) strange: u64,
}

impl Answers {
    /// For messages whose identifiers begin at `first_id`, each waited for so long.
    pub(crate) fn new(first_id: u64, wait_ns: u64) -> Self {
        Self {
            first_id,
            waiting: VecDeque::new(),
            gone: 0,
            wanted: 0,
            wait_ns,
            counts: AnswerCounts::default(),
            latency: histogram(),
            service: histogram(),
        }
    }

    /// The identifier of the message of this number.
    pub(crate) const fn id(&self, number: u64) -> u64 {
        self.first_id.wrapping_add(number)
    }

    /// The next message was sent.
    pub(crate) fn sent(&mut self, due_ns: u64, sent_ns: u64, wants: bool) {
        if self.waiting.len() == WAITING_MAX {
            self.give_up();
        }
        self.waiting.push_back(Waiting { due_ns, sent_ns, wants, answered: false });
        self.wanted += u64::from(wants);
    }

    /// Something came.
    pub(crate) fn received(&mut self, message: &Message, bytes: &[u8], now_ns: u64) {
        let number = message.header.message.wrapping_sub(self.first_id);
        let at = number.checked_sub(self.gone).and_then(|at| usize::try_from(at).ok());
        let Some(waiting) = at.and_then(|at| self.waiting.get_mut(at)) else {
            self.counts.strange += 1;
            return;
        };
        if waiting.answered {
            self.counts.more += 1;
            return;
        }
        waiting.answered = true;
        self.wanted -= u64::from(waiting.wants);
        self.latency.saturating_record(now_ns.saturating_sub(waiting.due_ns).max(1));
        self.service.saturating_record(now_ns.saturating_sub(waiting.sent_ns).max(1));
        match message.kind {
            Kind::Receipt => self.counts.delivered += 1,
            Kind::Reject => {
                let code = message.options.reason(bytes).map_or(0, |(code, _)| code);
                let reason = Reason::from_code(code).unwrap_or(Reason::Malformed);
                self.counts.dropped[reason.index()] += 1;
            }
            _ => self.counts.answered += 1,
        }
    }

    /// What came is no message.
    pub(crate) fn received_other(&mut self) {
        self.counts.strange += 1;
    }

    /// Gives up what has waited long enough, and forgets what is over at the front.
    pub(crate) fn expire(&mut self, now_ns: u64) {
        while let Some(front) = self.waiting.front()
            && now_ns.saturating_sub(front.sent_ns) > self.wait_ns
        {
            self.give_up();
        }
    }

    /// Whether no answer is waited for any more.
    pub(crate) const fn is_quiet(&self) -> bool {
        self.wanted == 0
    }

    /// The end: what has no answer gets none.
    pub(crate) fn finish(&mut self) {
        while !self.waiting.is_empty() {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        let Some(Waiting { wants, answered, .. }) = self.waiting.pop_front() else { return };
        self.gone += 1;
        if !answered {
            self.wanted -= u64::from(wants);
            *(if wants { &mut self.counts.lost } else { &mut self.counts.silent }) += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pushplane::id::PushId;
    use pushplane::wire::prp::{HeadBuilder, Header, parse};

    fn answer(answers: &mut Answers, kind: Kind, number: u64, now_ns: u64) {
        let id = answers.id(number);
        let mut head = HeadBuilder::new(&Header::new(kind, PushId(1), PushId(2), id));
        match kind {
            Kind::Reject => _ = head.reason(Reason::NoRoute),
            Kind::Registered => _ = head.validity(1),
            _ => {}
        }
        let bytes = head.datagram(b"").unwrap();
        answers.received(&parse(&bytes).unwrap(), &bytes, now_ns);
    }

    #[test]
    fn every_message_ends_in_one_counter() {
        let first = u64::MAX - 1;
        let mut answers = Answers::new(first, 1000);
        for number in 0..6 {
            answers.sent(number * 100, number * 100 + 10, number != 5);
        }
        assert_eq!(answers.id(3), 1);
        answer(&mut answers, Kind::Receipt, 0, 500);
        answer(&mut answers, Kind::Receipt, 0, 600);
        answer(&mut answers, Kind::Reject, 1, 600);
        answer(&mut answers, Kind::Registered, 2, 600);
        answer(&mut answers, Kind::Receipt, 6, 600);
        answer(&mut answers, Kind::Receipt, 77, 600);
        answers.received_other();
        assert!(!answers.is_quiet());
        // The fourth was sent at 310: given up after 1310, with those before it.
        answers.expire(1311);
        answer(&mut answers, Kind::Receipt, 3, 1312);
        answer(&mut answers, Kind::Receipt, 4, 1400);
        assert!(answers.is_quiet());
        answers.finish();
        let AnswerCounts { delivered, answered, dropped, lost, silent, more, strange } = answers.counts;
        assert_eq!((delivered, answered, dropped[Reason::NoRoute.index()]), (2, 1, 1));
        assert_eq!((lost, silent, more, strange), (1, 1, 1, 4));
        assert_eq!((answers.latency.len(), answers.latency.max()), (4, 1000));
        assert_eq!(answers.service.max(), 990);
    }
}
