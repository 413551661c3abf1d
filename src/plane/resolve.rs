//! Third stage: where each message goes (PROTOCOL.md, steps 3 to 5).

use super::terminals::{Known, Visit};
use super::{Cell, Exchange, Hop, Looks, Moment, Plane, Read, Send, Trace, Verdict};
use crate::id::Endpoint;
use crate::packet::Burst;
use crate::reason::Reason;
use crate::wire::prp::{Header, Kind, Message, flag};

/// Bits of Bearers.
const PACKET_DATA: u8 = 1;
const NETWORK_REQUESTED: u8 = 2;

impl Plane {
    pub(super) fn resolve(&mut self, moment: &Moment<'_>, burst: &Burst, trace: &mut impl Trace) {
        moment.look_closer(&mut self.looks, self.cells.len());
        for at in 0..self.cells.len() {
            self.resolve_one(moment, burst, at, trace);
        }
    }

    #[inline(always)]
    fn resolve_one(&mut self, moment: &Moment<'_>, burst: &Burst, at: usize, trace: &mut impl Trace) {
        let (cell, row) = (&mut self.cells[at], &burst.rows[at]);
        cell.first_send = self.sends.len();
        let (Verdict::Pending, Read::Message(message), Some(frame)) = (cell.verdict, &cell.read, &row.frame)
        else {
            return;
        };
        let mut resolver = Resolver {
            moment,
            looks: &self.looks,
            from: row.from,
            message,
            bytes: frame.bytes(),
            row: at,
            sends: &mut self.sends,
            queries: false,
        };
        cell.verdict = match resolver.resolve(cell, trace) {
            Ok(verdict) => verdict,
            Err(reason) => {
                trace.step(at, || format!("{reason}: {}", reason.text()));
                Verdict::Drop(reason)
            }
        };
        cell.sends = self.sends.len() - cell.first_send;
    }
}

struct Resolver<'a> {
    moment: &'a Moment<'a>,
    looks: &'a Looks,
    from: Endpoint,
    message: &'a Message,
    bytes: &'a [u8],
    row: usize,
    sends: &'a mut Vec<Send>,
    /// A terminal is only known by its IMSI.
    queries: bool,
}

/// The terminals of a message's user, as they are shown one after another.
struct Terminals<'a, 'b, T> {
    resolver: &'a mut Resolver<'b>,
    cell: &'a Cell,
    trace: &'a mut T,
    roamed: bool,
    /// The device that is meant; 0: all.
    wanted: u8,
    first_send: usize,
    delivered: bool,
    /// Why the first that got nothing did.
    failure: Option<Reason>,
}

impl<T: Trace> Visit for Terminals<'_, '_, T> {
    #[inline(always)]
    fn visit(&mut self, known: &impl Known) {
        let Self { resolver, cell, trace, .. } = self;
        if self.wanted != 0 && known.device() != self.wanted {
            return;
        }
        match resolver.terminal(cell, known, self.roamed, self.first_send, *trace) {
            Ok(is_terminal) => self.delivered |= is_terminal,
            Err(reason) => {
                let say = || format!("device {}: {reason}: {}", known.device(), reason.text());
                trace.step(resolver.row, say);
                self.failure.get_or_insert(reason);
            }
        }
    }
}

