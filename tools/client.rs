//! What `send`, `listen`, `group` and `resolve` share: a socket, a key, signing, answers, and the way to another
//! client.

pub(crate) mod introduction;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::str::FromStr;
use std::time::Duration;

use pushplane::clock::Clock;
use pushplane::id::{Endpoint, ParseError, PushId};
use pushplane::reason::Reason;
use pushplane::wire::prp::auth::{Auth, MacKey};
use pushplane::wire::prp::{self, HeadBuilder, Header, Kind, Message};

use crate::Stop;

/// A key given on the command line: `ID=32 hexadecimal digits`.
#[derive(Clone, Debug)]
pub(crate) struct GivenKey {
    id: u32,
    key: MacKey,
}

impl GivenKey {
    /// Its number.
    pub(crate) const fn id(&self) -> u32 {
        self.id
    }

    /// Puts its tag into a datagram whose head ends there with a whole Auth; false when it has none.
    pub(crate) fn sign(&self, datagram: &mut [u8], head_bytes: usize) -> bool {
        self.key.sign(datagram, head_bytes)
    }
}

impl FromStr for GivenKey {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError("expected a key as ID=VALUE, the value 32 hexadecimal digits".to_owned());
        let (id, value) = text.split_once('=').ok_or_else(wrong)?;
        let id = id.parse().map_err(|_| wrong())?;
        // A key is written as a Push ID is: 128 bits.
        let value: PushId = value.parse().map_err(|_| wrong())?;
        Ok(Self { id, key: MacKey::new(value.to_bytes()) })
    }
}

/// The datagram of a head and a payload, signed where there is a key.
pub(crate) fn datagram(
    head: &mut HeadBuilder,
    payload: &[u8],
    key: Option<&GivenKey>,
) -> Result<Vec<u8>, Stop> {
    let too_long = |_| Stop::Wrong("the options do not fit into 1020 bytes; leave some out".to_owned());
    if let Some(GivenKey { id, .. }) = key {
        head.auth(*id, Clock::start().now().unix_ms);
    }
    let head_bytes = head.finish().map_err(too_long)?.len();
    let mut datagram = head.datagram(payload).map_err(too_long)?;
    if let Some(GivenKey { key, .. }) = key
        && !key.sign(&mut datagram, head_bytes)
    {
        return Err(Stop::Wrong("the datagram cannot be signed".to_owned()));
    }
    Ok(datagram)
}

/// Whether a message is signed as we want it: with the key, or we have none.
pub(crate) fn is_believed(message: &Message, bytes: &[u8], key: Option<&GivenKey>) -> bool {
    let Some(GivenKey { id, key }) = key else { return true };
    Auth::of(&message.options, bytes).is_some_and(|auth| auth.key == *id && key.verify(bytes, &auth))
}

/// A socket that can reach the server, on this address if one is given.
pub(crate) fn socket(server: Endpoint, bind: Option<IpAddr>, port: u16) -> Result<UdpSocket, Stop> {
    let at = SocketAddr::new(bind.unwrap_or_else(|| any(server)), port);
    UdpSocket::bind(at).map_err(|error| {
        let remedy = match error.raw_os_error() {
            Some(libc::EMFILE) => "raise the limit of open files: ulimit -n",
            _ => "choose another --port or --bind",
        };
        Stop::Wrong(format!("{at} cannot be bound: {error}; {remedy}"))
    })
}

fn any(server: Endpoint) -> IpAddr {
    if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// This host's own address and port, as the server would see them were there no NAT between.
pub(crate) fn own_address(socket: &UdpSocket, server: Endpoint) -> Result<Endpoint, Stop> {
    let wrong = |error: io::Error| Stop::Wrong(format!("{server} cannot be reached: {error}"));
    let own = socket.local_addr().map_err(wrong)?;
    if !own.ip().is_unspecified() {
        return Ok(own.into());
    }
    // Connecting sends nothing; it asks the kernel which address it would send from.
    let probe = UdpSocket::bind((any(server), 0)).map_err(wrong)?;
    probe.connect(SocketAddr::from(server)).map_err(wrong)?;
    Ok(Endpoint::new(probe.local_addr().map_err(wrong)?.ip(), own.port()))
}

/// Whether an error of a receive only says that nothing came in time, or that nobody listens there.
pub(crate) fn is_silence(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted | ConnectionRefused)
}

/// What is waited for: answers to one message.
pub(crate) struct Asked<'a> {
    /// The server that was asked.
    pub(crate) server: Endpoint,
    /// Who asked: the source of a PUSH or RESOLVE, the destination of what is asked for oneself.
    pub(crate) by: PushId,
    pub(crate) message: u64,
    /// What the answer must be signed with.
    pub(crate) key: Option<&'a GivenKey>,
}

impl Asked<'_> {
    /// Sends the message to the server. From now on only the server is heard, and that nobody listens there is told.
    pub(crate) fn send(&self, socket: &UdpSocket, datagram: &[u8]) -> Result<(), Stop> {
        let server = SocketAddr::from(self.server);
        socket
            .connect(server)
            .and_then(|()| socket.send(datagram))
            .map(drop)
            .map_err(|error| Stop::Wrong(format!("{server} cannot be sent to: {error}")))
    }

    /// The next answer until then; none: there was none.
    pub(crate) fn answer(
        &self,
        socket: &UdpSocket,
        clock: &Clock,
        until_ns: u64,
    ) -> Result<Option<(Message, Vec<u8>)>, Stop> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let left = until_ns.saturating_sub(clock.now().mono_ns);
            if left == 0 {
                return Ok(None);
            }
            let wrong = |error| Stop::Wrong(format!("the socket cannot be read: {error}"));
            socket.set_read_timeout(Some(Duration::from_nanos(left.max(1_000_000)))).map_err(wrong)?;
            let bytes = match socket.recv(&mut buffer) {
                Ok(length) => &buffer[..length],
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    let at = self.server;
                    return Err(Stop::Failed(format!("nobody listens at {at}: start the server there")));
                }
                Err(error) if is_silence(&error) => continue,
                Err(error) => return Err(wrong(error)),
            };
            let Ok(message) = prp::parse(bytes) else { continue };
            let Header { source, destination, message: id, .. } = message.header;
            // RESOLVED has in its destination whom it found.
            let about = destination == self.by || source == self.by || message.kind == Kind::Resolved;
            let is_ours = id == self.message && about;
            if is_ours && message.kind.is_answer() && is_believed(&message, bytes, self.key) {
                return Ok(Some((message, bytes.to_vec())));
            }
        }
    }
}

/// A REJECT for people.
pub(crate) fn told(code: u16, text: &str) -> String {
    match Reason::from_code(code) {
        Some(reason) => format!("{reason}: {}", reason.text()),
        None => format!("reason {code}: {}", crate::common::harmless(text)),
    }
}
