//! Fourth stage: the datagrams. The last copy of a message leaves from the buffer that received it; its
//! payload never moves, heads and tunnel headers grow into the headroom in front of it.

use super::{
    Account, Asker, Cell, EXTRA, Exchange, Grant, Hop, Moment, Origin, Plane, Punt, Read, Terminal, Verdict,
};
use crate::id::Endpoint;
use crate::packet::{Burst, Class, Frame, FramePool, Tx};
use crate::reason::Reason;
use crate::table::rib::Tunnel;
use crate::wire::prp::{HeadBuilder, Header, Kind, Message, flag, option_type as ty};
use crate::wire::tunnel;

/// A REJECT is never longer than this or than what it answers, whichever is more.
const REJECT_BYTES_MAX: usize = 128;

impl Plane {
    pub(super) fn rewrite(&mut self, moment: &Moment<'_>, burst: &mut Burst) {
        // Copies take free frames: what must leave first takes them first. Nearly always one class only.
        let mixed =
            self.cells.iter().any(|cell| cell.grant.class.is_some_and(|class| class != Class::Normal));
        let classes: &[Class] = &[Class::MinDelay, Class::Priority, Class::Normal];
        for class in if mixed { classes } else { &classes[2..] } {
            self.rewrite_class(moment, burst, *class);
        }
    }

    fn rewrite_class(&mut self, moment: &Moment<'_>, burst: &mut Burst, class: Class) {
        for at in 0..self.cells.len() {
            if self.cells[at].grant.class.unwrap_or(Class::Normal) != class {
                continue;
            }
            let outcome = match self.cells[at].verdict {
                Verdict::Query if self.cells[at].sends > 0 => {
                    // Nobody can be asked for this terminal; others are served where they roam.
                    self.cells[at].verdict = Verdict::Forward;
                    self.send_row(moment, burst, at)
                }
                Verdict::Deliver | Verdict::Forward => self.send_row(moment, burst, at),
                Verdict::Punt => self.punt(moment, burst, at),
                Verdict::Answer => self.echo(moment, burst, at),
                // Until there is somebody to ask, the answer is at once that there is no gateway (ruling 30).
                Verdict::Query | Verdict::Pending => Err(Reason::NoGateway),
                Verdict::Drop(reason) => Err(reason),
            };
            if let Err(reason) = outcome {
                self.cells[at].verdict = Verdict::Drop(reason);
                self.ledger.dropped(reason);
                self.reject(moment, burst, at, reason);
            }
        }
    }

    /// Hands a message to the controller, which answers it or drops it by its own account.
    fn punt(&mut self, moment: &Moment<'_>, burst: &Burst, at: usize) -> Result<(), Reason> {
        let row = &burst.rows[at];
        let bytes = row.frame.as_ref().map_or(&[][..], |frame| frame.bytes());
        let signed_by = self.cells[at].grant.signed_by.map(|key| moment.tables.key_id(key));
        let punt = Punt::new(bytes, row.from, row.listener, signed_by).ok_or(Reason::TooLarge)?;
        if let Read::Message(message) = &self.cells[at].read {
            remember(moment, message, &Asker { from: row.from, listener: row.listener, key: signed_by })?;
        }
        let ring = &moment.site.shared.punts[moment.site.shard];
        ring.push(punt).map_err(|_| Reason::Overloaded)?;
        self.ledger.counters_mut().punted += 1;
        Ok(())
    }

