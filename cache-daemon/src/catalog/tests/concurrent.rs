//! Readers that look up, walk, stat and forget, beside a writer that replaces and applies.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;

const FILES: u64 = 50;

/// The listing of round `round`: a third of the files are of another version than before.
fn round(round: u64) -> Builder {
    listing((0..FILES).map(|n| item(&format!("d/{n}"), &format!("{n}-{}", (round + n) / 3), n + 1, 1)))
}

/// What a number that the kernel holds must say for as long as it does.
fn check(catalog: &Catalog, seen: &Attributes, name: &str) {
    assert_eq!(catalog.attributes(seen.ino), Some(*seen));
    let object = catalog.object(seen.ino).expect("a version that is held has its object");
    assert_eq!(object.key.as_str(), format!("d/{name}"));
    assert!(object.etag.as_str().starts_with(&format!("{name}-")) && object.size_bytes == seen.size_bytes);
}

fn read(catalog: &Catalog, dir: Ino, done: &AtomicBool) {
    let mut turn = 0;
    while !done.load(Ordering::Relaxed) || turn < 10 {
        turn += 1;
        let mut held = Vec::new();
        for n in 0..FILES {
            let name = n.to_string();
            let found = catalog.lookup_counted(dir, name.as_bytes()).expect("it is a directory");
            held.push((found.expect("no name is ever missing"), name));
        }
        let mut entries = 0;
        let walked = catalog.entries(dir, 0, &mut |entry| {
            catalog.looked_up(entry.attributes.ino, 1);
            held.push((entry.attributes, String::from_utf8_lossy(entry.name).into_owned()));
            entries += 1;
            Walk::Continue
        });
        assert_eq!((walked, entries), (Ok(()), FILES));
        held.iter().for_each(|(seen, name)| check(catalog, seen, name));
        thread::yield_now();
        for (seen, name) in &held {
            check(catalog, seen, name);
            catalog.forget(seen.ino, 1);
        }
    }
}

#[test]
fn what_the_kernel_holds_stays_what_it_was_while_names_move() {
    let (catalog, _) = round(0).finish(None);
    let dir = ino(&catalog, "d");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..3).map(|_| scope.spawn(|| read(&catalog, dir, &done))).collect();
        for n in 1..200 {
            catalog.apply(round(n));
            for file in 0..FILES / 10 {
                let name = (file * 7 + n) % FILES;
                let now = catalog.lookup(dir, name.to_string().as_bytes());
                let now = now.expect("it is a directory").expect("no name is ever missing");
                catalog.replace(now, &item("", &format!("{name}-r{n}"), name + 1, 1));
            }
        }
        done.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().expect("no reader fails"));
    });
    let (held, _) = catalog.retired();
    assert_eq!(held, 0, "all was forgotten");
    assert!(catalog.len() < 4096 + 2000, "numbers were used again");
}
