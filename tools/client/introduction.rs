//! The way from one client straight to another, once a Push server has introduced them (PROTOCOL.md, INTRODUCE
//! and ruling 1; what figure 10 of US 9,307,039 calls direct communication, S50). Sans-IO.
//!
//! ```text
//!   one client           its NAT               the other's NAT        the other client
//!       │  ECHO ───────────►├──────────────────────►│ no hole yet: dropped     │
//!       │                   │◄──────────────────────├◄──────────────── ECHO    │
//!       │◄──────────────────┤ the hole of the first ECHO lets it in            │
//!       │  ECHOED ─────────►├──────────────────────►├─────────────────►        │  the way is proven
//!       │  PUSH, RECEIPT, …                                                     │
//! ```
//!
//! Both send an ECHO to every address that they were given of the other, at once and a few times more: each
//! opens the sender's own NAT for what comes back (RFC 5128, 3.3). An ECHO carries the message identifier of
//! the introduction, which only the two and their server know, and a number of its own in the payload; an
//! ECHOED that has both proves its sender's address, whatever that address is: a NAT may show the peer
//! another port than it showed the server (the peer-reflexive candidate of RFC 8445, 7.3.1.3). Nobody
//! else's ECHO is answered, and what an introduction can make a client send is bounded.

use pushplane::clock::Now;
use pushplane::id::{Endpoint, PushId};
use pushplane::wire::prp::{HeadBuilder, Header, Kind, Message};

/// Datagrams and where they go.
pub(crate) type Outgoing = Vec<(Endpoint, Vec<u8>)>;

/// Addresses of one peer that are tried: the two of INTRODUCE, and those that it is seen to come from.
const ADDRESSES: usize = 4;

/// How long after each round of ECHOs the next one follows: a peer hears of the introduction within the
/// first, and none is left waiting for the last.
const ROUNDS_MS: [u64; 8] = [50, 100, 100, 200, 200, 400, 400, 400];

/// The longest payload of an ECHO that is sent back.
const ECHO_BYTES: usize = 64;

/// What an INTRODUCE says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Told {
    /// The other client's user.
    pub(crate) peer: PushId,
    /// The message identifier that both were given.
    id: u64,
    /// Where it can be reached, the likeliest first.
    pub(crate) at: Vec<Endpoint>,
}

impl Told {
    /// What this message tells `me`, if it is an introduction.
    pub(crate) fn read(me: PushId, message: &Message, bytes: &[u8]) -> Option<Self> {
        let header = &message.header;
        let peer = header.source;
        if message.kind != Kind::Introduce || header.destination != me || peer.is_none() {
            return None;
        }
        let options = &message.options;
        let at = options.peer_address(bytes).into_iter().chain(options.private_address(bytes));
        let at: Vec<Endpoint> = at.filter(|at| is_one_host(*at)).collect();
        (!at.is_empty()).then_some(Self { peer, id: header.message, at })
    }
}

/// Whether a single host can be there.
fn is_one_host(at: Endpoint) -> bool {
    let ip = at.ip();
    let is_broadcast = ip == std::net::IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    !ip.is_unspecified() && !ip.is_multicast() && !is_broadcast && at.port() != 0
}

/// One address of the peer.
struct Address {
    at: Endpoint,
    /// It spoke to us from there, and knew the introduction.
    heard: bool,
}

/// An introduction and what came of it.
pub(crate) struct Introduction {
    me: PushId,
    told: Told,
    /// What our own ECHOs carry.
    number: [u8; 8],
    addresses: Vec<Address>,
    rounds: usize,
    next_ns: u64,
    way: Option<Endpoint>,
}

impl Introduction {
    /// One that begins now. `number` should be one that nobody can guess.
    pub(crate) fn new(me: PushId, told: Told, number: u64, now: Now) -> Self {
        let addresses = told.at.iter().map(|at| Address { at: *at, heard: false }).collect();
        let number = number.to_be_bytes();
        Self { me, told, number, addresses, rounds: 0, next_ns: now.mono_ns, way: None }
    }

    /// Whether this is where it began.
    pub(crate) fn is_of(&self, told: &Told) -> bool {
        self.told == *told
    }

    /// Whom it is with.
    pub(crate) const fn peer(&self) -> PushId {
        self.told.peer
    }

    /// Where the peer answered us.
    pub(crate) const fn way(&self) -> Option<Endpoint> {
        self.way
    }

