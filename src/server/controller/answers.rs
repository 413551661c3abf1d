//! Answers leave from a thread of their own: sending costs more than deciding, and the disk need not wait for it.
//!
//! A batch's answers are handed over when they may leave; what became of each comes back, to be counted where
//! everything else of the controller is.

use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use socket2::{SockAddr, Socket};

use crate::control::Reply;
use crate::net;

/// Batches that wait at most: then the controller does.
const WAITING_MAX: usize = 4;

/// Datagrams, and whether each has left.
type Sent = Vec<(Reply, bool)>;

/// Who sends.
pub(super) struct Answers {
    /// None once it is to end.
    to: Option<Sender<Vec<Reply>>>,
    sent: Receiver<Sent>,
    /// Batches of which it is not known yet what became.
    under_way: usize,
    thread: Option<JoinHandle<()>>,
}

impl Answers {
    /// From these sockets, by listener; gives way to shards on these CPUs.
    pub(super) fn start(sockets: Vec<Socket>, shard_cpus: Vec<usize>) -> std::io::Result<Self> {
        let (to, taken) = bounded::<Vec<Reply>>(WAITING_MAX);
        let (tell, sent) = unbounded();
        let run = move || {
            net::give_way(&shard_cpus);
            for batch in taken {
                let done = batch.into_iter().map(|reply| {
                    let has_left = send(&sockets, &reply);
                    (reply, has_left)
                });
                let _ = tell.send(Sent::from_iter(done));
            }
        };
        let thread = std::thread::Builder::new().name("answers".to_owned()).spawn(run)?;
        Ok(Self { to: Some(to), sent, under_way: 0, thread: Some(thread) })
    }

    /// Hands over what may leave now.
    pub(super) fn send(&mut self, batch: Vec<Reply>) {
        if let Some(to) = &self.to
            && !batch.is_empty()
        {
            self.under_way += usize::from(to.send(batch).is_ok());
        }
    }

    /// What was sent since this was last asked.
    pub(super) fn sent(&mut self) -> impl Iterator<Item = (Reply, bool)> + '_ {
        let Self { sent, under_way, .. } = self;
        sent.try_iter().inspect(|_| *under_way -= 1).flatten()
    }

    /// Whether batches were handed over of which it is not known yet what became.
    pub(super) fn are_under_way(&self) -> bool {
        self.under_way > 0
    }

    /// Waits until everything has been sent.
    pub(super) fn finish(&mut self) {
        self.to = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn send(sockets: &[Socket], reply: &Reply) -> bool {
    let to = SockAddr::from(std::net::SocketAddr::from(reply.to));
    let socket = sockets.get(usize::from(reply.listener));
    socket.is_some_and(|socket| socket.send_to(&reply.datagram, &to).is_ok())
}
