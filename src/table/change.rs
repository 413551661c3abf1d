//! What changes while a server runs: the words in which the controller tells the live tables, and the
//! journal, what happened. Everything else is derived from these.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::rib::User;
use super::session::{Session, SessionId};
use crate::id::{Endpoint, Imsi, PushId};

/// One terminal's binding, as a REGISTER that was accepted left it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Binding {
    /// Whose terminal.
    pub user: PushId,
    /// Which of the user's; 0 is one of its own.
    pub device: u8,
    /// The private address space of `private`.
    pub realm: u32,
    /// Private address and port.
    pub private: Option<Endpoint>,
    /// Public address and port.
    pub nat: Option<Endpoint>,
    /// The subscriber.
    pub imsi: Option<Imsi>,
    /// What the terminal can take: 1 packet data, 2 network-requested, 4 short message, 8 SIP.
    pub bearers: u8,
    /// The roaming server that serves it; then neither `private` nor `nat`.
    pub serving: Option<Endpoint>,
    /// Milliseconds since 1970 after which it is void; none: static.
    pub valid_until_ms: Option<u64>,
    /// Which of the server's listening addresses the terminal last wrote to.
    pub listener: u8,
}

impl Binding {
    /// Nothing to reach the terminal by yet; without end.
    pub const fn new(user: PushId, device: u8) -> Self {
        Self {
            user,
            device,
            realm: 0,
            private: None,
            nat: None,
            imsi: None,
            bearers: User::DEFAULT_BEARERS,
            serving: None,
            valid_until_ms: None,
            listener: 0,
        }
    }
}

/// A RELEASE that another server is owed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Owed {
    /// Which server.
    pub to: Endpoint,
    /// Whose terminal.
    pub user: PushId,
    /// Which; 0 also for all of them.
    pub device: u8,
    /// Why.
    pub parting: Parting,
}

/// Why a server is owed a RELEASE.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Parting {
    /// A visitor left, one terminal or, with device 0, the last one: its home is to know.
    Visit,
    /// An own user's terminal is not served there any more: this one, device 0 too.
    Terminal,
    /// None of an own user's terminals is.
    User,
}

impl Owed {
    /// Whether the RELEASE ends this device.
    pub fn means(&self, device: u8) -> bool {
        self.device == device || (self.device == 0 && self.parting != Parting::Terminal)
    }
}

/// One change of the live tables. A journal replays to the same tables.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Change {
    /// The binding holds, in place of what the same user and device had. `heard_ms` is the age of the
    /// request (PROTOCOL.md, ruling 18).
    Bind {
        /// The binding.
        binding: Binding,
        /// Milliseconds since 1970.
        heard_ms: u64,
    },
    /// The user's device is bound no more, not by users.csv either.
    End {
        /// Whose terminal.
        user: PushId,
        /// Which.
        device: u8,
        /// Milliseconds since 1970, of the request that ended it.
        heard_ms: u64,
    },
    /// Nothing is known of the user's device any more but what users.csv says.
    Forget {
        /// Whose terminal.
        user: PushId,
        /// Which.
        device: u8,
    },
    /// A lent Push ID leads to a user's device (none: to all of them) for a time.
    Lend {
        /// The lent Push ID.
        lent: PushId,
        /// Whom it leads to.
        user: PushId,
        /// Which of its devices.
        device: u8,
        /// Milliseconds since 1970.
        until_ms: u64,
    },
    /// A lent Push ID leads nowhere any more.
    Unlend {
        /// The lent Push ID.
        lent: PushId,
    },
    /// A group exists, and this is its owner.
    Found {
        /// The group.
        group: PushId,
        /// Its owner, who is not a member by that alone.
        owner: PushId,
    },
    /// A user is a member.
    Join {
        /// The group.
        group: PushId,
        /// The member.
        member: PushId,
    },
    /// A user is no member any more, not by groups.csv either.
    Leave {
        /// The group.
        group: PushId,
        /// The former member.
        member: PushId,
    },
    /// A group exists no more, not by groups.csv either.
    Disband {
        /// The group.
        group: PushId,
    },
    /// A RELEASE was accepted that found nothing to end: for a minute nothing older is accepted of the
    /// user's device, or, without one, of any of them. Changes nothing that a reader of the tables sees.
    Released {
        /// Who released.
        user: PushId,
        /// Which device; none: all.
        device: Option<u8>,
        /// Milliseconds since 1970, of the request.
        heard_ms: u64,
    },
    /// As [`Change::Bind`], but by what the network says, not the terminal. `heard_ms` is still the age of the last
    /// request of the terminal that was accepted.
    Assign {
        /// The binding.
        binding: Binding,
        /// Milliseconds since 1970; 0: none is known.
        heard_ms: u64,
    },
    /// The network says that a terminal has these addresses, in place of what it said of the same session.
    Attach(Box<Session>),
    /// A session is over, and its addresses are nobody's.
    Detach {
        /// Which.
        id: Arc<SessionId>,
        /// Milliseconds since 1970: what the network says of it up to then comes too late. None: nothing was heard
        /// of it for so long that it does not count any more.
        ended_ms: Option<u64>,
    },
    /// Another server is owed a RELEASE. Changes nothing that a reader of the tables sees, as [`Change::Settle`].
    Owe(Owed),
    /// It has answered, or it is not owed any more.
    Settle(Owed),
}

/// What nearly every record fits into.
const RECORD_BYTES: usize = 128;

impl Change {
    /// The record of a journal.
    pub fn to_bytes(&self) -> Vec<u8> {
        // The only failure is a writer that refuses; a vector does not.
        postcard::to_extend(self, Vec::with_capacity(RECORD_BYTES)).unwrap_or_default()
    }

    /// The change that a record holds; `None` when it holds none, or more than one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match postcard::take_from_bytes(bytes) {
            Ok((change, [])) => Some(change),
            _ => None,
        }
    }
}
