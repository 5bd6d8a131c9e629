//! Planning: from what is seen of the readers to what is fetched ahead of them.
//!
//! One thread carries the control line: it takes touches from the probes (or, where there are none, from the
//! requests), feeds the history, asks the policy, and hands its commands to the cache. Nobody waits for it. While
//! something is fetched ahead it plans fifty times a second, twenty times while somebody reads, else five times.
//!
//! The table of files, 16 bytes each, is made when somebody reads for the first time, and again when the data set changed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};
use fuse_frontend::session::Mount;
use fuse_frontend::source::Ino;
use parking_lot::Mutex;

use super::epochs::{Epochs, Noticed};
use super::numbered::Numbered;
use super::orders::{OrderDirectory, OrderReader, Watcher};
use super::parts::AllFigures;
use super::pushing::{Came, PushLine};
use super::readers::readers;
use super::recalling::Recalling;
use super::sight::Sight;
use super::warming::{Warm, Warming};
use super::watching::Watching;
use crate::access::{FileNo, FileTable, History, IDLE_AFTER_NS, Job, is_split_name};
use crate::cache::{Cache, Prefetcher};
use crate::catalog::Catalog;
use crate::config::{Config, PrefetchChoice};
use crate::control::{OrderTold, Refusal};
use crate::policy::pushing::{LEAD_S, MARK_EVERY, PushCounts, Pushing, Room, Whereabouts};
use crate::policy::readahead::{
    Activity, Counts, Limits, Mode, Order, PLAN_EVERY_S, Purpose, Readahead, Sample, Situation,
};
use crate::policy::sets::{Reading, Sets};
use crate::stats::origin::OriginFigures;
use crate::stats::planner::{PlannerFigures, PlannerState};

/// How often it looks for readers, and how often when somebody has read since it last did.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const WATCH_EVERY: Duration = Duration::from_millis(50);

/// What a file takes in the page cache is a multiple of so much, roughly: the pusher counts exactly.
const PAGE_BYTES: u64 = 4096;

/// How often the table of files is made again at most: a second for ten million.
const REFILE_EVERY: Duration = Duration::from_secs(10);

/// The planner of a mount.
pub(super) struct Planning {
    state: Arc<Mutex<PlannerState>>,
    figures: Arc<PlannerFigures>,
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
    reader: OrderReader,
    warm: Arc<Warm>,
    told: Sender<Order>,
}

/// Orders that wait to be followed.
const TOLD_MAX: usize = 8;

impl Planning {
    /// Plans for `cache` and `mount`, from what `watching` sees and what is told in `orders`.
    pub fn start(
        config: &Config,
        cache: &Arc<Cache>,
        mount: &Arc<Mount>,
        figures: &AllFigures,
        watching: &Watching,
        orders: OrderDirectory,
    ) -> Self {
        let (origin, figures) = (figures.origin.clone(), figures.planner.clone());
        let reader = OrderReader::new(cache.catalog().clone(), config.mount.mountpoint.clone());
        let (told, wishes) = bounded(TOLD_MAX);
        let planning = Self {
            state: Arc::default(),
            figures: figures.clone(),
            stop: Arc::default(),
            thread: Mutex::default(),
            reader: reader.clone(),
            warm: Arc::default(),
            told,
        };
        let is_blind = config.prefetch.mode() == Mode::Off;
        planning.state.lock().mode = config.prefetch.choice.to_string();
        planning.state.lock().activity = if is_blind { Activity::Off } else { Activity::Idle }.to_string();
        let sight = Sight::new(cache.clone(), watching, is_blind);
        let prefetcher = Prefetcher::new(cache.clone());
        let limits = Limits {
            mode: config.prefetch.mode(),
            // What the origin's limit leaves for readahead.
            requests_max: (config.limits.origin_requests_max * 3 / 4).max(1) as u32,
            bytes_max: prefetcher.bytes_max(),
            bytes_per_hour_max: config.prefetch.bytes_per_hour_max,
        };
        let (read_from, probes) = (mount.clone(), watching.probes().cloned());
        let readers = move || readers(&read_from, probes.as_deref());
        let epochs = Epochs::new(cache.clone(), origin.clone(), limits.requests_max, readers);
        let planner = Planner {
            began: Instant::now(),
            history: None,
            readahead: Readahead::new(limits),
            meter: Meter::new(cache, origin),
            cache: cache.clone(),
            sight,
            saw_readers: false,
            prefetcher,
            filed: None,
            counted: Counts::default(),
            pushes_counted: PushCounts::default(),
            sets: Sets::default(),
            refused_room: None,
            epochs,
            recalling: Recalling::open(&config.store.cache_dir, config.store.size_bytes, cache.catalog()),
            pushing: Pushing::default(),
            is_pushing: false,
            push_line: (!is_blind).then(|| PushLine::start(cache.clone(), mount.clone())).flatten(),
            wishes,
            numbered: reader.numbered().clone(),
            orders: orders.watch(reader),
            warm: planning.warm.clone(),
            figures,
        };
        let (state, stop) = (planning.state.clone(), planning.stop.clone());
        let run = move || planner.run(&state, &stop);
        *planning.thread.lock() = std::thread::Builder::new().name("planner".into()).spawn(run).ok();
        planning
    }

