//! What became of one message: a line of JSON, part of the digest, and what two replays are compared by.

use std::borrow::Cow;

use pushplane::id::{Endpoint, PushId};
use pushplane::plane::Verdict;
use pushplane::plane::explain::{Sent, verdict_name};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

/// What became of a message. As JSON one line of `--verdicts`; what `--expect` reads of an earlier one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Decision<'a> {
    /// The frame of the capture.
    pub(super) frame: u64,
    /// When it was captured, nanoseconds since 1970.
    pub(super) time_ns: u64,
    #[serde(with = "text")]
    pub(super) from: Endpoint,
    #[serde(with = "text")]
    pub(super) destination: PushId,
    /// None where that cannot be read.
    #[serde(borrow)]
    pub(super) kind: Option<Cow<'a, str>>,
    pub(super) app: u32,
    /// `deliver`, `forward`, `answer` or `drop`.
    #[serde(borrow)]
    pub(super) verdict: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) reason: Option<Cow<'a, str>>,
    /// What leaves for it, answers aside.
    #[serde(borrow)]
    pub(super) sends: Vec<Way<'a>>,
    /// Over the datagrams that leave, REJECTs aside, and where they go; none where nobody asked.
    #[serde(with = "hex", default)]
    pub(super) content: Option<u64>,
}

/// One datagram that leaves, in the words of the tables.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Way<'a> {
    #[serde(with = "text")]
    pub(super) to: Endpoint,
    /// `gateway`, `nat`, `server`, `direct` or `asker`.
    #[serde(borrow)]
    pub(super) via: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) gateway: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) tunnel: Option<Cow<'a, str>>,
    pub(super) device: u8,
    #[serde(with = "text_or_null")]
    pub(super) private: Option<Endpoint>,
    #[serde(borrow)]
    pub(super) server: Option<Cow<'a, str>>,
}

impl<'a> From<Sent<'a>> for Way<'a> {
    fn from(sent: Sent<'a>) -> Self {
        let Sent { to, via, gateway, tunnel, device, private, server } = sent;
        Self {
            to,
            via: via.into(),
            gateway: gateway.map(Cow::from),
            tunnel: tunnel.map(Cow::from),
            device,
            private,
            server: server.map(Cow::from),
        }
    }
}

impl Way<'_> {
    /// Whose it is next, by name where it has one.
    pub(super) fn called(&self) -> &str {
        self.gateway.as_ref().or(self.server.as_ref()).unwrap_or(&self.via)
    }
}

impl Decision<'_> {
    /// The same, in memory of its own.
    pub(super) fn kept(&self) -> Decision<'static> {
        let keep = |text: &Cow<'_, str>| Cow::Owned(text.to_string());
        let way = |way: &Way<'_>| Way {
            to: way.to,
            via: keep(&way.via),
            gateway: way.gateway.as_ref().map(keep),
            tunnel: way.tunnel.as_ref().map(keep),
            device: way.device,
            private: way.private,
            server: way.server.as_ref().map(keep),
        };
        Decision {
            frame: self.frame,
            time_ns: self.time_ns,
            from: self.from,
            destination: self.destination,
            kind: self.kind.as_ref().map(keep),
            app: self.app,
            verdict: keep(&self.verdict),
            reason: self.reason.as_ref().map(keep),
            sends: self.sends.iter().map(way).collect(),
            content: self.content,
        }
    }

    /// Writes down a verdict.
    pub(super) fn decide(&mut self, verdict: Verdict) {
        self.verdict = Cow::Borrowed(verdict_name(verdict));
        self.reason = match verdict {
            Verdict::Drop(reason) => Some(Cow::Borrowed(reason.name())),
            _ => None,
        };
        if self.reason.is_some() {
            self.sends.clear();
        }
    }

    /// Adds it to a digest: its frame number, its destination, the verdict's name, the reason's code, how many
    /// sends, and of each its address and port, its private address and port, its way and the terminal. Numbers
    /// are little-endian.
    pub(super) fn digest(&self, hash: &mut Xxh3, verdict: Verdict) {
        let reason = if let Verdict::Drop(reason) = verdict { reason.code() } else { 0 };
        hash.update(&self.frame.to_le_bytes());
        hash.update(&self.destination.to_bytes());
        hash.update(self.verdict.as_bytes());
        hash.update(&reason.to_le_bytes());
        hash.update(&(self.sends.len() as u32).to_le_bytes());
        for way in &self.sends {
            for endpoint in [way.to, way.private.unwrap_or(Endpoint::NONE)] {
                hash.update(&endpoint.octets());
                hash.update(&endpoint.port().to_le_bytes());
            }
            hash.update(way.via.as_bytes());
            hash.update(&[way.device]);
        }
    }
}

/// For people: when, which frame, from whom, for whom, what, and where to.
impl std::fmt::Display for Decision<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match jiff::Timestamp::from_nanosecond(self.time_ns.into()) {
            Ok(time) => write!(f, "{time:.6}")?,
            Err(_) => write!(f, "{}", self.time_ns)?,
        }
        write!(f, " #{} {} {} {}", self.frame, self.from, self.destination, self.verdict)?;
        if let Some(reason) = &self.reason {
            write!(f, " {reason}")?;
        }
        for way in &self.sends {
            write!(f, " {}", way.to)?;
            if let Some(name) = way.gateway.as_ref().or(way.server.as_ref()) {
                write!(f, " ({name})")?;
            }
        }
        Ok(())
    }
}

/// What is written as people write it.
mod text {
    use std::borrow::Cow;
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, D, T>(deserializer: D) -> Result<T, D::Error>
    where
        D: Deserializer<'de>,
        T: FromStr<Err: Display>,
    {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

mod text_or_null {
    use std::borrow::Cow;

    use pushplane::id::Endpoint;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(
        value: &Option<Endpoint>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Endpoint>, D::Error> {
        let text = Option::<Cow<'_, str>>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// Sixteen hexadecimal digits: JSON's numbers have fewer bits in most programs.
mod hex {
    use std::borrow::Cow;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(&format_args!("{value:016x}")),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        let text = Option::<Cow<'_, str>>::deserialize(deserializer)?;
        text.map(|text| u64::from_str_radix(&text, 16).map_err(D::Error::custom)).transpose()
    }
}
