//! One Push client: a registration, the messages that come, the clients that it was introduced to. Sans-IO.

use std::collections::VecDeque;

use pushplane::clock::Now;
use pushplane::id::{Endpoint, PushId};
use pushplane::wire::prp::{self, HeadBuilder, Header, Kind, Message, flag};

use super::registration::{News, Registration, Wish};
use crate::Stop;
use crate::client::introduction::{Introduction, Outgoing, Told};
use crate::client::{self, GivenKey};

/// Messages remembered, so that one that comes again is not shown again.
const SHOWN: usize = 256;

/// Introductions held at once, the oldest goes first, and those of them that may still be looking for a way:
/// whoever can forge one must not make us send as much as they like.
const INTRODUCTIONS: usize = 64;
const LOOKING: usize = 16;

/// A message for the user.
pub(super) struct Arrival<'a> {
    pub(super) header: Header,
    pub(super) content_type: Option<&'a str>,
    /// The group that it was pushed to.
    pub(super) group: Option<PushId>,
    pub(super) payload: &'a [u8],
    /// The client that it came straight from, without a server.
    pub(super) direct: Option<Endpoint>,
}

/// What happened.
pub(super) enum Event<'a> {
    /// To the registration.
    Registration(News),
    /// A message came. `again`: it had come before.
    Arrived { arrival: Arrival<'a>, again: bool },
    /// The server introduced another client.
    Introduced(Told),
    /// That client was reached.
    Met { peer: PushId, at: Endpoint },
    /// What came was not for us, or not for anybody.
    Dropped(String),
}

/// One Push client.
pub(super) struct Terminal {
    user: PushId,
    key: Option<GivenKey>,
    server: Endpoint,
    registration: Option<Registration>,
    /// None: introductions are not answered.
    introductions: Option<VecDeque<Introduction>>,
    shown: VecDeque<(PushId, u64)>,
    /// What is to be sent.
    out: Outgoing,
}

impl Terminal {
    /// A client of this server that registers as wished, or not at all.
    pub(super) fn new(wish: Wish, server: Endpoint, registers: bool, meets: bool) -> Self {
        Self {
            user: wish.user,
            key: wish.key.clone(),
            server,
            registration: registers.then(|| Registration::new(wish)),
            introductions: meets.then(VecDeque::new),
            shown: VecDeque::new(),
            out: Vec::new(),
        }
    }

    /// What is to be sent, since the last call.
    pub(super) fn transmits(&mut self) -> Outgoing {
        std::mem::take(&mut self.out)
    }

    /// The first of what is to be sent.
    pub(super) fn first_transmit(&self) -> Option<(Endpoint, &[u8])> {
        self.out.first().map(|(to, datagram)| (*to, &datagram[..]))
    }

    /// The first of what is to be sent has left.
    pub(super) fn was_sent(&mut self) {
        self.out.remove(0);
    }

    /// When [`Terminal::poll`] has something to do.
    pub(super) fn poll_timeout(&self) -> Option<u64> {
        let introductions = self.introductions.iter().flatten().filter_map(Introduction::poll_timeout);
        introductions.chain(self.registration.as_ref().map(Registration::poll_timeout)).min()
    }

