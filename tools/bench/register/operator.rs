//! The operator that a bench registers with: a generated one, whose gateways stand on loopback, and terminals
//! that no table knows. Who terminal number `n` is follows from `n`, so that nothing is kept of it and everything
//! can be checked.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};

use pushplane::config::Limits;
use pushplane::id::{Endpoint, PushId, PushPrefix};
use pushplane::table::generate::{Generate, generate};
use pushplane::table::rib::{App, Rule, Segment, Tunnel};
use pushplane::table::{Image, Rib, source};

use crate::{Stop, common};

/// Where gateway number 0 stands; the others follow.
const GATEWAYS: [u8; 4] = [127, 1, 0, 1];
pub(super) const SERVER: [u8; 4] = [127, 1, 1, 1];
/// The first realm of terminals: above those of the generated users.
const REALM: u32 = 1 << 20;
/// Terminals of one realm, each with an address in 10.0.0.0/8.
const REALM_BITS: u32 = 24;
/// Bits of a Push ID that no other server has a longer prefix of.
const OWN_BITS: u8 = 16;
/// Gateways that terminals are behind: each kind of tunnel.
const GATEWAYS_USED: usize = 4;
/// The application whose messages are pushed.
pub(super) const APP: u32 = 0x00BE_7C00;
/// The port of every terminal.
const PORT: u16 = 2948;

/// What the server under test needs room for.
#[derive(Clone, Copy)]
pub(super) struct Size {
    /// Rows of users.csv.
    pub(super) rows: u64,
    /// Terminals that register.
    pub(super) users: u64,
    /// Requests on their way at once.
    pub(super) outstanding: usize,
}

/// The operator, on disk.
pub(super) struct Operator {
    pub(super) config: PathBuf,
    /// Where the server listens.
    pub(super) server: Endpoint,
    /// Where terminals' messages leave for: the gateways' addresses.
    pub(super) gateways: Vec<Endpoint>,
    /// The first bits of every terminal's Push ID.
    own: u128,
}

impl Operator {
    /// Writes tables and a configuration into a folder.
    pub(super) fn make(folder: &Path, size: Size, seed: u64) -> Result<Self, Stop> {
        let _progress = common::Progress::start("making an operator");
        let sources = folder.join("sources");
        generate(&sources, &Generate { users: size.rows, seed })
            .map_err(|error| Stop::file(&sources, error))?;
        let mut rib = source::load(&sources)?.rib;
        let server = free_port(SERVER)?;
        let own =
            own_prefix(&rib).ok_or_else(|| Stop::Failed("no server has 16 bits of its own".to_owned()))?;
        rib.servers[0].address = server;
        for (n, row) in (0..).zip(&mut rib.gateways) {
            row.address = free_port(gateway(n))?;
            // Straight to a private address is nowhere on loopback.
            if row.tunnel == Tunnel::None {
                row.tunnel = Tunnel::Plain;
            }
        }
        let used = rib.gateways.len().min(GATEWAYS_USED);
        rib.segments.extend(segments(size.users, used as u32));
        let gateways = rib.gateways.iter().take(used).map(|row| row.address).collect();
        rib.apps.push(App {
            id: APP,
            name: "bench".to_owned(),
            sources: None,
            users: false,
            rule: Rule::Normal,
            rate: None,
            key: None,
        });
        let image = Image::build(&rib).map_err(|error| common::fault(&sources, error))?;
        let path = folder.join("bench.ppt");
        image.write(&path).map_err(|error| Stop::file(&path, error))?;
        let config = folder.join("pushplane.toml");
        fs::write(&config, document(&rib, server, size)).map_err(|error| Stop::file(&config, error))?;
        Ok(Self { config, server, gateways, own })
    }

    /// Terminal number `n`'s user.
    pub(super) fn id(&self, n: u64) -> PushId {
        // All zero would be nobody; an odd factor permutes the 64 bits.
        let n = n + 1;
        let low = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        PushId(self.own | u128::from(n) << 64 | u128::from(low))
    }

