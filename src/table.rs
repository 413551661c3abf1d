//! Tables: source files become a [`Rib`], which is compiled into one image.

pub mod generate;
pub mod rib;
pub mod source;
pub mod write;

pub use rib::Rib;
