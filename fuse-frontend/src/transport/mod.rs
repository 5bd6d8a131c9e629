//! How an opened file's bytes reach its reader, other than by READs and copied answers.
//!
//! Map: [`passthrough`] lets the kernel read a local file itself; [`iomode`] says which opens may.

pub(crate) mod iomode;
pub mod passthrough;
