//! Push and drop beside everything else: reads of the same pages, replacement, unmount, serving threads that stand still.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::time::Duration;

use bytes::Bytes;
use fuse_frontend::memory::MemorySource;
use fuse_frontend::negotiate::ServeMode;
use fuse_frontend::push::{Dropped, Push, Pushed};
use fuse_frontend::source::Ino;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use crate::pushing::{Mapping, drop_range, push};
use crate::{Mounted, cannot_mount, drop_pages, errors_are_handed_on, until, walk};

const SLOW: u8 = 1;
const QUICK: u8 = 2;

/// A mount with `threads` serving threads of the files `slow`, `quick`, and `pushed-N`.
fn slow_and_quick(threads: usize) -> (Mounted, Ino) {
    let source = MemorySource::new();
    let slow = source.add_file("slow", vec![SLOW; 50_000]);
    source.add_file("quick", vec![QUICK; 50_000]);
    for n in 0..8 {
        source.add_file(&format!("pushed-{n}"), vec![100 + n; 50_000]);
    }
    let mounted = Mounted::with(source, |options| {
        (options.serve, options.threads) = (ServeMode::NoOpen, Some(threads));
    });
    walk(mounted.root());
    // Answered ENOSYS, once: from here on an open asks nobody.
    drop(File::open(mounted.path("quick")).unwrap());
    (mounted, slow)
}

/// Pushes, drops and invalidates the files `pushed-N`, and fails if anything of it waits for ever.
fn push_drop_and_invalidate(mounted: &Mounted) {
    let pusher = mounted.mount.pusher();
    for n in 0..8u8 {
        let path = mounted.path(&format!("pushed-{n}"));
        let node = Ino(fs::metadata(&path).unwrap().ino());
        assert_eq!(push(pusher, node, 0, vec![100 + n; 50_000].into()), Pushed::Stored { bytes: 50_000 });
        assert!(fs::read(&path).unwrap() == vec![100 + n; 50_000], "no READ is needed");
        assert_eq!(drop_range(pusher, node, 0..50_000), Dropped::Gone { bytes: 13 * 4096 });
        assert_eq!(push(pusher, node, 0, vec![100 + n; 50_000].into()), Pushed::Stored { bytes: 50_000 });
        mounted.mount.notifier().node_changed(node).unwrap();
    }
}

#[test]
fn with_every_serving_thread_standing_still_push_and_drop_go_on_and_those_threads_do_not_wait_for_them() {
    if cannot_mount() {
        return;
    }
    const THREADS: usize = 3;
    let (mounted, slow) = slow_and_quick(THREADS);
    // Blocked inside the source, where the threads hold the request and nothing answers any other.
    let (gate, blocked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (open, count) = (gate.clone(), blocked.clone());
    mounted.source.on_read(move |_, _, _, ticket| {
        count.fetch_add(1, SeqCst);
        while !open.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(2));
        }
        Some(ticket)
    });
    let others: Vec<String> = (0..THREADS - 1).map(|n| format!("pushed-{n}")).collect();
    std::thread::scope(|scope| {
        let mounted = &mounted;
        let read = |path: String| scope.spawn(move || fs::read(mounted.path(&path)).unwrap());
        let slow_reader = read("slow".into());
        let readers: Vec<_> = others.iter().cloned().map(read).collect();
        until("every thread to stand still", || blocked.load(SeqCst) == THREADS);

        // Onto the very pages that an unanswered READ has locked: waits in the kernel, and holds up nobody.
        let (tell, waiting) = channel();
        mounted.mount.pusher().push(Push {
            ino: slow,
            offset: 0,
            bytes: vec![SLOW; 50_000].into(),
            is_current: Box::new(|| true),
            done: Box::new(move |pushed| tell.send(pushed).unwrap()),
        });
        // mincore(2), before 6.5, does not see pages that are still to be filled.
        let dropped = drop_range(mounted.mount.pusher(), slow, 0..50_000);
        assert!(matches!(dropped, Dropped::Kept { .. } | Dropped::Gone { .. }), "{dropped:?}");
        assert_eq!(mounted.mount.pusher().held_bytes(), 13 * 4096, "the push is still to come");
        // What nobody reads is pushed and dropped while no request at all is served.
        for n in THREADS as u8..8 {
            let node = Ino(u64::from(n) + 4);
            let pusher = mounted.mount.pusher();
            assert_eq!(push(pusher, node, 0, vec![100 + n; 50_000].into()), Pushed::Stored { bytes: 50_000 });
            assert!(fs::read(mounted.path(&format!("pushed-{n}"))).unwrap() == vec![100 + n; 50_000]);
            assert_eq!(drop_range(pusher, node, 0..50_000), Dropped::Gone { bytes: 13 * 4096 });
            mounted.mount.notifier().node_changed(node).unwrap();
        }
        assert_eq!(blocked.load(SeqCst), THREADS, "they still stand");
        assert!(waiting.try_recv().is_err());

        gate.store(true, SeqCst);
        assert!(slow_reader.join().unwrap() == vec![SLOW; 50_000]);
        assert_eq!(waiting.recv().unwrap(), Pushed::Stored { bytes: 50_000 });
        for (n, reader) in readers.into_iter().enumerate() {
            assert!(reader.join().unwrap() == vec![100 + n as u8; 50_000]);
        }
    });
    push_drop_and_invalidate(&mounted);
}

