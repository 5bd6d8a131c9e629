//! Types shared by the probes and the daemon: `repr(C)`, fixed widths, explicit padding, sizes asserted.
//!
//! The object carries [`LAYOUT_VERSION`] in the name of its settings symbol, so that an object of another
//! layout does not load, instead of being misread.
//!
//! | type | lives in | written by | read by |
//! |---|---|---|---|
//! | [`Settings`] | .rodata | the daemon, before the load | the verifier, as constants |
//! | [`Control`] | array of one, mapped | the daemon, at any time | probes |
//! | [`Clock`] | array of one, mapped | probes, once | the daemon |
//! | [`Heat`] | array by inode number, mapped | probes | the daemon, without a system call |
//! | [`Reader`] | array by thread, mapped | probes | probes; the daemon, without a system call |
//! | [`ReaderTotals`] | hash by process | probes, when a thread's place is taken | the daemon |
//! | [`Losses`], [`Residents`] | arrays of one per CPU | probes | the daemon |
//! | [`Trip`] | arrays by a hash | probes | probes |
//! | [`Latencies`] | array per CPU, by [`Series`] | probes | the daemon |
//! | [`InFlight`] | array of one, mapped | probes | the daemon, without a system call |
//! | [`Event`] | ring buffer | probes | the daemon |
#![no_std]

mod event;
mod heat;
mod latency;
mod reader;
mod settings;

pub use event::{Event, EventFlags, Losses, Residents};
pub use heat::{Heat, TOUCHED_SHIFT};
pub use latency::{InFlight, LATENCY_BUCKETS, Latencies, Series, TRIPS, Trip, bucket};
pub use reader::{READERS, Reader, ReaderTotals, ReadingKey};
pub use settings::{Clock, Control, DISKS, Settings, SettingsFlags};

/// Raised with every change of a type here; [`SETTINGS_SYMBOL`] and the symbol in `ebpf/src/settings.rs` follow it.
pub const LAYOUT_VERSION: u32 = 4;

/// The symbol of the object's [`Settings`].
pub const SETTINGS_SYMBOL: &str = "SETTINGS_4";
