//! Planning: from what is seen of the readers to what is fetched ahead of them.
//!
//! One thread carries the control line: it takes touches from the probes (or, where there are none, from the
//! requests), feeds the history, asks the policy, and hands its commands to the cache. Nobody waits for it. While
//! something is fetched ahead it plans fifty times a second, a hundred times while it pushes, twenty times while somebody
//! reads, else five times.
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
use super::meter::Meter;
use super::numbered::{Ahead, Numbered};
use super::orders::{OrderDirectory, OrderReader, Watcher};
use super::parts::AllFigures;
use super::pushing::{PushLine, PushTime, Pushes};
use super::readers::readers;
use super::recalling::Recalling;
use super::sight::Sight;
use super::warming::{Warm, Warming};
use super::watching::Watching;
use crate::access::{EpochSummary, FileNo, FileTable, History, IDLE_AFTER_NS, Job, Touch, is_split_name};
use crate::cache::{Cache, Patterns, Prefetcher};
use crate::catalog::Catalog;
use crate::config::{Config, IoMode, PrefetchChoice};
use crate::control::{OrderTold, Refusal};
use crate::policy::eviction::Pattern;
use crate::policy::pushing::{Files, Whereabouts};
use crate::policy::readahead::{
    Activity, Counts, Limits, Mode, Order, PLAN_EVERY_S, Purpose, Readahead, Situation,
};
use crate::policy::sets::{Reading, Sets};
use crate::stats::planner::{PlannerFigures, PlannerState};

/// How often it looks for readers, and how often when somebody has read since it last did.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const WATCH_EVERY: Duration = Duration::from_millis(50);

/// How often while it pushes ahead of readers.
const PUSH_EVERY: Duration = Duration::from_millis(10);