    /// What it sees and does.
    pub fn state(&self) -> PlannerState {
        self.state.lock().clone()
    }

    /// Its figures.
    pub fn figures(&self) -> &Arc<PlannerFigures> {
        &self.figures
    }

    /// Follows the order in the file at `path`; what it understood.
    pub fn tell_order(&self, path: &Path, name: &str, epoch: Option<u64>) -> Result<OrderTold, Refusal> {
        if self.state.lock().mode == PrefetchChoice::Off.to_string() {
            return Err(Refusal("the daemon was told not to fetch ahead: --prefetch off".into()));
        }
        let (order, told) =
            self.reader.tell(path, &[], name, epoch).map_err(|error| refused(path, &error))?;
        if let Some(order) = order {
            let busy = |_| Refusal("too many orders at once".into());
            self.told.try_send(order).map_err(busy)?;
        }
        Ok(told)
    }

    /// Stores `files`, in this order.
    pub fn warm(&self, files: Vec<FileNo>) -> Result<Warming, Refusal> {
        self.warm.begin(Order::new(Purpose::Warm, files))
    }

    /// Stores the files that the file at `path` names.
    pub fn warm_order(&self, path: &Path) -> Result<Warming, Refusal> {
        let (order, _) = self.reader.read(path, &[]).map_err(|error| refused(path, &error))?;
        self.warm.begin(order.to_warm())
    }

    /// Ends: nothing more is fetched ahead.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.lock().take() {
            // It does not panic; if it did, there is nobody to tell.
            let _ = thread.join();
        }
    }
}

fn refused(path: &Path, error: &std::io::Error) -> Refusal {
    Refusal(format!("{}: {error}", path.display()))
}

struct Planner {
    began: Instant,
    history: Option<History>,
    readahead: Readahead,
    cache: Arc<Cache>,
    sight: Sight,
    saw_readers: bool,
    prefetcher: Prefetcher,
    meter: Meter,
    filed: Option<Filed>,
    counted: Counts,
    pushes_counted: PushCounts,
    /// What the files are part of, for whoever evicts.
    sets: Sets,
    /// The room that the store said it had when it refused something for want of room.
    refused_room: Option<u64>,
    epochs: Epochs,
    recalling: Recalling,
    pushing: Pushing,
    is_pushing: bool,
    push_line: Option<PushLine>,
    wishes: Receiver<Order>,
    orders: Option<Watcher>,
    numbered: Arc<Numbered>,
    warm: Arc<Warm>,
    figures: Arc<PlannerFigures>,
}

/// What the table of files was made of, and when.
#[derive(PartialEq)]
struct Filed {
    at: Instant,
    files: u64,
    bytes: u64,
}

impl Planner {
    fn run(mut self, state: &Mutex<PlannerState>, stop: &AtomicBool) {
        while !stop.load(Relaxed) {
            let activity = self.turn(state);
            std::thread::sleep(match activity {
                _ if self.is_pushing && self.saw_readers => Duration::from_secs_f64(PLAN_EVERY_S),
                Activity::Fetching => Duration::from_secs_f64(PLAN_EVERY_S),
                _ if self.saw_readers => WATCH_EVERY,
                _ => LOOK_EVERY,
            });
        }
        self.prefetcher.stop();
        if let Some(history) = &self.history {
            self.recalling.close(history, self.cache.catalog());
        }
    }

