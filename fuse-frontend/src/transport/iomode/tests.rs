//! The modes against the kernel's rule, transcribed without a thought of ours in it.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

/// What fs/fuse/iomode.c, backing.c and passthrough.c keep.
#[derive(Default)]
struct Kernel {
    /// `fuse_conn::backing_files_map`: the files behind ids that are not closed.
    map: HashMap<BackingId, u32>,
    nodes: HashMap<Ino, Inode>,
    next_id: u32,
    next_file: u32,
}

#[derive(Default)]
struct Inode {
    /// `iocachectr`: above 0 the number of cached files, below 0 of uncached ones.
    io_cache_count: i64,
    /// `fuse_inode::fb`: set by the first passthrough open, cleared with the last.
    backing: Option<u32>,
}

impl Kernel {
    /// FUSE_DEV_IOC_BACKING_OPEN: each call makes a new `struct fuse_backing`.
    fn register(&mut self) -> BackingId {
        self.next_id += 1;
        self.next_file += 1;
        self.map.insert(BackingId(self.next_id), self.next_file);
        BackingId(self.next_id)
    }

    fn close(&mut self, id: BackingId) {
        assert!(self.map.remove(&id).is_some(), "an id is closed once: {id:?}");
    }

    /// `fuse_file_cached_io_open`.
    fn open_cached(&mut self, ino: Ino) -> Result<(), i32> {
        let inode = self.nodes.entry(ino).or_default();
        if inode.backing.is_some() {
            return Err(libc::EINVAL);
        }
        inode.io_cache_count += 1;
        Ok(())
    }

    /// `fuse_file_passthrough_open` and `fuse_inode_uncached_io_start`.
    fn open_passthrough(&mut self, ino: Ino, id: BackingId) -> Result<(), i32> {
        let &file = self.map.get(&id).ok_or(libc::ENOENT)?;
        let inode = self.nodes.entry(ino).or_default();
        if inode.backing.is_some_and(|other| other != file) {
            return Err(libc::EBUSY);
        }
        if inode.io_cache_count > 0 {
            return Err(libc::ETXTBSY);
        }
        inode.io_cache_count -= 1;
        inode.backing = Some(file);
        Ok(())
    }

    /// `fuse_file_io_release`.
    fn release(&mut self, ino: Ino) {
        let inode = self.nodes.get_mut(&ino).expect("an open file");
        inode.io_cache_count -= inode.io_cache_count.signum();
        if inode.io_cache_count == 0 {
            inode.backing = None;
        }
    }

    fn opens(&self, ino: Ino) -> u32 {
        self.nodes.get(&ino).map_or(0, |inode| inode.io_cache_count.unsigned_abs() as u32)
    }
}