/// How often it looks at the orders of later epochs, which takes some ns for each of their files.
const LOOK_AHEAD_EVERY: Duration = Duration::from_millis(100);

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
        let is_direct = config.mount.io_mode == IoMode::DirectIo;
        let sight = Sight::new(cache.clone(), watching, is_blind, is_direct);
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
            sets: Sets::default(),
            epochs,
            recalling: Recalling::open(&config.store.cache_dir, config.store.size_bytes, cache.catalog()),
            pushes: Pushes::new((!is_blind).then(|| PushLine::start(cache.clone(), mount.clone())).flatten()),
            wishes,
            numbered: reader.numbered().clone(),
            ahead: None,
            looked_ahead: (0, Instant::now()),
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
    /// What the files are part of, for whoever evicts.
    sets: Sets,
    epochs: Epochs,
    recalling: Recalling,
    pushes: Pushes,
    wishes: Receiver<Order>,
    orders: Option<Watcher>,
    numbered: Arc<Numbered>,
    /// What is told of later epochs that read parts of the set.
    ahead: Option<Arc<Ahead>>,
    /// The changes of what is told that it knows of, and when it looked.
    looked_ahead: (u64, Instant),
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
                _ if self.pushes.is_pushing() && (self.saw_readers || self.pushes.is_busy()) => PUSH_EVERY,
                Activity::Fetching => Duration::from_secs_f64(PLAN_EVERY_S),
                // An order that was told, too: its readers may begin at any moment.
                _ if self.saw_readers || self.pushes.is_pushing() => WATCH_EVERY,
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
        let told: Vec<Order> = self.told().collect();
        if !touches.is_empty() || !told.is_empty() || self.warm.is_wanted() {
            self.file();
        }
        let Some(mut history) = self.history.take() else { return Activity::Idle };
        self.follow(told, now_ns);
        self.warm.pass(&mut self.readahead, history.table(), now_ns);
        let has_ended = self.learn(&mut history, &touches, now_ns, state);
        self.follow_due(has_ended, now_ns);
        self.look_ahead(history.table());
        self.recalling.settle(&history, self.cache.catalog(), now_ns);
        let activity = self.plan(&history, now_ns);
        self.history = Some(history);
        self.sort_out();
        self.tell(now_ns, activity, state);
        activity
    }

    /// Follows orders that were told.
    fn follow(&mut self, told: Vec<Order>, now_ns: u64) {
        self.figures.orders_told.add(told.len() as u64);
        told.into_iter().for_each(|order| self.readahead.told(order, now_ns));
    }

    /// Takes what was touched; whether an epoch has ended.
    fn learn(
        &mut self,
        history: &mut History,
        touches: &[Touch],
        now_ns: u64,
        state: &Mutex<PlannerState>,
    ) -> bool {
        self.figures.touches.add(touches.len() as u64);
        self.sight.units.drain(..).for_each(|read| self.readahead.unit_read(&read));
        let mut has_ended = false;
        for touch in touches {
            history.touch(touch);
            // At once: what follows is read in another order.
            for summary in history.take_ended() {
                has_ended = true;
                self.ended(history, &summary, now_ns, state);
            }
            self.readahead.touched(history, touch);
            self.recalling.touched(history, touch);
            self.pushes.touched(touch);
        }
        has_ended
    }

    fn ended(&mut self, history: &History, summary: &EpochSummary, now_ns: u64, state: &Mutex<PlannerState>) {
        self.readahead.ended(history, summary);
        self.recalling.ended(history, summary);
        self.pushes.ended(&mut self.readahead, now_ns);
        let set = path_of(&self.cache, summary.part);
        let (ahead, depth) = (self.readahead.counts(), self.readahead.depth());
        let job = &mut |tgid| self.sight.job(tgid);
        let is_worth_it = self.epochs.ended(summary, Noticed { set, ahead, depth, job });
        if is_worth_it {
            self.figures.epochs.increment();
            state.lock().epochs = self.epochs.last();
        }
    }

    /// Follows orders whose epoch has come, and those that are read again. After what has ended: their epochs have begun.
    fn follow_due(&mut self, has_ended: bool, now_ns: u64) {
        let (read, readahead) = (self.readahead.take_read(), &self.readahead);
        let followed = |name: &str| readahead.has_order(name);
        let due = self.numbered.due(&read, has_ended, &followed, self.saw_readers, Instant::now());
        self.follow(due, now_ns);
        let recalled = self.recalling.take_recalled();
        self.figures.orders_recalled.add(recalled.len() as u64);
        recalled.into_iter().for_each(|order| self.readahead.told(order, now_ns));
    }

    /// Asks the policy what to fetch and push, and has it done.
    fn plan(&mut self, history: &History, now_ns: u64) -> Activity {
        for done in self.prefetcher.take_done() {
            self.readahead.done(history, &done.command, done.outcome);
            self.warm.done(&done);
        }
        let (commands, commands_bytes) = self.prefetcher.outstanding();
        let room_bytes = self.meter.room_bytes();
        let now = Situation {
            now_ns,
            sample: self.meter.sample(),
            demand_in_flight: self.cache.demand_in_flight(),
            commands,
            commands_bytes,
            room_bytes,
        };
        let prefetcher = &self.prefetcher;
        let is_absent = |file| prefetcher.is_absent(file);
        let plan = self.readahead.plan(history, &now, &mut { is_absent });
        prefetcher.ask(plan.depth, &plan.prefetch);
        let is_at = |file| match is_absent(file) {
            false => Whereabouts::Here,
            true if room_bytes > 0 && plan.activity != Activity::Full => Whereabouts::Awaited,
            true => Whereabouts::Origin,
        };
        let now = PushTime { now_ns, fetches: plan.depth as usize, sees_all: self.sight.sees_all() };
        let is_cached = |file, size_bytes| self.sight.is_cached(file, size_bytes);
        let files = Files { table: history.table(), is_at: &is_at, is_cached: &is_cached };
        self.pushes.plan(&mut self.readahead, history, &now, &files);
        self.warm.planned(&mut self.readahead, plan.activity, self.prefetcher.outstanding().0);
        plan.activity
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
        if let Some(history) = &self.history {
            self.cache.eviction().recognise(self.patterns(history.table()));
        }
    }

    /// Tells whoever evicts what is read in later epochs, if that is news.
    fn look_ahead(&mut self, table: &Arc<FileTable>) {
        let (changes, (known, at)) = (self.numbered.changes(), self.looked_ahead);
        if changes == known || at.elapsed() < LOOK_AHEAD_EVERY {
            return;
        }
        self.looked_ahead = (changes, Instant::now());
        let before = std::mem::replace(&mut self.ahead, self.numbered.ahead().map(Arc::new));
        if before.is_some() || self.ahead.is_some() {
            self.cache.eviction().expect(self.patterns(table));
        }
    }

    /// What files are part of.
    fn patterns(&self, table: &Arc<FileTable>) -> Patterns {
        let (table, sets, ahead) = (table.clone(), self.sets.clone(), self.ahead.clone());
        let part_of = move |file: FileNo| table.rank(file).map(|rank| table.part_of(rank));
        let told: Vec<u32> =
            ahead.iter().flat_map(|ahead| ahead.samples()).filter_map(|&file| part_of(file)).collect();
        Arc::new(move |ino: Ino| {
            let file = u32::try_from(ino.0).ok().map(FileNo);
            // A file that is new since the table was made is nobody's yet.
            let part = file.and_then(&part_of).unwrap_or(u32::MAX);
            match (&ahead, file) {
                // Whatever it looks like: somebody said so.
                (Some(ahead), Some(file)) if told.contains(&part) => {
                    Pattern::Due(sets.set(part), ahead.due(file))
                }
                _ => sets.pattern(part),
            }
        })
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
        self.pushes.tell(figures);
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
