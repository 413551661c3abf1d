//! Tables: source files become a [`Rib`], which is compiled into one [`Image`].

pub mod binding;
mod compile;
pub mod generate;
mod image;
pub mod lpm;
pub mod memory;
pub mod publish;
pub mod rib;
pub mod source;
mod validate;

pub use image::{ArchivedArrays, Image, ImageError, Sizes};
pub use rib::Rib;