    /// Makes what leaves because of a row; an error when nothing does.
    fn send_row(&mut self, moment: &Moment<'_>, burst: &mut Burst, at: usize) -> Result<(), Reason> {
        let Self { cells, sends, ledger, head, .. } = self;
        let cell = &cells[at];
        let row = &mut burst.rows[at];
        let (Read::Message(message), Some(original)) = (&cell.read, row.frame.take()) else {
            return Err(Reason::Malformed);
        };
        let (from, listener) = (row.from, row.listener);
        let origin = if cell.grant.is_copy {
            Origin::Copy(at)
        } else {
            let key = cell.grant.signed_by.map(|key| moment.tables.key_id(key));
            let asker = Asker { from, listener, key };
            if let Err(reason) = remember(moment, message, &asker) {
                row.frame = Some(original);
                return Err(reason);
            }
            Origin::of(message.kind, &message.header, asker)
        };
        let account = if cell.verdict == Verdict::Deliver { Account::Delivered } else { Account::Forwarded };
        let Some(token) = ledger.open(account, cell.sends, origin) else {
            row.frame = Some(original);
            return Err(Reason::Overloaded);
        };
        let (grant, from_peer) = (&cell.grant, cell.peer.is_some());
        let mut writer = Writer { moment, message, from, from_peer, grant, head };
        let class = grant.class.unwrap_or(Class::Normal);
        let flow = message.header.destination.steer();
        let sends = &sends[cell.first_send..][..cell.sends];
        // Nearly every user has one terminal.
        if let [send] = sends {
            let mut frame = original;
            return match writer.write(&mut frame, &send.hop) {
                Ok((to, listener)) => {
                    burst.tx.push(Tx { frame, to, listener, class, flow, token });
                    Ok(())
                }
                Err(reason) => {
                    row.frame = Some(frame);
                    ledger.cancel(token);
                    Err(reason)
                }
            };
        }
        let last = cell.sends - 1;
        let (mut original, mut failure, mut failed) = (Some(original), Reason::Overloaded, 0);
        for (copy, send) in sends.iter().enumerate() {
            let frame =
                if copy == last { original.take() } else { copy_of(original.as_ref(), &mut burst.pool) };
            let Some(mut frame) = frame else {
                failed += 1;
                continue;
            };
            match writer.write(&mut frame, &send.hop) {
                Ok((to, listener)) => burst.tx.push(Tx { frame, to, listener, class, flow, token }),
                Err(reason) => {
                    (failure, failed) = (reason, failed + 1);
                    // The last one's is the row's own: the REJECT leaves from it.
                    if copy == last { burst.rows[at].frame = Some(frame) } else { burst.pool.put(frame) }
                }
            }
        }
        if failed == cell.sends {
            ledger.cancel(token);
            return Err(failure);
        }
        for _ in 0..failed {
            ledger.failed(token, failure);
        }
        Ok(())
    }

    /// ECHOED: the ECHO with another kind, source and destination swapped, without options
    /// (PROTOCOL.md, ruling 28).
    fn echo(&mut self, moment: &Moment<'_>, burst: &mut Burst, at: usize) -> Result<(), Reason> {
        let Self { cells, ledger, head, .. } = self;
        let Cell { read, grant, .. } = &cells[at];
        let row = &mut burst.rows[at];
        let (Read::Message(message), Some(frame)) = (read, &mut row.frame) else {
            return Err(Reason::Malformed);
        };
        let header = Header {
            kind: Kind::Echoed as u8,
            flags: message.header.flags & flag::KNOWN,
            destination: message.header.source,
            source: message.header.destination,
            ..message.header
        };
        head.restart(&header);
        frame.truncate(message.payload_end);
        replace_head(frame, message.payload_start, head, grant.signed_by, moment)?;
        let token = ledger.open(Account::Answered, 1, Origin::Nobody).ok_or(Reason::Overloaded)?;
        if let Some(frame) = row.frame.take() {
            let (to, listener, flow) = (row.from, row.listener, header.destination.steer());
            burst.tx.push(Tx { frame, to, listener, class: Class::Normal, flow, token });
        }
        Ok(())
    }

    /// Answers what failed, where that is allowed: never an answer, never what has no message
    /// identifier, never more often than [`super::RejectLimiter`] says.
    fn reject(&mut self, moment: &Moment<'_>, burst: &mut Burst, at: usize, reason: Reason) {
        let Moment { site, now, .. } = *moment;
        let Self { cells, ledger, head, .. } = self;
        let Cell { read, grant, .. } = &cells[at];
        let row = &mut burst.rows[at];
        let Some(header) = read.header().filter(|_| site.policy.rejects && !grant.is_copy) else { return };
        if Kind::from_code(header.kind).is_some_and(Kind::is_answer) {
            return;
        }
        let Some(frame) = &mut row.frame else { return };
        if !site.shared.rejects.take(row.from, now.mono_ns) {
            ledger.counters_mut().rejects_suppressed += 1;
            return;
        }
        let length_max = frame.len().max(REJECT_BYTES_MAX);
        head.restart(&header.answer(Kind::Reject)).reason(reason);
        let whole = frame.len();
        let made = replace_head(frame, whole, head, grant.signed_by, moment);
        if made.is_ok()
            && frame.len() <= length_max
            && let Some(frame) = row.frame.take()
        {
            let (to, listener, flow) = (row.from, row.listener, header.source.steer());
            burst.tx.push(Tx { frame, to, listener, class: Class::Normal, flow, token: EXTRA });
        }
    }
}

