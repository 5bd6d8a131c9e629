//! Rough rates, printed: for looking at, not for comparing (`cargo xtask bench store` does that).

use std::time::Instant;

use super::super::*;
use super::{Home, data, key};
use crate::io::EngineKind;

#[test]
#[ignore = "prints rates of this build"]
fn rates() {
    let home = Home::new();
    let mut config = home.config(1 << 30);
    config.segment_bytes = 64 << 20;
    config.engine = EngineKind::Auto;
    config.read_threads = 2;
    config.read_depth = 16;
    config.writer = WriterLimits::default();
    let (store, report) = Store::open(config.clone(), Arc::default()).unwrap();
    println!("{:?}", report.volumes[0].engine);
    let bytes = data(1, 110 << 10);
    const OBJECTS: u64 = 6000;
    for pass in 0..2 {
        let started = Instant::now();
        let (done, answers) = bounded(64);
        let mut in_flight = 0;
        let mut stored = 0;
        for number in 0..OBJECTS {
            while in_flight >= 48 {
                stored += u32::from(answers.recv().unwrap() == Appended::Stored);
                in_flight -= 1;
            }
            let done = done.clone();
            store.append(
                key(number),
                bytes.len() as u64,
                bytes.clone(),
                Box::new(move |appended| done.send(appended).unwrap()),
            );
            in_flight += 1;
        }
        (0..in_flight).for_each(|_| stored += u32::from(answers.recv().unwrap() == Appended::Stored));
        store.sync().unwrap();
        println!("fill: {:.0} objects/s, {stored} stored", OBJECTS as f64 / started.elapsed().as_secs_f64());
        for depth in [1, 8, 32] {
            let started = Instant::now();
            let (done, answers) = bounded::<bool>(64);
            let reads = 500 * depth as u64;
            let mut in_flight = 0;
            for read in 0..reads {
                while in_flight >= depth {
                    assert!(answers.recv().unwrap());
                    in_flight -= 1;
                }
                let done = done.clone();
                let answer: ReadDone = Box::new(move |bytes| done.send(bytes.is_ok()).unwrap());
                store.read(key(read * 7919 % OBJECTS), 0..110 << 10, answer);
                in_flight += 1;
            }
            (0..in_flight).for_each(|_| assert!(answers.recv().unwrap()));
            println!("read at {depth}: {:.0} objects/s", reads as f64 / started.elapsed().as_secs_f64());
        }
        if pass == 0 {
            store.retain(&|_| false);
        }
    }
    for figure in <StoreFigures as crate::stats::Figures>::DESCRIPTIONS
        .iter()
        .zip(crate::stats::Figures::values(&*store.shared.figures))
    {
        println!("{} {:?}", figure.0.name, figure.1);
    }
}

/// How long a store of many small extents takes to open, with a checkpoint and without.
#[test]
#[ignore = "prints times of this build, and writes 1 GiB"]
fn opening() {
    const EXTENTS: u64 = 60_000;
    let home = Home::new();
    let mut config = home.config(1 << 30);
    config.segment_bytes = 64 << 20;
    config.engine = EngineKind::Auto;
    config.writer = WriterLimits::default();
    let (store, _) = Store::open(config.clone(), Arc::default()).unwrap();
    let bytes = data(1, 12_000);
    let (done, answers) = bounded::<Appended>(1024);
    let mut stored = 0;
    for number in 0..EXTENTS {
        if number >= 900 {
            stored += u64::from(answers.recv().unwrap() == Appended::Stored);
        }
        let done = done.clone();
        store.append(
            key(number),
            bytes.len() as u64,
            bytes.clone(),
            Box::new(move |appended| done.send(appended).unwrap()),
        );
    }
    (0..900).for_each(|_| stored += u64::from(answers.recv().unwrap() == Appended::Stored));
    println!("{stored} stored");
    store.close();
    drop(store);
    for checkpoint in [true, false] {
        if !checkpoint {
            std::fs::remove_file(home.dir.path().join("index.checkpoint")).unwrap();
        }
        let started = Instant::now();
        let (store, report) = Store::open(config.clone(), Arc::default()).unwrap();
        let opened = started.elapsed();
        println!(
            "checkpoint {}: {} extents in {opened:?}, of which recovery {:?}",
            report.from_checkpoint, report.extents, report.recovery
        );
        drop(store);
    }
}
