//! Who has which address: pools that lend addresses to terminals and give them to the next soon, behind
//! gateways and behind NATs.

use std::collections::BTreeMap;

use rand::RngExt;
use rand_pcg::Pcg64Mcg;

use crate::id::{Endpoint, PushId};
use crate::sim::operator::{OPEN_REALM, Site, v4, v6};
use crate::sim::oracle;

/// How a terminal is connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// Behind a gateway, through which it speaks to the server.
    Tunnel,
    /// Behind a gateway that shows it at a public address, too.
    Both,
    /// At a private address that the server reaches and hears.
    Open,
    /// Behind a NAT.
    Nat,
}

/// What a terminal is lent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lease {
    /// By the network of which server.
    pub(super) site: usize,
    pub(super) pool: usize,
    pub(super) way: Way,
    pub(super) realm: u32,
    pub(super) private: Option<Endpoint>,
    pub(super) public: Option<Endpoint>,
    /// What the server sees it send from.
    pub(super) uplink: Endpoint,
}

struct Pool {
    site: usize,
    way: Way,
    /// What was given back last is lent first.
    free: Vec<Lease>,
}

/// All networks.
pub(super) struct Network {
    pools: Vec<Pool>,
    /// By site, realm and private address.
    inside: BTreeMap<(usize, u32, Endpoint), usize>,
    /// By what servers see and reach: uplinks, public addresses, open private ones.
    outside: BTreeMap<Endpoint, usize>,
    /// Who had an address last, by its uplink.
    former: BTreeMap<Endpoint, usize>,
}

/// The port that every terminal listens on.
pub(super) const PORT: u16 = 2948;

impl Network {
    /// Networks of so many pools of so many addresses for each site.
    pub(super) fn draw(rng: &mut Pcg64Mcg, sites: &[Site], pools: usize, addresses: usize) -> Self {
        let (inside, outside, former) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut network = Self { pools: Vec::new(), inside, outside, former };
        for (at, site) in sites.iter().enumerate() {
            for _ in 0..pools {
                let pool = network.pools.len();
                let kind = rng.random_range(0..KINDS);
                let lease = |host| lease(site, at, pool, kind, host);
                let free: Vec<Lease> = (1..=addresses as u8).rev().filter_map(lease).collect();
                let Some(way) = free.first().map(|lease| lease.way) else { continue };
                // One of a kind: its addresses are its own.
                let twin = |other: &Pool| other.free.iter().any(|lease| free[0].uplink == lease.uplink);
                if !network.pools.iter().any(twin) {
                    network.pools.push(Pool { site: at, way, free });
                }
            }
        }
        network
    }

