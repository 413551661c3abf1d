//! Keeps a terminal registered: asks, asks again when nothing comes back, renews at half of what was granted,
//! releases at the end. Sans-IO.

use pushplane::clock::Now;
use pushplane::id::PushId;
use pushplane::reason::Reason;
use pushplane::wire::prp::{HeadBuilder, Header, Kind, Message, option_type as ty};

use crate::Stop;
use crate::client::{self, GivenKey};

const SECOND_NS: u64 = 1_000_000_000;

/// The first repetition comes after so long, each further one after twice the time, until [`REPEAT_MAX_NS`].
const REPEAT_NS: u64 = SECOND_NS / 2;
const REPEAT_MAX_NS: u64 = 8 * SECOND_NS;

/// How long a server that cannot now is left alone.
const LATER_NS: u64 = 5 * SECOND_NS;

/// A binding without end is renewed so often, for the sake of what stands between.
const STATIC_NS: u64 = 1800 * SECOND_NS;

/// What is asked for.
pub(super) struct Wish<'a> {
    pub(super) user: PushId,
    pub(super) device: u8,
    pub(super) realm: u32,
    pub(super) validity_s: Option<u32>,
    pub(super) key: Option<&'a GivenKey>,
}

enum State {
    /// The next request leaves then; it is the so manyth that nobody has answered.
    Asking { at_ns: u64, tries: u32 },
    /// Bound; renewed then.
    Held { renew_ns: u64 },
    /// The server takes no registration of ours.
    Refused,
}

/// One terminal's registration.
pub(super) struct Registration<'a> {
    wish: Wish<'a>,
    state: State,
    /// Identifiers of our requests without an answer yet, the newest last.
    asked: Vec<u64>,
}

impl<'a> Registration<'a> {
    pub(super) const fn new(wish: Wish<'a>) -> Self {
        Self { wish, state: State::Asking { at_ns: 0, tries: 0 }, asked: Vec::new() }
    }

    fn request(&mut self, kind: Kind) -> Result<Vec<u8>, Stop> {
        let Wish { user, device, realm, validity_s, key } = self.wish;
        let message = crate::chance();
        if self.asked.len() == 8 {
            self.asked.remove(0);
        }
        self.asked.push(message);
        let mut head = HeadBuilder::new(&Header::new(kind, user, PushId::NONE, message));
        head.device(device);
        if kind == Kind::Register {
            head.option(ty::LISTEN_PORT, &[&[0, 0]]);
            if realm != 0 {
                head.realm(realm);
            }
            if let Some(seconds) = validity_s {
                head.option(ty::VALIDITY, &[&seconds.to_be_bytes()]);
            }
        }
        client::datagram(&mut head, &[], key)
    }

    /// What is to be sent now.
    pub(super) fn poll(&mut self, now: Now) -> Result<Option<Vec<u8>>, Stop> {
        let tries = match self.state {
            State::Asking { at_ns, tries } if at_ns <= now.mono_ns => tries,
            State::Held { renew_ns } if renew_ns <= now.mono_ns => 0,
            _ => return Ok(None),
        };
        let wait = (REPEAT_NS << tries.min(8)).min(REPEAT_MAX_NS);
        self.state = State::Asking { at_ns: now.mono_ns + wait, tries: tries + 1 };
        self.request(Kind::Register).map(Some)
    }

    /// Whether so many requests had no answer that whoever waits should be told.
    pub(super) fn is_unheard(&self) -> bool {
        matches!(self.state, State::Asking { tries: 3, .. })
    }

    /// Whether this answers us; then what is to be told.
    pub(super) fn take(&mut self, message: &Message, bytes: &[u8], now: Now) -> Option<String> {
        let header = &message.header;
        let ours = header.source == self.wish.user && self.asked.contains(&header.message);
        if !ours || !client::is_believed(message, bytes, self.wish.key) {
            return None;
        }
        match message.kind {
            Kind::Registered => {
                let seconds = message.options.validity(bytes).unwrap_or_default();
                let renew = if seconds == 0 { STATIC_NS } else { u64::from(seconds) * SECOND_NS / 2 };
                let first = matches!(self.state, State::Asking { .. }) && self.asked.len() == 1;
                self.state = State::Held { renew_ns: now.mono_ns + renew };
                self.asked.clear();
                let until = if seconds == 0 { "without end".to_owned() } else { format!("for {seconds} s") };
                let word = if first { "registered" } else { "registered again" };
                Some(format!("{word} as device {} {until}", self.wish.device))
            }
            Kind::Released => {
                self.asked.clear();
                Some("released".to_owned())
            }
            Kind::Reject => {
                self.asked.clear();
                let (code, text) = message.options.reason(bytes).unwrap_or_default();
                let reason = Reason::from_code(code);
                let why =
                    reason.map_or_else(|| text.to_owned(), |reason| format!("{reason}: {}", reason.text()));
                if matches!(reason, Some(Reason::UnsupportedKind | Reason::NotPermitted)) {
                    self.state = State::Refused;
                    return Some(format!("not registered ({why}); only what users.csv sends here will come"));
                }
                self.state = State::Asking { at_ns: now.mono_ns + LATER_NS, tries: 0 };
                Some(format!("not registered ({why}); asking again in 5 s"))
            }
            _ => None,
        }
    }

    /// The request that ends it; none when there is nothing to end.
    pub(super) fn release(&mut self) -> Result<Option<Vec<u8>>, Stop> {
        if matches!(self.state, State::Refused) {
            return Ok(None);
        }
        self.request(Kind::Release).map(Some)
    }

    /// Whether the last request has its answer.
    pub(super) fn is_answered(&self) -> bool {
        self.asked.is_empty()
    }
}
