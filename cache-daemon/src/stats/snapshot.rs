//! Snapshot.
/// Stand-in.
pub struct Snapshot;
