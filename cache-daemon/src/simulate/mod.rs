//! The simulator: a trace through a policy, and what the origin and the readers have of it.
//!
//! The policies are the daemon's own ([`crate::policy::eviction`]). A [`Trace`] is made up ([`synthetic`]) or was
//! recorded ([`recording`]); it is streamed, and nothing here grows with its length: with 100 000 000 objects a
//! running case takes the policy's bytes an object (its module's table) and a bit. Each case, a policy at a cache
//! size, runs alone ([`run`]); [`origin`] says what time means.

pub mod origin;
pub mod permutation;
pub mod plot;
pub mod recording;
pub mod run;
pub mod sizes;
pub mod synthetic;

#[cfg(test)]
mod tests;

use crate::policy::eviction::{ObjectNo, Pattern};

/// A use of an object in a trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Use {
    /// The number of the use, from 0.
    pub position: u64,
    /// The epoch, from 0; a recorded trace is one.
    pub epoch: u32,
    /// The object.
    pub object: ObjectNo,
    /// Its size.
    pub size_bytes: u64,
    /// What it is part of, as far as the trace knows.
    pub pattern: Pattern,
    /// The position of the next use of the object, `u64::MAX` for never; 0 if the future was not asked for.
    pub next_use: u64,
    /// When, where the trace has a clock of its own.
    pub at_ms: Option<u64>,
}

/// A sequence of uses that can be played again and again.
pub trait Trace: Sync {
    /// Object numbers are below this.
    fn objects(&self) -> u32;

    /// How many uses there are.
    fn uses(&self) -> u64;

    /// All objects together.
    fn data_set_bytes(&self) -> u64;

    /// How many epochs there are.
    fn epochs(&self) -> u32;

    /// Whether each epoch uses each object once: then the least that must be fetched is known without a run.
    fn is_exactly_once(&self) -> bool;

    /// Hands every use to `f`, with `next_use` if `future` is wanted, until it says no.
    fn replay(&self, future: bool, f: &mut dyn FnMut(&Use) -> bool) -> Result<(), TraceError>;
}

/// A trace cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// Its file cannot be read.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Its file is not what it should be.
    #[error("{0}")]
    Damaged(&'static str),
    /// The future was asked for, and positions do not fit.
    #[error("the future of a trace of 2^32 uses or more is not known: leave belady out")]
    TooLong,
}

/// The next use of each use, 4 bytes a use, for traces that cannot say it by themselves; `u32::MAX` is never.
fn next_uses(trace: &dyn Trace) -> Result<Vec<u32>, TraceError> {
    const NEVER: u32 = u32::MAX;
    if trace.uses() >= u64::from(NEVER) {
        return Err(TraceError::TooLong);
    }
    let mut next = vec![NEVER; trace.uses() as usize];
    let mut latest = vec![NEVER; trace.objects() as usize];
    trace.replay(false, &mut |used| {
        let position = used.position as u32;
        let before = std::mem::replace(&mut latest[used.object.0 as usize], position);
        if before != NEVER {
            next[before as usize] = position;
        }
        true
    })?;
    Ok(next)
}
