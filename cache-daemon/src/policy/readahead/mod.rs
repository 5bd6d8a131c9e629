//! Readahead: which objects to fetch before they are asked for, and how many at a time.
//!
//! Of a job that reads shuffled epochs, every file that it has not read yet will be read, in an order that nobody
//! knows: the *unseen set*. Those of it that are not stored are fetched while the link, the origin's patience and
//! the store's room allow, spread over the listing (object stores slow down on consecutive names). So the first epoch of an
//! empty cache runs at the speed of the link instead of that of a few blocking readers.
//!
//! - `depth`: how many requests in flight fill the link, from measurement.
//! - `unseen`: the order in which an unseen set is fetched.
//! - `runs`: sequential runs within large objects.
//! - `allowance`: the user's limit on bytes an hour.
//! - `ledger`: what became of the objects fetched ahead.
//!
//! Invariants
//! - Nothing is fetched ahead without evidence: [`crate::access::Workload::Epochs`], a run within an object, or an order
//!   that was told.
//! - Nothing beyond the store's room: what would not be kept is not fetched.
//! - An object is asked for at most once an epoch, unless it failed.
//! - Half a minute after its readers, it stops too.

mod allowance;
mod depth;
mod ledger;
#[cfg(test)]
mod tests;
mod unseen;

pub use allowance::Allowance;
pub use depth::{Depth, Sample};
pub use ledger::{Counts, Ledger};

use crate::access::{EpochSummary, FileNo, History, IDLE_AFTER_NS, Job, Marks, Touch, Workload};
use unseen::UnseenSet;

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

/// Files of a set that are looked at for one plan, and those that the store is asked about: a plan is a few milliseconds.
const LOOKS_MAX: u32 = 16 << 10;
const QUESTIONS_MAX: u32 = 2 << 10;

/// A unit of an object counts so much at most: what the cache fetches at once.
const COUNTED_BYTES_MIN: u64 = 16 << 10;

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
    failed: Vec<FileNo>,
    retry_ns: u64,
    failures: Failures,
}

/// Failures without a success in between, and the pause that they cost.
#[derive(Debug, Default)]
struct Failures {
    in_a_row: u32,
    pause_ns: u64,
    until_ns: u64,
}

/// So many in a row are no accident: credentials that expired, a network that is down.
const IN_A_ROW: u32 = 16;

const PAUSE_NS_MAX: u64 = 300_000_000_000;

