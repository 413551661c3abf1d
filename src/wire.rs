//! Formats: parse and emit, without I/O, allocation or panic.

pub mod gtp;
pub mod prp;
pub mod radius;
pub mod tunnel;
