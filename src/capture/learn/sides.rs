//! GTP-U tunnels for which there is no GTP-C: on which side the terminal is.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::contexts::Contexts;
use super::is_host;
use super::report::Findings;
use super::tables::Terminals;

/// Addresses that are remembered of a tunnel's side; with more, the side is many hosts.
const MAX_ADDRESSES: usize = 16;

/// One G-PDU, as far as learning goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gpdu {
    /// Outer destination and TEID.
    pub(super) tunnel: (IpAddr, u32),
    /// Outer source.
    pub(super) outer_from: IpAddr,
    /// Inner source.
    pub(super) from: IpAddr,
    /// Inner destination.
    pub(super) to: IpAddr,
    /// Source and destination port, where there are any.
    pub(super) ports: Option<(u16, u16)>,
    /// Destination port of a whole UDP datagram.
    pub(super) port: Option<u16>,
    /// When.
    pub(super) time_ns: u64,
}

/// What a tunnel carried.
#[derive(Default, Debug)]
struct Evidence {
    /// The outer source of its first packet.
    outer_from: Option<IpAddr>,
    from: Side,
    to: Side,
    /// Its first packet between two hosts: these in order, when, and which seems to be the client.
    first: Option<((IpAddr, IpAddr), u64, Option<IpAddr>)>,
    serial: usize,
}

/// The hosts at one side of a tunnel: addresses with the UDP port that was first sent to.
#[derive(Default, Debug)]
struct Side {
    hosts: Vec<(IpAddr, Option<u16>)>,
    /// Packets of addresses beyond these.
    left_out: u64,
    /// One of them was another host's.
    more: bool,
}

/// Which way a tunnel carries, so which side the terminal is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// The terminal is the inner source.
    Up,
    /// The terminal is the inner destination.
    Down,
}

/// Families in which a terminal has one address each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Family {
    V4,
    V6,
    LinkLocal,
}

fn family(ip: IpAddr) -> Family {
    match ip {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Family::LinkLocal,
        IpAddr::V6(_) => Family::V6,
    }
}

/// What stays the same of a terminal that changes its interface identifier.
fn stable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) if !v6.is_unicast_link_local() => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
        _ => ip,
    }
}

impl Side {
    fn add(&mut self, ip: IpAddr, port: Option<u16>) {
        if let Some(host) = self.hosts.iter_mut().find(|host| host.0 == ip) {
            host.1 = host.1.or(port);
        } else if self.hosts.len() < MAX_ADDRESSES {
            self.hosts.push((ip, port));
        } else {
            self.left_out += 1;
            self.more |= !self.any(|host| stable(host) == stable(ip));
        }
    }

    /// Different hosts of a family; more than two is two.
    fn count(&self, of: Family) -> usize {
        let mut hosts = self.hosts.iter().map(|host| host.0).filter(|ip| family(*ip) == of).map(stable);
        let Some(first) = hosts.next() else { return 0 };
        if self.more || hosts.any(|host| host != first) { 2 } else { 1 }
    }

    fn any(&self, test: impl Fn(IpAddr) -> bool) -> bool {
        self.hosts.iter().any(|host| test(host.0))
    }
}

/// Of two hosts in order: when a tunnel first carried a packet between them, and which of them then
/// seemed to be the client.
type Talks = HashMap<(IpAddr, IpAddr), (u64, Option<IpAddr>)>;

/// What all tunnels carried.
#[derive(Default)]
pub(super) struct Sides {
    tunnels: HashMap<(IpAddr, u32), Evidence>,
}

impl Sides {
    /// Takes a packet.
    pub(super) fn take(&mut self, gpdu: &Gpdu) {
        let serial = self.tunnels.len();
        let evidence =
            self.tunnels.entry(gpdu.tunnel).or_insert_with(|| Evidence { serial, ..Evidence::default() });
        evidence.outer_from.get_or_insert(gpdu.outer_from);
        if is_host(gpdu.from) {
            evidence.from.add(gpdu.from, None);
        }
        if is_host(gpdu.to) {
            evidence.to.add(gpdu.to, gpdu.port);
            let pair = (gpdu.from.min(gpdu.to), gpdu.from.max(gpdu.to));
            evidence.first.get_or_insert((pair, gpdu.time_ns, client(gpdu)));
        }
    }

    /// Decides for each tunnel, and takes its terminals.
    pub(super) fn resolve(
        self,
        contexts: &Contexts,
        terminals: &mut Terminals,
        findings: &mut Findings,
        private: impl Fn(IpAddr) -> bool,
    ) {
        let mut tunnels: Vec<_> = self.tunnels.into_iter().collect();
        tunnels.sort_by_key(|(_, evidence)| evidence.serial);
        let ways = ways(&tunnels, contexts, terminals, findings, private);
        for ((end, evidence), way) in tunnels.iter().zip(ways) {
            let Some(way) = way else {
                findings.note(
                    "GTP-U tunnels of which neither side is surely the terminal's, left out",
                    || {
                        let list = |side: &Side| {
                            let hosts: Vec<String> =
                                side.hosts.iter().map(|host| host.0.to_string()).collect();
                            hosts.join(", ")
                        };
                        let (from, to) = (list(&evidence.from), list(&evidence.to));
                        format!("TEID {:#010x} to {}: from {from} to {to}", end.1, end.0)
                    },
                );
                continue;
            };
            let (side, gateway) = match way {
                Way::Up => (&evidence.from, end.0),
                Way::Down => (&evidence.to, evidence.outer_from.unwrap_or(end.0)),
            };
            if side.count(Family::V4) > 1 || side.count(Family::V6) > 1 {
                findings.note("GTP-U tunnels with more than one terminal", || {
                    format!("TEID {:#010x} to {}: {} addresses", end.1, end.0, side.hosts.len())
                });
            }
            if side.left_out > 0 {
                findings.note("GTP-U tunnels of which only the first 16 addresses are users", || {
                    format!("TEID {:#010x} to {}: {} packets of others", end.1, end.0, side.left_out)
                });
            }
            // A link-local address is only a user when its terminal shows no other.
            let only_local = side.hosts.iter().all(|host| family(host.0) == Family::LinkLocal);
            let users = side.hosts.iter().filter(|host| only_local || family(host.0) != Family::LinkLocal);
            for (address, port) in users {
                terminals.user_plane(&gateway.to_canonical(), *address, *port);
            }
        }
    }
}

