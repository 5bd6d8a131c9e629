//! The probes of a mount, and what the daemon does with what they see.
//!
//! For now it counts: readings that began and ended, by the probes' own figures. The events themselves are
//! taken out of their ring so that it does not fill up; `access` will learn from them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::config::ProbeChoice;
use crate::probe::{ProbeOptions, Probes};

/// Events wait this long at most: 18 700 fit the ring, so a host may begin 90 000 readings a second.
const DRAIN_EVERY: Duration = Duration::from_millis(200);

/// Probes, and the thread that empties their ring. Dropping it detaches them.
pub(super) struct Watching {
    probes: Option<Arc<Probes>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watching {
    /// Watches the mount with this `st_dev`, unless the user wants none.
    pub fn start(choice: ProbeChoice, device: u64, inodes: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        if choice == ProbeChoice::Off {
            return Self { probes: None, stop, thread: None };
        }
        let probes = Arc::new(Probes::start(ProbeOptions::new(device, inodes)));
        let (draining, stopped) = (probes.clone(), stop.clone());
        let drain = move || {
            while !stopped.load(Relaxed) {
                draining.drain(&mut |_| {});
                std::thread::sleep(DRAIN_EVERY);
            }
        };
        let thread = std::thread::Builder::new().name("probe-drain".into()).spawn(drain).ok();
        Self { probes: Some(probes), stop, thread }
    }

    /// The probes; none where the user wants none.
    pub fn probes(&self) -> Option<&Arc<Probes>> {
        self.probes.as_ref()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did, there is nobody to tell.
            let _ = thread.join();
        }
    }
}
