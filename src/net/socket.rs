//! Sockets: one group of them for each listening address, one member for each shard.
//!
//! Cost: a socket a shard and address, made once at the start; the kernel holds for each up to the
//! receive buffer and the send buffer, in its own accounting of about 768 bytes for a short datagram.
//! The kernel steers a datagram by three instructions of classic BPF.
//!
//! - **One owner.** The first socket of a group is bound without `SO_REUSEPORT`, so it fails where
//!   anybody holds the port, another server's group too: that one would otherwise share the port
//!   silently and lose half of the datagrams. Only then is the group opened to its other members.
//! - **In order, as a whole.** A member's number in the group is the order of binding, and is what
//!   the filter returns. A group whose size changes moves half of all flows (facts of the kernel, not
//!   of this program), so all members are bound before the first one is used.
//! - **Never `SO_REUSEADDR`**: on UDP it lets the newest socket take everything.
//! - **Specific addresses only.** A socket bound to every address answers from whatever address the
//!   kernel's route prefers, and its peer does not recognise the answer: such an address is refused.
//! - **Path MTU** is the kernel's default (`IP_PMTUDISC_WANT`): it learns the path's MTU, sets DF on
//!   what fits, and cuts into fragments here what it knows not to fit.
//! - **ICMP errors** are not reported: an unconnected UDP socket without `IP_RECVERR` hears of none,
//!   so an unreachable peer never disturbs the datagrams of others.
//! - **Link-local IPv6 peers** cannot be told apart by interface ([`Endpoint`] holds no zone): such a
//!   listening address is refused.

#![expect(unsafe_code, reason = "socket options that no safe crate offers")]

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::id::Endpoint;

/// How often a busy port is tried again, and how long apart: 100 ms in all. A killed process whose
/// ring still had a receive armed keeps its port for up to 23 ms (measured).
const TRIES: u32 = 21;
const BETWEEN_TRIES: Duration = Duration::from_millis(5);

/// Where the destination's last four bytes lie in a datagram (PROTOCOL.md, the fixed header).
const STEER_OFFSET: u32 = 20;

/// A bound UDP socket.
#[derive(Debug)]
pub struct Listener {
    /// The socket, non-blocking.
    pub socket: Socket,
    /// Its address, with the port that the kernel chose if none was asked for.
    pub addr: Endpoint,
}

/// What [`bind_shards`] made.
#[derive(Debug)]
pub struct Bound {
    /// For each shard its listeners, in the order of the addresses asked for.
    pub shards: Vec<Vec<Listener>>,
    /// Whether the kernel steers by the destination's last four bytes. Without it, or with one
    /// shard only, any shard receives anything.
    pub steered: bool,
    /// What is less than was asked for, one sentence each, with its remedy.
    pub warnings: Vec<String>,
}

