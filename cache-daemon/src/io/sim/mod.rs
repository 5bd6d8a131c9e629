//! A simulated device: everything that real ones do on bad days, decided by a seed.
//!
//! It lies, stalls, tears and loses power: the plan is in [`Faults`], the switch and the snapshots in
//! [`SimDevice`], the rules of what survives in `media`. [`SimEngine`] drives it through the same
//! interface as the real engines, without sleeping. [`SimDirectory`] has files on it, with names.
//!
//! Invariants
//! - What a sync that returned Ok covers survives every power cut (unless rot or a lying write got it).
//! - A write that is not synced may survive in any part and in any order relative to others.
//! - One thread and one seed: the same calls give the same results, completions and survivors.

mod device;
mod directory;
mod engine;
mod faults;
mod media;
#[cfg(test)]
mod tests;

pub use device::SimDevice;
pub use directory::SimDirectory;
pub use engine::SimEngine;
pub use faults::{Faults, Injected};
