//! `bench forward --shards`: what a datagram costs a core, and how many all of them forward, by the number of shards.
//!
//! Shards have the first CPUs, a socket each; generators have the others, and the sink the last one. Where no CPU is left
//! for them they share the last shard's: its rate is then what they leave it, while CPU time a datagram still says what
//! shards cost each other.

use std::time::Duration;

use super::forwarder::{self, ONE_BY_ONE};
use super::load::Load;
use super::operator::{Operator, Size};
use super::sink::Sink;
use super::{Args, Bed, Bench, Flood};
use crate::bench::report::Rows;
use crate::outcome::Tally;
use crate::{Stop, common};

#[derive(Clone, serde::Serialize)]
struct Row {
    name: &'static str,
    shards: u16,
    /// Generators share the last shard's CPU.
    shared: bool,
    /// Of the best round, over all shards.
    cpu_ns: f64,
    /// Of the best round, all shards together.
    forwarded_per_s: f64,
}

pub(super) fn run(args: &Args, bed: &Bed) -> Result<(), Stop> {
    let cpus = bed.cpus.len();
    if let Some(many) = args.shards.iter().find(|shards| usize::from(**shards) > cpus) {
        return Err(Stop::Wrong(format!(
            "--shards {many}: this process may use {cpus} CPUs, and each shard needs one of its own"
        )));
    }
    let mut sink = Sink::open(args.sink, args.hops, bed.clock)?;
    let size = Size { users: args.users, hops: args.hops, payload: args.payload.into() };
    let mut operator = Operator::new(bed.folder.path(), size, args.tunnel, sink.first());
    let progress = common::Progress::of("forwarding", 2 * args.shards.len() as u64);
    let mut said = Rows::new("forward", &[]);
    for &shards in &args.shards {
        for (name, lines) in [("pushplane", ""), ("pushplane_send", ONE_BY_ONE)] {
            let (own, others) = bed.cpus.split_at(shards.into());
            let served = forwarder::serve(&mut operator, (name, "serve"), own, lines, bed)?;
            let last = [bed.last()];
            let generators = if others.is_empty() { &last } else { others };
            let senders = usize::from(args.senders).max(generators.len()) as u16;
            let load = Load::new(&operator, senders, bed.clock)?;
            let turn = Duration::from_millis(args.turn);
            let mut bench = Bench { turn, operator: &operator, sink: &mut sink, load, generators };
            let mut tally = Tally { valid: true, ..Tally::default() };
            let shared = others.is_empty();
            let mut row = Row { name, shards, shared, cpu_ns: f64::INFINITY, forwarded_per_s: 0.0 };
            bed.on_last(|| {
                for _ in 0..args.rounds {
                    let Flood { cpu_ns, rate_per_s } = bench.flood(&served, &mut tally)?;
                    row.cpu_ns = row.cpu_ns.min(cpu_ns);
                    row.forwarded_per_s = row.forwarded_per_s.max(rate_per_s);
                }
                Ok(())
            })?;
            said.valid &= tally.valid && served.accounts()?.1;
            said.rows.push(row);
            progress.reach(said.rows.len() as u64);
        }
    }
    drop(progress);
    said.say(args.json, &table(&said.rows))
}

/// A shard's capacity is what it forwards with a core to itself; what is forwarded is as much as generators offer.
fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<15} {:>6} {:>8} {:>14} {:>13} {:>13} {:>12}\n",
        "", "shards", "CPU ns", "of one shard's", "a core /s", "forwarded /s", "shards busy"
    );
    for Row { name, shards, shared, cpu_ns, forwarded_per_s } in rows {
        let one = rows.iter().find(|row| row.name == *name).map_or(f64::NAN, |row| row.cpu_ns);
        let busy = 100.0 * cpu_ns * forwarded_per_s / 1e9 / f64::from(*shards);
        let note = if *shared { "  generators share the last shard's CPU" } else { "" };
        text += &format!(
            "{name:<15} {shards:>6} {cpu_ns:>8.0} {:>14.2} {:>13.0} {forwarded_per_s:>13.0} {busy:>11.0}%{note}\n",
            cpu_ns / one,
            1e9 / cpu_ns,
        );
    }
    text
}