/// How long an object that failed rests.
const RETRY_AFTER_NS: u64 = 5_000_000_000;

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
            failed: Vec::new(),
            retry_ns: 0,
            failures: Failures::default(),
        }
    }

    /// A file was touched.
    pub fn touched(&mut self, history: &History, touch: &Touch) {
        self.ledger.touched(history.table(), touch.file);
    }

    /// A command is done.
    pub fn done(&mut self, history: &History, command: &Prefetch, outcome: Outcome) {
        let was_read = history.jobs().iter().any(|job| job.has_read(command.file));
        self.ledger.done(command, outcome, was_read);
        match outcome {
            Outcome::Failed => {
                self.failed.push(command.file);
                self.failures.in_a_row += 1;
            }
            Outcome::Fetched => self.failures = Failures::default(),
            Outcome::Needless => {}
        }
    }

    /// An epoch has ended: what was fetched ahead for it and not read was wasted.
    pub fn ended(&mut self, history: &History, summary: &EpochSummary) {
        let job =
            history.jobs().iter().find(|job| (job.group(), job.part()) == (summary.group, summary.part));
        if let Some(job) = job {
            self.ledger.ended(history.table(), job);
        }
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
        let mut plan = Plan { depth, prefetch: Vec::new(), activity: Activity::Idle };
        if self.limits.mode != Mode::Auto {
            plan.activity = if self.limits.mode == Mode::Off { Activity::Off } else { Activity::Idle };
            return plan;
        }
        self.forgive(now.now_ns);
        if self.failures.are_to_pause(now.now_ns) {
            plan.activity = Activity::Failing;
            return plan;
        }
        let jobs: Vec<&Job> = history.jobs().iter().filter(|job| is_shuffling(job, now.now_ns)).collect();
        if jobs.is_empty() {
            return plan;
        }
        let waiting = (self.depth.per_s() * 2.0 * PLAN_EVERY_S).ceil() as u32 + 1;
        let mut budget = Budget {
            commands: (depth + waiting).saturating_sub(now.commands),
            // One object may be larger than all that may wait.
            bytes: if now.commands == 0 {
                u64::MAX
            } else {
                self.limits.bytes_max.saturating_sub(now.commands_bytes)
            },
            bytes_max: self.limits.bytes_max,
            room: now.room_bytes.saturating_sub(now.commands_bytes),
            allowed: self.allowance.left(now.now_ns),
            looks: LOOKS_MAX,
            questions: QUESTIONS_MAX,
        };
        plan.activity = self.take_unseen(history, &jobs, &mut budget, is_absent, &mut plan.prefetch);
        let bytes = plan.prefetch.iter().map(|command| command.bytes).sum();
        self.allowance.spend(now.now_ns, bytes);
        if plan.activity == Activity::Done && now.commands > 0 {
            plan.activity = Activity::Fetching;
        }
        plan
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

    /// Takes from the unseen sets of `jobs` in turn, as far as `budget` goes.
    fn take_unseen(
        &mut self,
        history: &History,
        jobs: &[&Job],
        budget: &mut Budget,
        is_absent: &mut dyn FnMut(FileNo) -> bool,
        commands: &mut Vec<Prefetch>,
    ) -> Activity {
        let mut left: Vec<&Job> = jobs.to_vec();
        let mut turn = 0;
        while !left.is_empty() {
            turn %= left.len();
            let job = left[turn];
            match self.next_of(history, job, budget, is_absent) {
                Next::Command(command) => {
                    if let Some(stop) = budget.refuses(&command) {
                        self.set_of(job).step_back();
                        return stop;
                    }
                    budget.take(&command);
                    self.asked.insert(command.file);
                    commands.push(command);
                    turn += 1;
                }
                Next::Nothing => drop(left.swap_remove(turn)),
                Next::Tired => return Activity::Fetching,
            }
        }
        if commands.is_empty() { Activity::Done } else { Activity::Fetching }
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
    fn next_of(
        &mut self,
        history: &History,
        job: &Job,
        budget: &mut Budget,
        is_absent: &mut dyn FnMut(FileNo) -> bool,
    ) -> Next {
        while budget.looks > 0 && budget.questions > 0 {
            let Some(index) = self.set_of(job).next() else { return Next::Nothing };
            budget.looks -= 1;
            let rank = job.span().rank(index);
            let file = history.table().file(rank);
            if self.asked.contains(file) || !job.will_read(file) {
                continue;
            }
            budget.questions -= 1;
            if !is_absent(file) {
                self.asked.insert(file);
                continue;
            }
            let bytes = history.table().size_bytes(rank).max(COUNTED_BYTES_MIN);
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

impl Failures {
    /// Whether to pause: longer each time that nothing came after the last pause.
    fn are_to_pause(&mut self, now_ns: u64) -> bool {
        if self.in_a_row >= IN_A_ROW {
            self.pause_ns = (self.pause_ns * 2).clamp(RETRY_AFTER_NS, PAUSE_NS_MAX);
            (self.until_ns, self.in_a_row) = (now_ns + self.pause_ns, 0);
        }
        now_ns < self.until_ns
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

/// What one plan may add.
struct Budget {
    commands: u32,
    bytes: u64,
    bytes_max: u64,
    room: u64,
    allowed: u64,
    looks: u32,
    questions: u32,
}

impl Budget {
    /// Why `command` cannot be given now, if it cannot.
    fn refuses(&self, command: &Prefetch) -> Option<Activity> {
        match () {
            () if command.bytes > self.room => Some(Activity::Full),
            () if command.bytes > self.allowed => Some(Activity::Capped),
            () if self.commands == 0 || command.bytes > self.bytes => Some(Activity::Fetching),
            () => None,
        }
    }

    fn take(&mut self, command: &Prefetch) {
        self.commands -= 1;
        self.bytes = self.bytes.min(self.bytes_max).saturating_sub(command.bytes);
        self.room -= command.bytes;
        self.allowed -= command.bytes;
    }
}