/// Why a listening address cannot be had: one sentence, with what to do.
#[derive(Debug)]
pub enum BindError {
    /// No address to listen on was given.
    NoAddress,
    /// More than 256 addresses, or no shard or more than 65 535.
    Count {
        /// Addresses asked for.
        addresses: usize,
        /// Shards asked for.
        shards: usize,
    },
    /// The address is given twice.
    Twice(Endpoint),
    /// The address stands for every address of the host.
    Wildcard(Endpoint),
    /// A multicast, broadcast or link-local address.
    NotUnicast(Endpoint),
    /// Somebody holds the port.
    InUse(Endpoint),
    /// The address is none of this host's.
    NotHere(Endpoint),
    /// The kernel wants a privilege for it.
    Denied(Endpoint),
    /// The host speaks no IPv6, or no IPv4.
    NoFamily(Endpoint),
    /// Anything else.
    Other {
        /// The address.
        addr: Endpoint,
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddress => f.write_str("no address to listen on: name at least one"),
            Self::Count { addresses, shards } => write!(
                f,
                "{addresses} addresses for {shards} shards: expected 1 to 256 addresses and 1 to 65535 shards"
            ),
            Self::Twice(addr) => write!(f, "{addr} is listed twice: remove one"),
            Self::Wildcard(addr) => write!(
                f,
                "{addr} stands for every address of this host, and answers would leave from another one than \
                 was asked: name each address to listen on"
            ),
            Self::NotUnicast(addr) => write!(
                f,
                "{addr} is a multicast, broadcast or link-local address: listen on a unicast address that is \
                 routed"
            ),
            Self::InUse(addr) => {
                write!(
                    f,
                    "{addr} is in use by another socket: stop its owner (ss -ulpn shows it) or choose another port"
                )?;
                match local_port_range() {
                    Some((low, high)) if (low..=high).contains(&addr.port()) => write!(
                        f,
                        "; as it lies within {low} to {high}, where outgoing sockets get their ports, reserve it by \
                         net.ipv4.ip_local_reserved_ports"
                    ),
                    _ => Ok(()),
                }
            }
            Self::NotHere(addr) => write!(
                f,
                "{} is not an address of this host: choose one that \"ip address\" shows, or add it",
                addr.ip()
            ),
            Self::Denied(addr) => write!(
                f,
                "permission denied for {addr}: ports below net.ipv4.ip_unprivileged_port_start (1024 as a rule) need \
                 CAP_NET_BIND_SERVICE; choose a higher port or grant it"
            ),
            Self::NoFamily(addr) => write!(
                f,
                "{addr} cannot be listened on, this host has no {}: enable it or remove the address",
                if addr.is_ipv4() { "IPv4" } else { "IPv6" }
            ),
            Self::Other { addr, doing, error } => write!(f, "{addr}: {doing} failed: {error}"),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Other { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// Binds each address of `listen` once for each of `shards`, as one group that the kernel spreads
/// datagrams over. A port of 0 is chosen by the kernel, once for each address. Each socket gets
/// `buffer` bytes for receiving and as many for sending.
///
/// Waits up to 100 ms for a port that is in use to become free.
///
/// # Errors
/// The first address that cannot be had. No socket is left then.
pub fn bind_shards(listen: &[Endpoint], shards: usize, buffer: usize) -> Result<Bound, BindError> {
    if listen.is_empty() {
        return Err(BindError::NoAddress);
    }
    if listen.len() > 256 || !(1..=65_535).contains(&shards) {
        return Err(BindError::Count { addresses: listen.len(), shards });
    }
    for (index, addr) in listen.iter().enumerate() {
        refuse(*addr)?;
        if addr.port() != 0 && listen[..index].contains(addr) {
            return Err(BindError::Twice(*addr));
        }
    }
    let mut bound = Bound {
        shards: (0..shards).map(|_| Vec::new()).collect(),
        steered: shards > 1,
        warnings: Vec::new(),
    };
    for addr in listen {
        let first = bind_first(*addr, buffer)?;
        let addr = first.addr;
        warn_of_buffers(&first, buffer, &mut bound.warnings);
        if shards > 1 {
            first.socket.set_reuse_port(true).map_err(|error| other(addr, "opening the group", error))?;
        }
        bound.shards[0].push(first);
        for shard in &mut bound.shards[1..] {
            let socket = open(addr, buffer)?;
            socket.set_reuse_port(true).map_err(|error| other(addr, "opening the group", error))?;
            socket.bind(&SockAddr::from(SocketAddr::from(addr))).map_err(|error| word(addr, error))?;
            shard.push(Listener { socket, addr });
        }
        if shards > 1
            && let Some(listener) = bound.shards[0].last()
            && let Err(error) = attach_steering(&listener.socket, shards as u32)
        {
            bound.steered = false;
            bound.warnings.push(format!(
                "{addr}: datagrams are not steered to shards by user, the kernel refuses the filter ({error}): each \
                 shard serves every user, with colder caches"
            ));
        }
    }
    Ok(bound)
}

fn refuse(addr: Endpoint) -> Result<(), BindError> {
    let ip = addr.ip();
    if ip.is_unspecified() {
        return Err(BindError::Wildcard(addr));
    }
    let refused = ip.is_multicast()
        || match ip {
            IpAddr::V4(v4) => v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
    if refused { Err(BindError::NotUnicast(addr)) } else { Ok(()) }
}

/// The first socket of a group: bound exclusively, tried again for a while.
fn bind_first(addr: Endpoint, buffer: usize) -> Result<Listener, BindError> {
    let socket = open(addr, buffer)?;
    let name = SockAddr::from(SocketAddr::from(addr));
    let mut tries = 1;
    while let Err(error) = socket.bind(&name) {
        if error.raw_os_error() != Some(libc::EADDRINUSE) || tries == TRIES {
            return Err(word(addr, error));
        }
        tries += 1;
        std::thread::sleep(BETWEEN_TRIES);
    }
    let local = socket.local_addr().map_err(|error| other(addr, "reading the address", error))?;
    let addr = local.as_socket().map_or(addr, Endpoint::from);
    Ok(Listener { socket, addr })
}

fn open(addr: Endpoint, buffer: usize) -> Result<Socket, BindError> {
    let domain = if addr.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).map_err(|error| {
        match error.raw_os_error() {
            Some(libc::EAFNOSUPPORT) => BindError::NoFamily(addr),
            _ => other(addr, "opening a socket", error),
        }
    })?;
    socket.set_nonblocking(true).map_err(|error| other(addr, "setting non-blocking", error))?;
    if !addr.is_ipv4() {
        socket.set_only_v6(true).map_err(|error| other(addr, "setting IPV6_V6ONLY", error))?;
    }
    // Refused or silently less: either way what there is is read back.
    let _ = socket.set_recv_buffer_size(buffer);
    let _ = socket.set_send_buffer_size(buffer);
    Ok(socket)
}

fn warn_of_buffers(listener: &Listener, asked: usize, warnings: &mut Vec<String>) {
    let Listener { socket, addr } = listener;
    for (got, direction, limit) in [
        (socket.recv_buffer_size(), "receiving", "net.core.rmem_max"),
        (socket.send_buffer_size(), "sending", "net.core.wmem_max"),
    ] {
        // The kernel books twice of what is asked, for its own headers, and shows that.
        match got.map(|bytes| bytes / 2) {
            Ok(got) if got < asked => warnings.push(format!(
                "{addr}: {got} bytes for {direction} instead of {asked}: raise {limit} to {asked} or ask for less"
            )),
            Ok(_) => {}
            Err(error) => {
                warnings.push(format!("{addr}: the buffer for {direction} cannot be read back: {error}"))
            }
        }
    }
}

fn word(addr: Endpoint, error: io::Error) -> BindError {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => BindError::InUse(addr),
        Some(libc::EADDRNOTAVAIL) => BindError::NotHere(addr),
        Some(libc::EACCES | libc::EPERM) => BindError::Denied(addr),
        _ => other(addr, "binding", error),
    }
}

fn other(addr: Endpoint, doing: &'static str, error: io::Error) -> BindError {
    BindError::Other { addr, doing, error }
}

/// Where outgoing sockets get their ports.
fn local_port_range() -> Option<(u16, u16)> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut numbers = text.split_ascii_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Steers by the destination's last four bytes modulo the number of shards. A datagram too short to
/// hold them goes to the first shard.
fn attach_steering(socket: &Socket, shards: u32) -> io::Result<()> {
    let instruction = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut program = [
        // Offset 0 is the first byte of the UDP payload.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, STEER_OFFSET),
        instruction(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, shards),
        instruction(libc::BPF_RET | libc::BPF_A, 0),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the option's value is a `sock_fprog` of the length given, whose filter is an array of
    // `len` instructions; both live until the call returns, and the kernel copies them.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Counts what the kernel dropped on one socket because its buffer was full, or because a checksum
/// was wrong. The kernel's number has 32 bits and wraps; this one does not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Drops {
    last: u32,
    total: u64,
}

impl Drops {
    /// So far. Costs one system call.
    pub(super) fn read(&mut self, socket: &Socket) -> u64 {
        let mut info = [0u32; libc::SK_MEMINFO_DROPS as usize + 1];
        let mut bytes = size_of_val(&info) as libc::socklen_t;
        // SAFETY: the kernel writes at most `bytes` bytes to `info`, which is that long; any bytes are
        // valid numbers.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                info.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        if result == 0 && bytes as usize == size_of_val(&info) {
            let now = info[libc::SK_MEMINFO_DROPS as usize];
            self.total += u64::from(now.wrapping_sub(self.last));
            self.last = now;
        }
        self.total
    }
}

/// Makes the kernel give datagrams of one sender that came together as one (`UDP_GRO`, Linux 5.0). False
/// when it does not know how, for one of them.
pub(super) fn coalesce(listeners: &[Listener]) -> bool {
    listeners.iter().all(|listener| set_udp(&listener.socket, libc::UDP_GRO, 1))
}

/// Whether the kernel takes datagrams of one size as one (`UDP_SEGMENT`, Linux 4.18), on all of these.
pub(super) fn takes_segments(listeners: &[Listener]) -> bool {
    // No segments where no message says so: what every socket begins with.
    listeners.iter().all(|listener| set_udp(&listener.socket, libc::UDP_SEGMENT, 0))
}

fn set_udp(socket: &Socket, option: libc::c_int, value: libc::c_int) -> bool {
    let bytes = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option's value is an int that outlives the call.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, option, (&raw const value).cast(), bytes)
    };
    result == 0
}

const NAME_BYTES: usize = size_of::<libc::sockaddr_in6>();

/// A socket address as the kernel writes and reads it: `sockaddr_in` or `sockaddr_in6`.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(4))]
pub(super) struct Name([u8; NAME_BYTES]);

impl Name {
    /// The longer of the two: `sockaddr_in6`.
    pub(super) const BYTES: usize = NAME_BYTES;