/// Remembers who waits for the answers to a PUSH that wants a receipt, whether to it or to its copies.
#[inline(always)]
fn remember(moment: &Moment<'_>, message: &Message, asker: &Asker) -> Result<(), Reason> {
    if message.kind != Kind::Push || !message.has(flag::RECEIPT) {
        return Ok(());
    }
    remember_asker(moment, message, asker)
}

fn remember_asker(moment: &Moment<'_>, message: &Message, asker: &Asker) -> Result<(), Reason> {
    let Moment { site, now, .. } = *moment;
    let Header { source, destination, message: id, .. } = message.header;
    let mut exchange = Exchange { asker: source, asked: destination, message: id };
    if message.has(flag::GROUP) {
        exchange = exchange.of_anybody();
    }
    // Who asked first keeps the answers: a message that comes round again, from another server, must not send
    // them round too. Nor must a copy that another server made of what was sent to a group through here.
    let is_another = |first: Asker| first.from != asker.from;
    let of_group =
        || site.shared.asker(&exchange.of_anybody(), now).filter(|_| message.options.has(ty::GROUP_ID));
    if site.shared.asker(&exchange, now).or_else(of_group).is_some_and(is_another) {
        return Ok(());
    }
    let table = &site.shared.receipts[site.shard];
    if table.remember(&exchange, *asker, now.mono_ns) { Ok(()) } else { Err(Reason::Overloaded) }
}

/// A copy of a frame in another of the same pool; `None` when no frame is free.
fn copy_of(original: Option<&Frame>, pool: &mut FramePool) -> Option<Frame> {
    let mut frame = pool.take()?;
    let copied = original.is_some_and(|original| frame.copy_from(original));
    debug_assert!(copied, "frames of one pool have one size");
    Some(frame)
}

/// Puts a head, signed with a key if there is one, in place of the first `old` bytes of a frame.
pub(super) fn replace_head(
    frame: &mut Frame,
    old: usize,
    head: &mut HeadBuilder,
    key: Option<u32>,
    moment: &Moment<'_>,
) -> Result<(), Reason> {
    let Moment { tables, now, .. } = *moment;
    let schedule = key.and_then(|key| Some((tables.key_id(key), tables.key(key)?)));
    if let Some((id, _)) = schedule {
        head.auth(id, now.unix_ms);
    }
    let head = head.finish()?;
    frame.shrink_front(old);
    put_front(frame, head)?;
    match schedule {
        Some((_, schedule)) if !schedule.sign(frame.bytes_mut(), head.len()) => Err(Reason::TooLarge),
        _ => Ok(()),
    }
}

/// Puts bytes in front of a frame's.
#[inline(always)]
fn put_front(frame: &mut Frame, bytes: &[u8]) -> Result<(), Reason> {
    if !frame.grow_front(bytes.len()) {
        return Err(Reason::TooLarge);
    }
    frame.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
    Ok(())
}

/// What changes in a head besides what always does.
#[derive(Clone, Copy, Default)]
struct Change {
    /// Flags to set.
    set: u8,
    /// Hops to take off.
    hops: u8,
    /// Options to add.
    add: Add,
    /// The index of the key to sign with.
    key: Option<u32>,
}

/// Options that a hop adds, in place of those of the same types that came with the message.
#[derive(Clone, Copy, Default)]
enum Add {
    #[default]
    Nothing,
    /// For a plain gateway: who the terminal is.
    Terminal { private: Endpoint, realm: u32 },
    /// For another server: where the source can be reached.
    Source(Endpoint),
}

impl Add {
    const fn replaces(self) -> &'static [u8] {
        match self {
            Self::Nothing => &[],
            Self::Terminal { .. } => &[ty::PRIVATE_ADDRESS, ty::REALM, ty::IMSI],
            Self::Source(_) => &[ty::SOURCE_ADDRESS],
        }
    }
}

