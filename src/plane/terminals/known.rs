//! One terminal that is known, by whatever knows it. Each kind is a type, and who visits terminals is compiled for each:
//! of a row that says all, which nearly every message meets, nothing is left to be told apart.

use crate::clock::Now;
use crate::id::{Endpoint, Imsi};
use crate::plane::Terminal;
use crate::table::binding::Line;
use crate::table::live::LiveLine;
use crate::table::live::overlay::Overlay;

/// One terminal, as users.csv or a registration says.
pub trait Known {
    /// Which of the user's terminals.
    fn device(&self) -> u8;
    /// The private address space.
    fn realm(&self) -> u32;
    /// Private address and port.
    fn private(&self) -> Option<Endpoint>;
    /// Public address and port.
    fn nat(&self) -> Option<Endpoint>;
    /// The subscriber.
    fn imsi(&self) -> Option<Imsi>;
    /// What the terminal can take.
    fn bearers(&self) -> u8;
    /// The serving server's address.
    fn serving(&self) -> Option<Endpoint>;
    /// Whether its validity has not ended.
    fn is_live(&self, now: Now) -> bool;
    /// The gateway that the private address lies behind, where that is noted by the segments of the tables whose
    /// overlay this is.
    fn gateway(&self, overlay: Option<&Overlay>) -> Option<u32>;
    /// What is needed to serve it.
    fn terminal(&self) -> Terminal;
}

/// Who is shown terminals, one after another.
pub trait Visit {
    /// Here is one.
    fn visit(&mut self, known: &impl Known);
}

impl<F: FnMut(&dyn Known)> Visit for F {
    fn visit(&mut self, known: &impl Known) {
        self(known);
    }
}

/// A row of users.csv, and the public IPv6 addresses of its tables.
#[derive(Clone, Copy)]
pub(super) struct Row<'a>(pub(super) &'a Line, pub(super) &'a [[u8; 16]]);

/// A registration, and whether its user may have a key of its own.
#[derive(Clone, Copy)]
pub(super) struct Registered<'a>(pub(super) &'a LiveLine, pub(super) bool);

impl Known for Row<'_> {
    #[inline(always)]
    fn device(&self) -> u8 {
        self.0.device()
    }

    #[inline(always)]
    fn realm(&self) -> u32 {
        self.0.realm()
    }

    #[inline(always)]
    fn private(&self) -> Option<Endpoint> {
        self.0.private()
    }

    #[inline(always)]
    fn nat(&self) -> Option<Endpoint> {
        self.0.nat(self.1)
    }

    #[inline(always)]
    fn imsi(&self) -> Option<Imsi> {
        self.0.imsi()
    }

    #[inline(always)]
    fn bearers(&self) -> u8 {
        self.0.bearers()
    }

    #[inline(always)]
    fn serving(&self) -> Option<Endpoint> {
        self.0.serving()
    }

    #[inline(always)]
    fn is_live(&self, now: Now) -> bool {
        self.0.is_live(now.unix_s())
    }

    #[inline(always)]
    fn gateway(&self, _: Option<&Overlay>) -> Option<u32> {
        self.0.gateway()
    }

    #[inline(always)]
    fn terminal(&self) -> Terminal {
        Terminal {
            user: self.0.user(),
            device: self.device(),
            realm: self.realm(),
            private: self.private(),
            has_key: self.0.has_key(),
            listener: None,
        }
    }
}

impl Known for Registered<'_> {
    #[inline(always)]
    fn device(&self) -> u8 {
        self.0.device()
    }

    #[inline(always)]
    fn realm(&self) -> u32 {
        self.0.realm()
    }

    #[inline(always)]
    fn private(&self) -> Option<Endpoint> {
        self.0.private()
    }

    #[inline(always)]
    fn nat(&self) -> Option<Endpoint> {
        self.0.nat()
    }

    #[inline(always)]
    fn imsi(&self) -> Option<Imsi> {
        self.0.imsi()
    }

    #[inline(always)]
    fn bearers(&self) -> u8 {
        self.0.bearers()
    }

    #[inline(always)]
    fn serving(&self) -> Option<Endpoint> {
        self.0.serving()
    }

    #[inline(always)]
    fn is_live(&self, now: Now) -> bool {
        self.0.is_live(now.unix_ms)
    }

    #[inline(always)]
    fn gateway(&self, overlay: Option<&Overlay>) -> Option<u32> {
        overlay.and_then(|overlay| self.0.gateway(overlay.tag()))
    }

    #[inline(always)]
    fn terminal(&self) -> Terminal {
        Terminal {
            user: self.0.user(),
            device: self.device(),
            realm: self.realm(),
            private: self.private(),
            has_key: self.1,
            listener: Some(self.0.listener()),
        }
    }
}