    fn turn(&mut self, state: &Mutex<PlannerState>) -> Activity {
        let now_ns = self.began.elapsed().as_nanos() as u64;
        let touches = self.sight.touches(now_ns);
        self.saw_readers = !touches.is_empty();
        self.figures.touches.add(touches.len() as u64);
        let told: Vec<Order> = self.told().collect();
        self.figures.orders_told.add(told.len() as u64);
        if !touches.is_empty() || !told.is_empty() || self.warm.is_wanted() {
            self.file();
        }
        let Some(history) = &mut self.history else { return Activity::Idle };
        told.into_iter().for_each(|order| self.readahead.told(order, now_ns));
        self.warm.pass(&mut self.readahead, history.table(), now_ns);
        self.sight.units.drain(..).for_each(|read| self.readahead.unit_read(&read));
        for touch in &touches {
            history.touch(touch);
            self.readahead.touched(history, touch);
            self.recalling.touched(history, touch);
            self.pushing.touched(touch);
        }
        let ended = history.take_ended();
        let has_ended = !ended.is_empty();
        for summary in ended {
            self.readahead.ended(history, &summary);
            self.recalling.ended(history, &summary);
            self.pushing.ended(&self.readahead.followed_orders().collect::<Vec<_>>(), now_ns);
            let set = path_of(&self.cache, summary.part);
            let (ahead, depth) = (self.readahead.counts(), self.readahead.depth());
            let job = &mut |tgid| self.sight.job(tgid);
            let is_worth_it = self.epochs.ended(&summary, Noticed { set, ahead, depth, job });
            if is_worth_it {
                self.figures.epochs.increment();
                state.lock().epochs = self.epochs.last();
            }
        }
        // After what has ended: their epochs have begun.
        let (read, readahead) = (self.readahead.take_read(), &self.readahead);
        let followed = |name: &str| readahead.has_order(name);
        let due = self.numbered.due(&read, has_ended, &followed, self.saw_readers, Instant::now());
        self.figures.orders_told.add(due.len() as u64);
        due.into_iter().for_each(|order| self.readahead.told(order, now_ns));
        let recalled = self.recalling.take_recalled();
        self.figures.orders_recalled.add(recalled.len() as u64);
        recalled.into_iter().for_each(|order| self.readahead.told(order, now_ns));
        self.recalling.settle(history, self.cache.catalog(), now_ns);
        for done in self.prefetcher.take_done() {
            self.readahead.done(history, &done.command, done.outcome);
            self.warm.done(&done);
        }
        let (commands, commands_bytes) = self.prefetcher.outstanding();
        let sample = self.meter.sample();
        let room_bytes = room(&self.cache, &mut self.refused_room, self.meter.refused_by_store());
        let now = Situation {
            now_ns,
            sample,
            demand_in_flight: self.cache.demand_in_flight(),
            commands,
            commands_bytes,
            room_bytes,
        };
        let prefetcher = &self.prefetcher;
        let plan = self.readahead.plan(history, &now, &mut |file| prefetcher.is_absent(file));
        self.prefetcher.ask(plan.depth, &plan.prefetch);
        self.warm.planned(&mut self.readahead, plan.activity, self.prefetcher.outstanding().0);
        self.push(now_ns, plan.depth, room_bytes > 0 && plan.activity != Activity::Full);
        self.sort_out();
        self.tell(now_ns, plan.activity, state);
        plan.activity
    }

    /// Puts what comes next into the page cache, where an order is followed: from the origin, `depth` files at a time, if the
    /// store has no room for it.
    fn push(&mut self, now_ns: u64, depth: u32, has_room: bool) {
        let (Some(line), Some(history)) = (&self.push_line, &self.history) else { return };
        for came in line.take_came() {
            match came {
                Came::Pushed(file) => self.pushing.pushed(file, true),
                Came::NotPushed(file) => self.pushing.pushed(file, false),
                Came::Backed(file) => self.pushing.backed(file),
                Came::Dropped => self.pushing.dropped(),
            }
        }
        let sees_all = self.sight.sees_all();
        let mut orders: Vec<_> = self.readahead.followed_orders().collect();
        self.is_pushing = !orders.is_empty();
        orders.iter_mut().for_each(|order| order.set_seen_every(if sees_all { 1 } else { MARK_EVERY }));
        let room = Room {
            now_ns,
            free_bytes: line.free_bytes(),
            budget_bytes: line.budget_bytes(),
            page_bytes: PAGE_BYTES,
            commands: line.room(),
            fetches: depth as usize,
            lead: history.main_job(now_ns).map_or(0, |job| (job.files_per_s(now_ns) * LEAD_S) as usize),
            sees_all,
        };
        let prefetcher = &self.prefetcher;
        let is_at = |file| match prefetcher.is_absent(file) {
            false => Whereabouts::Here,
            true if has_room => Whereabouts::Awaited,
            true => Whereabouts::Origin,
        };
        line.ask(&self.pushing.plan(&mut orders, history.table(), &room, &is_at));
    }

