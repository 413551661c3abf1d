//! Assembly: where the network and the plane meet. A [`Shard`] is one core's loop.

mod shard;

pub use shard::Shard;
