//! Where the forwarders that the bench starts stand: on loopback, or in a network namespace of their own, which load and
//! next hops reach by virtual Ethernet.

use std::fs::{self, File};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::thread;

use pushplane::id::Endpoint;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustix::time::{ClockId, clock_gettime};

use crate::Stop;

/// Where `ip netns` keeps namespaces.
const NAMESPACES: &str = "/run/netns";

/// Where forwarders stand.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    ip: Ipv4Addr,
    namespace: Option<Arc<File>>,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=').and_then(|(name, ip)| Some((name, ip.parse().ok()?)));
        let Some((name, ip)) = parts.filter(|(name, _)| !name.is_empty() && !name.contains('/')) else {
            return Err("expected NAME=ADDRESS, like forwarders=198.18.0.2".to_owned());
        };
        let path = Path::new(NAMESPACES).join(name);
        let namespace = File::open(&path).map_err(|error| {
            format!(
                "{}: {error}; expected a network namespace, made by \"ip netns add {name}\"",
                path.display()
            )
        })?;
        Ok(Self { ip, namespace: Some(Arc::new(namespace)) })
    }
}

impl Place {
    pub(super) const LOOPBACK: Self = Self { ip: Ipv4Addr::LOCALHOST, namespace: None };

    /// Whether that is a namespace of its own.
    pub(super) fn is_apart(&self) -> bool {
        self.namespace.is_some()
    }

    /// Runs this there: sockets, threads and processes that it makes belong there.
    pub(super) fn inside<T: Send>(&self, run: impl FnOnce() -> Result<T, Stop> + Send) -> Result<T, Stop> {
        let Some(namespace) = &self.namespace else { return run() };
        let failed = |error| Stop::Failed(format!("--namespace: it cannot be entered: {error}"));
        let enter = || {
            // Of this thread, which ends with what it runs.
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).map_err(failed)?;
            run()
        };
        let ended = thread::scope(|scope| scope.spawn(enter).join());
        ended.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// A socket with a port of its own there.
    pub(super) fn socket(&self) -> Result<UdpSocket, Stop> {
        let failed =
            |error| Stop::Failed(format!("{}, where forwarders stand, cannot be bound: {error}", self.ip));
        self.inside(|| UdpSocket::bind((self.ip, 0)).map_err(failed))
    }

    /// An address there whose port was free a moment ago.
    pub(super) fn free_address(&self) -> Result<Endpoint, Stop> {
        let address = self.socket()?.local_addr();
        address.map(Endpoint::from).map_err(|error| Stop::Failed(error.to_string()))
    }
}

/// The kernel shows times in hundredths of a second (`USER_HZ`).
const TICK_NS: u64 = 10_000_000;

/// Time that a CPU did not idle so far, interrupts included. What a CPU does is only sampled, and an interrupt from idleness
/// not even that, but how long it idles is measured: so this is the time that is not left.
pub(super) fn busy_ns(cpu: usize) -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let now_ns = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
    now_ns.saturating_sub(left_ns(&fs::read_to_string("/proc/stat").unwrap_or_default(), cpu))
}

/// Time that a CPU did not work: it idled, or a virtual one did not run.
fn left_ns(stat: &str, cpu: usize) -> u64 {
    let name = format!("cpu{cpu} ");
    let Some(times) = stat.lines().find_map(|line| line.strip_prefix(&name)) else { return 0 };
    let times: Vec<u64> = times.split_ascii_whitespace().map_while(|ticks| ticks.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal
    [3, 4, 7].map(|at| times.get(at).copied().unwrap_or(0)).iter().sum::<u64>() * TICK_NS
}

/// Packets that have come by a device of this namespace, those among them that nobody could take included; `None` when
/// there is no such device.
pub(super) fn came_by(device: &str) -> Option<u64> {
    packets_of(&fs::read_to_string("/proc/net/dev").ok()?, device)
}

fn packets_of(page: &str, device: &str) -> Option<u64> {
    let mut lines = page.lines().filter_map(|line| line.split_once(':'));
    let (_, counts) = lines.find(|(name, _)| name.trim() == device)?;
    // bytes, packets, errors, dropped
    let counts: Vec<u64> = counts.split_ascii_whitespace().map_while(|count| count.parse().ok()).collect();
    Some(counts.get(1)? + counts.get(3)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_does_not_work_when_it_idles_or_does_not_run() {
        let stat = "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 1 2 3 1000 2000 4 5 6 0 0\ncpu1 1 0 0 7 0 0 0 0 0 0\n";
        assert_eq!([0, 1, 2].map(|cpu| left_ns(stat, cpu)), [3006 * TICK_NS, 7 * TICK_NS, 0]);
    }

    #[test]
    fn what_came_by_a_device_includes_what_was_dropped() {
        let page = "Inter-|   Receive\n face |bytes    packets errs drop fifo\n    lo: 10 1 0 0 0\n  veth: 500 40 0 2 0\n";
        assert_eq!(packets_of(page, "veth"), Some(42));
        assert_eq!(packets_of(page, "eth0"), None);
    }

    #[test]
    fn a_place_is_a_namespace_and_an_address() {
        let refused = |text: &str| text.parse::<Place>().unwrap_err();
        assert!(
            refused("198.18.0.2").contains("NAME=ADDRESS")
                && refused("a/b=198.18.0.2").contains("NAME=ADDRESS")
        );
        assert!(refused("nobody-made-this=198.18.0.2").contains("/run/netns/nobody-made-this"));
    }
}