    /// Whether the peer was heard from this address.
    pub(crate) fn is_heard(&self, from: Endpoint) -> bool {
        self.addresses.iter().any(|address| address.heard && address.at == from)
    }

    /// Whether nothing more will be tried.
    pub(crate) const fn is_over(&self) -> bool {
        self.way.is_some() || self.rounds > ROUNDS_MS.len()
    }

    /// When [`Introduction::poll`] has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<u64> {
        (!self.is_over()).then_some(self.next_ns)
    }

    /// Another round of ECHOs, when it is time for one.
    pub(crate) fn poll(&mut self, now: Now, out: &mut Outgoing) {
        if self.poll_timeout().is_none_or(|at| now.mono_ns < at) {
            return;
        }
        let pause_ms = ROUNDS_MS.get(self.rounds).copied().unwrap_or_default();
        (self.rounds, self.next_ns) = (self.rounds + 1, now.mono_ns + pause_ms * 1_000_000);
        if pause_ms > 0 {
            out.extend(self.addresses.iter().map(|address| (address.at, self.echo())));
        }
    }

    fn echo(&self) -> Vec<u8> {
        self.datagram(Kind::Echo, &self.number)
    }

    fn datagram(&self, kind: Kind, payload: &[u8]) -> Vec<u8> {
        let header = Header::new(kind, self.told.peer, self.me, self.told.id);
        [&header.to_bytes(), payload].concat()
    }

    /// Whether a message belongs here; then it is answered, and may have shown the way.
    pub(crate) fn take(
        &mut self,
        from: Endpoint,
        message: &Message,
        bytes: &[u8],
        out: &mut Outgoing,
    ) -> bool {
        let header = &message.header;
        let is_ours =
            (header.destination, header.source, header.message) == (self.me, self.told.peer, self.told.id);
        let payload = message.payload(bytes);
        match message.kind {
            Kind::Echo if is_ours && payload.len() <= ECHO_BYTES => {
                if self.hear(from) {
                    out.push((from, self.datagram(Kind::Echoed, payload)));
                    // Its NAT has a hole for us now: the sooner used, the sooner known.
                    if self.way.is_none() {
                        out.push((from, self.echo()));
                    }
                }
                true
            }
            Kind::Echoed if is_ours && payload == self.number => {
                if self.hear(from) && self.way.is_none() {
                    self.way = Some(from);
                }
                true
            }
            _ => false,
        }
    }

    /// Notes that the peer speaks from there; false when it has spoken from too many places.
    fn hear(&mut self, from: Endpoint) -> bool {
        if let Some(known) = self.addresses.iter_mut().find(|address| address.at == from) {
            known.heard = true;
            return true;
        }
        let has_room = self.addresses.len() < ADDRESSES;
        if has_room {
            self.addresses.push(Address { at: from, heard: true });
        }
        has_room
    }
}

