//! Who listens: one Push ID, or many, each with a socket of its own.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::str::FromStr;

use pushplane::diagnostic::{Diagnostic, Diagnostics};
use pushplane::id::{ParseError, PushId};

use super::Args;
use crate::client::{self, GivenKey};
use crate::{Stop, common};

/// Where to listen: an address, or the first of those that follow it within a prefix.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bind {
    first: IpAddr,
    /// Bits that the addresses share; all of them where there is one address.
    len: u8,
}

impl FromStr for Bind {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (ip, len) = text.split_once('/').map_or((text, None), |(ip, len)| (ip, Some(len)));
        let wrong = || {
            ParseError(format!(
                "expected an address, or an address and a prefix length like 127.19.0.10/16, found \"{text}\""
            ))
        };
        let first: IpAddr = ip.parse().map_err(|_| wrong())?;
        let bits = bits(first);
        let len = len.map_or(Ok(bits), |len| len.parse().map_err(|_| wrong()))?;
        if len > bits { Err(wrong()) } else { Ok(Self { first, len }) }
    }
}

const fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

impl Bind {
    /// Whether every identity has an address of its own.
    fn is_range(self) -> bool {
        self.len < bits(self.first)
    }

    /// The address of the `n`th identity, if the prefix goes so far.
    fn nth(self, n: u32) -> Option<IpAddr> {
        if !self.is_range() {
            return Some(self.first);
        }
        let at: IpAddr = match self.first {
            IpAddr::V4(first) => std::net::Ipv4Addr::from_bits(first.to_bits().checked_add(n)?).into(),
            IpAddr::V6(first) => std::net::Ipv6Addr::from_bits(first.to_bits().checked_add(n.into())?).into(),
        };
        let within = |ip: IpAddr| {
            let value = match ip {
                IpAddr::V4(ip) => u128::from(ip.to_bits()),
                IpAddr::V6(ip) => ip.to_bits(),
            };
            value.checked_shr((bits(ip) - self.len).into()).unwrap_or(0)
        };
        (within(at) == within(self.first)).then_some(at)
    }
}

/// One who listens.
pub(super) struct Identity {
    pub(super) user: PushId,
    pub(super) key: Option<GivenKey>,
    pub(super) socket: UdpSocket,
}

/// Everybody, each with a socket.
pub(super) fn open(args: &Args) -> Result<Vec<Identity>, Stop> {
    let users = match (&args.ids, args.id) {
        (Some(file), _) => read(file)?,
        (None, Some(first)) => counted(first, args.identities)?,
        (None, None) => Vec::new(),
    };
    let open = |(n, (user, key)): (u32, (PushId, Option<GivenKey>))| {
        let bind = args.bind.map(|bind| {
            bind.nth(n).ok_or_else(|| {
                let Bind { first, len } = bind;
                Stop::Wrong(format!("--bind {first}/{len}: expected an address for each identity, found {n}; give a shorter prefix"))
            })
        });
        let is_range = args.bind.is_some_and(Bind::is_range);
        let port = match args.port {
            0 => 0,
            port if is_range => port,
            port => u16::try_from(u32::from(port) + n).map_err(|_| {
                Stop::Wrong(format!("--port {port}: the ports from there on are too few; give a lower one"))
            })?,
        };
        let socket = client::socket(args.server, bind.transpose()?, port)?;
        Ok(Identity { user, key: key.or_else(|| args.key.clone()), socket })
    };
    (0..).zip(users).map(open).collect()
}

/// So many Push IDs from this one on.
fn counted(first: PushId, count: u32) -> Result<Vec<(PushId, Option<GivenKey>)>, Stop> {
    let id = |n: u32| first.0.checked_add(n.into()).map(|id| (PushId(id), None));
    (0..count).map(id).collect::<Option<_>>().ok_or_else(|| {
        Stop::Wrong(format!(
            "--id {first}: expected {count} Push IDs from there on, found fewer; give a lower one"
        ))
    })
}

/// A Push ID a line, and its key where it has one.
fn read(file: &Path) -> Result<Vec<(PushId, Option<GivenKey>)>, Stop> {
    let text = std::fs::read_to_string(file).map_err(|error| Stop::file(file, error))?;
    let (mut users, mut faults) = (Vec::new(), Vec::new());
    for (line, row) in (1..).zip(text.lines()) {
        let row = row.split('#').next().unwrap_or_default();
        let mut words = row.split_whitespace();
        let Some(id) = words.next() else { continue };
        let key = words.next().map(str::parse::<GivenKey>).transpose();
        let column = |word: &str| row.find(word).map_or(1, |at| row[..at].chars().count() + 1);
        let mut fault =
            |word: &str, sentence: String| faults.push(Diagnostic::new(file, line, column(word), sentence));
        match (id.parse::<PushId>(), key, words.next()) {
            (Ok(id), Ok(key), None) => users.push((id, key)),
            (Err(error), ..) => fault(id, error.to_string()),
            (_, Err(error), _) => fault(row.split_whitespace().nth(1).unwrap_or_default(), error.to_string()),
            (.., Some(more)) => {
                fault(more, "expected a Push ID and perhaps a key on a line; take the rest away".to_owned())
            }
        }
    }
    if !faults.is_empty() {
        return Err(Diagnostics(faults).into());
    }
    if users.is_empty() {
        return Err(common::fault(file, "expected a Push ID on each line, found none"));
    }
    Ok(users)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_each_other_within_the_prefix() {
        let nth = |bind: &str, n| bind.parse::<Bind>().unwrap().nth(n).map(|ip| ip.to_string());
        assert_eq!(nth("127.19.0.10", 900).as_deref(), Some("127.19.0.10"));
        assert_eq!(nth("127.19.0.10/16", 0).as_deref(), Some("127.19.0.10"));
        assert_eq!(nth("127.19.0.10/16", 246).as_deref(), Some("127.19.1.0"));
        assert_eq!(nth("127.19.0.10/24", 245).as_deref(), Some("127.19.0.255"));
        assert_eq!(nth("127.19.0.10/24", 246), None);
        assert_eq!(nth("255.255.255.255/0", 1), None);
        assert_eq!(nth("fd00::1/64", 0xFFFF).as_deref(), Some("fd00::1:0"));
        for wrong in ["", "127.0.0.1/33", "127.0.0.1/", "host/8", "::1/129"] {
            assert!(wrong.parse::<Bind>().is_err(), "{wrong}");
        }
    }
}
