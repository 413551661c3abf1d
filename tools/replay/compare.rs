//! Two decisions about one message, and how they differ: what `--against` and `--expect` tell.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::str::FromStr;

use super::decision::{Decision, Way};
use crate::common::grouped;

/// Examples that are kept of each cause.
const EXAMPLES_MAX: usize = 3;

/// How many differences are no fault.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Allowance {
    Messages(u64),
    Percent(f64),
}

impl FromStr for Allowance {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let percent = text.strip_suffix('%').map(|percent| percent.trim().parse::<f64>());
        match (percent, text.parse()) {
            (Some(Ok(percent)), _) if (0.0..=100.0).contains(&percent) => Ok(Self::Percent(percent)),
            (None, Ok(messages)) => Ok(Self::Messages(messages)),
            _ => Err("expected a number of messages, or a share as 0.5%"),
        }
    }
}

impl Allowance {
    fn allows(self, differ: u64, compared: u64) -> bool {
        match self {
            Self::Messages(messages) => differ <= messages,
            Self::Percent(percent) => differ as f64 * 100.0 <= percent * compared as f64,
        }
    }
}

/// What differs, gathered by its cause.
#[derive(Default)]
pub(super) struct Differences {
    compared: u64,
    causes: BTreeMap<String, Cause>,
}

#[derive(Default)]
struct Cause {
    count: u64,
    examples: Vec<Pair>,
}

/// The two decisions about one message; none where one of the two had no such message.
#[derive(serde::Serialize)]
struct Pair {
    before: Option<Decision<'static>>,
    after: Option<Decision<'static>>,
}

/// What was found; what is printed as JSON.
#[derive(serde::Serialize)]
pub(super) struct Findings {
    /// Messages that were decided twice, or once only.
    pub(super) compared: u64,
    /// Those that were decided otherwise.
    pub(super) differ: u64,
    /// No more than allowed.
    pub(super) allowed: bool,
    /// By cause, the most frequent first.
    causes: Vec<Found>,
}

#[derive(serde::Serialize)]
struct Found {
    cause: String,
    count: u64,
    examples: Vec<Pair>,
}

impl Differences {
    /// Takes what was decided before and after about one message.
    pub(super) fn compare(&mut self, before: Option<&Decision<'_>>, after: Option<&Decision<'_>>) {
        self.compared += 1;
        let cause = match (before, after) {
            (Some(before), Some(after)) => match cause(before, after) {
                Some(cause) => cause,
                None => return,
            },
            (Some(before), None) => format!("{} before → no such message", verdict(before)),
            (None, Some(after)) => format!("no such message before → {}", verdict(after)),
            (None, None) => return,
        };
        let cause = self.causes.entry(cause).or_default();
        cause.count += 1;
        if cause.examples.len() < EXAMPLES_MAX {
            let [before, after] = [before, after].map(|decision| decision.map(Decision::kept));
            cause.examples.push(Pair { before, after });
        }
    }

    pub(super) fn findings(self, allow: Allowance) -> Findings {
        let found = |(cause, Cause { count, examples })| Found { cause, count, examples };
        let mut causes: Vec<Found> = self.causes.into_iter().map(found).collect();
        causes.sort_by_key(|found| std::cmp::Reverse(found.count));
        let differ = causes.iter().map(|found| found.count).sum();
        Findings { compared: self.compared, differ, allowed: allow.allows(differ, self.compared), causes }
    }
}

impl Findings {
    /// For people.
    pub(super) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{:>12} decisions compared", grouped(self.compared))?;
        let percent = self.differ as f64 * 100.0 / self.compared.max(1) as f64;
        writeln!(out, "{:>12} differ ({percent:.3} %)", grouped(self.differ))?;
        for Found { cause, count, examples } in &self.causes {
            writeln!(out, "{:>12} {cause}", grouped(*count))?;
            for Pair { before, after } in examples {
                for (which, decision) in [("before", before), ("after ", after)] {
                    if let Some(decision) = decision {
                        writeln!(out, "             {which} {decision}")?;
                    }
                }
            }
        }
        writeln!(out, "{}", if self.allowed { "within what is allowed" } else { "more than is allowed" })
    }
}

/// How two decisions differ, in words that many messages share; none where they do not.
fn cause(before: &Decision<'_>, after: &Decision<'_>) -> Option<String> {
    if before.destination != after.destination || before.kind != after.kind || before.app != after.app {
        return Some("another message in the same frame".to_owned());
    }
    if before.verdict != after.verdict || before.reason != after.reason {
        return Some(format!("{} → {}", verdict(before), verdict(after)));
    }
    let what = &before.verdict;
    match before.sends.len().cmp(&after.sends.len()) {
        std::cmp::Ordering::Less => return Some(format!("{what}: more terminals or servers")),
        std::cmp::Ordering::Greater => return Some(format!("{what}: fewer terminals or servers")),
        std::cmp::Ordering::Equal => {}
    }
    let pairs = before.sends.iter().zip(&after.sends);
    let mut changes = pairs.filter_map(|(before, after)| way_changed(before, after));
    if let Some(change) = changes.next() {
        return Some(format!("{what}: {change}"));
    }
    // Only where both were looked at.
    let differs = before.content.zip(after.content).is_some_and(|(before, after)| before != after);
    differs.then(|| format!("{what}: the same way, with other bytes"))
}

