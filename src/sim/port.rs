//! A port without a network: the world puts datagrams in and takes out what was sent.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use crate::id::Endpoint;
use crate::net::Port;
use crate::packet::{Burst, Class, Done, Tx};
use crate::plane::EXTRA;

/// A datagram that waits at a port, or was taken from one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Who sent it.
    pub from: Endpoint,
    /// Which listening address it was sent to.
    pub listener: u8,
}

/// A datagram that a shard wanted to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offered {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Where to.
    pub to: Endpoint,
    /// From which listening address.
    pub listener: u8,
    /// When it should leave.
    pub class: Class,
    /// It is a REJECT of this server.
    pub is_reject: bool,
    /// The port took it.
    pub is_sent: bool,
}

/// What a port can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortLimits {
    /// The most rows that it gives at once.
    pub burst_max: usize,
    /// The most datagrams that it takes in one send.
    pub room: usize,
    /// Longer datagrams are EMSGSIZE.
    pub mtu: usize,
    /// The most datagrams that wait for being received.
    pub inbox: usize,
    /// Sends are done when the port receives the next time, half of them then.
    pub lag: bool,
}

/// The simulator's port.
#[derive(Debug)]
pub struct SimPort {
    limits: PortLimits,
    inbox: VecDeque<Waiting>,
    taken: Vec<Waiting>,
    offered: Vec<Offered>,
    held: VecDeque<Tx>,
    dropped: u64,
    is_stopped: bool,
    is_closed: bool,
}

impl SimPort {
    /// A port with nothing waiting.
    pub fn new(limits: PortLimits) -> Self {
        Self {
            limits,
            inbox: VecDeque::new(),
            taken: Vec::new(),
            offered: Vec::new(),
            held: VecDeque::new(),
            dropped: 0,
            is_stopped: false,
            is_closed: false,
        }
    }

    /// A datagram arrives; false when no more can wait.
    pub fn arrive(&mut self, datagram: Waiting) -> bool {
        let fits = !self.is_stopped && self.inbox.len() < self.limits.inbox;
        if fits {
            self.inbox.push_back(datagram);
        } else {
            self.dropped += 1;
        }
        fits
    }

    /// How many datagrams wait.
    pub fn waiting(&self) -> usize {
        self.inbox.len()
    }

    /// What was received since this was asked last.
    pub fn take_received(&mut self) -> Vec<Waiting> {
        std::mem::take(&mut self.taken)
    }

    /// What the shard wanted to send since this was asked last, in its order.
    pub fn take_offered(&mut self) -> Vec<Offered> {
        std::mem::take(&mut self.offered)
    }

    /// Changes what the port can do.
    pub fn limits_mut(&mut self) -> &mut PortLimits {
        &mut self.limits
    }

    fn done(burst: &mut Burst, tx: Tx, errno: i32) {
        burst.done.push(Done { token: tx.token, bytes: tx.frame.len() as u32, errno });
        burst.pool.put(tx.frame);
    }
}

impl Port for SimPort {
    fn recv(&mut self, burst: &mut Burst, _: Duration) -> io::Result<()> {
        for _ in 0..self.held.len().div_ceil(2) {
            if let Some(tx) = self.held.pop_front() {
                Self::done(burst, tx, 0);
            }
        }
        while !self.is_closed && burst.rows.len() < self.limits.burst_max {
            let Some(next) = self.inbox.front() else { break };
            if !burst.push_copy(&next.bytes, next.from, next.listener) {
                break;
            }
            self.taken.extend(self.inbox.pop_front());
        }
        Ok(())
    }

    fn send(&mut self, burst: &mut Burst) -> io::Result<()> {
        let mut all = std::mem::take(&mut burst.tx);
        let mut room = self.limits.room;
        for tx in all.drain(..) {
            let bytes = tx.frame.bytes().to_vec();
            let errno = match () {
                () if bytes.len() > self.limits.mtu => libc::EMSGSIZE,
                () if room == 0 => libc::ENOBUFS,
                () => 0,
            };
            let Tx { to, listener, class, token, .. } = tx;
            let (is_reject, is_sent) = (token == EXTRA, errno == 0);
            self.offered.push(Offered { bytes, to, listener, class, is_reject, is_sent });
            room -= usize::from(is_sent);
            if is_sent && self.limits.lag {
                self.held.push_back(tx);
            } else {
                Self::done(burst, tx, errno);
            }
        }
        burst.tx = all;
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.held.len()
    }

    fn kernel_drops(&mut self) -> u64 {
        self.dropped
    }

    fn stop(&mut self, _: &mut Burst) -> io::Result<()> {
        self.is_stopped = true;
        Ok(())
    }

    fn close(&mut self, burst: &mut Burst) -> io::Result<()> {
        self.is_closed = true;
        while let Some(tx) = self.held.pop_front() {
            Self::done(burst, tx, 0);
        }
        Ok(())
    }
}
