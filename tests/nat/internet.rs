//! Two private networks behind real NATs, and what lies between them.
//!
//! ```text
//!   a  192.168.1.10 ─┐ nat-a                      core                       nat-b
//!                    ├─ 198.51.100.2 ─── 198.51.100.1   203.0.113.1 ─── 203.0.113.2 ─── 192.168.3.10  b
//!   a2 192.168.2.10 ─┘                   Push servers 192.0.2.1, 192.0.2.2
//! ```

use std::fs;

use super::netns::Net;

/// The Push servers.
pub(crate) const SERVER: &str = "192.0.2.1:17400";
/// The public addresses of the NATs.
pub(crate) const PUBLIC_A: &str = "198.51.100.2";
pub(crate) const PUBLIC_B: &str = "203.0.113.2";
/// The hosts behind them.
pub(crate) const PRIVATE_A: &str = "192.168.1.10";
pub(crate) const PRIVATE_B: &str = "192.168.3.10";

/// When a NAT gives an inside address and port the same public one (RFC 4787, 4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mapping {
    /// Always: endpoint-independent. So is no translation at all.
    Independent,
    /// For each outside address, or address and port, another.
    Dependent,
}

/// What a NAT lets in to an inside address and port that has a mapping (RFC 4787, 5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Filtering {
    /// Everything: endpoint-independent.
    Independent,
    /// What comes from an address that the inside has written to.
    Address,
    /// What comes from an address and port that the inside has written to.
    AddressAndPort,
}

/// The NATs that nftables can make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Nat {
    /// A router: no translation.
    None,
    /// One inside host for one public address, both ways.
    OneToOne,
    /// Masquerading, and every mapped port let in ("full cone").
    FullCone,
    /// Masquerading, and mapped ports let in from addresses that were written to ("restricted cone").
    Restricted,
    /// Masquerading as Linux does it: the port stays, connection tracking filters ("port-restricted cone").
    PortRestricted,
    /// Masquerading that takes ports from another range for each outside address.
    AddressDependent,
    /// Masquerading to a random port for each outside address and port ("symmetric").
    Symmetric,
}

impl Nat {
    pub(crate) const ALL: [Self; 7] = [
        Self::None,
        Self::OneToOne,
        Self::FullCone,
        Self::Restricted,
        Self::PortRestricted,
        Self::AddressDependent,
        Self::Symmetric,
    ];

    pub(crate) const fn mapping(self) -> Mapping {
        match self {
            Self::AddressDependent | Self::Symmetric => Mapping::Dependent,
            _ => Mapping::Independent,
        }
    }

    pub(crate) const fn filtering(self) -> Filtering {
        match self {
            Self::None | Self::OneToOne | Self::FullCone => Filtering::Independent,
            Self::Restricted => Filtering::Address,
            Self::PortRestricted | Self::AddressDependent | Self::Symmetric => Filtering::AddressAndPort,
        }
    }

    /// The rules: translation of what leaves by `wan`, and of what comes in without being an answer.
    fn rules(self, public: &str, inside: &str) -> String {
        let out = match self {
            Self::None => String::new(),
            Self::OneToOne => format!("ip saddr {inside} snat to {public}"),
            Self::FullCone | Self::Restricted | Self::PortRestricted => "masquerade".to_owned(),
            Self::AddressDependent => "ip daddr 192.0.2.1 meta l4proto udp masquerade to :20000-29999\n\
                 oifname \"wan\" meta l4proto udp masquerade to :30000-39999"
                .to_owned(),
            Self::Symmetric => "masquerade fully-random".to_owned(),
        };
        let filter = match self {
            Self::OneToOne => format!("dnat to {inside}"),
            Self::FullCone => "dnat to udp dport map @owners".to_owned(),
            Self::Restricted => "ip saddr . udp dport @talked dnat to udp dport map @owners".to_owned(),
            _ => String::new(),
        };
        let line = |before: &str, rule: String| {
            if rule.is_empty() { rule } else { format!("{before} {rule}") }
        };
        table(&line("oifname \"wan\"", out), &line("iifname \"wan\" meta l4proto udp", filter))
    }
}

