//! The packet core's side of the lab: gateways that open tunnels, terminals that receive and answer.

use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::Duration;

use etherparse::{SlicedPacket, TransportSlice};
use pushplane::id::{Endpoint, PushId};
use pushplane::table::Rib;
use pushplane::table::rib::{Gateway, Tunnel, User};
use pushplane::wire::prp::{self, HeadBuilder, Kind, Message, flag};
use pushplane::wire::{gtp, tunnel};

use crate::Stop;

/// What somebody in the packet core saw.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A gateway took a datagram from this server.
    Gateway { name: String, tunnel: &'static str, from: Endpoint },
    /// A terminal took a message.
    Terminal {
        user: PushId,
        device: u8,
        at: Endpoint,
        from: Endpoint,
        hops: u8,
        roamed: bool,
        payload: String,
    },
    /// Somebody got what it could not use.
    Trouble(String),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway { name, tunnel, from } => {
                write!(f, "{name} ({tunnel}) took a datagram from {from}")
            }
            Self::Terminal { user, device, at, payload, .. } => {
                let payload = crate::common::harmless(payload);
                write!(f, "{user} device {device} at {at} got \"{payload}\"")
            }
            Self::Trouble(what) => f.write_str(what),
        }
    }
}

/// Everybody; dropping it ends them.
pub(super) struct Cast {
    members: Vec<Member>,
}

/// Somebody with a socket.
struct Member {
    at: Endpoint,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How often somebody looks whether the lab has ended.
const LOOK: Duration = Duration::from_millis(50);

impl Cast {
    /// Starts every gateway, and every terminal that has an address in the tables of the homes or of the
    /// visited server.
    pub(super) fn start(home: &Rib, visited: &Rib, tell: &Sender<Event>) -> Result<Self, Stop> {
        let mut cast = Self { members: Vec::new() };
        for gateway in home.gateways.iter().filter(|gateway| gateway.tunnel != Tunnel::None) {
            let gateway = gateway.clone();
            let tell = tell.clone();
            cast.spawn(gateway.address, move |socket, bytes, from| {
                take_tunnel(&gateway, socket, bytes, from, &tell);
            })?;
        }
        let visitors = visited.users.iter().filter(|user| !home.users.contains(user));
        for user in home.users.iter().chain(visitors).copied() {
            for at in [user.private, user.nat].into_iter().flatten() {
                let server = server_of(home, visited, &user);
                let tell = tell.clone();
                cast.spawn(at, move |socket, bytes, from| {
                    take_push(&user, at, server, socket, bytes, from, &tell)
                })?;
            }
        }
        Ok(cast)
    }

    fn spawn(
        &mut self,
        at: Endpoint,
        mut take: impl FnMut(&UdpSocket, &mut [u8], Endpoint) + Send + 'static,
    ) -> Result<(), Stop> {
        let wrong = |error| {
            Stop::Wrong(format!("the lab needs {at}, which cannot be bound: {error}; end what uses it"))
        };
        let socket = UdpSocket::bind(SocketAddr::from(at)).map_err(wrong)?;
        socket.set_read_timeout(Some(LOOK)).map_err(wrong)?;
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while !ended.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    take(&socket, &mut buffer[..length], from.into());
                }
            }
        });
        self.members.push(Member { at, end, thread: Some(thread) });
        Ok(())
    }

    /// Ends whoever has this address, so that somebody else can have it.
    pub(super) fn leave(&mut self, at: Endpoint) {
        self.members.retain(|member| member.at != at);
    }
}

/// Where a terminal sends its receipts: to the server that it is attached to.
fn server_of(home: &Rib, visited: &Rib, user: &User) -> Endpoint {
    let roams = !home.users.contains(user);
    let rib = if roams { visited } else { home };
    let serving =
        home.users.iter().find(|other| other.push_id == user.push_id).and_then(|other| other.serving);
    let owner =
        rib.servers.iter().find(|server| server.prefixes.iter().any(|prefix| prefix.contains(user.push_id)));
    serving.filter(|_| roams).or_else(|| owner.map(|server| server.address)).unwrap_or(Endpoint::NONE)
}

/// Opens a tunnel and passes what is inside on to the terminal, as a GGSN would.
fn take_tunnel(gateway: &Gateway, socket: &UdpSocket, bytes: &[u8], from: Endpoint, tell: &Sender<Event>) {
    match open(gateway, bytes) {
        Some((to, payload)) => {
            let name = gateway.name.clone();
            let _ = tell.send(Event::Gateway { name, tunnel: gateway.tunnel.name(), from });
            let _ = socket.send_to(payload, SocketAddr::from(to));
        }
        None => {
            let what = format!("{} got {} bytes that are not of its tunnel", gateway.name, bytes.len());
            let _ = tell.send(Event::Trouble(what));
        }
    }
}

fn open<'a>(gateway: &Gateway, bytes: &'a [u8]) -> Option<(Endpoint, &'a [u8])> {
    let packet = match gateway.tunnel {
        Tunnel::Plain => {
            let message = prp::parse(bytes).ok()?;
            return Some((message.options.private_address(bytes)?, bytes));
        }
        Tunnel::Vxlan { vni, .. } => {
            let (header, frame) = bytes.split_first_chunk::<{ tunnel::VXLAN_BYTES }>()?;
            if header[..] != tunnel::vxlan_ethernet(vni, Default::default(), true)[..tunnel::VXLAN_BYTES] {
                return None;
            }
            SlicedPacket::from_ethernet(frame).ok()?
        }
        Tunnel::Gtpu { teid } => {
            let message = gtp::parse(bytes).ok().filter(|message| message.teid == teid)?;
            SlicedPacket::from_ip(message.user_packet()?).ok()?
        }
        Tunnel::None => return None,
    };
    let to = match packet.net? {
        etherparse::NetSlice::Ipv4(ip) => ip.header().destination_addr().into(),
        etherparse::NetSlice::Ipv6(ip) => ip.header().destination_addr().into(),
        etherparse::NetSlice::Arp(_) => return None,
    };
    let TransportSlice::Udp(udp) = packet.transport? else { return None };
    Some((Endpoint::new(to, udp.destination_port()), udp.payload()))
}

/// Takes a message as a terminal does, and answers it when a receipt is wanted.
fn take_push(
    user: &User,
    at: Endpoint,
    server: Endpoint,
    socket: &UdpSocket,
    bytes: &[u8],
    from: Endpoint,
    tell: &Sender<Event>,
) {
    let message = match prp::parse(bytes) {
        Ok(message) if message.kind == Kind::Push && message.header.destination == user.push_id => message,
        Ok(Message { header, .. }) => {
            let what =
                format!("{at} got a message for {}: it belongs to {}", header.destination, user.push_id);
            let _ = tell.send(Event::Trouble(what));
            return;
        }
        Err(reason) => {
            let _ = tell.send(Event::Trouble(format!("{at} got a datagram that is {reason}")));
            return;
        }
    };
    let header = &message.header;
    let _ = tell.send(Event::Terminal {
        user: user.push_id,
        device: user.device,
        at,
        from,
        hops: header.hop_limit,
        roamed: message.has(flag::ROAMED),
        payload: String::from_utf8_lossy(message.payload(bytes)).into_owned(),
    });
    if message.has(flag::RECEIPT)
        && let Ok(receipt) = HeadBuilder::new(&header.answer(Kind::Receipt)).datagram(b"")
    {
        let _ = socket.send_to(&receipt, SocketAddr::from(server));
    }
}
