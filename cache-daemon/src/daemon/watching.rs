//! The probes of a mount, and what the daemon does with what they see.
//!
//! Events are taken out of their ring twenty times a second, so that it does not fill up, and a hundred times while
//! somebody reads, because the planner pushes ahead of readers by them, or traces. They are handed to both; opens and
//! mappings are looked at only while somebody traces, and the planner hears nothing of them: they are no readings.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use fuse_frontend::negotiate::Mode;
use fuse_frontend::session::MountReport;
use parking_lot::Mutex;

use crate::config::{Place, ProbeChoice};
use crate::probe::{Event, ProbeOptions, Probes, Tier, disks_under};

/// Events wait this long at most: 18 700 fit the ring, so a host may begin 370 000 readings a second. Opens and mappings have half
/// of it: when a trace has just begun 180 000 a second, and 900 000 from then on, emptied as it is [`DRAIN_SOON`]. What is pushed
/// ahead of the first readers of an epoch lasts as long.
const DRAIN_EVERY: Duration = Duration::from_millis(50);

/// And this long once there are any.
const DRAIN_SOON: Duration = Duration::from_millis(10);

/// Events that wait for the planner, or a client of `cachectl trace`; what it has no room for is lost and counted.
const TRACE_EVENTS_MAX: usize = 64 << 10;

/// Who is told what is seen.
#[derive(Default)]
struct Listeners {
    all: Mutex<Vec<Listener>>,
    /// Those that want openings, too.
    tracers: AtomicUsize,
    lost: AtomicU64,
}

struct Listener {
    events: Sender<Event>,
    is_tracer: bool,
}

impl Listeners {
    fn tell(&self, event: &Event) {
        let tell = |listener: &Listener| match listener.events.try_send(event.clone()) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.lost.fetch_add(1, Relaxed);
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        };
        let is_opening = event.is_opening();
        self.all.lock().retain(|listener| is_opening && !listener.is_tracer || tell(listener));
    }

    fn add(&self, is_tracer: bool) -> Receiver<Event> {
        let (sender, events) = bounded(TRACE_EVENTS_MAX);
        self.all.lock().push(Listener { events: sender, is_tracer });
        events
    }

    fn are_traced(&self) -> bool {
        self.tracers.load(Relaxed) > 0
    }
}

/// A client that traces. Dropping it ends that.
pub(super) struct Tracer {
    /// What is seen from now on, opens and mappings too.
    pub events: Receiver<Event>,
    listeners: Arc<Listeners>,
    probes: Option<Arc<Probes>>,
}

impl Tracer {
    fn new(listeners: Arc<Listeners>, probes: Option<Arc<Probes>>) -> Self {
        listeners.tracers.fetch_add(1, Relaxed);
        let tracer = Self { events: listeners.add(true), listeners, probes };
        tracer.tell_probes();
        tracer
    }

    /// At once, so that nothing is missed that follows. Where this comes too early, or crosses another tracer's, the thread that
    /// empties the ring puts it right.
    fn tell_probes(&self) {
        if let Some(probes) = &self.probes {
            probes.watch_openings(self.listeners.are_traced());
        }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.listeners.tracers.fetch_sub(1, Relaxed);
        self.tell_probes();
    }
}

/// Probes, and the thread that empties their ring. Dropping it detaches them.
pub(super) struct Watching {
    probes: Option<Arc<Probes>>,
    listeners: Arc<Listeners>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watching {
    /// Watches this mount of so many files, unless the user wants none.
    pub fn start(choice: ProbeChoice, mount: &MountReport, inodes: u64, places: &[Place]) -> Self {
        let mut watching =
            Self { probes: None, listeners: Arc::default(), stop: Arc::default(), thread: None };
        if choice == ProbeChoice::Off {
            return watching;
        }
        let options = ProbeOptions {
            disks: disks(places),
            // In the other mode the daemon is asked, and tells of it itself.
            opens: mount.mode == Mode::NoOpen,
            ..ProbeOptions::new(mount.device, inodes)
        };
        let probes = Arc::new(Probes::start(options));
        let (draining, stopped) = (probes.clone(), watching.stop.clone());
        let listeners = watching.listeners.clone();
        let drain = move || {
            let mut wait = DRAIN_EVERY;
            while !stopped.load(Relaxed) {
                let is_traced = listeners.are_traced();
                draining.watch_openings(is_traced);
                let taken = draining.drain(&mut |event| listeners.tell(&event));
                wait = if taken > 0 || is_traced { DRAIN_SOON } else { (wait * 2).min(DRAIN_EVERY) };
                std::thread::sleep(wait);
            }
        };
        watching.thread = std::thread::Builder::new().name("probe-drain".into()).spawn(drain).ok();
        watching.probes = Some(probes);
        watching
    }

    /// The beginnings and ends of readings from now on, until the receiver is dropped.
    pub fn readings(&self) -> Receiver<Event> {
        self.listeners.add(false)
    }

    /// All that is seen from now on.
    pub fn trace(&self) -> Tracer {
        Tracer::new(self.listeners.clone(), self.probes.clone())
    }

    /// Events for which the ring or a listener had no room.
    pub fn lost(&self) -> u64 {
        self.listeners.lost.load(Relaxed) + self.probes.as_ref().map_or(0, |probes| probes.events_lost())
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

#[cfg(test)]
mod tests {
    use fuse_frontend::source::Ino;

    use super::*;

    #[test]
    fn the_planner_hears_of_readings_and_only_who_traces_of_opens_and_mappings() {
        let listeners = Arc::new(Listeners::default());
        let planner = listeners.add(false);
        let tracer = Tracer::new(listeners.clone(), None);
        assert!(listeners.are_traced());
        let nothing = Event {
            at_ns: 1,
            ino: Ino(2),
            bytes: 0..0,
            tgid: 3,
            tid: 3,
            begins: false,
            ends: false,
            fault: false,
            opens: false,
            maps: false,
        };
        let reading = Event { begins: true, bytes: 0..10, ..nothing.clone() };
        let all =
            [Event { opens: true, ..nothing.clone() }, Event { maps: true, ..nothing }, reading.clone()];
        all.iter().for_each(|event| listeners.tell(event));
        assert_eq!(planner.try_iter().collect::<Vec<_>>(), [reading]);
        assert_eq!(tracer.events.try_iter().collect::<Vec<_>>(), all);
        drop(tracer);
        assert!(!listeners.are_traced());
        listeners.tell(&all[0]);
        assert_eq!((listeners.all.lock().len(), listeners.lost.load(Relaxed)), (1, 0), "it has left");
    }
}
