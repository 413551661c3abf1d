//! `bench forward --matrix`: what a datagram costs by its size, the number of next hops and of senders, and its tunnel.

use std::time::Duration;

use super::bare::Way;
use super::forwarder::{self, ONE_BY_ONE};
use super::load::Load;
use super::operator::{Form, Operator, Size};
use super::sink::Sink;
use super::{Args, Bed, Bench};
use crate::bench::report::Rows;
use crate::outcome::Tally;
use crate::{Stop, common};

const TUNNELS: [Form; 2] = [Form::Vxlan, Form::Plain];
const HOPS: [u16; 3] = [1, 16, 1000];
const PAYLOADS: [u16; 2] = [64, 256];
const SENDERS: [u16; 2] = [1, 64];

/// The names of the columns.
const COLUMNS: [&str; 4] = ["recvmmsg_sendmmsg", "io_uring_gro_segment", "pushplane", "pushplane_send"];

#[derive(serde::Serialize)]
struct Row {
    tunnel: Form,
    hops: u16,
    payload: u16,
    senders: u16,
    /// Of the best round.
    cpu_ns: [f64; 4],
}

pub(super) fn run(args: &Args, bed: &Bed) -> Result<(), Stop> {
    let total = TUNNELS.len() * HOPS.len() * PAYLOADS.len() * SENDERS.len();
    let progress = common::Progress::of("forwarding", total as u64);
    let mut said = Rows::new("forward", &COLUMNS);
    for (tunnel, hops) in TUNNELS.iter().flat_map(|tunnel| HOPS.map(|hops| (*tunnel, hops))) {
        let mut sink = Sink::open(args.sink, hops, bed.clock)?;
        let size = Size { users: args.users, hops, payload: 0 };
        let mut operator = Operator::new(bed.folder.path(), size, tunnel, sink.first());
        let forwarders = [
            forwarder::bare(Way::Batches, &sink, bed)?,
            forwarder::bare(Way::Coalesced, &sink, bed)?,
            forwarder::serve(&mut operator, (COLUMNS[2], "serve"), &[bed.first()], "", bed)?,
            forwarder::serve(&mut operator, (COLUMNS[3], "serve"), &[bed.first()], ONE_BY_ONE, bed)?,
        ];
        operator.settle();
        let generators = [bed.last()];
        for (payload, senders) in PAYLOADS.iter().flat_map(|bytes| SENDERS.map(|senders| (*bytes, senders))) {
            operator.size.payload = payload.into();
            let load = Load::new(&operator, senders, bed.clock)?;
            let turn = Duration::from_millis(args.turn) / 4;
            let (operator, sink, generators) = (&operator, &mut sink, &generators);
            let mut bench = Bench { turn, operator, sink, load, generators };
            let mut cpu_ns = [f64::INFINITY; 4];
            let mut tally = Tally { valid: true, ..Tally::default() };
            bed.on_last(|| {
                for _ in 0..args.rounds {
                    for (forwarder, best) in forwarders.iter().zip(&mut cpu_ns) {
                        *best = best.min(bench.flood(forwarder, &mut tally)?.cpu_ns);
                    }
                }
                Ok(())
            })?;
            said.valid &= tally.valid;
            said.rows.push(Row { tunnel, hops, payload, senders, cpu_ns });
            progress.reach(said.rows.len() as u64);
        }
    }
    drop(progress);
    let title = format!("CPU ns a datagram under a flood, the best of {} rounds", args.rounds);
    said.say(args.json, &format!("{title}\n{}", table(&said.rows)))
}

fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<6} {:>5} {:>8} {:>8} {:>18} {:>21} {:>10} {:>15}\n",
        "tunnel", "hops", "payload", "senders", COLUMNS[0], COLUMNS[1], COLUMNS[2], COLUMNS[3]
    );
    for Row { tunnel, hops, payload, senders, cpu_ns: [plain, bare, serve, one_by_one] } in rows {
        let tunnel = if *tunnel == Form::Vxlan { "vxlan" } else { "plain" };
        text += &format!(
            "{tunnel:<6} {hops:>5} {payload:>8} {senders:>8} {plain:>18.0} {bare:>21.0} {serve:>10.0} {one_by_one:>15.0}\n"
        );
    }
    text
}