/// The request for an introduction of `me` to `peer`: the socket that it is sent from is the one to reach.
pub(crate) fn request(me: PushId, peer: PushId, id: u64, inside: Option<(u32, Endpoint)>) -> HeadBuilder {
    use pushplane::wire::prp::option_type as ty;
    let mut head = HeadBuilder::new(&Header::new(Kind::Introduce, me, peer, id));
    head.option(ty::LISTEN_PORT, &[&[0, 0]]);
    if let Some((realm, private)) = inside {
        head.private_address(private).realm(realm);
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;
    use pushplane::wire::prp::parse;

    const A: PushId = PushId(0xA);
    const B: PushId = PushId(0xB);
    const NOW: Now = Now { mono_ns: 1_000_000_000, unix_ms: 0 };

    fn at(text: &str) -> Endpoint {
        text.parse().unwrap()
    }

    fn told(peer: PushId, addresses: &[&str]) -> Told {
        Told { peer, id: 7, at: addresses.iter().map(|text| at(text)).collect() }
    }

    fn give(to: &mut Introduction, from: &str, datagram: &[u8], out: &mut Outgoing) -> bool {
        to.take(at(from), &parse(datagram).unwrap(), datagram, out)
    }

    /// Time passes until nothing more is tried; how many datagrams left.
    fn exhaust(introduction: &mut Introduction) -> usize {
        let (mut now, mut out) = (NOW, Vec::new());
        while let Some(next) = introduction.poll_timeout() {
            now.mono_ns = next;
            introduction.poll(now, &mut out);
        }
        out.len()
    }

    #[test]
    fn two_clients_find_each_other() {
        let mut a = Introduction::new(A, told(B, &["192.0.2.2:2", "10.0.0.2:2"]), 1, NOW);
        let mut b = Introduction::new(B, told(A, &["192.0.2.1:1"]), 2, NOW);
        let mut out = Vec::new();
        a.poll(NOW, &mut out);
        assert_eq!(out.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [at("192.0.2.2:2"), at("10.0.0.2:2")]);
        // The private one arrives, from a port that B was not told.
        let (mut answers, mut last) = (Vec::new(), Vec::new());
        assert!(give(&mut b, "192.0.2.1:9", &out[1].1, &mut answers));
        assert_eq!(answers.len(), 2, "ECHOED, and an ECHO of its own");
        for (to, datagram) in &answers {
            assert_eq!(*to, at("192.0.2.1:9"));
            assert!(give(&mut a, "10.0.0.2:2", datagram, &mut last));
        }
        assert_eq!((a.way(), a.is_over()), (Some(at("10.0.0.2:2")), true));
        assert_eq!(last.len(), 1, "whoever knows the way only answers");
        assert!(give(&mut b, "192.0.2.1:9", &last[0].1, &mut Vec::new()));
        assert_eq!((b.way(), b.is_heard(at("192.0.2.1:9"))), (Some(at("192.0.2.1:9")), true));
        assert!(!b.is_heard(at("192.0.2.1:1")));
    }

    #[test]
    fn what_an_introduction_costs_is_bounded() {
        let mut a = Introduction::new(A, told(B, &["192.0.2.2:2", "10.0.0.2:2"]), 1, NOW);
        assert_eq!(exhaust(&mut a), 2 * ROUNDS_MS.len());
        // A peer that speaks from everywhere is answered at so many addresses only.
        let echo = Introduction::new(B, told(A, &[]), 2, NOW).echo();
        let mut out = Vec::new();
        for port in 1..=100 {
            give(&mut a, &format!("198.51.100.1:{port}"), &echo, &mut out);
        }
        assert_eq!(out.len(), 2 * (ADDRESSES - 2));
    }

    #[test]
    fn nobody_else_is_answered() {
        let mut a = Introduction::new(A, told(B, &["192.0.2.2:2"]), 1, NOW);
        let stranger = |me, peer, id| {
            let told = Told { id, ..told(peer, &[]) };
            Introduction::new(me, told, 1, NOW)
        };
        let mut out = Vec::new();
        for other in [stranger(B, A, 8), stranger(PushId(0xC), A, 7), stranger(B, PushId(0xC), 7)] {
            assert!(!give(&mut a, "192.0.2.2:2", &other.echo(), &mut out));
        }
        // The number of another's ECHO proves nothing, and neither does one that is too long.
        let peer = stranger(B, A, 7);
        assert!(!give(&mut a, "192.0.2.2:2", &peer.datagram(Kind::Echoed, &[9; 8]), &mut out));
        assert!(!give(&mut a, "192.0.2.2:2", &peer.datagram(Kind::Echo, &[9; 65]), &mut out));
        assert_eq!((out.len(), a.way()), (0, None));
    }

    #[test]
    fn an_introduction_leads_to_one_host_or_is_none() {
        let read = |head: &mut HeadBuilder| {
            let bytes = head.datagram(&[]).unwrap();
            Told::read(A, &parse(&bytes).unwrap(), &bytes)
        };
        let head = |to, about| HeadBuilder::new(&Header::new(Kind::Introduce, to, about, 7));
        let both =
            read(head(A, B).peer_address(at("192.0.2.2:2")).private_address(at("10.0.0.2:2")).realm(4));
        assert_eq!(both, Some(told(B, &["192.0.2.2:2", "10.0.0.2:2"])));
        assert_eq!(read(head(B, A).peer_address(at("192.0.2.2:2"))), None);
        assert_eq!(read(head(A, PushId::NONE).peer_address(at("192.0.2.2:2"))), None);
        for nowhere in ["255.255.255.255:5", "224.0.0.1:5", "0.0.0.0:5", "192.0.2.2:0", "[ff02::1]:5"] {
            assert_eq!(read(head(A, B).peer_address(at(nowhere))), None, "{nowhere}");
        }
        assert_eq!(read(&mut head(A, B)), None);
    }
}