impl Resolver<'_> {
    fn resolve(&mut self, cell: &Cell, trace: &mut impl Trace) -> Result<Verdict, Reason> {
        let Message { kind, header, .. } = self.message;
        match kind {
            Kind::Echo => return Ok(Verdict::Answer),
            Kind::Register
            | Kind::Registered
            | Kind::Release
            | Kind::Released
            | Kind::Group
            | Kind::Resolve
            | Kind::Introduce => {
                trace.step(self.row, || format!("{} is for the controller", kind.name()));
                return Ok(Verdict::Punt);
            }
            Kind::Receipt | Kind::Reject => {
                // Source and destination are the question's, swapped.
                let Header { destination: asker, source: asked, message, .. } = *header;
                let exchange = Exchange { asker, asked, message };
                let (shared, now) = (&self.moment.site.shared, self.moment.now);
                let of_anybody = || shared.asker(&exchange.of_anybody(), now);
                if let Some(asker) = shared.asker(&exchange, now).or_else(of_anybody) {
                    let server = self.moment.tables.peer(asker.from);
                    if server.is_some() {
                        self.may_forward(cell, server, asker.from, trace)?;
                    }
                    self.send(Hop::Asker(asker));
                    return Ok(Verdict::Forward);
                }
                if *kind == Kind::Reject && cell.peer.is_some() && header.destination.is_none() {
                    // Of a request that the controller made for itself.
                    return Ok(Verdict::Punt);
                }
                // To nobody: whose prefix is all zeros did not ask.
                if header.destination.is_none() {
                    return Err(Reason::NoRoute);
                }
            }
            _ => {}
        }
        if !self.message.has(flag::ROAMED) {
            if !self.moment.is_home(header.destination) {
                return self.pass_on(cell, trace);
            }
            if let Some(own) = self.moment.tables.own() {
                self.say_longest(own, trace);
            }
        }
        if *kind == Kind::Push && self.message.has(flag::GROUP) {
            trace.step(self.row, || format!("who is in group {} the controller knows", header.destination));
            return Ok(Verdict::Punt);
        }
        self.home(cell, trace)
    }

    /// Step 3, of what another server is the home of.
    fn pass_on(&mut self, cell: &Cell, trace: &mut impl Trace) -> Result<Verdict, Reason> {
        let server = self.moment.route(self.message.header.destination).ok_or(Reason::NoRoute)?;
        self.say_longest(server, trace);
        self.forward(cell, Some(server), self.moment.tables.server_address(server), false, trace)?;
        Ok(Verdict::Forward)
    }

    fn say_longest(&self, server: u32, trace: &mut impl Trace) {
        let name = || self.moment.tables.server_name(server);
        let destination = self.message.header.destination;
        trace.step(self.row, || format!("the longest prefix of {destination} is {}'s", name()));
    }

    /// Step 4 and 5: the user's own server, or the one that it roams at.
    fn home(&mut self, cell: &Cell, trace: &mut impl Trace) -> Result<Verdict, Reason> {
        let roamed = self.message.has(flag::ROAMED);
        let wanted = self.message.options.device(self.bytes).unwrap_or(0);
        let (first_send, row) = (self.sends.len(), self.row);
        let (moment, looks) = (self.moment, self.looks);
        let mut terminals = Terminals {
            resolver: self,
            cell,
            trace,
            roamed,
            wanted,
            first_send,
            delivered: false,
            failure: None,
        };
        let is_known = moment.each(looks, row, &mut terminals);
        let Terminals { delivered, failure, .. } = terminals;
        if !is_known {
            return Err(if roamed { Reason::NotAttached } else { Reason::UnknownDestination });
        }
        match (delivered, self.queries, self.sends.len() > first_send) {
            (true, ..) => Ok(Verdict::Deliver),
            (false, true, _) => Ok(Verdict::Query),
            (false, false, true) => Ok(Verdict::Forward),
            (false, false, false) => Err(failure.filter(|_| !roamed).unwrap_or(Reason::NotAttached)),
        }
    }

    /// One terminal of the user. True: it is served from here; false: it is served otherwise.
    #[inline(always)]
    fn terminal(
        &mut self,
        cell: &Cell,
        known: &impl Known,
        roamed: bool,
        first_send: usize,
        trace: &mut impl Trace,
    ) -> Result<bool, Reason> {
        if !known.is_live(self.moment.now) {
            return Err(Reason::NotAttached);
        }
        if let Some(to) = known.serving() {
            if roamed || self.moment.own == Some(to) || self.moment.site.listen.contains(&to) {
                return Err(Reason::NotAttached);
            }
            let server = self.moment.tables.peer(to);
            trace
                .step(self.row, || format!("device {} is served by the Push server at {to}", known.device()));
            let already = |send: &Send| matches!(send.hop, Hop::Server { to: other, .. } if other == to);
            // One copy for all terminals that are there: the serving server finds each of them.
            if !self.sends[first_send..].iter().any(already) {
                self.forward(cell, server, to, true, trace)?;
            }
            return Ok(false);
        }
        let (private, nat, terminal) = (known.private(), known.nat(), known.terminal());
        if private.is_some() || nat.is_some() {
            if known.bearers() & PACKET_DATA == 0 {
                return Err(Reason::BearerFailed);
            }
            if let Some(private) = private {
                if let Some(gateway) = self.moment.gateway(known) {
                    trace.step(self.row, || {
                        let gateway = self.moment.tables.gateway_view(gateway);
                        let (device, realm, name) = (known.device(), known.realm(), gateway.name());
                        let tunnel = gateway.tunnel().name();
                        format!("device {device} at {private} in realm {realm} lies behind gateway {name} ({tunnel})")
                    });
                    self.serve(Hop::Gateway { gateway, terminal }, first_send);
                    return Ok(true);
                }
                trace.step(self.row, || format!("no segment of realm {} has {private}", known.realm()));
            }
            if let Some(to) = nat {
                trace.step(self.row, || format!("device {} has the public address {to}", known.device()));
                self.serve(Hop::Nat { to, terminal }, first_send);
                return Ok(true);
            }
        }
        if let Some(imsi) = known.imsi() {
            if known.bearers() & NETWORK_REQUESTED == 0 {
                return Err(Reason::BearerFailed);
            }
            trace.step(self.row, || {
                format!("device {} is only known by its IMSI {imsi}: ask the network", known.device())
            });
            self.queries = true;
            return Ok(false);
        }
        Err(if private.is_some() { Reason::NoGateway } else { Reason::NotAttached })
    }

    fn forward(
        &mut self,
        cell: &Cell,
        server: Option<u32>,
        to: Endpoint,
        roaming: bool,
        trace: &mut impl Trace,
    ) -> Result<(), Reason> {
        self.may_forward(cell, server, to, trace)?;
        self.send(Hop::Server { server, to, roaming });
        Ok(())
    }

    /// Never back to where it came from (ruling 33), and only while there are hops left. A copy for a member did
    /// not come from anywhere: the message for its group did.
    fn may_forward(
        &self,
        cell: &Cell,
        server: Option<u32>,
        to: Endpoint,
        trace: &mut impl Trace,
    ) -> Result<(), Reason> {
        let is_back = to == self.from || (server.is_some() && server == cell.peer);
        if is_back && !cell.grant.is_copy {
            trace.step(self.row, || format!("it came from {to} and never goes back there"));
            return Err(Reason::NoRoute);
        }
        if self.message.header.hop_limit <= 1 {
            return Err(Reason::HopLimit);
        }
        Ok(())
    }

    /// Sends to a terminal; what is bound to one address and port as several devices is one, and gets one copy.
    #[inline(always)]
    fn serve(&mut self, hop: Hop, first_send: usize) {
        let is_same = |send: &Send| match (&send.hop, &hop) {
            (Hop::Gateway { terminal: one, .. }, Hop::Gateway { terminal: two, .. }) => {
                (one.realm, one.private) == (two.realm, two.private)
            }
            (Hop::Nat { to: one, .. }, Hop::Nat { to: two, .. }) => one == two,
            _ => false,
        };
        if !self.sends[first_send..].iter().any(is_same) {
            self.send(hop);
        }
    }

    /// Inlined, so that a hop is put together where it stays.
    #[inline(always)]
    fn send(&mut self, hop: Hop) {
        self.sends.push(Send { row: self.row, hop });
    }
}