    /// Does what is due.
    pub(super) fn poll(&mut self, now: Now) -> Result<Option<Event<'static>>, Stop> {
        for introduction in self.introductions.iter_mut().flatten() {
            introduction.poll(now, &mut self.out);
        }
        let Some(registration) = &mut self.registration else { return Ok(None) };
        let request = registration.poll(now)?;
        self.out.extend(request.map(|request| (self.server, request)));
        Ok(registration.unheard().map(Event::Registration))
    }

    /// Takes a datagram.
    pub(super) fn take<'a>(
        &mut self,
        from: Endpoint,
        bytes: &'a [u8],
        now: Now,
    ) -> Result<Option<Event<'a>>, Stop> {
        let Ok(message) = prp::parse(bytes) else {
            let note = format!("a datagram of {} bytes that is no message was dropped", bytes.len());
            return Ok(Some(Event::Dropped(note)));
        };
        if let Some(news) = self.registration.as_mut().and_then(|own| own.take(&message, bytes, now)) {
            return Ok(Some(Event::Registration(news)));
        }
        if let Some(event) = self.take_introduced(from, &message, bytes, now) {
            return Ok(event);
        }
        let header = message.header;
        if message.kind != Kind::Push || header.destination != self.user {
            let note = format!("{} for {} was dropped: not for us", message.kind.name(), header.destination);
            return Ok(Some(Event::Dropped(note)));
        }
        let direct = self.introductions.iter().flatten();
        let direct = direct.filter(|own| own.peer() == header.source).any(|own| own.is_heard(from));
        let direct = direct.then_some(from);
        if direct.is_none() && !client::is_believed(&message, bytes, self.key.as_ref()) {
            let note = format!("a message of {} was dropped: not signed with our key", header.source);
            return Ok(Some(Event::Dropped(note)));
        }
        if message.has(flag::RECEIPT) {
            // Our key is shared with the server only: it says nothing to a peer.
            let (to, key) = direct.map_or((self.server, self.key.as_ref()), |peer| (peer, None));
            let mut head = HeadBuilder::new(&header.answer(Kind::Receipt));
            self.out.push((to, client::datagram(&mut head, &[], key)?));
        }
        let again = !self.is_first(header.source, header.message);
        let arrival = Arrival {
            header,
            content_type: message.options.content_type(bytes),
            group: message.options.group_id(bytes),
            payload: message.payload(bytes),
            direct,
        };
        Ok(Some(Event::Arrived { arrival, again }))
    }

    /// An introduction, or what belongs to one; `None` when it is something else.
    fn take_introduced(
        &mut self,
        from: Endpoint,
        message: &Message,
        bytes: &[u8],
        now: Now,
    ) -> Option<Option<Event<'static>>> {
        let introductions = self.introductions.as_mut()?;
        if let Some(told) = Told::read(self.user, message, bytes) {
            if !client::is_believed(message, bytes, self.key.as_ref()) {
                let note = format!("an introduction to {} was dropped: not signed with our key", told.peer);
                return Some(Some(Event::Dropped(note)));
            }
            if introductions.iter().any(|known| known.is_of(&told)) {
                return Some(None);
            }
            if introductions.iter().filter(|known| !known.is_over()).count() >= LOOKING {
                let note = format!("an introduction to {} was dropped: too many at once", told.peer);
                return Some(Some(Event::Dropped(note)));
            }
            introductions.truncate(INTRODUCTIONS - 1);
            let mut introduction = Introduction::new(self.user, told.clone(), crate::chance(), now);
            introduction.poll(now, &mut self.out);
            introductions.push_front(introduction);
            return Some(Some(Event::Introduced(told)));
        }
        let out = &mut self.out;
        for introduction in introductions {
            let before = introduction.way();
            if introduction.take(from, message, bytes, out) {
                let met = introduction.way().filter(|_| before.is_none());
                return Some(met.map(|at| Event::Met { peer: introduction.peer(), at }));
            }
        }
        None
    }

    /// Whether this message has not been here before; from now on it has.
    fn is_first(&mut self, source: PushId, message: u64) -> bool {
        let name = (source, message);
        if self.shown.contains(&name) {
            return false;
        }
        self.shown.truncate(SHOWN - 1);
        self.shown.push_front(name);
        true
    }

    /// Gives the binding back; whether there was anything to give. What follows of it comes as
    /// [`News::Released`].
    pub(super) fn release(&mut self) -> Result<bool, Stop> {
        let request = match &mut self.registration {
            Some(registration) => registration.release()?,
            None => None,
        };
        let is_asked = request.is_some();
        self.out.extend(request.map(|request| (self.server, request)));
        Ok(is_asked)
    }

    /// Whether nobody need wait for the registration's answer.
    pub(super) fn is_settled(&self) -> bool {
        self.registration.as_ref().is_none_or(Registration::is_settled)
    }
}
