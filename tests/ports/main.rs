//! Both ports, held to the same behaviour over loopback. Where `io_uring` is denied its half says so
//! and passes.

mod anything;
mod bind;
mod close;
#[path = "../common/counting.rs"]
mod counting;
mod denied;
mod harness;
mod receive;
mod send;
mod together;
mod troubles;
