//! Replay on the capture's own clock: one server's decisions, or two servers' beside each other.

use std::io::{self, Write};
use std::path::Path;

use super::Args;
use super::compare::{Differences, Findings};
use super::decision::Decision;
use super::engine::{Detail, Engine, Outcome, Watch};
use super::messages::{Choice, Messages, World};
use super::place::{self, Place};
use super::report::Report;
use super::watch::{Audience, Datagrams, Earlier, Lines, Verdicts, create};
use crate::{Stop, capture, common};

/// How many messages pass between two looks at the progress.
const SAY_EVERY: u64 = 1 << 14;

pub(super) fn run(args: &Args) -> Result<(), Stop> {
    let (place, world) = place::open(args)?;
    match &args.against {
        Some(other) => compare(args, &place, &world, other),
        None => decide(args, &place, &world),
    }
}

fn decide(args: &Args, place: &Place, world: &World) -> Result<(), Stop> {
    let mut messages = Messages::open(&args.choice, world)?;
    let mut audience = audience(args)?;
    let mut engine = Engine::new(&place.tables, &place.setup, audience.wants_detail());
    let replayed = replay(&mut messages, |message| match message {
        Some(message) => engine.take(&message, &mut audience),
        None => engine.flush(&mut audience),
    });
    replayed.and_then(|()| audience.end()).map_err(stop)?;
    let findings = audience.earlier.map(|earlier| earlier.differences.findings(args.allow));
    say(args, place, world, &messages, engine.outcome(), None, findings)
}

/// Keeps the decisions of the message that was just decided.
#[derive(Default)]
struct Last<'t>(Vec<Decision<'t>>);

impl<'t> Watch<'t> for Last<'t> {
    fn decided(&mut self, decision: &Decision<'t>, _: Option<Detail<'_>>) -> io::Result<()> {
        self.0.push(decision.clone());
        Ok(())
    }
}

fn compare(args: &Args, before: &Place, world: &World, other: &Path) -> Result<(), Stop> {
    let after = place::over(before, other)?;
    let mut messages = Messages::open(&args.choice, world)?;
    let mut engines = [before, &after].map(|place| Engine::new(&place.tables, &place.setup, true));
    let mut differences = Differences::default();
    let mut last = [Last::default(), Last::default()];
    replay(&mut messages, |message| {
        for (engine, last) in engines.iter_mut().zip(&mut last) {
            match &message {
                Some(message) => engine.take(message, last)?,
                None => engine.flush(last)?,
            }
        }
        let [before, after] = &mut last;
        for (before, after) in before.0.drain(..).zip(after.0.drain(..)) {
            differences.compare(Some(&before), Some(&after));
        }
        Ok(())
    })
    .map_err(stop)?;
    let [outcome, against] = engines.map(|engine| engine.outcome());
    let findings = differences.findings(args.allow);
    say(args, before, world, &messages, outcome, Some(against), Some(findings))
}

/// Hands all messages on, then none.
fn replay(
    messages: &mut Messages<'_>,
    mut take: impl FnMut(Option<super::messages::Message<'_>>) -> io::Result<()>,
) -> io::Result<()> {
    let progress = messages.position.progress("replaying");
    let mut taken = 0_u64;
    while let Some(message) = messages.next() {
        take(Some(message))?;
        taken += 1;
        if taken.is_multiple_of(SAY_EVERY) {
            messages.position.show(&progress);
        }
    }
    take(None)
}

/// Everybody who wants something.
fn audience(args: &Args) -> Result<Audience, Stop> {
    let datagrams = args.pcapng.as_deref().map(create).transpose()?.map(Datagrams::new);
    Ok(Audience {
        lines: args.verbose.then(|| create(Path::new("-"))).transpose()?.map(Lines),
        verdicts: args.verdicts.as_deref().map(create).transpose()?.map(Verdicts),
        datagrams: datagrams.transpose().map_err(stop)?,
        earlier: args.expect.as_deref().map(Earlier::open).transpose()?,
    })
}

/// What an error of a replay is for whoever called it.
fn stop(error: io::Error) -> Stop {
    match error.kind() {
        io::ErrorKind::InvalidData => Stop::Wrong(error.to_string()),
        // Whoever closed our output does not want it any more.
        io::ErrorKind::BrokenPipe => std::process::exit(0),
        _ => Stop::Failed(format!("the replay cannot go on: {error}")),
    }
}

/// What to do about a capture without a message.
pub(super) fn nothing_to_replay(choice: &Choice) -> String {
    let why = if choice.as_push {
        ": no UDP datagram in it is for an address that the tables know; \"tables learn\" makes tables of a capture"
    } else {
        "; --as-push makes pushes of other datagrams"
    };
    format!("{}: no message to replay{why}", capture::name(&choice.capture))
}

fn say(
    args: &Args,
    place: &Place,
    world: &World,
    messages: &Messages<'_>,
    outcome: Outcome,
    against: Option<Outcome>,
    differences: Option<Findings>,
) -> Result<(), Stop> {
    let name = capture::name(&args.choice.capture);
    capture::warn(&name, messages.reader());
    if outcome.planned == 0 {
        common::note(nothing_to_replay(&args.choice));
    }
    let valid = outcome.valid && against.as_ref().is_none_or(|against| against.valid);
    let report = Report {
        capture: name,
        server: place.name.clone(),
        app: args.choice.as_push.then_some(world.app),
        outcome,
        against,
        differences,
        contents: messages.contents(),
    };
    let on_stdout = |path: &Option<std::path::PathBuf>| path.as_deref().is_some_and(capture::is_stdin);
    // Where lines or a capture go to standard output, the report must not.
    if on_stdout(&args.verdicts) || on_stdout(&args.pcapng) {
        let mut text = Vec::new();
        let written = if args.json { report.print_json(&mut text) } else { report.print(&mut text) };
        written.and_then(|()| io::stderr().write_all(&text)).map_err(stop)?;
    } else if args.json {
        common::print_json(&report)?;
    } else {
        common::print(|out| report.print(out))?;
    }
    if valid && report.differences.is_none_or(|differences| differences.allowed) {
        Ok(())
    } else {
        Err(Stop::No)
    }
}
