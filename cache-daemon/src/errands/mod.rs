//! Errands: what `cachectl` sends the daemon to do, beside serving.

mod drop;
pub(crate) mod push;
mod verify;
mod warm;

pub use drop::drop_path;
pub use push::push;
pub use verify::verify;
pub use warm::{files_below, follow};