    /// Orders that were told since the last time, in the directory or by `cachectl`.
    fn told(&self) -> impl Iterator<Item = Order> + '_ {
        let in_directory = std::iter::from_fn(|| self.orders.as_ref()?.next());
        in_directory.chain(std::iter::from_fn(|| self.wishes.try_recv().ok()))
    }

    /// Makes the table of files, if there is none or the data set is another.
    fn file(&mut self) {
        let catalog = self.cache.catalog();
        let (files, bytes) = (catalog.files(), catalog.bytes());
        let is_known = |filed: &Filed| (filed.files, filed.bytes) == (files, bytes);
        let all_known = self.history.as_ref().is_some_and(|history| history.unknown() == 0);
        let is_recent = |filed: &Filed| filed.at.elapsed() < REFILE_EVERY;
        if self.filed.as_ref().is_some_and(|filed| is_recent(filed) || is_known(filed) && all_known) {
            return;
        }
        let table = Arc::new(table(catalog));
        match &mut self.history {
            Some(history) => history.refile(table),
            None => self.history = Some(History::new(table)),
        }
        self.readahead.refiled();
        self.recognise();
        self.filed = Some(Filed { at: Instant::now(), files, bytes });
    }

    /// Tells whoever evicts which files are read together, if that is news.
    fn sort_out(&mut self) {
        let Some(history) = &self.history else { return };
        let reading = |job: &Job| Reading { part: job.part(), workload: job.workload(), epoch: job.epoch() };
        let readings: Vec<_> = history.jobs().iter().map(reading).collect();
        if self.sets.look(&readings) {
            self.recognise();
        }
    }

    fn recognise(&self) {
        let Some(history) = &self.history else { return };
        let (table, sets) = (history.table().clone(), self.sets.clone());
        let pattern = move |ino: Ino| {
            let rank = u32::try_from(ino.0).ok().and_then(|number| table.rank(FileNo(number)));
            // A file that is new since the table was made is nobody's yet.
            sets.pattern(rank.map_or(u32::MAX, |rank| table.part_of(rank)))
        };
        self.cache.eviction().recognise(Arc::new(pattern));
    }

    /// Brings figures and state up to date.
    fn tell(&mut self, now_ns: u64, activity: Activity, state: &Mutex<PlannerState>) {
        let (counts, before, figures) = (self.readahead.counts(), self.counted, &self.figures);
        figures.prefetched.add(counts.fetched - before.fetched);
        figures.prefetched_bytes.add(counts.fetched_bytes - before.fetched_bytes);
        figures.prefetch_needless.add(counts.needless - before.needless);
        figures.prefetch_failed.add(counts.failed - before.failed);
        figures.prefetch_used.add(counts.used - before.used);
        figures.prefetch_used_bytes.add(counts.used_bytes - before.used_bytes);
        figures.prefetch_wasted.add(counts.wasted - before.wasted);
        figures.prefetch_wasted_bytes.add(counts.wasted_bytes - before.wasted_bytes);
        figures.prefetch_unread.set(counts.unread);
        let (pushes, before) = (self.pushing.counts(), self.pushes_counted);
        figures.pushed.add(pushes.pushed - before.pushed);
        figures.push_used.add(pushes.used - before.used);
        figures.push_failed.add(pushes.failed - before.failed);
        figures.push_dropped.add(pushes.dropped - before.dropped);
        self.pushes_counted = pushes;
        self.counted = counts;
        let in_flight = self.prefetcher.in_flight();
        figures.prefetch_in_flight.set(u64::from(in_flight));
        figures.prefetch_waiting.set(u64::from(self.prefetcher.outstanding().0.saturating_sub(in_flight)));
        figures.orders_wrong.set(self.readahead.wrong_orders());
        figures.depth.set(u64::from(self.readahead.depth()));
        figures.touches_lost.set(self.sight.lost());
        figures.allowance_bytes.set(self.readahead.allowance_left(now_ns).unwrap_or(0));
        let Some(history) = &self.history else { return };
        let (kept, kept_bytes) = self.recalling.kept();
        figures.orders_kept.set(kept as u64);
        figures.history_bytes.set((history.memory_bytes() + kept_bytes) as u64);
        let is_active = |last_ns: u64| now_ns.saturating_sub(last_ns) < IDLE_AFTER_NS;
        figures.jobs.set(history.jobs().iter().filter(|job| is_active(job.last_ns())).count() as u64);
        let mut state = state.lock();
        state.activity = activity.to_string();
        self.sight.source().clone_into(&mut state.source);
        let followed = self.readahead.followed();
        self.epochs.follows(followed);
        state.order = followed.map(|purpose| purpose.to_string()).unwrap_or_default();
        let Some(job) = history.main_job(now_ns) else { return };
        figures.coverage_percent.set((job.coverage() * 100.0) as u64);
        figures.confidence_percent.set((job.confidence() * 100.0) as u64);
        state.workload = job.workload().to_string();
        state.epoch = u64::from(job.epoch());
        state.set_files = u64::from(job.set_files());
        let directory = job.span().directory(history.table()).map_or(job.part(), |(number, _)| number);
        state.set = path_of(&self.cache, directory);
    }
}

