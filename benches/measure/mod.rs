//! How fast routes are looked up, and what bounds it: our tables, the plain version of them and peers, at the same job
//! over the same users, interleaved in one run, every answer checked.

pub(crate) mod contest;
mod count;
mod dpdk;
#[path = "../operator/mod.rs"]
pub(crate) mod operator;
mod own;
mod plain;
pub(crate) mod routes;
pub(crate) mod users;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

pub(crate) use contest::Table;
use contest::{Entrant, Place, Rules, hold, pin};
use routes::{Addresses, Lengths, Routes, Space};
use users::{Draw, Hits, Population, Users};

/// Somebody who looks users up.
pub(crate) type UserEntrant = Entrant<Population, Users>;
/// Somebody who looks longest matches up.
pub(crate) type RouteEntrant = Entrant<Routes, Addresses>;

/// Beyond so many users tables are made one at a time: all would not fit 24 GiB, the largest one does up to a hundred
/// million.
const APART: u64 = 20_000_000;

/// What to measure.
#[derive(clap::Args, Clone, Debug, serde::Serialize)]
pub(crate) struct Options {
    /// How many users; several, one after another
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1000000,10000000",
          value_parser = clap::value_parser!(u64).range(64..=1_000_000_000))]
    pub(crate) users: Vec<u64>,
    /// How they are drawn
    #[arg(long, value_enum, default_value_t = Draw::Uniform)]
    draw: Draw,
    /// How many of them are known
    #[arg(long, value_enum, default_value_t = Hits::All)]
    hits: Hits,
    /// Measure beside a writer too, which changes the table as fast as it goes
    #[arg(long)]
    writer: bool,
    /// Prefixes of segments, IPv4 and IPv6; a tenth as many prefixes of Push servers; 0: none
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    prefixes: usize,
    /// Rounds; the best counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Lookups a round and contestant
    #[arg(long, value_name = "N", default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(64..))]
    pub(crate) lookups: u32,
    /// Make one table of users at a time: ours, measure, drop it, then each peer's. So it is anyway beyond 20 million users
    #[arg(long)]
    one_at_a_time: bool,
    /// Only contestants whose name has this in it, beside our own
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Count instructions with callgrind instead, and compare with this file
    #[arg(long, value_name = "FILE")]
    instructions: Option<PathBuf>,
    /// Write that file anew
    #[arg(long, requires = "instructions")]
    bless: bool,
    /// What callgrind is to count
    #[arg(long, value_name = "JOB", hide = true)]
    counted: Option<String>,
}

/// What was measured.
pub(crate) enum Measured {
    /// Times, a table a question.
    Times(Vec<Table>),
    /// Instructions.
    Instructions(String),
}

/// Measures: ours, the plain versions, DPDK's tables where they are, and these peers. `arguments` lead this program back
/// here.
///
/// # Errors
/// When instructions cannot be counted, or have become more.
pub(crate) fn measure(
    options: &Options,
    arguments: &[&str],
    user_peers: impl Fn() -> Vec<UserEntrant>,
    route_peers: impl Fn(Space) -> Vec<RouteEntrant>,
) -> Result<Measured, String> {
    if let Some(job) = &options.counted {
        return count::run(job).map(|()| Measured::Times(Vec::new()));
    }
    if let Some(file) = &options.instructions {
        return count::hold_to(file, options.bless, arguments).map(Measured::Instructions);
    }
    take_huge_pages();
    pin(Place::Reader);
    let mut tables: Vec<Table> =
        options.users.iter().map(|users| options.lookups(*users, user_peers())).collect();
    if options.prefixes > 0 {
        let (segments, servers) = (options.prefixes, options.prefixes.div_ceil(10));
        for (space, count) in [(Space::V4, segments), (Space::V6, segments), (Space::PushId, servers)] {
            tables.push(options.routes(space, count, route_peers(space)));
        }
    }
    Ok(Measured::Times(tables))
}

/// Gives everybody's memory the huge pages that ours asks for: glibc does, when it is told before a program starts, so
/// the program starts again.
fn take_huge_pages() {
    const TUNABLES: &str = "GLIBC_TUNABLES";
    if std::env::var_os(TUNABLES).is_none()
        && let Ok(program) = std::env::current_exe()
    {
        let mut again = Command::new(program);
        let error = again.args(std::env::args_os().skip(1)).env(TUNABLES, "glibc.malloc.hugetlb=1").exec();
        eprintln!("maps stay on small pages: {error}");
    }
}

impl Options {
    fn is_wanted(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| name.contains(only))
    }

    fn rules(&self, writer: bool, apart: bool) -> Rules {
        Rules { rounds: self.rounds as usize, writer, apart }
    }

    fn lookups(&self, users: u64, peers: Vec<UserEntrant>) -> Table {
        let Self { draw, hits, lookups, .. } = *self;
        let mut entrants = own::entrants();
        let others = plain::entrants().into_iter().chain(dpdk::entrants()).chain(peers);
        entrants.extend(others.filter(|entrant| self.is_wanted(entrant.name)));
        let apart = self.one_at_a_time || users > APART;
        let how = if apart { ", one at a time: rounds of one are not those of another" } else { "" };
        let title = format!("{users} users, drawn {draw:?}, known {hits:?}; best of {}{how}", self.rounds);
        let ask = |round| Users::draw(users, draw, hits, lookups as usize, round);
        hold(title, &Population::new(users), entrants, self.rules(self.writer, apart), ask)
    }

    fn routes(&self, space: Space, count: usize, peers: Vec<RouteEntrant>) -> Table {
        let routes = Routes::new(space, count);
        let plain = Lengths::new(&routes);
        let mut entrants = routes::entrants(space);
        entrants.extend(peers);
        // Ours are the first two.
        let entrants =
            entrants.into_iter().enumerate().filter(|(at, entrant)| *at < 2 || self.is_wanted(entrant.name));
        let entrants = entrants.map(|(_, entrant)| entrant).collect();
        let title =
            format!("{count} prefixes of {}, addresses that hit; best of {}", space.name(), self.rounds);
        let ask = |round| Addresses::draw(&routes, &plain, self.lookups as usize, round);
        hold(title, &routes, entrants, self.rules(false, false), ask)
    }
}
