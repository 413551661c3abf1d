//! Which messages of a capture are replayed: `--include` and `--exclude`.

use std::net::IpAddr;
use std::str::FromStr;

use pushplane::id::{PushId, PushPrefix, parse_ip_prefix};
use pushplane::wire::prp::{Header, Kind};

use super::messages::Message;

/// One condition on a message, as it is written: `FIELD=VALUE`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Condition {
    Kind(Kind),
    App(u32),
    /// Of the destination Push ID.
    To(Ids),
    /// Of the source Push ID.
    Source(Ids),
    /// Of the address that it came from.
    From(IpAddr, u8),
    /// Frames of the capture, both included.
    Frames(u64, u64),
}

/// One Push ID, or those under a prefix. What could be either, 32 digits of 0 and 1, is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ids {
    One(PushId),
    Under(PushPrefix),
}

impl FromStr for Ids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let under = |_| text.parse().map(Self::Under);
        let ids = text.parse().map(Self::One).or_else(under);
        ids.map_err(|error| format!("expected a Push ID of 32 hexadecimal digits, or a prefix: {error}"))
    }
}

impl Ids {
    fn has(self, id: PushId) -> bool {
        match self {
            Self::One(one) => id == one,
            Self::Under(prefix) => prefix.contains(id),
        }
    }
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (field, value) = text.split_once('=').ok_or(SYNTAX)?;
        let wrong = |what: &str| format!("{field}: expected {what}, found {value}");
        match field {
            "kind" => {
                let named = |kind: &&Kind| kind.name().eq_ignore_ascii_case(value);
                let kind =
                    Kind::ALL.iter().find(named).ok_or_else(|| wrong("a kind of message, such as push"))?;
                Ok(Self::Kind(*kind))
            }
            "app" => value.parse().map(Self::App).map_err(|_| wrong("a number")),
            "to" => value.parse().map(Self::To).map_err(|error| format!("{field}: {error}")),
            "source" => value.parse().map(Self::Source).map_err(|error| format!("{field}: {error}")),
            "from" => {
                let (ip, len) = parse_ip_prefix(value).map_err(|error| format!("{field}: {error}"))?;
                Ok(Self::From(ip, len))
            }
            "frames" => {
                let (first, last) = value.split_once('-').unwrap_or((value, value));
                match (first.parse(), last.parse()) {
                    (Ok(first), Ok(last)) if first <= last => Ok(Self::Frames(first, last)),
                    _ => Err(wrong("a number, or two as 10-20")),
                }
            }
            _ => Err(SYNTAX.to_owned()),
        }
    }
}

const SYNTAX: &str = "expected kind=push, app=7, to=0x30/4, source=ID, from=192.0.2.0/24 or frames=10-20";

impl Condition {
    fn holds(&self, message: &Message<'_>, header: Option<&Header>) -> bool {
        match *self {
            Self::Kind(kind) => header.is_some_and(|header| header.kind == kind as u8),
            Self::App(app) => header.is_some_and(|header| header.app == app),
            Self::To(ids) => header.is_some_and(|header| ids.has(header.destination)),
            Self::Source(ids) => header.is_some_and(|header| ids.has(header.source)),
            Self::From(ip, len) => is_in(message.from.ip(), ip, len),
            Self::Frames(first, last) => (first..=last).contains(&message.frame_number),
        }
    }
}

/// What is asked for: any of the first, if there are any, and none of the second.
#[derive(Clone, Default, Debug)]
pub(super) struct Selection {
    pub(super) include: Vec<Condition>,
    pub(super) exclude: Vec<Condition>,
}

impl Selection {
    pub(super) fn takes(&self, message: &Message<'_>) -> bool {
        if self.include.is_empty() && self.exclude.is_empty() {
            return true;
        }
        let header = Header::read(message.bytes);
        let holds = |condition: &Condition| condition.holds(message, header.as_ref());
        (self.include.is_empty() || self.include.iter().any(holds)) && !self.exclude.iter().any(holds)
    }
}

/// Whether an address lies under a prefix.
pub(super) fn is_in(ip: IpAddr, prefix: IpAddr, len: u8) -> bool {
    match (ip.to_canonical(), prefix) {
        (IpAddr::V4(ip), IpAddr::V4(prefix)) => {
            (ip.to_bits() ^ prefix.to_bits()).checked_shr(32 - u32::from(len)).unwrap_or(0) == 0
        }
        (IpAddr::V6(ip), IpAddr::V6(prefix)) => {
            (ip.to_bits() ^ prefix.to_bits()).checked_shr(128 - u32::from(len)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_chosen_by_any_of_the_first_and_none_of_the_second() {
        let header = Header { app: 7, ..Header::new(Kind::Push, PushId(3 << 124 | 1), PushId::NONE, 1) };
        let bytes = header.to_bytes();
        let message = Message {
            time_ns: 1,
            frame_number: 12,
            from: "192.0.2.7:4000".parse().unwrap(),
            to: "192.0.2.1:17400".parse().unwrap(),
            bytes: &bytes,
            mapped: false,
        };
        let takes = |include: &str, exclude: &str| {
            let read = |text: &str| text.split_whitespace().map(|word| word.parse().unwrap()).collect();
            Selection { include: read(include), exclude: read(exclude) }.takes(&message)
        };
        for holds in [
            "kind=PUSH",
            "app=7",
            "to=0011",
            "to=30000000000000000000000000000001",
            "source=00000000000000000000000000000000",
            "source=0x00/8",
            "from=192.0.2.0/24",
            "frames=12",
            "frames=1-20",
        ] {
            assert!(takes(holds, "") && takes(&format!("app=9 {holds}"), "kind=echo"), "{holds}");
            assert!(!takes("", holds) && !takes(holds, holds), "{holds}");
        }
        for fails in [
            "kind=echo",
            "app=8",
            "to=0010",
            "to=30000000000000000000000000000000",
            "source=1",
            "from=2001:db8::/32",
            "frames=13-20",
        ] {
            assert!(!takes(fails, "") && takes("", fails), "{fails}");
        }
        assert!(takes("", ""));
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        for (text, words) in [
            ("kind", "expected kind=push"),
            ("size=3", "expected kind=push"),
            ("kind=letter", "a kind of message"),
            ("app=x", "a number"),
            ("frames=9-3", "two as 10-20"),
            ("from=192.0.2.1/24", "host bits"),
            ("to=xyz", "to: "),
        ] {
            let error = text.parse::<Condition>().unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
