//! Numbered orders: which epoch each name is in, and what was told for later ones.
//!
//! Numbers are the scripts' own and only compared within a name. The first one told begins at once. One for an epoch that is
//! past is refused; one for a later epoch waits until the one before was read, or an epoch has ended. A job that
//! begins anew counts from 0 or 1 again, or resumes after a pause: then all that is known of the name is forgotten.
//!
//! What waits also says which files are read again soon ([`Ahead`]): where an epoch reads only a part of the set, as that of a
//! rank does, whoever evicts can do better than never to replace. *Turns* are a count of epochs for all names, because ranks
//! whose numbers differ go from one to the next at about the same time.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::access::FileNo;
use crate::policy::eviction::Pattern;
use crate::policy::readahead::Order;

/// Orders of a name that wait for their epochs.
const WAITING_MAX: usize = 4;

/// Names; the one of which least was heard lately is forgotten. As many as orders that are followed at once.
const NAMES_MAX: usize = 64;

/// Jobs count their epochs from 0 or from 1.
const FIRST_EPOCH_MAX: u64 = 1;

/// Where nobody has read for so long, a job may resume at any epoch.
const RESUMED_AFTER: Duration = Duration::from_secs(30);

/// Why an order is not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum NotTaken {
    /// Its epoch was read.
    #[error("it is for epoch {epoch}, and `{name}` is at epoch {at}")]
    Past { name: String, epoch: u64, at: u64 },
    /// Too many are told ahead.
    #[error("{WAITING_MAX} orders of `{name}` wait for their epochs already")]
    TooEarly { name: String },
}

/// Of the files of a told epoch, those that the epoch after it reads too: if they are more than three in four, epochs read the
/// same files, and what is kept is never to be replaced.
const PARTS_SHARE_MAX: (usize, usize) = (3, 4);

/// The epochs of all names.
#[derive(Debug, Default)]
pub(super) struct Numbered {
    lines: Mutex<HashMap<String, Line>>,
    /// Counts what changes [`Ahead`].
    changes: AtomicU64,
}

/// In which of the told epochs files are read next.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ahead {
    /// The epoch that is read now.
    turn: u32,
    /// By file number: how many epochs later; 0 if in none of those told.
    later: Vec<u8>,
    /// A file of each order.
    samples: Vec<FileNo>,
}

impl Ahead {
    /// The turn in which `file` is read next, [`Pattern::NOT_TOLD`] if in none.
    pub fn due(&self, file: FileNo) -> u32 {
        match self.later.get(file.0 as usize) {
            None | Some(0) => Pattern::NOT_TOLD,
            Some(&later) => self.turn + u32::from(later),
        }
    }

    /// A file of each order: of the parts of the data set that they are for.
    pub fn samples(&self) -> &[FileNo] {
        &self.samples
    }
}

/// The epochs of one name.
#[derive(Debug)]
struct Line {
    /// The one whose order was followed last.
    epoch: u64,
    /// It was read.
    is_over: bool,
    waiting: BTreeMap<u64, Order>,
    /// The turn of `epoch`.
    turn: u32,
    /// When it was told or read.
    stirred: Instant,
}

impl Line {
    fn begin(&mut self, epoch: u64, now: Instant) {
        self.turn += u32::from(epoch != self.epoch);
        (self.epoch, self.is_over, self.stirred) = (epoch, false, now);
    }

    /// What is told ahead, and the turns.
    fn ahead(&self) -> impl Iterator<Item = (u32, &Order)> {
        // Nobody tells orders of epochs far ahead, and if so they are not worth much.
        let near = self.waiting.range(..self.epoch + 128);
        near.map(|(epoch, order)| (self.turn + (epoch - self.epoch) as u32, order))
    }

    fn is_resumed(&self, now: Instant) -> bool {
        now.duration_since(self.stirred) > RESUMED_AFTER
    }
}

impl Numbered {
    /// `name` tells `order` for `epoch`: the order again if it is to be followed now, else it waits.
    pub fn tell(
        &self,
        name: &str,
        epoch: u64,
        order: Order,
        now: Instant,
    ) -> Result<Option<Order>, NotTaken> {
        self.changes.fetch_add(1, Relaxed);
        let mut lines = self.lines.lock();
        let Some(line) = lines.get_mut(name) else {
            forget_one(&mut lines);
            // As far as the others are.
            let turn = lines.values().map(|line| line.turn).max().unwrap_or(0);
            let line = Line { epoch, is_over: false, waiting: BTreeMap::new(), turn, stirred: now };
            lines.insert(name.to_owned(), line);
            return Ok(Some(order));
        };
        let is_resumed = line.is_resumed(now);
        if epoch < line.epoch {
            if epoch > FIRST_EPOCH_MAX && !is_resumed {
                return Err(NotTaken::Past { name: name.to_owned(), epoch, at: line.epoch });
            }
            line.waiting.clear();
        } else if epoch > line.epoch && !line.is_over && !is_resumed {
            if line.waiting.len() == WAITING_MAX && !line.waiting.contains_key(&epoch) {
                return Err(NotTaken::TooEarly { name: name.to_owned() });
            }
            line.waiting.insert(epoch, order);
            line.stirred = now;
            return Ok(None);
        }
        line.waiting.retain(|&waiting, _| waiting > epoch);
        line.begin(epoch, now);
        Ok(Some(order))
    }