/// What can happen, in any order; inodes are few, so that everything meets.
#[derive(Clone, Copy, Debug)]
enum Step {
    Open(u64),
    /// The kernel takes the oldest answer of ours that it has not taken yet.
    Arrive,
    /// An asker (which of those that ask) brings a registered file, or none.
    Answer(usize, bool),
    /// The kernel leaves the mode; RELEASE is on its way.
    Close(u64),
    /// RELEASE reaches us.
    Release(u64),
    Revoke(u64, bool),
    Forget(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ino = 2u64..6;
    let step = prop_oneof![
        4 => ino.clone().prop_map(Step::Open),
        4 => Just(Step::Arrive),
        4 => (0usize..4, prop::bool::weighted(0.7)).prop_map(|(which, some)| Step::Answer(which, some)),
        4 => ino.clone().prop_map(Step::Close),
        4 => ino.clone().prop_map(Step::Release),
        1 => (ino.clone(), any::<bool>()).prop_map(|(ino, bad)| Step::Revoke(ino, bad)),
        1 => ino.prop_map(Step::Forget),
    ];
    prop::collection::vec(step, 1..200)
}

/// Both sides and what is between them.
struct World {
    modes: IoModes,
    kernel: Kernel,
    asking: Vec<Ino>,
    /// Answers to OPEN that the kernel has not seen.
    answers: Vec<(Ino, Opening)>,
    /// RELEASEs that we have not seen.
    releases: Vec<Ino>,
    /// Inodes revoked as damaged with files open, and not since without.
    damaged: HashSet<Ino>,
    /// Inodes revoked while somebody asks.
    doubtful: HashSet<Ino>,
}

impl World {
    fn new(ids_max: usize) -> Self {
        Self {
            modes: IoModes::new(ids_max),
            kernel: Kernel::default(),
            asking: Vec::new(),
            answers: Vec::new(),
            releases: Vec::new(),
            damaged: HashSet::new(),
            doubtful: HashSet::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Open(ino) => match self.modes.open(Ino(ino)) {
                Opening::Ask => self.asking.push(Ino(ino)),
                opening => self.answer(Ino(ino), opening),
            },
            Step::Answer(_, _) if self.asking.is_empty() => {}
            Step::Answer(which, some) => {
                let ino = self.asking.swap_remove(which % self.asking.len());
                let id = some.then(|| self.kernel.register());
                let (opening, left) = self.modes.asked(ino, id);
                let doubtful = self.doubtful.contains(&ino);
                assert!(
                    !doubtful || opening != id.map_or(Opening::Ask, Opening::Passthrough),
                    "it was revoked"
                );
                if !self.asking.contains(&ino) {
                    self.doubtful.remove(&ino);
                }
                self.close(left);
                self.answer(ino, opening);
            }
            Step::Arrive if self.answers.is_empty() => {}
            Step::Arrive => {
                let (ino, opening) = self.answers.remove(0);
                let taken = match opening {
                    Opening::Passthrough(id) => self.kernel.open_passthrough(ino, id),
                    _ => self.kernel.open_cached(ino),
                };
                assert_eq!(taken, Ok(()), "{ino:?} {opening:?}: open(2) fails with EIO");
            }
            Step::Close(ino) if self.kernel.opens(Ino(ino)) == 0 => {}
            Step::Close(ino) => {
                self.kernel.release(Ino(ino));
                self.releases.push(Ino(ino));
            }
            Step::Release(ino) => {
                let Some(at) = self.releases.iter().position(|&waiting| waiting == Ino(ino)) else { return };
                self.releases.remove(at);
                let left = self.modes.release(Ino(ino));
                if self.held(Ino(ino)) == 0 {
                    self.damaged.remove(&Ino(ino));
                }
                self.close(left.into_iter().collect());
            }
            Step::Revoke(ino, bad) => {
                let why = if bad { Revoke::Damaged } else { Revoke::Gone };
                let (revoked, left) = self.modes.revoke(Ino(ino), why);
                if matches!(revoked, Revoked::Deferred(_)) && bad {
                    self.damaged.insert(Ino(ino));
                }
                if self.asking.contains(&Ino(ino)) {
                    self.doubtful.insert(Ino(ino));
                }
                assert_eq!(left.is_some(), revoked == Revoked::Now);
                self.close(left.into_iter().collect());
            }
            Step::Forget(ino) => {
                let left = self.modes.forget(Ino(ino));
                self.close(left.into_iter().collect());
            }
        }
        self.modes.self_check();
        assert_eq!(self.kernel.map.len(), self.modes.ids(), "an id that we do not know of is a leak");
    }

    fn answer(&mut self, ino: Ino, opening: Opening) {
        assert_eq!(opening == Opening::Stale, self.damaged.contains(&ino), "{ino:?} {opening:?}");
        if opening != Opening::Stale {
            self.answers.push((ino, opening));
        }
    }

    /// Files of `ino` that are open, about to be, or not reported closed.
    fn held(&self, ino: Ino) -> usize {
        self.kernel.opens(ino) as usize
            + self.answers.iter().filter(|answer| answer.0 == ino).count()
            + self.releases.iter().filter(|&&released| released == ino).count()
    }

    fn close(&mut self, left: Vec<Left>) {
        left.into_iter().for_each(|left| self.kernel.close(left.id));
    }