/// Options that belong to one hop only.
const HOP_BY_HOP: [u8; 2] = [ty::AUTH, ty::PAYLOAD_LENGTH];

/// Writes the datagrams of one message.
struct Writer<'a> {
    moment: &'a Moment<'a>,
    message: &'a Message,
    from: Endpoint,
    from_peer: bool,
    grant: &'a Grant,
    head: &'a mut HeadBuilder,
}

impl Writer<'_> {
    /// Turns the received datagram in `frame` into the one for this hop; returns where it goes and
    /// from which listening address.
    fn write(&mut self, frame: &mut Frame, hop: &Hop) -> Result<(Endpoint, u8), Reason> {
        frame.truncate(self.message.payload_end);
        match hop {
            Hop::Gateway { gateway, terminal } => self.for_gateway(frame, *gateway, terminal),
            Hop::Nat { to, terminal } => {
                self.rehead(frame, &self.for_terminal(terminal))?;
                self.leave_to_terminal(*to, terminal)
            }
            Hop::Server { server, to, roaming } => self.for_server(frame, *server, *to, *roaming),
            Hop::Asker(asker) => self.for_asker(frame, asker),
        }
    }

    /// The listening address of the right family; without one there is no way, and none to this server
    /// itself: what is sent there would come again, for ever.
    #[inline(always)]
    fn leave(&self, to: Endpoint) -> Result<(Endpoint, u8), Reason> {
        if self.is_own(to) {
            return Err(Reason::NoRoute);
        }
        self.moment.site.listener_for(to).map(|listener| (to, listener)).ok_or(Reason::NoRoute)
    }

    /// From the listening address that the terminal last wrote to, where that is known and still reaches it.
    fn leave_to_terminal(&self, to: Endpoint, terminal: &Terminal) -> Result<(Endpoint, u8), Reason> {
        let listen = &self.moment.site.listen;
        let reaches = |listener: &u8| {
            listen.get(usize::from(*listener)).is_some_and(|own| own.is_ipv4() == to.is_ipv4())
        };
        match terminal.listener.filter(reaches) {
            Some(listener) if !self.is_own(to) => Ok((to, listener)),
            _ => self.leave(to),
        }
    }

    /// Whether this is an address of this very server, as it listens or as others reach it.
    fn is_own(&self, to: Endpoint) -> bool {
        // Nearly always the port says it.
        let is_it = |own: &Endpoint| own.port() == to.port() && *own == to;
        self.moment.own.as_ref().is_some_and(is_it) || self.moment.site.listen.iter().any(is_it)
    }

    /// Signed with the user's key, where it has one (ruling 15).
    fn for_terminal(&self, terminal: &Terminal) -> Change {
        let key = terminal.has_key.then(|| self.moment.tables.user_key(terminal.user)).flatten();
        Change { key, ..Change::default() }
    }

    fn for_gateway(
        &mut self,
        frame: &mut Frame,
        gateway: u32,
        terminal: &Terminal,
    ) -> Result<(Endpoint, u8), Reason> {
        let gateway = self.moment.tables.gateway_view(gateway);
        let private = terminal.private.ok_or(Reason::NotAttached)?;
        let change = self.for_terminal(terminal);
        match gateway.tunnel() {
            Tunnel::Plain => {
                let add = Add::Terminal { private, realm: terminal.realm };
                self.rehead(frame, &Change { add, ..change })?;
                self.leave(gateway.address())
            }
            Tunnel::None => {
                self.rehead(frame, &change)?;
                self.leave_to_terminal(private, terminal)
            }
            Tunnel::Vxlan { vni, mac } => {
                self.rehead(frame, &change)?;
                let source = gateway.source_for(private).ok_or(Reason::NoGateway)?;
                inner_ip(frame, source, private)?;
                put_front(frame, &tunnel::vxlan_ethernet(vni, mac, private.is_ipv4()))?;
                self.leave(gateway.address())
            }
            Tunnel::Gtpu { teid } => {
                self.rehead(frame, &change)?;
                let source = gateway.source_for(private).ok_or(Reason::NoGateway)?;
                let length = inner_ip(frame, source, private)?;
                put_front(frame, &tunnel::gtpu(teid, length))?;
                self.leave(gateway.address())
            }
        }
    }

    fn for_server(
        &mut self,
        frame: &mut Frame,
        server: Option<u32>,
        to: Endpoint,
        roaming: bool,
    ) -> Result<(Endpoint, u8), Reason> {
        // Only a PUSH tells where its source is, and only its first server knows (ruling 14).
        let translate = self.message.kind == Kind::Push && !self.from_peer;
        let change = Change {
            set: if roaming { flag::ROAMED } else { 0 },
            hops: 1,
            add: if translate { Add::Source(self.public_source()) } else { Add::Nothing },
            key: server.and_then(|server| self.moment.tables.server_key(server)),
        };
        self.rehead(frame, &change)?;
        self.leave(to)
    }

    fn for_asker(&mut self, frame: &mut Frame, asker: &Asker) -> Result<(Endpoint, u8), Reason> {
        if self.is_own(asker.from) {
            return Err(Reason::NoRoute);
        }
        let is_server = self.moment.tables.peer(asker.from).is_some();
        let key = asker.key.and_then(|id| self.moment.tables.key_index(id));
        self.rehead(frame, &Change { hops: u8::from(is_server), key, ..Change::default() })?;
        Ok((asker.from, asker.listener))
    }

    /// Where the source can be reached from outside: its public address, else where it sent from.
    fn public_source(&self) -> Endpoint {
        let source = self.message.header.source;
        if source.is_none() {
            return self.from;
        }
        let (mut own, mut public) = (None, None);
        self.moment.each_of(source, |known| {
            let Some(nat) = known.nat().filter(|_| known.is_live(self.moment.now)) else { return };
            if nat == self.from || known.private().is_some_and(|own| own.octets() == self.from.octets()) {
                own.get_or_insert(nat);
            }
            public.get_or_insert(nat);
        });
        own.or(public).unwrap_or(self.from)
    }

    /// Changes the head: reserved flags cleared, PRIORITY set where the application's rule says so,
    /// Auth and PayloadLength gone, and what `change` says. The options stay where they are when none
    /// of that touches them.
    #[inline(always)]
    fn rehead(&mut self, frame: &mut Frame, change: &Change) -> Result<(), Reason> {
        let Message { header, options, .. } = self.message;
        let priority = if self.grant.sets_priority { flag::PRIORITY } else { 0 };
        let flags = (header.flags & flag::KNOWN) | change.set | priority;
        let hop_limit = header.hop_limit.saturating_sub(change.hops);
        let hop_by_hop = HOP_BY_HOP.iter().any(|option| options.has(*option));
        if matches!(change.add, Add::Nothing) && change.key.is_none() && !hop_by_hop {
            let bytes = frame.bytes_mut();
            (bytes[1], bytes[2]) = (flags, hop_limit);
            return Ok(());
        }
        self.rebuild(frame, change, flags, hop_limit)
    }

    /// Writes the head anew, its options changed.
    fn rebuild(
        &mut self,
        frame: &mut Frame,
        change: &Change,
        flags: u8,
        hop_limit: u8,
    ) -> Result<(), Reason> {
        let Message { header, payload_start, .. } = self.message;
        let head = &mut *self.head;
        head.restart(&Header { flags, hop_limit, ..*header });
        let replaced = change.add.replaces();
        head.keep(self.message, frame.bytes(), |option| {
            !HOP_BY_HOP.contains(&option) && !replaced.contains(&option)
        });
        match change.add {
            Add::Nothing => {}
            Add::Terminal { private, realm } => {
                head.private_address(private).realm(realm);
            }
            Add::Source(source) => {
                head.source_address(source);
            }
        }
        replace_head(frame, *payload_start, head, change.key, self.moment)
    }
}

/// Puts the inner IP and UDP headers in front; returns the IP packet's length.
#[inline(always)]
fn inner_ip(frame: &mut Frame, from: Endpoint, to: Endpoint) -> Result<u16, Reason> {
    if !frame.grow_front(tunnel::ip_udp_bytes(to)) {
        return Err(Reason::TooLarge);
    }
    let length = u16::try_from(frame.len()).map_err(|_| Reason::TooLarge)?;
    if tunnel::write_ip_udp(frame.bytes_mut(), from, to) { Ok(length) } else { Err(Reason::TooLarge) }
}
