//! Warming: what `cachectl warm` wants stored, between its client and the planner.
//!
//! One at a time: a second one would only share the link. The client that leaves ends it.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::access::FileTable;
use crate::cache::Done;
use crate::control::{Refusal, WarmProgress};
use crate::policy::readahead::{Activity, Order, Outcome, Readahead};

/// What is being warmed, if anything is.
#[derive(Default)]
pub(super) struct Warm(Mutex<Option<State>>);

struct State {
    /// Until the planner takes it.
    order: Option<Order>,
    /// Bytes of the files before each place, to tell how far it is.
    bytes_before: Vec<u64>,
    progress: WarmProgress,
    is_left: bool,
}

/// A client's hold on what it wants stored. Dropped: it is wanted no more.
pub(super) struct Warming(Arc<Warm>);

impl Warm {
    /// Wants the files of `order` stored.
    pub fn begin(self: &Arc<Self>, order: Order) -> Result<Warming, Refusal> {
        let mut state = self.0.lock();
        if state.is_some() {
            return Err(Refusal("something is being warmed already; see `cachectl stats`".into()));
        }
        let files = order.len() as u64;
        *state = Some(State {
            order: Some(order),
            bytes_before: Vec::new(),
            progress: WarmProgress { files, ..WarmProgress::default() },
            is_left: false,
        });
        Ok(Warming(self.clone()))
    }

    /// Whether the planner has to do something about it.
    pub fn is_wanted(&self) -> bool {
        self.0.lock().is_some()
    }

    /// Hands the order to `readahead`, or takes it back if its client has left.
    pub fn pass(&self, readahead: &mut Readahead, table: &FileTable, now_ns: u64) {
        let mut slot = self.0.lock();
        let Some(state) = slot.as_mut() else { return };
        if state.is_left {
            readahead.stop_warming();
            *slot = None;
        } else if let Some(order) = state.order.take() {
            let mut sum = 0;
            let bytes =
                order.files().iter().map(|&file| table.rank(file).map_or(0, |rank| table.size_bytes(rank)));
            state.bytes_before = std::iter::once(0)
                .chain(bytes.map(|bytes| {
                    sum += bytes;
                    sum
                }))
                .collect();
            state.progress.bytes = sum;
            readahead.told(order, now_ns);
        }
    }

    /// A fetch ahead is done.
    pub fn done(&self, done: &Done) {
        if let Some(state) = self.0.lock().as_mut() {
            match done.outcome {
                Outcome::Fetched => state.progress.fetched_bytes += done.command.bytes,
                Outcome::Failed => state.progress.failed += 1,
                Outcome::Needless => {}
            }
        }
    }

    /// A plan was made; `commands` of it and of earlier ones are not done.
    pub fn planned(&self, readahead: &mut Readahead, activity: Activity, commands: u32) {
        let mut slot = self.0.lock();
        let (Some(state), Some(passed)) = (slot.as_mut(), readahead.warmed()) else { return };
        let progress = &mut state.progress;
        // Those under way are the last ones that were passed.
        let passed = passed.saturating_sub(commands as usize);
        progress.passed_files = passed as u64;
        progress.passed_bytes = state.bytes_before.get(passed).copied().unwrap_or(0);
        let is_stuck = matches!(activity, Activity::Full | Activity::Capped | Activity::Failing);
        progress.why = if is_stuck { activity.to_string() } else { String::new() };
        let is_all = progress.passed_files == progress.files;
        if commands == 0 && (is_all || activity == Activity::Full) {
            progress.done = true;
            readahead.stop_warming();
        }
    }
}

impl Warming {
    /// How far it is.
    pub fn progress(&self) -> WarmProgress {
        self.0.0.lock().as_ref().map(|state| state.progress.clone()).unwrap_or_default()
    }
}

impl Drop for Warming {
    fn drop(&mut self) {
        if let Some(state) = self.0.0.lock().as_mut() {
            state.is_left = true;
        }
    }
}
