//! The listeners of RADIUS accounting: a thread for each address of `radius.listen`, which finds out who sent a packet
//! and whether it is genuine, and hands it to the controller.
//!
//! ```text
//!  socket ─► listener: client, lengths, MD5 ─► inbox ─► controller: decides, makes durable, shows ─► the same socket
//! ```
//!
//! An inbox is bounded and the controller takes from it after the shards' rings, a bounded part of a batch: however
//! much a GGSN sends, terminals register. A packet for which there is no room is dropped and counted; RADIUS repeats it.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use socket2::{Domain, Protocol, Socket, Type};

use super::{IDLE, StartError, State};
use crate::config::Radius;
use crate::id::Endpoint;
use crate::metrics::{ReportBoard, ReportCounters};
use crate::net;
use crate::reason::Unanswered;
use crate::wire::radius::{PACKET_BYTES_MAX, Packet, code};

/// Packets that a listener still takes of what the kernel holds when it is told to stop.
const DRAIN_MAX: usize = 4096;

/// A genuine Accounting-Request on its way to the controller.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) bytes: Box<[u8]>,
    pub(super) from: Endpoint,
    /// Which of [`Radius::clients`] sent it.
    pub(super) client: usize,
}

/// What a listener hands over, and counts.
#[derive(Debug)]
pub(super) struct Inbox {
    queue: ArrayQueue<Parcel>,
    board: ReportBoard,
}

impl Inbox {
    /// The controller's: the next packet.
    pub(super) fn take(&self) -> Option<Parcel> {
        self.queue.pop()
    }
}

/// The way from the listeners to the controller.
#[derive(Debug, Default)]
pub(super) struct Inboxes {
    /// One a listener; none: nobody is listened to.
    pub(super) each: Vec<Inbox>,
    /// The controller's, who counts what the listeners handed to it.
    pub(super) controller: ReportBoard,
}

impl Inboxes {
    /// For so many listeners, and so many packets each.
    pub(super) fn new(listeners: usize, packets: usize) -> Self {
        let inbox = |_| Inbox { queue: ArrayQueue::new(packets), board: ReportBoard::default() };
        Self { each: (0..listeners).map(inbox).collect(), controller: ReportBoard::default() }
    }

    /// All counters, each board's of one moment. The controller's first: what it took the listeners have shown before.
    pub(super) fn counters(&self) -> ReportCounters {
        let mut sum = self.controller.read();
        for inbox in &self.each {
            sum.add(&inbox.board.read());
        }
        sum
    }
}

/// A listener, before it has a thread.
pub(super) struct Listener {
    socket: UdpSocket,
    /// Which address of `radius.listen` it is.
    number: usize,
    config: Arc<Radius>,
    state: Arc<State>,
    counters: ReportCounters,
}

/// Sockets for the listeners, in the order of `radius.listen`.
pub(super) fn bind(config: Option<&Radius>, receive_buffer: usize) -> Result<Vec<UdpSocket>, StartError> {
    let bind = |at: &Endpoint| -> io::Result<UdpSocket> {
        let at = SocketAddr::from(*at);
        let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
        if at.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_recv_buffer_size(receive_buffer)?;
        socket.set_read_timeout(Some(IDLE))?;
        socket.bind(&at.into())?;
        Ok(socket.into())
    };
    let listen = config.map_or(&[][..], |config| &config.listen);
    let bound = listen.iter().map(|at| {
        bind(at).map_err(|error| {
            StartError(format!("the RADIUS address {at} cannot be used: {error}; change radius.listen"))
        })
    });
    bound.collect()
}

impl Listener {
    pub(super) fn new(socket: UdpSocket, number: usize, config: Arc<Radius>, state: Arc<State>) -> Self {
        Self { socket, number, config, state, counters: ReportCounters::default() }
    }

    /// The thread's whole life.
    pub(super) fn run(mut self) -> io::Result<()> {
        net::give_way(&self.state.shard_cpus);
        // What lies behind the longest packet is padding.
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        while !self.state.stop.load(Ordering::Relaxed) {
            self.receive(&mut buffer);
        }
        self.socket.set_nonblocking(true)?;
        for _ in 0..DRAIN_MAX {
            match self.socket.recv_from(&mut buffer) {
                Ok((length, from)) => self.take(&buffer[..length], from.into()),
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8]) {
        match self.socket.recv_from(buffer) {
            Ok((length, from)) => self.take(&buffer[..length], from.into()),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                _ => {
                    let at = self.config.listen[self.number];
                    self.state.trouble(format!("the RADIUS address {at} does not receive: {error}"));
                    std::thread::sleep(Duration::from_secs(1));
                }
            },
        }
    }

    fn take(&mut self, packet: &[u8], from: Endpoint) {
        self.counters.rx += 1;
        let inbox = &self.state.radius.each[self.number];
        match self.judge(packet, from).and_then(|parcel| match inbox.queue.is_full() {
            true => Err(Unanswered::Overloaded),
            false => Ok(parcel),
        }) {
            Err(why) => {
                self.counters.drop(why);
                inbox.board.show(&self.counters);
            }
            Ok(parcel) => {
                // Shown before it can be taken: nobody ever sees more taken than was handed over. Nobody else fills
                // the queue, so there still is room.
                self.counters.handed += 1;
                inbox.board.show(&self.counters);
                let _ = inbox.queue.push(parcel);
                self.state.shared.wake();
            }
        }
    }

    /// Who sent a packet, if it is a genuine Accounting-Request.
    fn judge(&self, datagram: &[u8], from: Endpoint) -> Result<Parcel, Unanswered> {
        let client = self.config.client(from.ip()).ok_or(Unanswered::UnknownClient)?;
        let packet = Packet::parse(datagram).map_err(|_| Unanswered::Malformed)?;
        if packet.code() != code::ACCOUNTING_REQUEST {
            return Err(Unanswered::NotAccounting);
        }
        if !packet.is_genuine(self.config.clients[client].secret.octets()) {
            return Err(Unanswered::WrongAuthenticator);
        }
        Ok(Parcel { bytes: datagram.into(), from, client })
    }
}