fn verdict(decision: &Decision<'_>) -> String {
    let mut text = decision.verdict.to_string();
    if let Some(reason) = &decision.reason {
        let _ = write!(text, " ({reason})");
    }
    text
}

/// The first that differs of: by what way, whose it is next, in which tunnel, for which terminal, and where.
fn way_changed(before: &Way<'_>, after: &Way<'_>) -> Option<String> {
    if before.via != after.via {
        return Some(format!("by {} → by {}", before.via, after.via));
    }
    if before.called() != after.called() {
        return Some(format!("{} {} → {}", before.via, before.called(), after.called()));
    }
    let name = before.called();
    if before.tunnel != after.tunnel {
        let tunnel = |way: &Way<'_>| way.tunnel.as_deref().unwrap_or("none").to_owned();
        return Some(format!("tunnel of {name}: {} → {}", tunnel(before), tunnel(after)));
    }
    if before.device != after.device {
        return Some("another of the user's terminals".to_owned());
    }
    if before.private != after.private {
        return Some("another private address".to_owned());
    }
    (before.to != after.to).then(|| format!("another address of {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::Cow;

    fn way(via: &'static str, name: &'static str) -> Way<'static> {
        let name = Some(Cow::Borrowed(name));
        let (gateway, server) = if via == "server" { (None, name) } else { (name, None) };
        Way {
            to: "192.0.2.1:17400".parse().unwrap(),
            via: via.into(),
            gateway,
            tunnel: None,
            device: 1,
            private: None,
            server,
        }
    }

    fn decision(frame: u64, verdict: &'static str, sends: Vec<Way<'static>>) -> Decision<'static> {
        let (verdict, reason) = verdict.split_once(' ').unwrap_or((verdict, ""));
        Decision {
            frame,
            time_ns: 1,
            from: "192.0.2.7:4000".parse().unwrap(),
            destination: pushplane::id::PushId(5),
            kind: Some("PUSH".into()),
            app: 7,
            verdict: verdict.into(),
            reason: (!reason.is_empty()).then(|| reason.into()),
            sends,
            content: Some(9),
        }
    }

    #[test]
    fn causes_are_named_by_what_changed_first() {
        let deliver = || decision(1, "deliver", vec![way("gateway", "a")]);
        let changed = |change: &dyn Fn(&mut Decision<'static>)| {
            let mut after = deliver();
            change(&mut after);
            cause(&deliver(), &after)
        };
        assert_eq!(changed(&|_| {}), None);
        let drop = decision(1, "drop no-route", Vec::new());
        assert_eq!(cause(&deliver(), &drop).unwrap(), "deliver → drop (no-route)");
        let other = decision(1, "drop hop-limit", Vec::new());
        assert_eq!(cause(&drop, &other).unwrap(), "drop (no-route) → drop (hop-limit)");
        assert_eq!(
            changed(&|after| after.sends[0] = way("nat", "a")).unwrap(),
            "deliver: by gateway → by nat"
        );
        assert_eq!(changed(&|after| after.sends[0] = way("gateway", "b")).unwrap(), "deliver: gateway a → b");
        assert_eq!(
            changed(&|after| after.sends[0].tunnel = Some("vxlan".into())).unwrap(),
            "deliver: tunnel of a: none → vxlan"
        );
        assert_eq!(
            changed(&|after| after.sends.push(way("gateway", "c"))).unwrap(),
            "deliver: more terminals or servers"
        );
        assert_eq!(changed(&|after| after.sends.clear()).unwrap(), "deliver: fewer terminals or servers");
        assert_eq!(
            changed(&|after| after.sends[0].device = 2).unwrap(),
            "deliver: another of the user's terminals"
        );
        let elsewhere = "192.0.2.9:17400".parse().unwrap();
        assert_eq!(changed(&|after| after.sends[0].to = elsewhere).unwrap(), "deliver: another address of a");
        assert_eq!(
            changed(&|after| after.sends[0].private = Some(elsewhere)).unwrap(),
            "deliver: another private address"
        );
        assert_eq!(
            changed(&|after| after.content = Some(8)).unwrap(),
            "deliver: the same way, with other bytes"
        );
        assert_eq!(changed(&|after| after.content = None), None);
        assert_eq!(changed(&|after| after.app = 8).unwrap(), "another message in the same frame");
    }

    #[test]
    fn what_is_allowed_is_a_number_or_a_share() {
        let differences = || {
            let mut differences = Differences::default();
            for frame in 0..200 {
                let verdict = if frame < 2 { "drop no-route" } else { "deliver" };
                differences.compare(
                    Some(&decision(frame, "deliver", Vec::new())),
                    Some(&decision(frame, verdict, Vec::new())),
                );
            }
            differences.compare(None, Some(&decision(200, "deliver", Vec::new())));
            differences
        };
        for (allow, allowed) in [("2", false), ("3", true), ("1%", false), ("1.5%", true), ("100%", true)] {
            let found = differences().findings(allow.parse().unwrap());
            assert_eq!((found.compared, found.differ, found.allowed), (201, 3, allowed), "{allow}");
        }
        let found = differences().findings(Allowance::Messages(0));
        let causes: Vec<(&str, u64)> =
            found.causes.iter().map(|found| (&*found.cause, found.count)).collect();
        assert_eq!(causes, [("deliver → drop (no-route)", 2), ("no such message before → deliver", 1)]);
        for wrong in ["", "-1", "101%", "x%", "1.5"] {
            assert!(wrong.parse::<Allowance>().is_err(), "{wrong}");
        }
    }
}