/// Counts of fetches, to be told what came since.
struct Meter {
    cache: Arc<Cache>,
    origin: Arc<OriginFigures>,
    fetched: u64,
    us: u64,
    refused: u64,
    not_admitted: u64,
}

impl Meter {
    fn new(cache: &Arc<Cache>, origin: Arc<OriginFigures>) -> Self {
        let not_admitted = cache.figures().not_admitted.get();
        Self { cache: cache.clone(), origin, fetched: 0, us: 0, refused: 0, not_admitted }
    }

    fn sample(&mut self) -> Sample {
        let fetched = self.cache.figures().fills.get();
        let us = self.cache.fill_us();
        let refused = self.origin.throttled.get() + self.origin.timeouts.get();
        let sample = Sample {
            fetched: (fetched - self.fetched) as u32,
            latency_us: us - self.us,
            refused: (refused - self.refused) as u32,
        };
        (self.fetched, self.us, self.refused) = (fetched, us, refused);
        sample
    }

    /// Whether the store has refused something for want of room.
    fn refused_by_store(&mut self) -> bool {
        let not_admitted = self.cache.figures().not_admitted.get();
        std::mem::replace(&mut self.not_admitted, not_admitted) != not_admitted
    }
}

/// What the store has room for: nothing, once it has refused, until it has more than it had then.
fn room(cache: &Cache, refused: &mut Option<u64>, refuses: bool) -> u64 {
    let room = cache.store().room_bytes();
    if refuses {
        *refused = Some(room.max(refused.unwrap_or(0)));
    }
    match refused {
        Some(then) if room <= *then => 0,
        _ => {
            *refused = None;
            room
        }
    }
}

fn table(catalog: &Catalog) -> FileTable {
    let mut builder = FileTable::builder();
    // Numbers are 32 bits: see catalog/mod.rs.
    catalog.files_in_order(&mut |file, dir, bytes| builder.add(FileNo(file.0 as u32), dir.0 as u32, bytes));
    let above = |dir: u32| catalog.parent(Ino(u64::from(dir))).map_or(dir, |above| above.0 as u32);
    let is_split = |dir: u32| {
        let path = catalog.path(Ino(u64::from(dir))).unwrap_or_default();
        is_split_name(path.rsplit(|&byte| byte == b'/').next().unwrap_or_default())
    };
    builder.finish(above, is_split)
}

fn path_of(cache: &Cache, directory: u32) -> String {
    let path = cache.catalog().path(Ino(u64::from(directory))).unwrap_or_default();
    String::from_utf8_lossy(&path).into_owned()
}
