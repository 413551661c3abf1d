//! Keeps a terminal registered: asks, asks again when nothing comes back, renews in time, releases at the
//! end. Sans-IO.
//!
//! ```text
//!   Asking ── REGISTERED ──► Held ── half of the validity ──► Asking, and so on
//!     ▲  ▲ no answer: after 0.5, 1, 2, 4, 8, 8, … s            a server that comes back has us again
//!     └──┘ REJECT: after 5 s; not-permitted and unsupported-kind: after a minute
//! ```

use std::fmt;

use pushplane::clock::Now;
use pushplane::id::{Endpoint, PushId};
use pushplane::reason::Reason;
use pushplane::wire::prp::{HeadBuilder, Header, Kind, Message, option_type as ty};

use crate::Stop;
use crate::client::{self, GivenKey};

const SECOND_NS: u64 = 1_000_000_000;

/// The first repetition comes after so long, each further one after twice the time, until [`REPEAT_MAX_NS`].
const REPEAT_NS: u64 = SECOND_NS / 2;
const REPEAT_MAX_NS: u64 = 8 * SECOND_NS;

/// How long a server that cannot now is left alone, and one that will not.
const LATER_NS: u64 = 5 * SECOND_NS;
const MUCH_LATER_NS: u64 = 60 * SECOND_NS;

/// A binding without end is renewed so often, for the sake of what stands between.
const STATIC_NS: u64 = 1800 * SECOND_NS;

/// So many requests without an answer, and whoever waits should be told.
const UNHEARD: u32 = 3;

/// Requests whose answer still counts.
const ASKED: usize = 8;

/// What is asked for.
#[derive(Clone)]
pub(super) struct Wish {
    pub(super) user: PushId,
    pub(super) device: u8,
    pub(super) realm: u32,
    /// Told to the server as PrivateAddress.
    pub(super) private: Option<Endpoint>,
    pub(super) validity_s: Option<u32>,
    /// How often to renew; at half of the validity without it.
    pub(super) renew_s: Option<u32>,
    pub(super) key: Option<GivenKey>,
}

enum State {
    /// The next request leaves then; it is the so manyth that nobody has answered.
    Asking { at_ns: u64, tries: u32 },
    /// Bound; renewed then.
    Held { renew_ns: u64 },
}

/// What was granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Granted {
    pub(super) device: u8,
    /// 0: without end.
    pub(super) validity_s: u32,
    /// Seconds until it is renewed.
    pub(super) renew_s: u64,
    /// The public address and port that the network shows.
    pub(super) seen: Option<Endpoint>,
}

/// What became of a request.
#[derive(Debug)]
pub(super) enum News {
    /// Bound for the first time.
    Registered(Granted),
    /// Bound as before.
    Renewed(Granted),
    /// Bound, but not as before: by another mapping, for another time, or after nobody had answered.
    Again {
        granted: Granted,
        moved_from: Option<Endpoint>,
    },
    /// The server takes no registration now; `again` says whether this was told already.
    Rejected {
        reason: Option<Reason>,
        text: String,
        again: bool,
    },
    Released,
    /// Nobody answers.
    Unheard,
}

/// One terminal's registration.
pub(super) struct Registration {
    wish: Wish,
    state: State,
    /// Identifiers of our requests without an answer yet, the newest last.
    asked: Vec<u64>,
    /// What holds, as far as we know.
    granted: Option<Granted>,
    /// Why it was rejected last, and no REGISTERED since.
    rejected: Option<u16>,
    /// Nobody answered, and that was told.
    is_unheard: bool,
}

impl Registration {
    pub(super) const fn new(wish: Wish) -> Self {
        let state = State::Asking { at_ns: 0, tries: 0 };
        Self { wish, state, asked: Vec::new(), granted: None, rejected: None, is_unheard: false }
    }

    fn request(&mut self, kind: Kind) -> Result<Vec<u8>, Stop> {
        let message = crate::chance();
        if self.asked.len() == ASKED {
            self.asked.remove(0);
        }
        self.asked.push(message);
        let wish = &self.wish;
        let mut head = HeadBuilder::new(&Header::new(kind, wish.user, PushId::NONE, message));
        head.device(wish.device);
        if kind == Kind::Register {
            head.option(ty::LISTEN_PORT, &[&[0, 0]]);
            if let Some(private) = wish.private {
                head.private_address(private);
            }
            if wish.realm != 0 {
                head.realm(wish.realm);
            }
            if let Some(seconds) = wish.validity_s {
                head.validity(seconds);
            }
        }
        client::datagram(&mut head, &[], wish.key.as_ref())
    }

    /// When [`Registration::poll`] has something to do.
    pub(super) const fn poll_timeout(&self) -> u64 {
        match self.state {
            State::Asking { at_ns, .. } => at_ns,
            State::Held { renew_ns } => renew_ns,
        }
    }