    /// Orders whose epochs have begun: those after orders that were `read` to their end, and if an epoch `has_ended` those of
    /// names of which no order is `followed` any more. `are_reading`: somebody is.
    pub fn due(
        &self,
        read: &[String],
        has_ended: bool,
        followed: &dyn Fn(&str) -> bool,
        are_reading: bool,
        now: Instant,
    ) -> Vec<Order> {
        let mut due = Vec::new();
        for (name, line) in self.lines.lock().iter_mut() {
            let is_followed = followed(name);
            line.is_over |= read.contains(name) || has_ended && !is_followed;
            if is_followed && are_reading {
                line.stirred = now;
            }
            if line.is_over
                && let Some((epoch, order)) = line.waiting.pop_first()
            {
                line.begin(epoch, now);
                due.push(order.next_in_line());
            }
        }
        if !due.is_empty() {
            self.changes.fetch_add(1, Relaxed);
        }
        due
    }

    /// Goes up with whatever changes [`Numbered::ahead`].
    pub fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    /// What is told of the epochs after the present one, if there are two at least and they read different parts.
    pub fn ahead(&self) -> Option<Ahead> {
        let lines = self.lines.lock();
        let turn = lines.values().filter(|line| !line.waiting.is_empty()).map(|line| line.turn).min()?;
        let (mut later, mut samples) = (Vec::new(), Vec::new());
        // Of the first two epochs ahead, of all names together.
        let (mut second, mut both) = (0, 0);
        let mut told: Vec<(u32, &Order)> = lines.values().flat_map(Line::ahead).collect();
        told.sort_by_key(|(turn, _)| *turn);
        for (at, order) in told {
            let at = (at - turn).min(u8::MAX.into()) as u8;
            samples.extend(order.files().first());
            for file in order.files() {
                let place = file.0 as usize;
                if place >= later.len() {
                    later.resize((place + 1).max(later.len() * 3 / 2), 0);
                }
                second += usize::from(at == 2);
                both += usize::from(at == 2 && later[place] == 1);
                if later[place] == 0 {
                    later[place] = at;
                }
            }
        }
        let (part, whole) = PARTS_SHARE_MAX;
        (second > 0 && both * whole <= second * part).then_some(Ahead { turn, later, samples })
    }
}

