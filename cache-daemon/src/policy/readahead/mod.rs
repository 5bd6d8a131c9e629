//! Readahead: which objects to fetch before they are asked for, and how many at a time.
//!
//! Of a job that reads shuffled epochs, every file that it has not read yet will be read, in an order that nobody
//! knows: the *unseen set*. Those of it that are not stored are fetched while the link, the origin's patience and
//! the store's room allow, spread over the listing (object stores slow down on consecutive names). So the first epoch of an
//! empty cache runs at the speed of the link instead of that of a few blocking readers.
//!
//! An *order* that somebody told, or that was read before, is followed instead, and a path that a user wants stored is fetched whoever reads.
//! Within large objects, *runs* are followed.
//!
//! - `depth`: how many requests in flight fill the link, from measurement.
//! - `unseen`: the order in which an unseen set is fetched.
//! - `order`: files in a known order. `runs`: sequential runs within large objects.
//! - `budget`: what one plan may add. `allowance`: the user's limit on bytes an hour. `failures`: when to pause.
//! - `ledger`: what became of the objects fetched ahead.
//!
//! Invariants
//! - Nothing is fetched ahead without evidence: [`crate::access::Workload::Epochs`], a run within an object, or an order
//!   that was told or read before.
//! - Nothing beyond the store's room: what would not be kept is not fetched.
//! - An object is asked for at most once an epoch, unless it failed.
//! - Half a minute after its readers, it stops too.

mod allowance;
mod budget;
mod depth;
mod failures;
mod ledger;
mod order;
mod runs;
#[cfg(test)]
mod tests;
mod unseen;

pub use allowance::Allowance;
pub use depth::{Depth, Sample};
pub use ledger::{Counts, Ledger};
pub use order::{Order, Purpose, Standing};
pub use runs::{Runs, UnitRead};

use crate::access::{EpochSummary, FileNo, History, IDLE_AFTER_NS, Job, Marks, Touch, Workload};
use budget::Budget;
use failures::Failures;
use unseen::UnseenSet;
pub use unseen::spread;

/// What a user wants fetched ahead.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// Nothing.
    Off,
    /// What an order tells.
    Told,
    /// What is recognised, too.
    #[default]
    Auto,
}

/// Bounds of what is fetched ahead.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// What is fetched at all.
    pub mode: Mode,
    /// Requests in flight, those of readers included.
    pub requests_max: u32,
    /// Bytes of commands that are not done.
    pub bytes_max: u64,
    /// Bytes an hour.
    pub bytes_per_hour_max: Option<u64>,
}

/// How things stand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Situation {
    /// Monotonic clock, ns.
    pub now_ns: u64,
    /// Fetches of all kinds since the last plan.
    pub sample: Sample,
    /// Readers' fetches in flight.
    pub demand_in_flight: u32,
    /// Commands that are not done: waiting and in flight.
    pub commands: u32,
    /// Their bytes.
    pub commands_bytes: u64,
    /// Bytes that the store has room for.
    pub room_bytes: u64,
}

/// The command to fetch an object, or a unit of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prefetch {
    /// The file.
    pub file: FileNo,
    /// The unit of it; `None`: all of them.
    pub unit: Option<u32>,
    /// How much that is, rounded up.
    pub bytes: u64,
}

/// What came of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was fetched, and is stored.
    Fetched,
    /// It was there, or on its way for a reader.
    Needless,
    /// The origin did not give it, or the store did not take it.
    Failed,
}

/// Why what is fetched ahead is as much as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activity {
    /// The user wants none.
    Off,
    /// Nobody reads, or nothing recognisable.
    Idle,
    /// Objects are being fetched ahead.
    Fetching,
    /// All that will be read is stored or on its way.
    Done,
    /// The store has no room: never replacing is the best there is.
    Full,
    /// The limit on bytes an hour is reached.
    Capped,
    /// Nothing that was asked for came: a pause.
    Failing,
}

impl std::fmt::Display for Activity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Idle => "idle",
            Self::Fetching => "fetching",
            Self::Done => "all that will be read is stored",
            Self::Full => "the store is full",
            Self::Capped => "the limit on bytes an hour is reached",
            Self::Failing => "a pause, because fetches fail",
        })
    }
}

/// What is to be done now.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// Fetches ahead that may be in flight at once.
    pub depth: u32,
    /// To be fetched, in this order.
    pub prefetch: Vec<Prefetch>,
    /// Why.
    pub activity: Activity,
}