    /// What is to be sent now.
    pub(super) fn poll(&mut self, now: Now) -> Result<Option<Vec<u8>>, Stop> {
        if now.mono_ns < self.poll_timeout() {
            return Ok(None);
        }
        let tries = match self.state {
            State::Asking { tries, .. } => tries,
            State::Held { .. } => 0,
        };
        let wait = (REPEAT_NS << tries.min(8)).min(REPEAT_MAX_NS);
        self.state = State::Asking { at_ns: now.mono_ns + wait, tries: tries + 1 };
        self.request(Kind::Register).map(Some)
    }

    /// Whether to tell, once, that nobody answers.
    pub(super) fn unheard(&mut self) -> Option<News> {
        let is_new = matches!(self.state, State::Asking { tries: UNHEARD.., .. }) && !self.is_unheard;
        self.is_unheard |= is_new;
        is_new.then_some(News::Unheard)
    }

    /// Whether this answers us; then what is to be told.
    pub(super) fn take(&mut self, message: &Message, bytes: &[u8], now: Now) -> Option<News> {
        let header = &message.header;
        let ours = header.source == self.wish.user && self.asked.contains(&header.message);
        if !ours || !client::is_believed(message, bytes, self.wish.key.as_ref()) {
            return None;
        }
        match message.kind {
            Kind::Registered => {
                self.asked.clear();
                Some(self.hold(message, bytes, now))
            }
            Kind::Released => {
                self.asked.clear();
                Some(News::Released)
            }
            Kind::Reject => {
                self.asked.clear();
                let (code, text) = message.options.reason(bytes).unwrap_or_default();
                Some(self.wait(code, text, now))
            }
            _ => None,
        }
    }

    fn hold(&mut self, message: &Message, bytes: &[u8], now: Now) -> News {
        let options = &message.options;
        let validity_s = options.validity(bytes).unwrap_or_default();
        let half_ns = match validity_s {
            0 => STATIC_NS,
            seconds => u64::from(seconds) * SECOND_NS / 2,
        };
        let asked_ns = self.wish.renew_s.map(|seconds| u64::from(seconds) * SECOND_NS);
        let renew = asked_ns.map_or(half_ns, |asked| asked.min(half_ns));
        // Earlier by up to a tenth, so that many who registered together do not renew together.
        let early = crate::chance() % (renew / 10).max(1);
        self.state = State::Held { renew_ns: now.mono_ns + renew - early };

        let (device, seen) = (self.wish.device, options.nat_address(bytes));
        let granted = Granted { device, validity_s, renew_s: renew / SECOND_NS, seen };
        let before = self.granted.replace(granted);
        let was_away = std::mem::take(&mut self.is_unheard) | self.rejected.take().is_some();
        match before {
            None => News::Registered(granted),
            Some(before) if before == granted && !was_away => News::Renewed(granted),
            Some(before) => {
                let moved_from = before.seen.filter(|_| before.seen != granted.seen);
                News::Again { granted, moved_from }
            }
        }
    }

    fn wait(&mut self, code: u16, text: &str, now: Now) -> News {
        let reason = Reason::from_code(code);
        let wait = match reason {
            Some(Reason::UnsupportedKind | Reason::NotPermitted) => MUCH_LATER_NS,
            _ => LATER_NS,
        };
        self.state = State::Asking { at_ns: now.mono_ns + wait, tries: 0 };
        let again = self.rejected.replace(code) == Some(code);
        News::Rejected { reason, text: text.to_owned(), again }
    }

    /// The request that ends it; none when there is nothing to end.
    pub(super) fn release(&mut self) -> Result<Option<Vec<u8>>, Stop> {
        if self.rejected.is_some() && self.granted.is_none() {
            return Ok(None);
        }
        self.request(Kind::Release).map(Some)
    }

    /// Whether somebody has answered, or so many requests went unheard that nobody should wait for it.
    pub(super) const fn is_settled(&self) -> bool {
        self.granted.is_some() || self.rejected.is_some() || self.is_unheard
    }
}

