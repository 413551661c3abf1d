//! What the kernel took nothing of: who sent it is told.
//!
//! A datagram's fate is known after the burst that it came in has left, when its buffer may hold another. So the
//! account of a message keeps what a REJECT takes, [`Asked`]: 80 bytes a message in flight, those of the accounts
//! that were closed last, which are near.
//!
//! What is told (PROTOCOL.md, Kinds, "REJECT where it failed"), once no datagram of a message left:
//!
//! | the kernel says | reason |
//! |---|---|
//! | EMSGSIZE: longer than the way takes, and not to be cut | too-large |
//! | EAGAIN, ENOBUFS, ENOMEM: no room; ECANCELED, ESHUTDOWN: the port ends | overloaded |
//! | ENETUNREACH, EHOSTUNREACH, ENETDOWN: no route, or one that refuses; EAFNOSUPPORT, EINVAL | no-route |
//! | anything else: EPERM of a firewall, EACCES, EIO | gateway-failed |
//!
//! What a router or the next hop says later (ICMP) is not among it: the datagram had left. The kernel tells it to
//! sockets that ask for it only by failing their next call, which is about somebody else's datagram.

use super::rewrite::replace_head;
use super::{Asker, EXTRA, Moment, Plane, Site, Verdict};
use crate::clock::Now;
use crate::id::PushId;
use crate::packet::{Burst, Class, Frame, Tx};
use crate::reason::Reason;
use crate::table::Tables;
use crate::wire::prp::{Header, Kind};

/// On whose behalf datagrams are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// This server's own, or an answer's: nobody is told.
    Nobody,
    /// A row of the burst that is being worked on, one member's copy: its verdict tells whoever made the copies.
    Copy(usize),
    /// A message, whose sender is told.
    Sender(Asked),
}

/// What a REJECT takes of the message that it answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    destination: PushId,
    source: PushId,
    message: u64,
    asker: Asker,
}

/// A message of which nothing left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Unsent {
    pub(super) origin: Origin,
    pub(super) reason: Reason,
}

impl Origin {
    /// That of a message.
    #[inline(always)]
    pub(super) fn of(kind: Kind, header: &Header, asker: Asker) -> Self {
        let Header { destination, source, message, .. } = *header;
        if kind.is_answer() {
            Self::Nobody
        } else {
            Self::Sender(Asked { destination, source, message, asker })
        }
    }
}

impl Plane {
    /// Takes what became of datagrams out of `burst.done` into the accounts. True when somebody is to be told, by
    /// [`Plane::tell_unsent`]. The verdicts of copies are right only where sending ended within this burst.
    #[must_use]
    pub fn settle(&mut self, burst: &mut Burst) -> bool {
        let Self { ledger, cells, .. } = self;
        ledger.settle(&burst.done);
        burst.done.clear();
        ledger.unsent_mut().retain(|unsent| match unsent.origin {
            Origin::Nobody => false,
            Origin::Copy(row) => {
                if let Some(cell) = cells.get_mut(row) {
                    cell.verdict = Verdict::Drop(unsent.reason);
                }
                false
            }
            Origin::Sender(_) => true,
        });
        !ledger.unsent_mut().is_empty()
    }

    /// Puts a REJECT into `burst.tx` for each message of which nothing left, where that is allowed.
    pub fn tell_unsent(&mut self, site: &Site, tables: &Tables, now: Now, burst: &mut Burst) {
        let moment = Moment::new(site, tables, now);
        for at in 0..self.ledger.unsent_mut().len() {
            let Unsent { origin, reason } = self.ledger.unsent_mut()[at];
            let Origin::Sender(asked) = origin else { continue };
            if !site.policy.rejects {
                continue;
            }
            let Some(frame) = self.may_tell(&asked, site, now, burst) else {
                self.ledger.counters_mut().rejects_suppressed += 1;
                continue;
            };
            self.tell(&moment, &asked, reason, frame, burst);
        }
        self.ledger.unsent_mut().clear();
    }

    /// A frame for the REJECT, where the limit of its sender allows one.
    fn may_tell(&self, asked: &Asked, site: &Site, now: Now, burst: &mut Burst) -> Option<Frame> {
        let may = burst.pool.available() > 0 && site.shared.rejects.take(asked.asker.from, now.mono_ns);
        if may { burst.pool.take() } else { None }
    }

    fn tell(
        &mut self,
        moment: &Moment<'_>,
        asked: &Asked,
        reason: Reason,
        mut frame: Frame,
        burst: &mut Burst,
    ) {
        let Asked { destination, source, message, asker } = *asked;
        let key = asker.key.and_then(|id| moment.tables.key_index(id));
        self.head.restart(&Header::new(Kind::Reject, source, destination, message)).reason(reason);
        let is_cleared = frame.fill(&[]);
        let made = replace_head(&mut frame, 0, &mut self.head, key, moment);
        if !is_cleared || made.is_err() {
            // A REJECT is shorter than the shortest frame.
            return burst.pool.put(frame);
        }
        let (to, listener, flow) = (asker.from, asker.listener, source.steer());
        burst.tx.push(Tx { frame, to, listener, class: Class::Normal, flow, token: EXTRA });
    }
}