/// Makes room for a name.
fn forget_one(lines: &mut HashMap<String, Line>) {
    if lines.len() >= NAMES_MAX
        && let Some(oldest) = lines.iter().min_by_key(|(_, line)| line.stirred).map(|(name, _)| name.clone())
    {
        lines.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::FileNo;
    use crate::policy::readahead::Purpose;

    /// An order that is known by its only file.
    fn order(file: u32) -> Order {
        Order::new(Purpose::Told, [FileNo(file)])
    }

    fn files(orders: impl IntoIterator<Item = Order>) -> Vec<u32> {
        orders.into_iter().map(|order| order.files()[0].0).collect()
    }

    struct Rig {
        numbered: Numbered,
        now: Instant,
    }

    impl Rig {
        fn new() -> Self {
            Self { numbered: Numbered::default(), now: Instant::now() }
        }

        /// Tells an order of file `epoch`; whether it is followed now.
        fn tell(&self, name: &str, epoch: u64) -> Result<bool, NotTaken> {
            let told = self.numbered.tell(name, epoch, order(epoch as u32), self.now)?;
            assert!(told.iter().all(|order| files([order.clone()]) == [epoch as u32]));
            Ok(told.is_some())
        }

        /// The order that `name` followed was read.
        fn read(&self, name: &str) -> Vec<u32> {
            files(self.numbered.due(&[name.to_owned()], false, &|_| false, true, self.now))
        }

        /// An epoch has ended, and `followed` says whose orders are followed still.
        fn ended(&self, followed: &dyn Fn(&str) -> bool) -> Vec<u32> {
            files(self.numbered.due(&[], true, followed, true, self.now))
        }
    }

    #[test]
    fn an_order_for_a_past_epoch_is_refused_and_one_for_the_same_takes_its_place() {
        let rig = Rig::new();
        assert_eq!(rig.tell("a", 7), Ok(true));
        assert_eq!(rig.tell("a", 7), Ok(true));
        let past = rig.tell("a", 6).expect_err("it is past");
        assert_eq!(past.to_string(), "it is for epoch 6, and `a` is at epoch 7");
        assert_eq!(rig.tell("b", 6), Ok(true), "names are not compared");
    }

    #[test]
    fn later_epochs_wait_for_those_before_them_a_few_at_most() {
        let rig = Rig::new();
        assert_eq!(rig.tell("a", 2), Ok(true));
        for epoch in [5, 3, 4, 6] {
            assert_eq!(rig.tell("a", epoch), Ok(false));
        }
        assert_eq!(rig.tell("a", 7), Err(NotTaken::TooEarly { name: "a".into() }));
        assert_eq!(rig.tell("a", 6), Ok(false), "it takes the place of the one that waits");
        assert_eq!(rig.read("b"), [0_u32; 0]);
        assert_eq!(rig.read("a"), [3]);
        assert_eq!(rig.ended(&|_| true), [0_u32; 0], "another job's epoch: its own goes on");
        assert_eq!(rig.ended(&|_| false), [4], "it was dropped, and its epoch is over");
        assert!(rig.tell("a", 3).is_err());
        assert_eq!((rig.read("a"), rig.read("a"), rig.read("a")), (vec![5], vec![6], vec![]));
        assert_eq!(rig.tell("a", 9), Ok(true), "nothing is read before it");
    }

    #[test]
    fn a_job_that_begins_anew_or_resumes_is_believed() {
        let mut rig = Rig::new();
        assert_eq!((rig.tell("a", 50), rig.tell("a", 51)), (Ok(true), Ok(false)));
        assert_eq!(rig.tell("a", 0), Ok(true));
        assert_eq!(rig.read("a"), [0_u32; 0], "what waited was the other run's");
        assert_eq!(rig.tell("a", 50), Ok(true));
        assert_eq!(rig.numbered.due(&[], false, &|_| true, true, rig.now + RESUMED_AFTER).len(), 0);
        rig.now += RESUMED_AFTER * 3 / 2;
        assert!(rig.tell("a", 48).is_err(), "it was read a moment ago");
        rig.now += RESUMED_AFTER;
        assert_eq!(rig.tell("a", 48), Ok(true));
        rig.now += RESUMED_AFTER * 2;
        assert_eq!(rig.tell("a", 60), Ok(true), "nobody reads what it would wait for");
    }

    #[test]
    fn what_is_told_ahead_is_due_in_the_first_epoch_that_reads_it() {
        let rig = Rig::new();
        let tell = |name: &str, epoch, files: &[u32]| {
            let order = Order::new(Purpose::Told, files.iter().map(|&file| FileNo(file)));
            rig.numbered.tell(name, epoch, order, rig.now).unwrap();
        };
        let dues = || {
            let ahead = rig.numbered.ahead()?;
            Some((0..8).map(|file| ahead.due(FileNo(file)).min(9)).collect::<Vec<_>>())
        };
        tell("a", 7, &[0, 1]);
        tell("a", 8, &[2, 3]);
        assert_eq!(dues(), None, "of one epoch ahead nobody knows how much of the set it is");
        let before = rig.numbered.changes();
        tell("a", 9, &[1, 6]);
        assert!(rig.numbered.changes() > before);
        assert_eq!(dues(), Some(vec![9, 2, 1, 1, 9, 9, 2, 9]));
        assert_eq!(rig.numbered.ahead().unwrap().samples(), [FileNo(2), FileNo(1)]);
        // Another rank on this machine, which counts from elsewhere.
        tell("b", 1, &[4]);
        tell("b", 2, &[0, 5]);
        assert_eq!(dues(), Some(vec![1, 2, 1, 1, 9, 1, 2, 9]));
        assert_eq!((rig.read("a"), rig.read("b")), (vec![2], vec![0]));
        assert_eq!(dues(), None, "one more is told, of `a`");
        tell("a", 10, &[7, 0, 6]);
        assert_eq!(dues(), Some(vec![3, 2, 9, 9, 9, 9, 2, 3]));
    }

    #[test]
    fn epochs_that_read_the_same_files_are_no_parts() {
        let rig = Rig::new();
        for epoch in 1..5 {
            let order = Order::new(Purpose::Told, (0..100).map(|at| FileNo((at * 7 + epoch) % 100)));
            rig.numbered.tell("a", epoch.into(), order, rig.now).unwrap();
        }
        assert_eq!(rig.numbered.ahead(), None);
    }

    #[test]
    fn names_are_bounded() {
        let mut rig = Rig::new();
        for name in 0..3 * NAMES_MAX {
            rig.now += Duration::from_millis(1);
            assert_eq!(rig.tell(&name.to_string(), 5), Ok(true));
        }
        assert_eq!(rig.numbered.lines.lock().len(), NAMES_MAX);
        assert!(rig.tell(&(3 * NAMES_MAX - 1).to_string(), 4).is_err());
    }
}