impl fmt::Display for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.validity_s {
            0 => write!(f, "as device {} without end", self.device)?,
            seconds => write!(f, "as device {} for {seconds} s", self.device)?,
        }
        self.seen.map_or(Ok(()), |seen| write!(f, ", seen as {seen}"))
    }
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registered(granted) => write!(f, "registered {granted}"),
            Self::Renewed(granted) => write!(f, "renewed {granted}"),
            Self::Again { granted, moved_from: None } => write!(f, "registered again {granted}"),
            Self::Again { granted, moved_from: Some(before) } => {
                write!(f, "registered again {granted}: the mapping was {before} before")
            }
            Self::Rejected { reason: Some(reason), .. } => {
                write!(f, "not registered ({reason}: {}); asking on", reason.text())?;
                let will_not = matches!(reason, Reason::UnsupportedKind | Reason::NotPermitted);
                if will_not {
                    f.write_str("; until then only what users.csv sends here will come")
                } else {
                    Ok(())
                }
            }
            Self::Rejected { reason: None, text, .. } => {
                write!(f, "not registered ({}); asking on", crate::common::harmless(text))
            }
            Self::Released => f.write_str("released"),
            Self::Unheard => f.write_str(
                "the server does not answer the registration; asking on: does a server listen there?",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pushplane::wire::prp::parse;

    const USER: PushId = PushId(7);

    /// A registration on virtual time, and who answers it.
    struct Bench {
        registration: Registration,
        now: Now,
        /// The last request.
        asked: Header,
    }

    impl Bench {
        fn new(renew_s: Option<u32>) -> Self {
            let (realm, private, validity_s, key) = (0, None, None, None);
            let wish = Wish { user: USER, device: 1, realm, private, validity_s, renew_s, key };
            let now = Now { mono_ns: SECOND_NS, unix_ms: 0 };
            Self {
                registration: Registration::new(wish),
                now,
                asked: Header::new(Kind::Register, USER, USER, 0),
            }
        }

        /// Time passes until the next request; how long that is, in milliseconds.
        fn next_ms(&mut self) -> u64 {
            let wait = self.registration.poll_timeout().saturating_sub(self.now.mono_ns);
            self.now = self.now.plus_ns(wait);
            let Ok(Some(request)) = self.registration.poll(self.now) else { panic!("nothing was due") };
            self.asked = parse(&request).unwrap().header;
            wait / 1_000_000
        }

        fn answer(&mut self, kind: Kind, write: impl FnOnce(&mut HeadBuilder)) -> Option<News> {
            let mut head = HeadBuilder::new(&self.asked.answer(kind));
            write(&mut head);
            let bytes = head.datagram(&[]).unwrap();
            self.registration.take(&parse(&bytes).unwrap(), &bytes, self.now)
        }

        fn registered(&mut self, validity_s: u32, seen: &str) -> String {
            let news = self.answer(Kind::Registered, |head| {
                head.validity(validity_s).nat_address(seen.parse().unwrap());
            });
            news.unwrap().to_string()
        }

        fn rejected(&mut self, reason: Reason) -> Option<News> {
            self.answer(Kind::Reject, |head| {
                head.reason(reason);
            })
        }
    }

    #[test]
    fn it_is_renewed_in_time_and_follows_its_mapping() {
        let mut bench = Bench::new(None);
        assert_eq!(bench.next_ms(), 0);
        let first = "registered as device 1 for 100 s, seen as 192.0.2.1:5";
        assert_eq!(bench.registered(100, "192.0.2.1:5"), first);
        assert!(
            bench
                .answer(Kind::Registered, |head| {
                    head.validity(9);
                })
                .is_none(),
            "answered once"
        );
        assert!((45_000..=50_000).contains(&bench.next_ms()), "at half of it, or a little before");
        assert_eq!(
            bench.registered(100, "192.0.2.1:5"),
            "renewed as device 1 for 100 s, seen as 192.0.2.1:5"
        );
        bench.next_ms();
        let moved =
            "registered again as device 1 for 100 s, seen as 192.0.2.1:6: the mapping was 192.0.2.1:5 before";
        assert_eq!(bench.registered(100, "192.0.2.1:6"), moved);
        bench.next_ms();
        assert_eq!(
            bench.registered(0, "192.0.2.1:6"),
            "registered again as device 1 without end, seen as 192.0.2.1:6"
        );

        let mut often = Bench::new(Some(20));
        often.next_ms();
        often.registered(3600, "192.0.2.1:5");
        assert!((18_000..=20_000).contains(&often.next_ms()));
        often.registered(30, "192.0.2.1:5");
        assert!((13_500..=15_000).contains(&often.next_ms()), "never later than half of the validity");
    }

    #[test]
    fn a_server_that_is_silent_is_asked_less_and_less() {
        let mut bench = Bench::new(None);
        bench.next_ms();
        bench.registered(3600, "192.0.2.1:5");
        bench.next_ms();
        let mut told = 0;
        for expected in [500, 1000, 2000, 4000, 8000, 8000, 8000] {
            assert_eq!(bench.next_ms(), expected);
            told += usize::from(bench.registration.unheard().is_some());
        }
        assert_eq!(told, 1);
        let news = bench.registered(3600, "192.0.2.1:5");
        assert!(news.starts_with("registered again"), "{news}");
    }

    #[test]
    fn a_server_that_says_no_is_asked_again() {
        let mut bench = Bench::new(None);
        bench.next_ms();
        for (reason, again, wait_ms) in [
            (Reason::Overloaded, false, 5000),
            (Reason::Overloaded, true, 5000),
            (Reason::NotPermitted, false, 60_000),
            (Reason::NotPermitted, true, 60_000),
        ] {
            let Some(News::Rejected { again: told, .. }) = bench.rejected(reason) else { panic!("{reason}") };
            assert_eq!((told, bench.next_ms()), (again, wait_ms), "{reason}");
        }
        bench.rejected(Reason::NotPermitted);
        assert!(matches!(bench.registration.release(), Ok(None)), "nothing to give back");
        bench.next_ms();
        bench.registered(60, "192.0.2.1:5");
        assert!(matches!(bench.registration.release(), Ok(Some(_))));
    }
}