/// How often plans are made while objects are fetched, in seconds: commands for twice that wait ahead of the depth.
pub const PLAN_EVERY_S: f64 = 0.02;

/// An object counts so much at least: what the cache counts for it.
const COUNTED_BYTES_MIN: u64 = 16 << 10;

/// How long an object that failed rests.
const RETRY_AFTER_NS: u64 = 5_000_000_000;

/// Orders that are followed at once, and the oldest gives way: ranks of a job on one machine have one each.
const ORDERS_MAX: usize = 64;

/// Decides what is fetched ahead.
#[derive(Debug)]
pub struct Readahead {
    limits: Limits,
    depth: Depth,
    allowance: Allowance,
    ledger: Ledger,
    /// Asked for in this epoch, or found to be there.
    asked: Marks,
    sets: Vec<UnseenSet>,
    orders: Vec<Order>,
    /// Names of orders whose epochs are over.
    read: Vec<String>,
    /// When an order was told, or a file read, for the last time.
    stirred_ns: u64,
    wrong_orders: u64,
    runs: Runs,
    failed: Vec<FileNo>,
    retry_ns: u64,
    failures: Failures,
}

/// What one plan is made of.
struct Making<'a> {
    history: &'a History,
    is_absent: &'a mut dyn FnMut(FileNo) -> bool,
    budget: Budget,
    commands: Vec<Prefetch>,
}

impl Readahead {
    /// Readahead within `limits`.
    pub fn new(limits: Limits) -> Self {
        Self {
            depth: Depth::new(limits.requests_max),
            allowance: Allowance::new(limits.bytes_per_hour_max),
            limits,
            ledger: Ledger::default(),
            asked: Marks::default(),
            sets: Vec::new(),
            orders: Vec::new(),
            read: Vec::new(),
            stirred_ns: 0,
            wrong_orders: 0,
            runs: Runs::default(),
            failed: Vec::new(),
            retry_ns: 0,
            failures: Failures::default(),
        }
    }

    /// A file was touched.
    pub fn touched(&mut self, history: &History, touch: &Touch) {
        self.ledger.touched(history.table(), touch.file);
        self.stirred_ns = self.stirred_ns.max(touch.at_ns);
        if touch.begins {
            self.orders.iter_mut().for_each(|order| order.reading(touch.file, touch.reader));
        }
    }

    /// A unit of a large object was asked for.
    pub fn unit_read(&mut self, read: &UnitRead) {
        if self.limits.mode == Mode::Auto {
            self.runs.read(read);
        }
    }

    /// Somebody told an order, or wants files stored.
    pub fn told(&mut self, order: Order, now_ns: u64) {
        let is_wanted = match order.purpose() {
            Purpose::Told => self.limits.mode != Mode::Off,
            Purpose::Recalled => self.limits.mode == Mode::Auto,
            Purpose::Warm => true,
        };
        if !is_wanted {
            return;
        }
        let is_replaced = |old: &Order| !order.name().is_empty() && old.name() == order.name();
        self.orders.retain(|old| !is_replaced(old));
        if self.orders.len() == ORDERS_MAX {
            self.orders.remove(0);
        }
        self.orders.push(order);
        self.stirred_ns = self.stirred_ns.max(now_ns);
    }

    /// Nobody wants files stored any more.
    pub fn stop_warming(&mut self) {
        self.orders.retain(|order| order.purpose() != Purpose::Warm);
    }

    /// How many of the files that a user wants stored were passed.
    pub fn warmed(&self) -> Option<usize> {
        self.orders.iter().find(|order| order.purpose() == Purpose::Warm).map(Order::passed)
    }

    /// What the order that readers follow is for; none if none is known to be right.
    pub fn followed(&self) -> Option<Purpose> {
        self.orders.iter().find(|order| order.standing() == Standing::Right).map(Order::purpose)
    }

    /// The orders by which files may be put into the page cache: those that readers follow, and those that were told and that
    /// nobody has begun to read.
    pub fn orders_to_push(&mut self) -> impl Iterator<Item = &mut Order> {
        self.orders.iter_mut().filter(|order| match order.standing() {
            Standing::Right => order.purpose() != Purpose::Warm,
            Standing::Unproven => order.purpose() == Purpose::Told,
            Standing::Wrong => false,
        })
    }

    /// Orders that readers did not follow.
    pub fn wrong_orders(&self) -> u64 {
        self.wrong_orders
    }