#[test]
fn a_push_that_waits_for_an_unanswered_read_holds_up_no_other_reader_of_the_one_serving_thread() {
    if cannot_mount() {
        return;
    }
    let (mounted, slow) = slow_and_quick(1);
    let held = mounted.hold_reads(move |ino| ino == slow);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| fs::read(mounted.path("slow")).unwrap());
        until("the slow read", || !held.lock().is_empty());
        let pushing = scope.spawn(|| push(mounted.mount.pusher(), slow, 0, vec![SLOW; 50_000].into()));
        let notified = scope.spawn(|| mounted.mount.notifier().node_changed(slow).unwrap());
        for _ in 0..20 {
            assert!(fs::read(mounted.path("quick")).unwrap() == vec![QUICK; 50_000]);
            drop_pages(&File::open(mounted.path("quick")).unwrap());
            push_drop_and_invalidate(&mounted);
        }
        assert!(!pushing.is_finished() && !notified.is_finished() && !reader.is_finished());
        mounted.source.on_read(|_, _, _, ticket| Some(ticket));
        held.lock().drain(..).for_each(|ticket| ticket.data(&[SLOW; 50_000]));
        assert!(reader.join().unwrap() == vec![SLOW; 50_000]);
        assert_eq!(pushing.join().unwrap(), Pushed::Stored { bytes: 50_000 });
        notified.join().unwrap();
    });
}

#[test]
fn a_forced_unmount_ends_a_push_that_waits_for_a_read_which_is_never_answered() {
    if cannot_mount() {
        return;
    }
    let (mounted, slow) = slow_and_quick(2);
    let held = mounted.hold_reads(|_| true);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| fs::read(mounted.path("slow")));
        until("the slow read", || !held.lock().is_empty());
        let pushing = scope.spawn(|| push(mounted.mount.pusher(), slow, 0, vec![SLOW; 50_000].into()));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!pushing.is_finished());
        // Its reader has the file open, so it is in use.
        mounted.mount.unmount().unwrap();
        // With the connection its READ ends, and then either it looks first or the push, which has the bytes.
        if let Ok(bytes) = reader.join().unwrap() {
            assert!(bytes == vec![SLOW; 50_000]);
        }
        pushing.join().unwrap();
    });
    // Too late, and harmless.
    held.lock().drain(..).for_each(|ticket| ticket.data(&[SLOW; 50_000]));
}

/// The bytes of version `id` of whatever file: their number and each of them follow from it.
fn version(id: u64) -> Bytes {
    let mut random = StdRng::seed_from_u64(id);
    let mut bytes = vec![0; random.random_range(8..400_000)];
    random.fill_bytes(&mut bytes);
    bytes[..8].copy_from_slice(&id.to_le_bytes());
    bytes.into()
}

/// Fails unless `bytes` are all of one version.
fn must_be_one_version(bytes: &[u8]) {
    let id = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert!(version(id) == *bytes, "{} bytes that begin as version {id} does", bytes.len());
}

/// ESTALE: replaced, and not cached. Anything else is a fault.
fn stale(error: &io::Error) {
    let expected = if errors_are_handed_on() { libc::ESTALE } else { libc::EIO };
    assert_eq!(error.raw_os_error(), Some(expected), "{error}");
}

const FILES: usize = 12;

/// A mount whose files are replaced again and again, and the current number and bytes of each.
struct Changing {
    mounted: Mounted,
    current: Mutex<HashMap<usize, (Ino, Bytes)>>,
    next: AtomicU64,
}

impl Changing {
    fn new() -> Self {
        let source = MemorySource::new();
        let current = (0..FILES)
            .map(|n| (n, (source.add_file(&path(n), version(n as u64)), version(n as u64))))
            .collect();
        let mounted = Mounted::with(source, |options| {
            (options.serve, options.push_bytes_max) = (ServeMode::NoOpen, 4 << 20);
        });
        walk(mounted.root());
        Self { mounted, current: Mutex::new(current), next: AtomicU64::new(1000) }
    }

    fn read(&self, random: &mut StdRng) {
        let Ok(file) = File::open(self.mounted.path(&path(random.random_range(0..FILES)))) else { return };
        if random.random_bool(0.3) {
            drop_pages(&file);
        }
        let size = file.metadata().unwrap().len() as usize;
        let mut bytes = Vec::with_capacity(size);
        match io::Read::read_to_end(&mut &file, &mut bytes) {
            Ok(read) => {
                assert_eq!(read, size);
                must_be_one_version(&bytes);
            }
            Err(error) => stale(&error),
        }
    }