    pub(super) const ZERO: Self = Self([0; Self::BYTES]);

    /// Becomes this address; says how many bytes of it count.
    pub(super) fn set(&mut self, endpoint: Endpoint) -> libc::socklen_t {
        let port = endpoint.port().to_be_bytes();
        let mut bytes = [0; Self::BYTES];
        bytes[2..4].copy_from_slice(&port);
        let len = match endpoint.ip() {
            IpAddr::V4(v4) => {
                bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
                bytes[4..8].copy_from_slice(&v4.octets());
                size_of::<libc::sockaddr_in>()
            }
            IpAddr::V6(v6) => {
                bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
                bytes[8..24].copy_from_slice(&v6.octets());
                Self::BYTES
            }
        };
        self.0 = bytes;
        len as libc::socklen_t
    }

    /// The address in the first bytes of what the kernel wrote; [`Endpoint::NONE`] if it is none.
    pub(super) fn read(&self) -> Endpoint {
        Self::parse(&self.0)
    }

    /// As [`Name::read`], where the kernel wrote it elsewhere.
    pub(super) fn parse(bytes: &[u8; Self::BYTES]) -> Endpoint {
        let [f0, f1, p0, p1, a, b, c, d, ..] = *bytes;
        let port = u16::from_be_bytes([p0, p1]);
        match i32::from(u16::from_ne_bytes([f0, f1])) {
            libc::AF_INET => Endpoint::new(IpAddr::from([a, b, c, d]), port),
            libc::AF_INET6 => {
                let mut octets = [0; 16];
                octets.copy_from_slice(&bytes[8..24]);
                Endpoint::from_octets(octets, port)
            }
            _ => Endpoint::NONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_standard_library_would_say() {
        for text in ["192.0.2.1:2948", "[2001:db8::1]:2948"] {
            let endpoint: Endpoint = text.parse().unwrap();
            let mut name = Name::ZERO;
            let len = name.set(endpoint);
            let theirs = SockAddr::from(SocketAddr::from(endpoint));
            assert_eq!(len, theirs.len());
            // SAFETY: a socket address is `len` initialised bytes.
            let bytes =
                unsafe { std::slice::from_raw_parts(theirs.as_ptr().cast::<u8>(), theirs.len() as usize) };
            assert_eq!(&name.0[..len as usize], bytes);
            assert_eq!(name.read(), endpoint);
        }
        assert_eq!(Name::ZERO.read(), Endpoint::NONE);
    }

    #[test]
    fn addresses_that_cannot_work_are_refused_before_anything_is_opened() {
        let refused = |text: &str| bind_shards(&[text.parse().unwrap()], 1, 1 << 16).unwrap_err().to_string();
        assert!(refused("0.0.0.0:0").contains("name each address"));
        assert!(refused("[::]:0").contains("name each address"));
        assert!(refused("224.0.0.1:0").contains("unicast"));
        assert!(refused("[fe80::1]:0").contains("link-local"));
        assert!(refused("192.0.2.1:0").contains("is not an address of this host"));
        assert!(bind_shards(&[], 1, 1).unwrap_err().to_string().contains("no address"));
        let addr = "127.0.0.1:2948".parse().unwrap();
        assert!(bind_shards(&[addr, addr], 1, 1).unwrap_err().to_string().contains("listed twice"));
        assert!(bind_shards(&[addr], 0, 1).unwrap_err().to_string().contains("0 shards"));
    }

    #[test]
    fn less_buffer_than_asked_for_is_said() {
        let bound = bind_shards(&["127.0.0.1:0".parse().unwrap()], 1, 1 << 30).unwrap();
        assert!(bound.warnings.iter().any(|w| w.contains("net.core.rmem_max")), "{:?}", bound.warnings);
        assert!(bound.warnings.iter().any(|w| w.contains("net.core.wmem_max")), "{:?}", bound.warnings);
    }
}
