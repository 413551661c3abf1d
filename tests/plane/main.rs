//! The plane held to PROTOCOL.md, rule by rule: tables made here, datagrams in, datagrams out, compared
//! byte for byte or read by other people's parsers. Each test names the step or ruling that it is
//! about; where only "ruling" is said it is PROTOCOL.md's, INTERFACE.md's are called so.

#[path = "../common/lab.rs"]
mod lab;

mod answers;
mod auth;
mod authorize;
mod forward;
mod live;
mod overlay;
mod properties;
mod rejects;
mod rewrite;
mod terminals;
mod torture;
mod tunnels;
