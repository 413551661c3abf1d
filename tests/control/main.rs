//! The controller held to PROTOCOL.md, rule by rule, and to a plain version of itself. Each test names
//! the ruling that it is about; where only "ruling" is said it is PROTOCOL.md's, INTERFACE.md's are
//! called so.

#[path = "../common/lab.rs"]
mod lab;

#[path = "../common/radius.rs"]
mod radius;

mod anything;
mod bench;
mod compaction;
mod feed;
mod feed_anything;
mod feed_model;
mod groups;
mod model;
mod register;
mod roam;
