//! One client, for a person or a script: shows what arrives.
//!
//! Standard output has the payloads, or a line of JSON for each message; standard error everything else.

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;

use clap::ValueEnum;
use pushplane::id::Endpoint;
use serde_json::json;

use super::applications::Applications;
use super::drive::Audience;
use super::registration::{Granted, News};
use super::terminal::{Arrival, Event};
use crate::common::{harmless, note};

/// A NAT may forget a mapping that was silent for so long (RFC 4787, REQ-5).
const NAT_KEEPS_S: u64 = 120;

/// When the terminal's bell rings.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Bell {
    /// Where standard error is a terminal
    Auto,
    /// For every message
    Always,
    /// Never
    Never,
}

/// What is shown, and how.
pub(super) struct Viewer {
    pub(super) applications: Applications,
    server: Endpoint,
    /// Our own address and port.
    own: Endpoint,
    json: bool,
    rings: bool,
    shown: u64,
    /// After so many messages it is enough.
    count: Option<u64>,
}

impl Viewer {
    pub(super) fn new(args: &super::Args, own: Endpoint, applications: Applications) -> Self {
        let rings = match args.bell {
            Bell::Auto => io::stderr().is_terminal(),
            Bell::Always => true,
            Bell::Never => false,
        };
        Self { applications, server: args.server, own, json: args.json, rings, shown: 0, count: args.count }
    }

    fn registration(&self, news: &News) {
        match news {
            News::Rejected { again: true, .. } => {}
            News::Unheard => note(format_args!("{} does not answer: {news}", self.server)),
            _ => note(news),
        }
        if let News::Registered(granted) | News::Again { granted, .. } = news {
            self.warn_of_nat(granted);
        }
    }

    /// Behind a NAT a message comes in only as long as the mapping lives.
    fn warn_of_nat(&self, granted: &Granted) {
        let Granted { seen, renew_s, .. } = *granted;
        if seen.is_some_and(|seen| seen != self.own) && renew_s > NAT_KEEPS_S {
            note(format_args!(
                "there is a NAT in between, which may forget us after {NAT_KEEPS_S} s of silence; \
                 we renew every {renew_s} s: --renew 60 keeps the way open"
            ));
        }
    }

    fn arrived(&mut self, arrival: &Arrival<'_>) {
        self.shown += 1;
        if self.rings {
            let _ = io::stderr().lock().write_all(b"\x07");
        }
        if self.json {
            print_json(arrival);
        } else {
            note(prompt(arrival));
            print(arrival.payload);
        }
        self.applications.arrived(arrival);
    }
}

impl Audience for Viewer {
    fn hear(&mut self, event: Event<'_>) -> ControlFlow<()> {
        match event {
            Event::Registration(news) => self.registration(&news),
            Event::Arrived { again: true, .. } => {}
            Event::Arrived { arrival, again: false } => self.arrived(&arrival),
            Event::Introduced(told) => {
                let at: Vec<String> = told.at.iter().map(ToString::to_string).collect();
                note(format_args!("introduced to {}, who may be at {}", told.peer, at.join(" or ")));
            }
            Event::Met { peer, at } => note(format_args!("reached {peer} directly at {at}")),
            Event::Dropped(why) => note(why),
        }
        if self.count == Some(self.shown) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// The line that says that something came.
fn prompt(arrival: &Arrival<'_>) -> String {
    let Arrival { header, content_type, group, payload, direct } = arrival;
    let mut line = format!("push for application {}", header.app);
    if !header.source.is_none() {
        line += &format!(" from {}", header.source);
    }
    if let Some(group) = group {
        line += &format!(" to the group {group}");
    }
    if let Some(from) = direct {
        line += &format!(", directly from {from}");
    }
    if let Some(text) = content_type {
        line += &format!(", {}", harmless(text));
    }
    line + &format!(", {} bytes", payload.len())
}

fn print_json(arrival: &Arrival<'_>) {
    let Arrival { header, content_type, group, payload, direct } = arrival;
    crate::say(&json!({
        "app": header.app,
        "destination": header.destination.to_string(),
        "source": header.source.to_string(),
        "message": format!("{:016x}", header.message),
        "flags": header.flags,
        "content_type": content_type,
        "group": group.map(|group| group.to_string()),
        "direct": direct.map(|from| from.to_string()),
        "payload": String::from_utf8_lossy(payload),
        "payload_hex": payload.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
    }));
}

fn print(payload: &[u8]) {
    let mut out = io::stdout().lock();
    if out.is_terminal() {
        // Whoever may push must not steer the terminal of who reads.
        let _ = writeln!(out, "{}", harmless(&String::from_utf8_lossy(payload)));
        return;
    }
    // The payload as it is: a script may want its bytes.
    let _ = out.write_all(payload).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
}