/// Rule 2: one side is always the same.
fn by_counts(evidence: &Evidence, name: impl FnOnce() -> String, findings: &mut Findings) -> Option<Way> {
    let mut votes = [0, 0];
    for of in [Family::V4, Family::V6, Family::LinkLocal] {
        match (evidence.from.count(of), evidence.to.count(of)) {
            (1, 2) => votes[0] += 1,
            (2, 1) => votes[1] += 1,
            _ => {}
        }
    }
    match votes {
        [0, 0] if evidence.to.hosts.is_empty() && evidence.from.hosts.len() == 1 => Some(Way::Up),
        [0, 0] => None,
        [_, 0] => Some(Way::Up),
        [0, _] => Some(Way::Down),
        _ => {
            findings.note("GTP-U tunnels whose address families contradict each other", name);
            None
        }
    }
}

/// Which way each tunnel carries, by the first rule that decides it.
fn ways(
    tunnels: &[((IpAddr, u32), Evidence)],
    contexts: &Contexts,
    terminals: &Terminals,
    findings: &mut Findings,
    private: impl Fn(IpAddr) -> bool,
) -> Vec<Option<Way>> {
    let mut known: HashSet<IpAddr> = terminals.addresses().map(stable).collect();
    let mut ways = Vec::with_capacity(tunnels.len());
    for (end, evidence) in tunnels {
        let way = match contexts.of_tunnel(*end) {
            Some((_, uplink)) => Some(if uplink { Way::Up } else { Way::Down }),
            None => by_counts(evidence, || format!("TEID {:#010x} to {}", end.1, end.0), findings),
        };
        if let Some(way) = way {
            let side = if way == Way::Up { &evidence.from } else { &evidence.to };
            known.extend(side.hosts.iter().map(|host| stable(host.0)));
        }
        ways.push(way);
    }
    let mut talks = Talks::new();
    for (pair, time_ns, client) in tunnels.iter().filter_map(|(_, evidence)| evidence.first) {
        let first = talks.entry(pair).or_insert((time_ns, client));
        if time_ns < first.0 {
            *first = (time_ns, client);
        }
    }
    for ((_, evidence), way) in tunnels.iter().zip(&mut ways) {
        let only = |test: &dyn Fn(IpAddr) -> bool| one_of(evidence.from.any(test), evidence.to.any(test));
        *way = way
            .or_else(|| only(&|ip| known.contains(&stable(ip))))
            .or_else(|| only(&private))
            .or_else(|| by_talk(evidence, &talks));
    }
    let (mut gateways, mut others) = (HashSet::new(), HashSet::new());
    for ((end, evidence), way) in tunnels.iter().zip(&ways) {
        let (up, down) = (end.0, evidence.outer_from.unwrap_or(end.0));
        match way {
            Some(Way::Up) => _ = (gateways.insert(up), others.insert(down)),
            Some(Way::Down) => _ = (gateways.insert(down), others.insert(up)),
            None => {}
        }
    }
    let surely = |node: IpAddr| gateways.contains(&node) && !others.contains(&node);
    for ((end, evidence), way) in tunnels.iter().zip(&mut ways) {
        *way = way.or_else(|| one_of(surely(end.0), evidence.outer_from.is_some_and(surely)));
    }
    ways
}

/// Up when only the first holds, down when only the second does.
fn one_of(up: bool, down: bool) -> Option<Way> {
    match (up, down) {
        (true, false) => Some(Way::Up),
        (false, true) => Some(Way::Down),
        _ => None,
    }
}

/// Who of the two seems to have asked.
fn client(gpdu: &Gpdu) -> Option<IpAddr> {
    let (from, to) = gpdu.ports?;
    match (from < 1024, to < 1024) {
        (true, false) => Some(gpdu.to),
        (false, _) if from > to => Some(gpdu.from),
        _ => None,
    }
}

/// Rule 5: who asked.
fn by_talk(evidence: &Evidence, talks: &Talks) -> Option<Way> {
    let pairs =
        evidence.from.hosts.iter().flat_map(|from| evidence.to.hosts.iter().map(move |to| (from.0, to.0)));
    pairs
        .filter_map(|(from, to)| talks.get(&(from.min(to), from.max(to)))?.1.map(|client| (client, from)))
        .map(|(client, from)| if client == from { Way::Up } else { Way::Down })
        .next()
}