    /// A command is done.
    pub fn done(&mut self, history: &History, command: &Prefetch, outcome: Outcome) {
        let was_read = history.jobs().iter().any(|job| job.has_read(command.file));
        self.ledger.done(command, outcome, was_read);
        match outcome {
            Outcome::Failed => {
                self.failed.push(command.file);
                self.failures.failed();
            }
            Outcome::Fetched => self.failures.succeeded(),
            Outcome::Needless if command.unit.is_some() => self.runs.was_needless(command.file),
            Outcome::Needless => {}
        }
    }

    /// An epoch has ended: what was fetched ahead for it and not read was wasted, and its order is over.
    pub fn ended(&mut self, history: &History, summary: &EpochSummary) {
        if let Some(job) = history.job(summary.group, summary.part) {
            self.ledger.ended(history.table(), job);
        }
        // One that was told for the next epoch may be proven before the end of this one is noticed.
        self.drop_read(|order| order.standing() != Standing::Unproven && !order.has_begun_only());
        self.asked.clear();
        self.sets.clear();
    }

    /// The data set has changed: ranks mean other files now.
    pub fn refiled(&mut self) {
        self.sets.clear();
    }

    /// What to do now. `is_absent` tells whether nothing of a file is stored or on its way.
    pub fn plan(
        &mut self,
        history: &History,
        now: &Situation,
        is_absent: &mut dyn FnMut(FileNo) -> bool,
    ) -> Plan {
        self.depth.observe(now.now_ns, &now.sample, now.demand_in_flight + now.commands);
        let depth = self.depth.get().saturating_sub(now.demand_in_flight).max(1);
        self.forgive(now.now_ns);
        self.drop_orders();
        if self.failures.are_to_pause(now.now_ns) {
            return Plan { depth, prefetch: Vec::new(), activity: Activity::Failing };
        }
        let allowed = self.allowance.left(now.now_ns);
        let budget = Budget::new(&self.limits, now, (depth, self.depth.per_s()), allowed);
        let mut making = Making { history, is_absent, budget, commands: Vec::new() };
        let mut activity = self.make(&mut making, now.now_ns);
        let prefetch = making.commands;
        self.allowance.spend(now.now_ns, prefetch.iter().map(|command| command.bytes).sum());
        if !prefetch.is_empty() || activity == Activity::Done && now.commands > 0 {
            activity = Activity::Fetching;
        }
        Plan { depth, prefetch, activity }
    }

    /// Takes from what is most urgent first: runs, orders, unseen sets.
    fn make(&mut self, making: &mut Making<'_>, now_ns: u64) -> Activity {
        self.take_runs(making);
        let mut activity = if self.limits.mode == Mode::Off { Activity::Off } else { Activity::Idle };
        let is_stirring = now_ns.saturating_sub(self.stirred_ns) < IDLE_AFTER_NS;
        for place in 0..self.orders.len() {
            if is_stirring || self.orders[place].purpose() == Purpose::Warm {
                match self.take_order(making, place) {
                    Activity::Done => activity = Activity::Done,
                    stop => return stop,
                }
            }
        }
        let is_told = self.orders.iter().any(|order| order.standing() == Standing::Right);
        if self.limits.mode != Mode::Auto || is_told {
            return activity;
        }
        let jobs = making.history.jobs().iter();
        let jobs: Vec<&Job> = jobs.filter(|job| is_shuffling(job, now_ns)).collect();
        if jobs.is_empty() { activity } else { self.take_unseen(making, jobs) }
    }

    /// Objects that failed a while ago are tried again.
    fn forgive(&mut self, now_ns: u64) {
        if self.failed.is_empty() || now_ns < self.retry_ns {
            return;
        }
        self.retry_ns = now_ns + RETRY_AFTER_NS;
        for file in self.failed.drain(..) {
            self.asked.remove(file);
        }
        self.sets.iter_mut().for_each(UnseenSet::begin_anew);
    }

    /// Orders that are wrong, and those that are over.
    fn drop_orders(&mut self) {
        let before = self.orders.len();
        self.orders.retain(|order| order.standing() != Standing::Wrong);
        self.wrong_orders += (before - self.orders.len()) as u64;
        self.drop_read(|order| match order.purpose() {
            Purpose::Told | Purpose::Recalled => order.was_read(),
            // Whoever waits for it is told of its end first: see `stop_warming`.
            Purpose::Warm => false,
        });
    }

    /// Drops orders whose epochs are over.
    fn drop_read(&mut self, is_over: impl Fn(&Order) -> bool) {
        self.read
            .extend(self.orders.extract_if(.., |order| is_over(order)).map(|order| order.name().to_owned()));
    }

