//! Captures to replay: pushes to the users of a generated operator, or plain datagrams to their addresses.

use std::fs::File;
use std::io::BufWriter;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use pushplane::capture::CaptureWriter;
use pushplane::id::{Endpoint, PushId};
use pushplane::table::generate::{Generate, generate};
use pushplane::table::rib::{App, Rule};
use pushplane::table::source;
use pushplane::wire::prp::{Header, Kind};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::plain::Lookup;
use crate::{Stop, common};

/// An application that anybody may push for: all of the generated ones ask for something.
pub(super) const APP: u32 = 1 << 20;
/// Between two datagrams.
const GAP_NS: u64 = 1000;
/// 2026-01-01.
const START_NS: u64 = 1_767_225_600_000_000_000;
/// Datagrams between two looks at the progress.
const SAY_EVERY: u64 = 1 << 14;

/// What the datagrams of a capture are.
#[derive(Clone, Copy)]
pub(super) enum Form {
    /// Pushes to users whose home is here, and to some that are nowhere.
    Prp,
    /// Whatever somebody sends to a user's address.
    Plain,
}

/// An operator, and who is sent to.
pub(super) struct Traffic {
    tables: PathBuf,
    server: Endpoint,
    users: Vec<PushId>,
    addresses: Vec<Endpoint>,
    lookup: Vec<(PushId, Endpoint)>,
    payload: usize,
    seed: u64,
}

impl Traffic {
    pub(super) fn make(folder: &Path, users: u64, payload: u16, seed: u64) -> Result<Self, Stop> {
        let _progress = common::Progress::start("making an operator");
        let sources = folder.join("sources");
        generate(&sources, &Generate { users, seed }).map_err(|error| Stop::file(&sources, error))?;
        let mut rib = source::load(&sources)?.rib;
        rib.apps.push(App {
            id: APP,
            name: "bench".into(),
            sources: None,
            users: true,
            rule: Rule::Normal,
            rate: None,
            key: None,
        });
        let image = common::build(&sources, &rib)?;
        let tables = folder.join("bench.ppt");
        image.write(&tables).map_err(|error| Stop::file(&tables, error))?;
        let own = &rib.servers[0].prefixes;
        let here = || rib.users.iter().filter(|user| own.iter().any(|prefix| prefix.contains(user.push_id)));
        let mut users: Vec<PushId> = here().map(|user| user.push_id).collect();
        users.dedup();
        let terminals = here().filter_map(|user| Some((user.push_id, user.private?)));
        let lookup: Vec<(PushId, Endpoint)> = terminals.collect();
        let addresses = lookup.iter().map(|(_, address)| *address).filter(|address| address.is_ipv4());
        Ok(Self {
            tables,
            server: rib.servers[0].address,
            users,
            addresses: addresses.collect(),
            payload: payload.into(),
            seed,
            lookup,
        })
    }

    pub(super) fn tables(&self) -> &Path {
        &self.tables
    }

    /// What the plain version looks users up in.
    pub(super) fn lookup(&self) -> Lookup {
        self.lookup.iter().copied().collect()
    }

    /// Writes a capture, everybody as likely as anybody.
    pub(super) fn write(&self, path: &Path, form: Form, datagrams: u64) -> Result<(), Stop> {
        let failed = |error| Stop::file(path, error);
        let file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(failed)?);
        let mut writer = CaptureWriter::new(file).map_err(failed)?;
        let mut random = Pcg64Mcg::seed_from_u64(self.seed);
        let progress = common::Progress::of("writing a capture", datagrams);
        let from = Endpoint::new(Ipv4Addr::new(198, 51, 100, 1).into(), 5000);
        let mut bytes = vec![0; 48 + self.payload];
        for n in 0..datagrams {
            let time_ns = START_NS + n * GAP_NS;
            let (to, payload) = match form {
                Form::Prp => {
                    let user = self.users[random.random_range(..self.users.len())];
                    let header = Header { app: APP, ..Header::new(Kind::Push, user, PushId::NONE, n) };
                    bytes[..48].copy_from_slice(&header.to_bytes());
                    (self.server, &bytes[..])
                }
                Form::Plain => (self.addresses[random.random_range(..self.addresses.len())], &bytes[48..]),
            };
            writer.write(time_ns, from, to, payload).map_err(failed)?;
            if n.is_multiple_of(SAY_EVERY) {
                progress.reach(n);
            }
        }
        writer.finish().map_err(failed)?;
        Ok(())
    }
}
