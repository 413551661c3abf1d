//! pushplane: a routing engine for carrier Push services.

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
