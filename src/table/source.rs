//! The source tables: a directory of files that an operator writes (`INTERFACE.md`, "Table
//! sources"), read into a [`Rib`] or refused with every fault by file, line and column.
//!
//! What [`load`] promises of a [`Rib`], so that whoever compiles one need not ask again:
//!
//! - names of servers, gateways and names, prefixes and addresses of servers, ids of applications
//!   and keys, (realm, prefix) of segments, (user, device), (realm, private address and port) and
//!   (group, member) are unique, and a public address and port belongs to one user;
//! - key ids and gateway indexes lead somewhere; every Push ID lies under a server's prefix;
//! - vxlan and gtpu gateways have an inner source of each family that a segment needs;
//! - a private address lies in a segment of its realm, or its row has a public one; a row with
//!   `serving` has neither.
//!
//! Cost: one pass over each file, no allocation a row beyond the row itself, and 8 bytes a row for
//! each of four uniqueness checks (a sort of fingerprints; exact keys are compared only where two
//! fingerprints agree). Columns of duplicates are found by reading the file again, which only a
//! wrong file costs.

mod consistency;
mod entries;
mod lists;
mod place;
mod rows;
mod segments;
mod unique;
mod users;

use std::path::Path;

use crate::config::faults::Faults;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::table::Rib;
use crate::table::Step;
use crate::table::users::{Store, Users};

pub use consistency::check_against;

/// The files of a directory of table sources; each may be absent.
pub const FILES: [&str; 8] = [
    "apps.toml",
    "gateways.toml",
    "groups.csv",
    "keys.toml",
    "names.csv",
    "segments.csv",
    "servers.toml",
    "users.csv",
];

/// What a directory holds.
#[derive(Debug)]
pub struct Loaded {
    /// The tables, consistent as the module's head says.
    pub rib: Rib,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Diagnostic>,
}

/// As [`Loaded`], the users packed: how a large operator is read.
#[derive(Debug)]
pub struct Packed {
    /// The tables but for the users.
    pub rib: Rib,
    /// The users.
    pub users: Users,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Diagnostic>,
}

/// Reads a directory of table sources.
///
/// # Errors
///
/// Every fault of every file, in the order of files (by name), lines and columns: the first
/// thousand, then how many more. A directory that is missing is one fault.
pub fn load(dir: &Path) -> Result<Loaded, Diagnostics> {
    let (rib, users, warnings) = read(dir, Vec::new(), &|_| {})?;
    Ok(Loaded { rib: Rib { users, ..rib }, warnings })
}

/// As [`load`], the users packed; `told` hears how far it is.
///
/// # Errors
///
/// As [`load`].
pub fn load_packed(dir: &Path, told: &dyn Fn(Step)) -> Result<Packed, Diagnostics> {
    let (rib, users, warnings) = read(dir, Users::default(), told)?;
    Ok(Packed { rib, users, warnings })
}

/// Reads a directory, its users into this store.
fn read<S: Store + Sync>(
    dir: &Path,
    mut store: S,
    told: &dyn Fn(Step),
) -> Result<(Rib, S, Vec<Diagnostic>), Diagnostics> {
    let mut faults = Faults::default();
    let mut warnings = Faults::default();
    match std::fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => {}
        found => {
            let found = match found {
                Ok(_) => "something else".to_owned(),
                Err(error) => format!("none ({error})"),
            };
            let sentence =
                format!("expected a directory of table sources, found {found}; create it or name another");
            return Err(Diagnostics(vec![Diagnostic::new(dir, 1, 1, sentence)]));
        }
    }
    misnamed(dir, &mut warnings);
    let [apps, gateways, groups, keys, names, segments, servers, users] = FILES.map(|file| dir.join(file));

    let keys = entries::keys(&keys, &mut faults);
    let servers = entries::servers(&servers, &keys, &mut faults, &mut warnings);
    keys.check_users(servers.homes.as_ref(), &mut faults, &mut warnings);
    let gateways = entries::gateways(&gateways, &mut faults);
    let apps = entries::apps(&apps, &keys, &mut faults, &mut warnings);
    let segments = segments::read(&segments, &gateways, &mut faults);
    let reach = segments.reach.as_ref();
    users::read(&users, &servers, reach, &mut store, told, &mut faults, &mut warnings);
    let names = lists::names(&names, servers.homes.as_ref(), &mut faults);
    let groups = lists::groups(&groups, servers.homes.as_ref(), &mut faults);

    let rib = Rib {
        servers: servers.rows,
        gateways: gateways.rows,
        segments: segments.rows,
        apps,
        users: Vec::new(),
        names,
        groups,
        keys: keys.rows(),
    };
    faults.into_result((rib, store, warnings.into_vec()))
}

/// A file that nobody reads because of its name is an empty table by accident.
fn misnamed(dir: &Path, warnings: &mut Faults) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let text =
            |part: Option<&std::ffi::OsStr>| part.and_then(|part| part.to_str()).unwrap_or("").to_owned();
        let (name, stem) = (text(path.file_name()), text(path.file_stem()).to_ascii_lowercase());
        let ours = FILES.iter().find(|file| file.split('.').next() == Some(&stem));
        let table_like = matches!(&*text(path.extension()).to_ascii_lowercase(), "csv" | "toml");
        let table_like = table_like || ours.is_some();
        if table_like && !FILES.contains(&&*name) && name != "pushplane.toml" {
            let remedy = match ours {
                Some(ours) => format!("rename it to {ours}"),
                None => format!("the tables are {}", FILES.join(", ")),
            };
            let sentence = format!("nobody reads a file of this name; {remedy}");
            warnings.push(Diagnostic::new(&path, 1, 1, sentence));
        }
    }
}
