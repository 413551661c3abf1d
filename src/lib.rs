//! pushplane: a routing engine for carrier Push services (US 9,307,039 and its family): from a Push ID to
//! the terminal behind it, by what the network itself knows.
//!
//! ```text
//!  socket ─► net ─► packet::Burst ─► plane: parse, authorize, resolve, rewrite ─► net ─► socket     one core, one ring
//!                                      │                    │
//!                                      │ punt               └─ table: prefixes, bindings, segments, allowlist
//!                                      ▼                            ▲ one generation a burst; live bindings beside it
//!                                   control: register, release, roam, group, name, introduce        one thread, the only writer
//!                                      └─ journal: durable, then answered
//! ```
//!
//! A room may name only rooms above it; `tests/tidy.rs` holds the list.
//!
//! | room | what it is |
//! |---|---|
//! | [`id`] [`reason`] [`clock`] [`diagnostic`] [`sync`] [`metrics`] [`config`] | words: identifiers, why a message is dropped, time as an argument, counting |
//! | [`wire`] | formats: PRP/1, GTP, the headers of tunnels; no I/O, no allocation, no panic |
//! | [`table`] | source files, the image made of them, lookups, live bindings, publishing without a lock |
//! | [`capture`] | captured traffic, read and turned into tables and pushes |
//! | [`journal`] | an append-only file that loses nothing it acknowledged |
//! | [`packet`] [`net`] | buffers and bursts; ports that move them and know no message |
//! | [`plane`] | the fast path, pure: tables, time and bytes go in, datagrams come out |
//! | [`control`] | everything rarer than a PUSH, without I/O |
//! | [`server`] | where all of it meets: shards, the controller's thread, `/metrics` |
//! | [`sim`] | a whole federation from a seed, judged by an oracle |
//!
//! Where to start: [`plane::Plane::process`] for what becomes of a datagram, [`table::Image`] for what it is looked
//! up in, [`server::Server`] for how it runs.

pub mod capture;
pub mod clock;
pub mod config;
pub mod control;
pub mod diagnostic;
pub mod id;
pub mod journal;
pub mod metrics;
pub mod net;
pub mod packet;
pub mod plane;
pub mod reason;
pub mod server;
pub mod sim;
pub mod sync;
pub mod table;
pub mod wire;