    /// Whose orders were read to their end, or until their epoch ended, since it was last asked.
    pub fn take_read(&mut self) -> Vec<String> {
        std::mem::take(&mut self.read)
    }

    /// Whether an order of `name` is there.
    pub fn has_order(&self, name: &str) -> bool {
        self.orders.iter().any(|order| order.name() == name)
    }

    fn take_runs(&mut self, making: &mut Making<'_>) {
        let wanted = self.runs.wanted();
        while let Some(command) = wanted.pop() {
            match making.budget.take(&command) {
                Ok(()) => making.commands.push(command),
                // A store that is full stays so.
                Err(Activity::Full) => wanted.clear(),
                Err(_) => {
                    wanted.push(command);
                    break;
                }
            }
        }
    }

    /// Takes from the order at `place`; [`Activity::Done`] if it has nothing for now.
    fn take_order(&mut self, making: &mut Making<'_>, place: usize) -> Activity {
        let order = &mut self.orders[place];
        while !making.budget.is_spent() {
            let Some(file) = order.take_next() else { return Activity::Done };
            making.budget.looks -= 1;
            let Some(rank) = making.history.table().rank(file) else { continue };
            making.budget.questions -= 1;
            if !(making.is_absent)(file) {
                continue;
            }
            let bytes = making.history.table().size_bytes(rank).max(COUNTED_BYTES_MIN);
            let command = Prefetch { file, unit: None, bytes };
            if let Err(stop) = making.budget.take(&command) {
                order.step_back();
                return stop;
            }
            self.asked.insert(file);
            making.commands.push(command);
        }
        Activity::Fetching
    }

    /// Takes from the unseen sets of `jobs` in turn.
    fn take_unseen(&mut self, making: &mut Making<'_>, mut jobs: Vec<&Job>) -> Activity {
        let mut turn = 0;
        while !jobs.is_empty() {
            turn %= jobs.len();
            let job = jobs[turn];
            match self.next_of(making, job) {
                Next::Command(command) => {
                    if let Err(stop) = making.budget.take(&command) {
                        self.set_of(job).step_back();
                        return stop;
                    }
                    self.asked.insert(command.file);
                    making.commands.push(command);
                    turn += 1;
                }
                Next::Nothing => drop(jobs.swap_remove(turn)),
                Next::Tired => return Activity::Fetching,
            }
        }
        Activity::Done
    }

    fn set_of(&mut self, job: &Job) -> &mut UnseenSet {
        let at = match self.sets.iter().position(|set| set.is_of(job)) {
            Some(at) => at,
            None => {
                self.sets.push(UnseenSet::new(job));
                self.sets.len() - 1
            }
        };
        let set = &mut self.sets[at];
        set.adapt(job.span());
        set
    }

    /// The next file of `job`'s unseen set that is absent.
    fn next_of(&mut self, making: &mut Making<'_>, job: &Job) -> Next {
        let table = making.history.table();
        while !making.budget.is_spent() {
            let Some(index) = self.set_of(job).next() else { return Next::Nothing };
            making.budget.looks -= 1;
            let rank = job.span().rank(index);
            let file = table.file(rank);
            if self.asked.contains(file) || !job.will_read(file) {
                continue;
            }
            making.budget.questions -= 1;
            if !(making.is_absent)(file) {
                self.asked.insert(file);
                continue;
            }
            let bytes = table.size_bytes(rank).max(COUNTED_BYTES_MIN);
            return Next::Command(Prefetch { file, unit: None, bytes });
        }
        Next::Tired
    }

    /// What became of the objects fetched ahead.
    pub fn counts(&self) -> Counts {
        self.ledger.counts()
    }

    /// Requests in flight that fill the link, as far as is known.
    pub fn depth(&self) -> u32 {
        self.depth.get()
    }

    /// Bytes that may still be fetched ahead this hour; none where there is no limit.
    pub fn allowance_left(&mut self, now_ns: u64) -> Option<u64> {
        self.limits.bytes_per_hour_max.map(|_| self.allowance.left(now_ns))
    }
}

/// Whether `job` reads shuffled epochs and goes on doing so.
fn is_shuffling(job: &Job, now_ns: u64) -> bool {
    job.workload() == Workload::Epochs && now_ns.saturating_sub(job.last_ns()) < IDLE_AFTER_NS
}

/// What comes next in an unseen set.
enum Next {
    Command(Prefetch),
    /// All of it was asked for or is there.
    Nothing,
    /// Enough was looked at for one plan.
    Tired,
}
