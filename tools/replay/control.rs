//! The controller over the messages of a capture: who registers there is bound from then on, groups are what the
//! messages made of them, and what ends by itself ends on the capture's clock. Nothing is kept on a disk.
//!
//! The federation's other servers cannot be asked in a replay: they are taken to agree to whatever this one asks
//! of them, at once.

use std::io;
use std::sync::Arc;

use pushplane::clock::Now;
use pushplane::control::{self, GroupPush, Outbox, Reply, Request};
use pushplane::plane::{Shared, Verdict};
use pushplane::table::{LiveWriter, Tables};
use pushplane::wire::prp::{HeadBuilder, Kind, parse};

/// What became of a request.
pub(super) struct Handled {
    pub(super) verdict: Verdict,
    pub(super) replies: Vec<Reply>,
    /// A message whose members are to get their copies: the verdict is still to come.
    pub(super) copies: Option<GroupPush>,
}

pub(super) struct Control<'t> {
    engine: control::Engine,
    writer: LiveWriter,
    shared: Arc<Shared>,
    tables: &'t Tables,
    out: Outbox,
    /// How many the ring gave.
    taken: u64,
    /// When it began, once it has.
    began: Option<Now>,
}

impl<'t> Control<'t> {
    /// The only controller of what is shared.
    pub(super) fn new(site: control::Site, shared: Arc<Shared>, tables: &'t Tables) -> Option<Self> {
        Some(Self {
            engine: control::Engine::new(site),
            writer: shared.live_writer()?,
            shared,
            tables,
            out: Outbox::default(),
            taken: 0,
            began: None,
        })
    }

    /// What ends by itself until now; the datagrams that it sends.
    pub(super) fn advance(&mut self, now: Now) -> io::Result<Vec<Reply>> {
        let began = *self.began.get_or_insert_with(|| {
            self.engine.restored(self.tables, now, &mut self.out);
            now
        });
        let mut replies = self.settle(now)?.replies;
        while let Some(due) = self.engine.poll_timeout().filter(|due| *due <= now.mono_ns) {
            let then = began.plus_ns(due.saturating_sub(began.mono_ns));
            self.engine.handle_timeout(self.tables, then, &mut self.out);
            replies.extend(self.settle(then)?.replies);
        }
        Ok(replies)
    }

    /// What the shard has handed over last, if it has: `handed_over` counts all since the beginning.
    pub(super) fn take(&mut self, handed_over: u64, now: Now) -> io::Result<Option<Handled>> {
        self.shared.punted(0, handed_over, handed_over > self.taken);
        let Some(punt) = self.shared.punts()[0].take(&mut self.taken) else { return Ok(None) };
        let request = Request {
            bytes: punt.bytes(),
            from: punt.from,
            listener: punt.listener,
            signed_by: punt.signed_by,
            now,
        };
        self.engine.handle(self.tables, &request, &mut self.out);
        self.settle(now).map(Some)
    }

    /// What came of it, other servers having agreed.
    fn settle(&mut self, now: Now) -> io::Result<Handled> {
        let mut handled = Handled { verdict: Verdict::Forward, replies: Vec::new(), copies: None };
        loop {
            let Outbox { changes, replies, answered, dropped, copies, .. } = std::mem::take(&mut self.out);
            for change in &changes {
                self.writer.apply(change).map_err(|full| {
                    io::Error::other(format!("{full}; a --config with a higher limits.bindings has room"))
                })?;
            }
            if answered > 0 {
                handled.verdict = Verdict::Answer;
            }
            if let Some(reason) = dropped.first() {
                handled.verdict = Verdict::Drop(*reason);
            }
            handled.copies = handled.copies.or(copies.into_iter().next());
            for reply in &replies {
                self.agree(reply, now);
            }
            let limiter = self.shared.rejects();
            handled.replies.extend(
                replies.into_iter().filter(|reply| !reply.is_reject || limiter.take(reply.to, now.mono_ns)),
            );
            let Outbox { changes, replies, answered, dropped, .. } = &self.out;
            if changes.is_empty() && replies.is_empty() && *answered == 0 && dropped.is_empty() {
                return Ok(handled);
            }
        }
    }

    /// Another server's answer to a request of this one.
    fn agree(&mut self, reply: &Reply, now: Now) {
        let Some(peer) = self.tables.peer(reply.to) else { return };
        let Ok(message) = parse(&reply.datagram) else { return };
        let kind = match message.kind {
            Kind::Register => Kind::Registered,
            Kind::Release => Kind::Released,
            _ => return,
        };
        let mut head = HeadBuilder::new(&message.header.answer(kind));
        if kind == Kind::Registered {
            head.validity(message.options.validity(&reply.datagram).unwrap_or(0));
        }
        let Ok(bytes) = head.datagram(&[]) else { return };
        let signed_by = self.tables.server_key(peer).map(|key| self.tables.key_id(key));
        let request = Request { bytes: &bytes, from: reply.to, listener: reply.listener, signed_by, now };
        self.engine.handle(self.tables, &request, &mut self.out);
    }
}
