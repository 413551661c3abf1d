//! A message that goes straight from client to client: the server is asked for the introduction, and nothing
//! else (figure 10 of US 9,307,039, S50).
//!
//! ```text
//!  asking ── INTRODUCE ──► meeting ── the peer's ECHOED ──► pushing ── RECEIPT ──► done
//!    │ REJECT, 1.5 s          │ 1.65 s                          │ 1 s
//!    └────────────────────────┴─────────────────────────────────┴──► no way: the server's is taken
//! ```

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use pushplane::clock::{Clock, Now};
use pushplane::id::Endpoint;
use pushplane::reason::Reason;
use pushplane::wire::prp::{self, Kind, Message};

use super::Args;
use crate::Stop;
use crate::client;
use crate::client::introduction::{self, Introduction, Outgoing, Told};

const MS_NS: u64 = 1_000_000;

/// How often the server is asked, and how long an answer may take.
const ASKS: u32 = 3;
const ASK_NS: u64 = 500 * MS_NS;

/// How often the message is sent, and how long a receipt may take.
const PUSHES: u32 = 3;
const PUSH_NS: u64 = 333 * MS_NS;

/// How it ended.
pub(super) enum Outcome {
    /// The peer has it.
    Receipt { at: Endpoint, payload: Vec<u8> },
    /// It could not be reached, or did not answer; why.
    NoWay(String),
}

/// What is being done.
enum Phase {
    /// So many requests have left; the next one, or the end, is then.
    Asking { tries: u32, next_ns: u64 },
    /// Looking for the way; once there is one the message was sent so many times, and next then.
    Introduced { introduction: Introduction, pushes: u32, next_ns: u64 },
}

struct Attempt<'a> {
    args: &'a Args,
    /// The PUSH and its message identifier.
    push: (&'a [u8], u64),
    /// Our own address, where the peer may be told.
    inside: Option<(u32, Endpoint)>,
    phase: Phase,
    /// Message identifiers of our requests to the server.
    asked: Vec<u64>,
    out: Outgoing,
}

/// Pushes this datagram, which wants a receipt, directly.
pub(super) fn push(
    socket: &UdpSocket,
    args: &Args,
    clock: &Clock,
    id: u64,
    datagram: &[u8],
) -> Result<Outcome, Stop> {
    let inside = args.private.then(|| client::own_address(socket, args.server)).transpose()?;
    let mut attempt = Attempt {
        args,
        push: (datagram, id),
        inside: inside.map(|own| (args.realm, own)),
        phase: Phase::Asking { tries: 0, next_ns: 0 },
        asked: Vec::new(),
        out: Vec::new(),
    };
    let mut buffer = vec![0; 1 << 16];
    loop {
        if let Some(outcome) = attempt.poll(clock.now())? {
            return Ok(outcome);
        }
        for (to, datagram) in attempt.out.drain(..) {
            // One of the peer's addresses may well be out of reach; the server may not.
            if let Err(error) = socket.send_to(&datagram, SocketAddr::from(to))
                && to == args.server
            {
                return Err(Stop::Wrong(format!("{to} cannot be sent to: {error}")));
            }
        }
        let wrong = |error| Stop::Wrong(format!("the socket cannot be read: {error}"));
        let wait_ns = attempt.poll_timeout().saturating_sub(clock.now().mono_ns).max(MS_NS);
        socket.set_read_timeout(Some(Duration::from_nanos(wait_ns))).map_err(wrong)?;
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                if let Some(outcome) = attempt.take(from.into(), &buffer[..length], clock.now()) {
                    return Ok(outcome);
                }
            }
            Err(error) if client::is_silence(&error) => {}
            Err(error) => return Err(wrong(error)),
        }
    }
}

impl Attempt<'_> {
    /// When [`Attempt::poll`] has something to do.
    fn poll_timeout(&self) -> u64 {
        match &self.phase {
            Phase::Asking { next_ns, .. } => *next_ns,
            Phase::Introduced { introduction, next_ns, .. } => {
                introduction.poll_timeout().unwrap_or(*next_ns)
            }
        }
    }

    /// Does what is due; the outcome when that was the last.
    fn poll(&mut self, now: Now) -> Result<Option<Outcome>, Stop> {
        if now.mono_ns < self.poll_timeout() {
            return Ok(None);
        }
        let no_way = |why: &str| Ok(Some(Outcome::NoWay(why.to_owned())));
        match &mut self.phase {
            Phase::Asking { tries: ASKS, .. } => {
                return no_way("the server does not answer the introduction");
            }
            Phase::Asking { tries, next_ns } => {
                (*tries, *next_ns) = (*tries + 1, now.mono_ns + ASK_NS);
                let id = crate::chance();
                self.asked.push(id);
                let mut head = introduction::request(self.args.from, self.args.to, id, self.inside);
                if let Some(device) = self.args.device {
                    head.device(device);
                }
                let request = client::datagram(&mut head, &[], self.args.key.as_ref())?;
                self.out.push((self.args.server, request));
            }
            Phase::Introduced { introduction, pushes, next_ns } => match introduction.way() {
                Some(_) if *pushes == PUSHES => return no_way("the peer gave no receipt"),
                Some(at) => {
                    (*pushes, *next_ns) = (*pushes + 1, now.mono_ns + PUSH_NS);
                    self.out.push((at, self.push.0.to_vec()));
                }
                None => {
                    introduction.poll(now, &mut self.out);
                    if introduction.is_over() {
                        return no_way("no ECHO came through");
                    }
                }
            },
        }
        Ok(None)
    }

    /// Takes a datagram; the outcome when that was what all waited for.
    fn take(&mut self, from: Endpoint, bytes: &[u8], now: Now) -> Option<Outcome> {
        let message = prp::parse(bytes).ok()?;
        let Phase::Introduced { introduction, .. } = &mut self.phase else {
            return self.take_answer(from, &message, bytes, now);
        };
        introduction.take(from, &message, bytes, &mut self.out);
        let header = message.header;
        let answers = message.kind == Kind::Receipt
            && (header.destination, header.source) == (self.args.from, self.args.to)
            && header.message == self.push.1;
        let payload = || message.payload(bytes).to_vec();
        (answers && introduction.is_heard(from)).then(|| Outcome::Receipt { at: from, payload: payload() })
    }

    /// The server's answer: the introduction, or why there is none.
    fn take_answer(&mut self, from: Endpoint, message: &Message, bytes: &[u8], now: Now) -> Option<Outcome> {
        let header = message.header;
        let is_ours = from == self.args.server
            && self.asked.contains(&header.message)
            && client::is_believed(message, bytes, self.args.key.as_ref());
        if !is_ours {
            return None;
        }
        if message.kind == Kind::Reject {
            let (code, text) = message.options.reason(bytes).unwrap_or_default();
            let name = Reason::from_code(code)
                .map_or_else(|| crate::common::harmless(text), |reason| reason.to_string());
            return Some(Outcome::NoWay(format!("not introduced: {name}")));
        }
        let told = Told::read(self.args.from, message, bytes).filter(|told| told.peer == self.args.to)?;
        let introduction = Introduction::new(self.args.from, told, crate::chance(), now);
        self.phase = Phase::Introduced { introduction, pushes: 0, next_ns: 0 };
        None
    }
}
