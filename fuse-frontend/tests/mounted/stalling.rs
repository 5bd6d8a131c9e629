//! Reads that are not answered hold up nobody else.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use fuse_frontend::figures::Kind;
use fuse_frontend::memory::MemorySource;
use fuse_frontend::ticket::ReadTicket;
use parking_lot::Mutex;

use crate::{Mounted, cannot_mount, until};

const FILES: usize = 24;

fn source() -> MemorySource {
    let source = MemorySource::new();
    for n in 0..FILES {
        source.add_file(&format!("slow-{n:02}"), vec![n as u8; 50_000]);
    }
    source.add_file("quick", vec![255; 50_000]);
    source
}

/// Reads every slow file on a thread of its own, and the quick one once all the slow ones wait.
fn slow_and_quick(mounted: &Mounted, waiting: impl Fn() -> bool, release: impl FnOnce()) {
    std::thread::scope(|scope| {
        let slow: Vec<_> = (0..FILES)
            .map(|n| scope.spawn(move || fs::read(mounted.path(&format!("slow-{n:02}"))).unwrap()))
            .collect();
        until("every slow read's arrival", waiting);
        assert!(fs::read(mounted.path("quick")).unwrap() == vec![255; 50_000]);
        assert!(slow.iter().all(|reader| !reader.is_finished()));
        release();
        for (n, reader) in slow.into_iter().enumerate() {
            assert!(reader.join().unwrap() == vec![n as u8; 50_000]);
        }
    });
}

#[test]
fn more_unanswered_reads_than_threads_leave_the_others_served() {
    if cannot_mount() {
        return;
    }
    let mounted = Mounted::with(source(), |options| options.threads = Some(2));
    let slow_inos: Vec<_> = (0..FILES as u64).map(|n| n + 2).collect();
    type Held = Mutex<Vec<(u64, u64, u32, ReadTicket)>>;
    let held: Arc<Held> = Arc::default();
    let stall = held.clone();
    mounted.source.on_read(move |ino, offset, len, ticket| match slow_inos.contains(&ino.0) {
        true => {
            stall.lock().push((ino.0, offset, len, ticket));
            None
        }
        false => Some(ticket),
    });
    let release = || {
        // Answered on this thread, which never read /dev/fuse; and whatever is asked from now on at once.
        mounted.source.on_read(|_, _, _, ticket| Some(ticket));
        for (ino, offset, len, ticket) in held.lock().drain(..) {
            let length = (50_000 - offset as usize).min(len as usize);
            ticket.data(&vec![(ino - 2) as u8; length]);
        }
    };
    slow_and_quick(&mounted, || held.lock().len() >= FILES, release);
    assert!(mounted.counts().get(Kind::Read) > FILES as u64);
}

#[test]
fn all_but_one_thread_blocked_in_the_source_leave_the_others_served() {
    if cannot_mount() {
        return;
    }
    let source = source();
    let mounted = Mounted::with(source, |options| options.threads = Some(4));
    let open = Arc::new(AtomicBool::new(false));
    let blocked = Arc::new(AtomicUsize::new(0));
    let (gate, count) = (open.clone(), blocked.clone());
    mounted.source.on_read(move |ino, _, _, ticket| {
        // Three of the four threads wait in here, whoever asks; the rest are served.
        if ino.0 < 2 + FILES as u64 && count.fetch_add(1, Ordering::SeqCst) < 3 {
            while !gate.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Some(ticket)
    });
    std::thread::scope(|scope| {
        let mounted = &mounted;
        let readers: Vec<_> = (0..FILES)
            .map(|n| scope.spawn(move || fs::read(mounted.path(&format!("slow-{n:02}"))).unwrap()))
            .collect();
        until("three blocked threads", || blocked.load(Ordering::SeqCst) >= 3);
        assert!(fs::read(mounted.path("quick")).unwrap() == vec![255; 50_000]);
        until("the other readers' end", || {
            readers.iter().filter(|reader| reader.is_finished()).count() == FILES - 3
        });
        open.store(true, Ordering::SeqCst);
    });
}