    /// Ways that a site's network has an address free by, pool by pool.
    pub(super) fn offers(&self, site: usize) -> impl Iterator<Item = (usize, Way)> + '_ {
        let free = move |(_, pool): &(usize, &Pool)| pool.site == site && !pool.free.is_empty();
        self.pools.iter().enumerate().filter(free).map(|(at, pool)| (at, pool.way))
    }

    /// Lends an address of a pool to a terminal.
    pub(super) fn lend(&mut self, pool: usize, phone: usize) -> Option<Lease> {
        let lease = self.pools[pool].free.pop()?;
        let Lease { site, realm, private, uplink, public, .. } = lease;
        if let Some(private) = private {
            self.inside.insert((site, realm, private), phone);
        }
        self.outside.extend(public.into_iter().chain([uplink]).map(|at| (at, phone)));
        Some(lease)
    }

    /// Takes an address back: from now on whoever is lent it next has it.
    pub(super) fn take_back(&mut self, lease: &Lease) {
        let Lease { site, pool, realm, private, uplink, public, .. } = *lease;
        if let Some(private) = private {
            self.inside.remove(&(site, realm, private));
        }
        for at in public.into_iter().chain([uplink]) {
            let phone = self.outside.remove(&at);
            self.former.extend(phone.map(|phone| (at, phone)));
        }
        self.pools[pool].free.push(*lease);
    }

    /// Lends another address of the same pool in place of this one, if there is one.
    pub(super) fn exchange(&mut self, lease: &Lease, phone: usize) -> Option<Lease> {
        let other = self.lend(lease.pool, phone)?;
        self.take_back(lease);
        Some(other)
    }

    /// The terminal that had the address of a lease before.
    pub(super) fn former(&self, lease: &Lease) -> Option<usize> {
        self.former.get(&lease.uplink).copied()
    }

    /// Whether nobody has the address of a lease.
    pub(super) fn is_free(&self, lease: &Lease) -> bool {
        self.pools[lease.pool].free.iter().any(|free| free.uplink == lease.uplink)
    }

    /// The terminal at a private address behind a site's gateways.
    pub(super) fn behind(&self, site: usize, realm: u32, to: Endpoint) -> Option<usize> {
        self.inside.get(&(site, realm, to)).copied()
    }

    /// The terminal that a datagram to this address reaches without a tunnel.
    pub(super) fn at(&self, to: Endpoint) -> Option<usize> {
        self.outside.get(&to).copied()
    }

    /// Where a pool begins: for a row of users.csv.
    pub(super) fn any_private(&self, rng: &mut Pcg64Mcg, site: usize) -> Option<(u32, Endpoint)> {
        let pools: Vec<&Pool> = self.pools.iter().filter(|pool| pool.site == site).collect();
        let pool = pools.get(rng.random_range(0..pools.len().max(1)))?;
        let lease = pool.free.get(rng.random_range(0..pool.free.len().max(1)))?;
        lease.private.map(|private| (lease.realm, private))
    }
}

const KINDS: usize = 10;

/// One address of a pool of this kind.
fn lease(site: &Site, at: usize, pool: usize, kind: usize, host: u8) -> Option<Lease> {
    let number = at as u8 + 1;
    let ten = |second| v4(10, second, 0, host, PORT);
    let fd = |second| v6([0xFD00, second, 0, 0, 0, 0, 0, u16::from(host)], PORT);
    let (way, realm, private) = match kind {
        0 => (Way::Tunnel, 1, Some(ten(0))),
        1 => (Way::Tunnel, 1, Some(ten(1))),
        2 => (Way::Tunnel, 2, Some(ten(0))),
        3 => (Way::Tunnel, 2, Some(ten(2))),
        4 => (Way::Tunnel, 1, Some(fd(0))),
        5 => (Way::Both, 2, Some(ten(1))),
        6 => (Way::Open, OPEN_REALM, Some(v4(172, 16, number, host, PORT))),
        7 => (
            Way::Open,
            OPEN_REALM,
            Some(v6([0xFD99, u16::from(number), 0, 0, 0, 0, 0, u16::from(host)], PORT)),
        ),
        8 => (Way::Nat, 0, None),
        _ => (Way::Nat, 0, None),
    };
    let port = 40_000 + kind as u16 * 100 + u16::from(host);
    let public = match (way, kind) {
        (Way::Both, _) | (_, 8) => Some(v4(203, 0, 113, number, port)),
        (Way::Nat, _) => Some(v6([0x2001, 0xDB8, 0xAAAA, u16::from(number), 0, 0, 0, 1], port)),
        _ => None,
    };
    let uplink = match way {
        Way::Open => private?,
        Way::Nat => public?,
        Way::Tunnel | Way::Both => {
            let gateway = oracle::gateway(&site.rib, realm, private?)?;
            site.rib.gateways[gateway].address.with_port(20_000 + kind as u16 * 100 + u16::from(host))
        }
    };
    Some(Lease { site: at, pool, way, realm, private, public, uplink })
}

/// A RELEASE that a gateway sends for a terminal which left: whose, and at which address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Notice {
    pub(super) user: PushId,
    pub(super) lease: Lease,
    pub(super) attempt: u32,
}

/// The port from which gateways tell servers who has left.
pub(super) const NOTICE_PORT: u16 = 3799;
