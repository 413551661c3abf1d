//! Peers that are Rust crates: maps that can be read while somebody writes, and longest matches.

mod maps;
mod routes;

pub(crate) use maps::entrants as users;
pub(crate) use routes::entrants as routes;
