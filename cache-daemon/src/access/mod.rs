//! Access: what is read of the data set, and what kind of reading that is.
//!
//! [`History`] is fed [`Touch`]es, from the probes or, where there are none, from the requests that reach the
//! daemon, and recognises by job: epochs that read every file of a set once, where one ends and the next begins, how
//! much of the set is read; walks in listing order; samplers with replacement; or nothing.
//!
//! Pure code: no clock but the touches', no thread, no device, so that a trace or a simulation replays it. Files are
//! known by their catalog numbers and lie in a [`FileTable`] in listing order; what a job has read is a bit a file.
//! Together 16 bytes and a few bits an object, and well below a microsecond an event (`measure.rs`).
//!
//! - `touch`: the event. `files`: the data set. `marks`: a set of files.
//! - `sense`: whether readings follow the listing. `span`: which files a job's set has.
//! - `job`: one job's epochs. `history`: the jobs. `recall`: the orders of earlier epochs.

mod files;
mod history;
mod job;
mod marks;
#[cfg(test)]
mod measure;
mod recall;
mod sense;
mod span;
#[cfg(test)]
mod tests;
mod touch;
#[cfg(test)]
pub(crate) mod workload;

pub use files::{FileTable, FileTableBuilder, Rank, is_split_name};
pub use history::{History, IDLE_AFTER_NS};
pub use job::{EVIDENCE_FILES, EpochSummary, Job, Workload};
pub use marks::Marks;
pub use recall::{Kept, Recall, Recalled};
pub use span::Span;
pub use touch::{FileNo, Touch};