    fn push(&self, random: &mut StdRng) {
        let (ino, bytes) = self.current.lock()[&random.random_range(0..FILES)].clone();
        let start = if random.random_bool(0.5) { 0 } else { random.random_range(0..bytes.len()) };
        let end =
            if random.random_bool(0.5) { bytes.len() } else { random.random_range(start..=bytes.len()) };
        let pushed = push(self.mounted.mount.pusher(), ino, start as u64, bytes.slice(start..end));
        let expected = matches!(
            pushed,
            Pushed::Stored { .. } | Pushed::Unknown | Pushed::Nothing | Pushed::OverBudget | Pushed::Ended
        );
        assert!(expected, "{pushed:?}");
    }

    fn drop_some(&self, random: &mut StdRng) {
        let (ino, bytes) = self.current.lock()[&random.random_range(0..FILES)].clone();
        let start = random.random_range(0..bytes.len() as u64);
        let range = if random.random_bool(0.7) { 0..u64::MAX } else { start..start + 100_000 };
        let dropped = drop_range(self.mounted.mount.pusher(), ino, range);
        assert!(!matches!(dropped, Dropped::Failed | Dropped::Busy), "{dropped:?}");
    }

    fn replace(&self, random: &mut StdRng) {
        let n = random.random_range(0..FILES);
        let bytes = version(self.next.fetch_add(1, SeqCst));
        let replaced = self.mounted.source.replace(&path(n), bytes.clone());
        self.current.lock().insert(n, (replaced.new, bytes));
        let name = format!("{n:02}");
        // Fails when the mount is gone.
        let _ = self.mounted.mount.notifier().entry_changed(replaced.parent, name.as_bytes());
    }
}

fn path(n: usize) -> String {
    format!("dir/{n:02}")
}

fn stress(seed: u64, rounds: usize) {
    println!("seed {seed}");
    let changing = Changing::new();
    std::thread::scope(|scope| {
        type Act = fn(&Changing, &mut StdRng);
        let acts: [Act; 7] = [
            Changing::read,
            Changing::read,
            Changing::read,
            Changing::push,
            Changing::push,
            Changing::drop_some,
            Changing::replace,
        ];
        for (n, act) in acts.into_iter().enumerate() {
            let changing = &changing;
            scope.spawn(move || {
                let mut random = StdRng::seed_from_u64(seed * 100 + n as u64);
                (0..rounds).for_each(|_| act(changing, &mut random));
            });
        }
    });
    let held = changing.mounted.mount.pusher().held_bytes();
    assert!(held <= 4 << 20, "{held}");
    for n in 0..FILES {
        let expected = changing.current.lock()[&n].1.clone();
        assert!(fs::read(changing.mounted.path(&path(n))).unwrap() == expected, "{n}: the newest in the end");
    }
}

#[test]
fn readers_pushes_drops_and_replacements_of_the_same_files_never_make_a_wrong_byte() {
    if cannot_mount() {
        return;
    }
    let rounds = if std::env::var_os("EPOCHCACHE_TEST_ALL").is_some() { 4_000 } else { 250 };
    (1..=3).for_each(|seed| stress(seed, rounds));
}

#[test]
fn a_mapping_that_is_read_while_its_pages_are_pushed_again_and_dropped_stays_right() {
    if cannot_mount() {
        return;
    }
    let source = MemorySource::new();
    let bytes = version(5);
    let node = source.add_file("file", bytes.clone());
    let mounted = Mounted::new(source, ServeMode::NoOpen);
    walk(mounted.root());
    let mapping = Mapping::of(&File::open(mounted.path("file")).unwrap());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(SeqCst) {
                let pushed = push(mounted.mount.pusher(), node, 0, bytes.clone());
                assert!(matches!(pushed, Pushed::Stored { .. }), "{pushed:?}");
                drop_range(mounted.mount.pusher(), node, 0..u64::MAX);
            }
        });
        for _ in 0..300 {
            assert!(*mapping.bytes() == *bytes);
        }
        over.store(true, SeqCst);
    });
}

#[test]
fn an_unmount_beside_pushes_and_drops_ends_and_whoever_pushes_is_told() {
    if cannot_mount() {
        return;
    }
    for seed in 0..6 {
        let changing = Changing::new();
        let ended = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for n in 0..3 {
                let (changing, ended) = (&changing, &ended);
                scope.spawn(move || {
                    let mut random = StdRng::seed_from_u64(seed * 10 + n);
                    loop {
                        let (ino, bytes) = changing.current.lock()[&random.random_range(0..FILES)].clone();
                        if push(changing.mounted.mount.pusher(), ino, 0, bytes) == Pushed::Ended {
                            ended.fetch_add(1, SeqCst);
                            return;
                        }
                        drop_range(changing.mounted.mount.pusher(), ino, 0..u64::MAX);
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(30));
            changing.mounted.mount.unmount().unwrap();
        });
        assert_eq!(ended.load(SeqCst), 3);
    }
}
