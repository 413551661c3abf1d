//! Datagrams on their way: a [`Frame`] is one buffer, a [`Burst`] up to [`BURST_MAX`] of them in
//! columns, and what is to leave. The room knows addresses and bytes, no message.

mod burst;
mod frame;

pub use burst::{BURST_MAX, Burst, Class, Done, Row, Tx};
pub use frame::{Frame, FramePool, HEADROOM};
