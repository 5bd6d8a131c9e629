//! The probes of a mount, and what the daemon does with what they see.
//!
//! Events are taken out of their ring twenty times a second, so that it does not fill up, and a hundred times while
//! somebody reads, because the planner pushes ahead of readers by them. They are handed to it and to whoever traces.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::Mutex;

use crate::config::{Place, ProbeChoice};
use crate::probe::{Event, ProbeOptions, Probes, Tier, disks_under};

/// Events wait this long at most: 18 700 fit the ring, so a host may begin 370 000 readings a second. What is pushed ahead of
/// the first readers of an epoch lasts as long.
const DRAIN_EVERY: Duration = Duration::from_millis(50);

/// And this long once there are any.
const DRAIN_SOON: Duration = Duration::from_millis(10);

/// Events that wait for a client of `cachectl trace`; what it has no room for is lost and counted.
const TRACE_EVENTS_MAX: usize = 64 << 10;

/// The clients that trace.
#[derive(Default)]
struct Tracers(Mutex<Vec<Sender<Event>>>);

impl Tracers {
    fn tell(&self, event: &Event, lost: &AtomicU64) {
        self.0.lock().retain(|tracer| match tracer.try_send(event.clone()) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                lost.fetch_add(1, Relaxed);
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        });
    }
}

/// Probes, and the thread that empties their ring. Dropping it detaches them.
pub(super) struct Watching {
    probes: Option<Arc<Probes>>,
    tracers: Arc<Tracers>,
    lost: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watching {
    /// Watches the mount with this `st_dev`, unless the user wants none.
    pub fn start(choice: ProbeChoice, device: u64, inodes: u64, places: &[Place]) -> Self {
        let mut watching = Self {
            probes: None,
            tracers: Arc::default(),
            lost: Arc::default(),
            stop: Arc::default(),
            thread: None,
        };
        if choice == ProbeChoice::Off {
            return watching;
        }
        let options = ProbeOptions { disks: disks(places), ..ProbeOptions::new(device, inodes) };
        let probes = Arc::new(Probes::start(options));
        let (draining, stopped) = (probes.clone(), watching.stop.clone());
        let (tracers, lost) = (watching.tracers.clone(), watching.lost.clone());
        let drain = move || {
            let mut wait = DRAIN_EVERY;
            while !stopped.load(Relaxed) {
                let taken = draining.drain(&mut |event| tracers.tell(&event, &lost));
                wait = if taken > 0 { DRAIN_SOON } else { (wait * 2).min(DRAIN_EVERY) };
                std::thread::sleep(wait);
            }
        };
        watching.thread = std::thread::Builder::new().name("probe-drain".into()).spawn(drain).ok();
        watching.probes = Some(probes);
        watching
    }

    /// The events from now on, until the receiver is dropped.
    pub fn trace(&self) -> Receiver<Event> {
        let (sender, events) = bounded(TRACE_EVENTS_MAX);
        self.tracers.0.lock().push(sender);
        events
    }

    /// Events that tracers had no room for.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Which readings are seen, and why.
    pub fn tier(&self) -> (Tier, String) {
        match &self.probes {
            None => (Tier::C, "--probes off: only requests that reach the daemon are seen".to_owned()),
            Some(probes) => {
                let report = probes.report();
                (report.tier, report.why)
            }
        }
    }

    /// The probes; none where the user wants none.
    pub fn probes(&self) -> Option<&Arc<Probes>> {
        self.probes.as_ref()
    }
}

/// The disks that the store's places are on, each once.
fn disks(places: &[Place]) -> Vec<u64> {
    let mut disks: Vec<u64> = places.iter().flat_map(|place| disks_under(place.path())).collect();
    disks.sort_unstable();
    disks.dedup();
    disks
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
