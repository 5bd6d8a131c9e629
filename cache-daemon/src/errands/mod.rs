//! Errands: what `cachectl` sends the daemon to do, beside serving.

mod drop;
mod verify;

pub use drop::drop_path;
pub use verify::verify;
