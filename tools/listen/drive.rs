//! Where terminals meet their sockets and the clock: one task a terminal, all on one thread.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::Duration;

use pushplane::clock::{Clock, Now};
use pushplane::id::Endpoint;
use tokio::net::UdpSocket;
use tokio::sync::{Semaphore, watch};

use super::registration::News;
use super::terminal::{Event, Terminal};
use crate::Stop;
use crate::client;

/// How long the answer to a RELEASE is waited for before it is asked for again, and how often it is asked for.
const RELEASE: Duration = Duration::from_millis(500);
const RELEASES: usize = 3;

/// Datagrams that one terminal takes before others have their turn.
const TURN: usize = 64;

/// A terminal without anything to do looks again after so long.
const IDLE_NS: u64 = 3_600_000_000_000;

/// Who hears what happens to the terminals.
pub(super) trait Audience {
    /// Something happened. `Break`: it was enough, and all end.
    fn hear(&mut self, event: Event<'_>) -> ControlFlow<()>;
}

/// What the terminals share.
pub(super) struct Stage<A> {
    pub(super) audience: RefCell<A>,
    server: Endpoint,
    clock: Clock,
    /// Registrations, and releases, that may wait for their answer at once.
    pace: Semaphore,
    buffer: RefCell<Vec<u8>>,
    end: watch::Sender<bool>,
}

impl<A: Audience> Stage<A> {
    pub(super) fn new(audience: A, server: Endpoint, outstanding: usize) -> Rc<Self> {
        Rc::new(Self {
            audience: RefCell::new(audience),
            server,
            clock: Clock::start(),
            pace: Semaphore::new(outstanding),
            buffer: RefCell::new(vec![0; 1 << 16]),
            end: watch::Sender::new(false),
        })
    }

    /// Everybody releases what they hold, and goes.
    pub(super) fn end(&self) {
        self.end.send_replace(true);
    }

    /// Waits until the audience had enough.
    pub(super) async fn is_enough(&self) {
        // The sender is ours: it does not go while we wait.
        let _ = self.end.subscribe().wait_for(|end| *end).await;
    }

    fn is_over(&self) -> bool {
        *self.end.borrow()
    }

    fn now(&self) -> Now {
        self.clock.now()
    }

    fn hear(&self, event: Event<'_>) {
        if self.audience.borrow_mut().hear(event).is_break() {
            self.end();
        }
    }

    /// Keeps a terminal registered and takes what comes for it, until the end; then releases it.
    pub(super) async fn drive(self: Rc<Self>, mut terminal: Terminal, socket: UdpSocket) -> Result<(), Stop> {
        let mut end = self.end.subscribe();
        let mut permit = tokio::select! {
            biased;
            _ = end.wait_for(|end| *end) => return Ok(()),
            permit = self.pace.acquire() => permit.ok(),
        };
        while !self.is_over() {
            let now = self.now();
            if let Some(event) = terminal.poll(now)? {
                self.hear(event);
            }
            self.send(&mut terminal, &socket).await;
            if terminal.is_settled() {
                permit = None;
            }
            let wait_ns = terminal.poll_timeout().map_or(IDLE_NS, |at| at.saturating_sub(now.mono_ns));
            tokio::select! {
                biased;
                _ = end.wait_for(|end| *end) => break,
                ready = socket.readable() => {
                    ready.map_err(unusable)?;
                    self.receive(&mut terminal, &socket)?;
                }
                () = tokio::time::sleep(Duration::from_nanos(wait_ns)) => {}
            }
        }
        self.send(&mut terminal, &socket).await;
        drop(permit);
        self.release(&mut terminal, &socket).await
    }

    async fn send(&self, terminal: &mut Terminal, socket: &UdpSocket) {
        for (to, datagram) in terminal.transmits() {
            let sent = socket.send_to(&datagram, SocketAddr::from(to)).await;
            // That an address of a peer cannot be reached from here is no news: one of them may.
            if let Some(error) = sent.err().filter(|_| to == self.server) {
                self.hear(Event::Dropped(format!("{to} cannot be sent to: {error}")));
            }
        }
    }

    /// Sends what the socket takes at once: an answer need not wait until everybody heard what it answers.
    fn send_now(terminal: &mut Terminal, socket: &UdpSocket) {
        while let Some((to, datagram)) = terminal.first_transmit() {
            match socket.try_send_to(datagram, SocketAddr::from(to)) {
                Ok(_) => terminal.was_sent(),
                Err(_) => break,
            }
        }
    }

    /// Takes what lies at the socket.
    fn receive(&self, terminal: &mut Terminal, socket: &UdpSocket) -> Result<(), Stop> {
        let mut buffer = self.buffer.borrow_mut();
        for _ in 0..TURN {
            if self.is_over() {
                break;
            }
            match socket.try_recv_from(&mut buffer) {
                Ok((length, from)) => {
                    let event = terminal.take(from.into(), &buffer[..length], self.now())?;
                    Self::send_now(terminal, socket);
                    event.into_iter().for_each(|event| self.hear(event));
                }
                Err(error) if client::is_silence(&error) => break,
                Err(error) => return Err(unusable(error)),
            }
        }
        Ok(())
    }

    /// Gives the binding back, so that nothing is sent here any more.
    async fn release(&self, terminal: &mut Terminal, socket: &UdpSocket) -> Result<(), Stop> {
        let Ok(_permit) = self.pace.acquire().await else { return Ok(()) };
        let mut buffer = vec![0; 2048];
        for _ in 0..RELEASES {
            if !terminal.release()? {
                return Ok(());
            }
            self.send(terminal, socket).await;
            let answered = async {
                loop {
                    let (length, from) = socket.recv_from(&mut buffer).await.map_err(unusable)?;
                    let event = terminal.take(from.into(), &buffer[..length], self.now())?;
                    if let Some(Event::Registration(news @ (News::Released | News::Rejected { .. }))) = event
                    {
                        return Ok::<_, Stop>(news);
                    }
                    // Who has ended takes no message any more, and so gives no receipt.
                    terminal.transmits();
                }
            };
            if let Ok(news) = tokio::time::timeout(RELEASE, answered).await {
                self.hear(Event::Registration(news?));
                return Ok(());
            }
        }
        self.hear(Event::Dropped(
            "nobody answered the release; the binding ends with its validity".to_owned(),
        ));
        Ok(())
    }
}

fn unusable(error: std::io::Error) -> Stop {
    Stop::Wrong(format!("the socket cannot be used: {error}"))
}
