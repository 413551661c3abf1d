//! Tables: source files become a [`Rib`], which is compiled into one [`Image`].

pub mod binding;
pub mod change;
mod compile;
pub mod diff;
pub mod generate;
mod generation;
mod home;
mod image;
mod keyed;
pub mod live;
pub mod lpm;
pub mod memory;
mod numbers;
pub mod owners;
pub mod phf;
mod place;
pub mod publish;
mod rate;
pub mod rib;
pub mod rows;
mod session;
pub mod source;
mod step;
pub mod users;
mod validate;
pub mod write;

pub use change::{Binding, Change, Owed, Parting};
pub use generation::{AppView, GatewayView, Segments, Tables};
pub use home::Home;
pub use image::{ArchivedArrays, Fill, Image, ImageError, Sizes};
pub use live::{Live, LiveBindings, LiveWriter};
pub use rate::Rate;
pub use rib::Rib;
pub use session::{Nas, Net6, Session, SessionId, base_of};
pub use step::Step;
