//! A federation in one process, on virtual time, from one seed: several Push servers (the engine's own
//! shards over ports without a network), gateways of every tunnel form, terminals and application
//! servers, and links that lose, delay, reorder, repeat and change datagrams.
//!
//! ```text
//!  application servers ──┐                        ┌── gateways ── terminals
//!                        ├── links ── servers ──┬─┤
//!            terminals ──┘               └──────┘ └── terminals behind a NAT
//! ```
//!
//! [`run_seed`] draws [`Options`] and an [`Operator`], runs messages under faults, publishes tables while
//! addresses change hands, heals the links, and demands delivery. What must hold, at every step:
//!
//! - Every datagram that a server sends, and every counter that it moves, is what the oracle says
//!   ([`oracle`]: the protocol once more, plainly, over the rows of the tables).
//! - No message reaches a user or device that it was not for; a changed one not even where it was signed.
//! - Every message read is in one counter, every datagram between two addresses too.
//! - Nothing loops: hops of one message are bounded.
//! - Answers reach only who asked; answers are never rejected.
//! - In the end every frame is back, and on healed links every message ends exactly as the oracle's
//!   [`walk`](World::walk) says, receipts and rejections included.
//!
//! A failure panics with the seed. The same seed gives the same run, down to the last byte.
//!
//! Not covered: real interleavings of threads (loom does that) and the kernel (the ports' own tests).
//! Costs some milliseconds a seed; allocates freely.

mod agenda;
mod arrive;
pub mod attach;
pub mod cast;
mod check;
mod dataplane;
mod link;
pub mod naive;
mod operator;
mod options;
pub mod oracle;
mod port;
mod run;
mod walk;
mod world;

pub use link::{Flying, LinkCounters};
pub use operator::{APPS, Handset, OPEN_REALM, Operator, START_UNIX_S, Site, v4};
pub use options::{Faults, LinkClass, Options, ServerKeys};
pub use port::{Offered, PortLimits, SimPort, Waiting};
pub use run::{Summary, run_seed};
pub use walk::Fate;
pub use world::{Host, World};
