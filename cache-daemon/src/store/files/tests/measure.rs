//! What removing a large file costs whoever fills files. A measurement, for docs/decisions/0004-tokio-uring.md:
//!
//! ```text
//! cargo test -p cache-daemon --lib files::tests::measure -- --ignored --nocapture
//! ```

use std::sync::mpsc::channel;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use super::shelf::Shelf;
use super::*;
use crate::io::DeviceOffset;
use crate::store::StoreUuid;

/// Makes the file of object `number` as a filler does, with its chunks in any order.
fn make(shelf: &Shelf, number: u64, bytes: u64) {
    let identity = shelf.identity(fingerprint(number), bytes);
    let handles = shelf.create(&identity).unwrap();
    let pool = BufferPool::new(1, MIB as usize).unwrap();
    let buffer = pool.take().unwrap();
    let mut chunks: Vec<u64> = (0..bytes / MIB).collect();
    chunks.shuffle(&mut SmallRng::seed_from_u64(number));
    for chunk in chunks {
        handles.direct.write_all_at(&buffer, DeviceOffset(chunk * MIB)).unwrap();
    }
    handles.direct.sync().unwrap();
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e3
}

#[test]
#[ignore = "a measurement; writes 15 GiB"]
fn how_long_a_filler_waits_for_the_removal_of_a_file() {
    let home = Home::new();
    let disk = Disk::System(Remover::start("remover".to_owned(), EngineKind::Auto).unwrap());
    let shelf = Shelf::new(home.dir.path(), (StoreUuid([1; 16]), 1), Default::default(), disk);
    for (mib, rounds) in [(128, 9), (512, 5), (1024, 5)] {
        let [mut blocking, mut asking, mut gone] = [const { Vec::new() }; 3];
        for round in 0..rounds {
            make(&shelf, round, mib * MIB);
            let began = Instant::now();
            shelf.remove_now(&shelf.path(&fingerprint(round))).unwrap();
            blocking.push(began.elapsed());

            make(&shelf, round, mib * MIB);
            let (done, answer) = channel();
            let began = Instant::now();
            shelf.remove(fingerprint(round), Box::new(move |removed| done.send(removed).unwrap()));
            asking.push(began.elapsed());
            answer.recv().unwrap().unwrap();
            gone.push(began.elapsed());
        }
        println!(
            "{mib} MiB, median of {rounds}: the call {:.2} ms; asking {:.3} ms, done after {:.2} ms",
            median(blocking),
            median(asking),
            median(gone)
        );
    }
    // Many at once: what a burst of evictions asks for.
    for at_once in [false, true] {
        (0..16).for_each(|number| make(&shelf, number, 128 * MIB));
        let (done, answers) = channel();
        let began = Instant::now();
        for number in 0..16 {
            let done = done.clone();
            match at_once {
                false => done.send(shelf.remove_now(&shelf.path(&fingerprint(number)))).unwrap(),
                true => {
                    let done = Box::new(move |removed| done.send(removed).unwrap());
                    shelf.remove(fingerprint(number), done);
                }
            }
        }
        let asked = began.elapsed();
        drop(done);
        answers.into_iter().for_each(|removed| removed.unwrap());
        let what = if at_once { "asked for together" } else { "one after another" };
        println!("16 of 128 MiB, {what}: filler {asked:.1?}, all gone after {:.1?}", began.elapsed());
    }
}