/// A ruleset: the NAT learns which inside address a port belongs to, and whom that has written to; nothing
/// outside can speak to the NAT itself, or its connection tracking would take what comes too early for a
/// connection of its own, and give the mapping another port.
fn table(postrouting: &str, prerouting: &str) -> String {
    format!(
        "flush ruleset
table ip nat {{
  map owners {{ type inet_service : ipv4_addr; flags dynamic,timeout; timeout 2m; }}
  set talked {{ type ipv4_addr . inet_service; flags dynamic,timeout; timeout 2m; }}
  chain learn {{
    type filter hook forward priority filter;
    oifname \"wan\" meta l4proto udp update @owners {{ udp sport : ip saddr }} update @talked {{ ip daddr . udp sport }}
  }}
  chain input {{
    type filter hook input priority filter;
    meta l4proto udp drop
  }}
  chain out {{
    type nat hook postrouting priority srcnat;
    {postrouting}
  }}
  chain in {{
    type nat hook prerouting priority dstnat;
    {prerouting}
  }}
}}
"
    )
}

/// The network.
pub(crate) struct Internet {
    pub(crate) net: Net,
}

impl Internet {
    /// Hosts, links and routes; `Err` says why this machine cannot.
    pub(crate) fn new() -> Result<Self, String> {
        let net = Net::new(&["core", "nat-a", "nat-b", "a", "a2", "b"])?;
        net.join(("core", "to-a", "198.51.100.1/24"), ("nat-a", "wan", "198.51.100.2/24"))?;
        net.join(("core", "to-b", "203.0.113.1/24"), ("nat-b", "wan", "203.0.113.2/24"))?;
        for (nat, device, network, host) in [
            ("nat-a", "lan", "192.168.1", "a"),
            ("nat-a", "lan2", "192.168.2", "a2"),
            ("nat-b", "lan", "192.168.3", "b"),
        ] {
            net.join(
                (nat, device, &format!("{network}.1/24")),
                (host, "uplink", &format!("{network}.10/24")),
            )?;
            net.ip(host, &format!("route add default via {network}.1"))?;
        }
        for server in ["192.0.2.1/32", "192.0.2.2/32", "192.0.2.9/32"] {
            net.ip("core", &format!("addr add {server} dev lo"))?;
        }
        net.ip("nat-a", "route add default via 198.51.100.1")?;
        net.ip("nat-b", "route add default via 203.0.113.1")?;
        // Only what is not translated needs them.
        net.ip("core", "route add 192.168.1.0/24 via 198.51.100.2")?;
        net.ip("core", "route add 192.168.3.0/24 via 203.0.113.2")?;
        let internet = Self { net };
        for host in ["core", "nat-a", "nat-b"] {
            internet.set(host, "/proc/sys/net/ipv4/ip_forward", "1")?;
        }
        for nat in ["nat-a", "nat-b"] {
            internet.rules(nat, &table("", ""))?;
        }
        Ok(internet)
    }

    /// Writes a kernel setting inside a host.
    pub(crate) fn set(&self, host: &str, path: &str, value: &str) -> Result<(), String> {
        self.net.inside(host, || fs::write(path, value)).map_err(|error| format!("{path}: {error}"))
    }

    /// Gives a host this ruleset.
    pub(crate) fn rules(&self, host: &str, rules: &str) -> Result<(), String> {
        let file = self.net.folder.path().join(format!("{host}.nft"));
        fs::write(&file, rules).map_err(|error| error.to_string())?;
        let output = self.net.command(host, "nft").arg("-f").arg(file).output();
        let output = output.map_err(|error| format!("nft: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("nft: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Puts a NAT of this kind in front of `a`, or of `b`.
    pub(crate) fn nat(&self, host: &str, nat: Nat) {
        let (public, inside) = match host {
            "nat-a" => (PUBLIC_A, PRIVATE_A),
            _ => (PUBLIC_B, PRIVATE_B),
        };
        self.rules(host, &nat.rules(public, inside)).unwrap_or_else(|why| panic!("{nat:?}: {why}"));
    }

    /// A NAT in front of `a` and `a2`, which turns round what one sends to the public address of the other
    /// (RFC 4787, REQ-9), or does not.
    pub(crate) fn nat_for_two(&self, hairpin: bool) {
        let turned = if hairpin {
            format!("ip daddr {PUBLIC_A} meta l4proto udp dnat to udp dport map @owners")
        } else {
            String::new()
        };
        // With the public address as its source, as REQ-9a wants it.
        let shown = format!("oifname \"wan\" masquerade\nct status dnat iifname \"lan*\" snat to {PUBLIC_A}");
        self.rules("nat-a", &table(&shown, &turned)).unwrap();
    }

    /// A NAT in front of `b` that takes ports from this range, `open` another one to itself.
    pub(crate) fn nat_with_ports(&self, ports: &str, open: u16) {
        let rules = table(&format!("oifname \"wan\" meta l4proto udp masquerade to :{ports}"), "");
        let rules =
            rules.replace("meta l4proto udp drop", &format!("meta l4proto udp udp dport != {open} drop"));
        self.rules("nat-b", &rules).unwrap();
    }
}
