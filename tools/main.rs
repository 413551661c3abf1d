//! The `pushplane` command.

fn main() {}