    /// The realm and private address that terminal number `n` registers with.
    pub(super) fn private(&self, n: u64) -> (u32, Endpoint) {
        let [_, b, c, d] = (n as u32 & ((1 << REALM_BITS) - 1)).to_be_bytes();
        let realm = REALM + (n >> REALM_BITS) as u32;
        (realm, Endpoint::new(Ipv4Addr::new(10, b, c, d).into(), PORT))
    }
}

/// Where gateway number `n` stands.
const fn gateway(n: u8) -> [u8; 4] {
    let [a, b, c, d] = GATEWAYS;
    [a, b, c, d + n]
}

/// The gateway's address that requests come from: whoever speaks from it may register anybody behind it.
pub(super) fn requests_from() -> Endpoint {
    Endpoint::new(Ipv4Addr::from(gateway(0)).into(), 0)
}

fn free_port(ip: [u8; 4]) -> Result<Endpoint, Stop> {
    let socket = UdpSocket::bind((Ipv4Addr::from(ip), 0)).and_then(|socket| socket.local_addr());
    socket.map(Endpoint::from).map_err(|error| Stop::Wrong(format!("loopback cannot be bound: {error}")))
}

/// Sixteen bits below the first server's prefix that no other server has a longer prefix in.
fn own_prefix(rib: &Rib) -> Option<u128> {
    let first = *rib.servers.first()?.prefixes.first()?;
    let others = || rib.servers.iter().flat_map(|server| &server.prefixes).filter(|other| **other != first);
    let free = 64 - u32::from(OWN_BITS);
    let all = (0..1 << (OWN_BITS - first.len())).map(|n: u64| first.bits() | n << free);
    let found = all.into_iter().find(|bits| {
        PushPrefix::new(*bits, OWN_BITS).is_some_and(|own| {
            let overlap = |other: &PushPrefix| {
                let common = other.len().min(own.len());
                (other.bits() ^ own.bits()) >> (64 - u32::from(common)) == 0
            };
            !others().any(overlap)
        })
    });
    found.map(|bits| u128::from(bits) << 64)
}

/// 64 segments a realm, each behind one of the gateways.
fn segments(users: u64, gateways: u32) -> impl Iterator<Item = Segment> {
    let realms = users.div_ceil(1 << REALM_BITS) as u32;
    (0..realms.max(1)).flat_map(move |realm| {
        (0..64u32).map(move |n| Segment {
            realm: REALM + realm,
            ip: Ipv4Addr::new(10, (n * 4) as u8, 0, 0).into(),
            len: 14,
            gateway: n % gateways,
        })
    })
}

fn document(rib: &Rib, server: Endpoint, size: Size) -> String {
    let defaults = Limits::default();
    let punts = defaults.punts.max(size.outstanding * 2);
    let bindings = size.users + size.users / 10 + 1024;
    format!(
        "[server]\nname = \"{}\"\nlisten = [\"{server}\"]\ntables = \"bench.ppt\"\nshards = 1\n\
         metrics = \"127.0.0.1:0\"\n[limits]\npunts = {punts}\nbindings = {bindings}\nreceive_buffer = {}\n",
        rib.servers[0].name,
        4 << 20,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use pushplane::table::Image;

    #[test]
    fn terminals_are_told_apart_and_belong_to_the_server() {
        let folder = tempfile::tempdir().unwrap();
        let size = Size { rows: 2000, users: (1 << REALM_BITS) + 10, outstanding: 16 };
        let operator = Operator::make(folder.path(), size, 1).unwrap_or_else(|stop| panic!("{stop}"));
        let image = Image::open(&folder.path().join("bench.ppt")).unwrap();
        let own = image.server_names().next().unwrap().to_owned();
        let tables = pushplane::table::Tables::new(image, 1, &own, None);
        let mut seen = std::collections::HashSet::new();
        for n in [0, 1, 2, 65_535, 65_536, (1 << REALM_BITS) - 1, 1 << REALM_BITS, (1 << REALM_BITS) + 9] {
            let id = operator.id(n);
            let (realm, private) = operator.private(n);
            assert!(tables.own().is_some() && tables.route(id) == tables.own(), "{n}");
            assert!(tables.gateway(realm, private).is_some(), "{n}");
            assert!(seen.insert((Some(id), None)) && seen.insert((None, Some((realm, private)))), "{n}");
        }
    }
}