    /// Lets everything under way end.
    fn settle(&mut self) {
        while !self.asking.is_empty() {
            self.step(Step::Answer(0, true));
        }
        while !self.answers.is_empty() {
            self.step(Step::Arrive);
        }
        for ino in 2..6 {
            while self.kernel.opens(Ino(ino)) > 0 {
                self.step(Step::Close(ino));
            }
            while self.releases.contains(&Ino(ino)) {
                self.step(Step::Release(ino));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn no_open_of_ours_breaks_the_kernels_rule_and_no_id_leaks(ids_max in 0usize..4, steps in steps()) {
        let mut world = World::new(ids_max);
        for step in steps {
            world.step(step);
        }
        world.settle();
        // Nothing is open: every inode may be passed through again, whatever was before.
        for ino in (2..6).map(Ino).filter(|_| ids_max > 0) {
            let opening = match world.modes.open(ino) {
                Opening::Ask => {
                    let id = world.kernel.register();
                    let (opening, left) = world.modes.asked(ino, Some(id));
                    world.close(left);
                    opening
                }
                opening => opening,
            };
            prop_assert!(matches!(opening, Opening::Passthrough(_)), "{:?}", opening);
            world.answer(ino, opening);
            world.step(Step::Arrive);
            world.step(Step::Close(ino.0));
            world.step(Step::Release(ino.0));
        }
        for ino in 2..6 {
            world.step(Step::Forget(ino));
        }
        prop_assert_eq!(world.modes.ids(), 0);
        prop_assert!(world.modes.nodes.is_empty());
    }
}

const A: Ino = Ino(10);

/// Opens `ino` with `id` if it is asked for one.
fn open(modes: &mut IoModes, ino: Ino, id: Option<u32>) -> Opening {
    match modes.open(ino) {
        Opening::Ask => modes.asked(ino, id.map(BackingId)).0,
        opening => opening,
    }
}

#[test]
fn a_file_that_becomes_whole_while_it_is_open_is_passed_through_from_the_next_first_open_on() {
    let mut modes = IoModes::new(8);
    assert_eq!(open(&mut modes, A, None), Opening::Copy);
    assert_eq!(open(&mut modes, A, Some(1)), Opening::Copy, "nobody asks while a file is open");
    modes.release(A);
    assert_eq!(open(&mut modes, A, Some(1)), Opening::Copy);
    modes.release(A);
    modes.release(A);
    assert_eq!(open(&mut modes, A, Some(1)), Opening::Passthrough(BackingId(1)));
    assert_eq!(open(&mut modes, A, None), Opening::Passthrough(BackingId(1)));
}

#[test]
fn two_that_ask_at_once_share_the_first_id() {
    let mut modes = IoModes::new(8);
    assert_eq!((modes.open(A), modes.open(A)), (Opening::Ask, Opening::Ask));
    assert_eq!(modes.asked(A, Some(BackingId(1))), (Opening::Passthrough(BackingId(1)), vec![]));
    let surplus = Left { ino: A, id: BackingId(2) };
    assert_eq!(modes.asked(A, Some(BackingId(2))), (Opening::Passthrough(BackingId(1)), vec![surplus]));
}

#[test]
fn the_longest_idle_id_makes_room_and_one_in_use_never_does() {
    let mut modes = IoModes::new(2);
    for ino in [1, 2] {
        open(&mut modes, Ino(ino), Some(ino as u32));
    }
    assert_eq!(open(&mut modes, Ino(3), Some(3)), Opening::Full, "both are open");
    modes.release(Ino(3));
    modes.release(Ino(2));
    modes.release(Ino(1));
    open(&mut modes, Ino(2), None);
    modes.release(Ino(2));
    assert_eq!(modes.open(Ino(3)), Opening::Ask);
    let evicted = Left { ino: Ino(1), id: BackingId(1) };
    assert_eq!(modes.asked(Ino(3), Some(BackingId(3))), (Opening::Passthrough(BackingId(3)), vec![evicted]));
    assert_eq!(modes.ids(), 2);
}

#[test]
fn the_end_takes_every_id_and_an_asker_that_comes_back_late_is_harmless() {
    let mut modes = IoModes::new(8);
    open(&mut modes, Ino(1), Some(1));
    open(&mut modes, Ino(2), Some(2));
    modes.release(Ino(2));
    modes.open(A);
    let mut left: Vec<_> = modes.clear().into_iter().map(|left| left.id.0).collect();
    left.sort_unstable();
    assert_eq!(left, [1, 2]);
    assert_eq!(modes.release(Ino(1)), None);
    assert_eq!(modes.asked(A, Some(BackingId(3))), (Opening::Passthrough(BackingId(3)), vec![]));
    modes.self_check();
}

#[test]
fn a_revoked_file_stays_while_it_is_open_and_a_damaged_one_takes_no_more_readers() {
    for (why, beside) in
        [(Revoke::Gone, Opening::Passthrough(BackingId(1))), (Revoke::Damaged, Opening::Stale)]
    {
        let mut modes = IoModes::new(8);
        open(&mut modes, A, Some(1));
        assert_eq!(modes.revoke(A, why), (Revoked::Deferred(1), None));
        assert_eq!(modes.open(A), beside);
        if why == Revoke::Gone {
            assert_eq!(modes.release(A), None);
        }
        assert_eq!(modes.release(A), Some(Left { ino: A, id: BackingId(1) }));
        assert_eq!(open(&mut modes, A, None), Opening::Copy);
        modes.self_check();
    }
}

#[test]
fn an_id_costs_us_under_128_bytes() {
    // A hash table at its fullest just after it doubled (7/16), and a B-tree that is at least half full.
    let hashed = (size_of::<(Ino, Node)>() + 1) * 16 / 7;
    let ordered = size_of::<(u64, Ino)>() * 2;
    assert!(hashed + ordered < 128, "{hashed} + {ordered}");
    assert_eq!(size_of::<(Ino, Node)>(), 40);
}
