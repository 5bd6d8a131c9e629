//! Recorded traces of real DataLoaders, read again and recognised: `tests/fixtures/traces`.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use cache_daemon::access::{EpochSummary, FileNo, FileTable, History, Touch, Workload, is_split_name};
use cache_daemon::simulate::recording::Reader;

const FILES: u32 = 480;
const EPOCHS: u32 = 3;
const WORKERS: usize = 4;

/// A reading: when, who, what.
struct Reading {
    at_us: u64,
    reader: u32,
    path: String,
}

/// The readings of the trace called `name`.
fn recorded(name: &str) -> Vec<Reading> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/traces").join(name);
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut reader = Reader::new(&bytes[..]).unwrap();
    let (mut readings, mut paths) = (Vec::new(), Vec::new());
    while let Some(recorded) = reader.next_use().unwrap() {
        if let Some((_, path)) = recorded.new {
            paths.push(String::from_utf8(path.to_vec()).unwrap());
        }
        let (at_us, reader) = (recorded.at_us, recorded.reader);
        readings.push(Reading { at_us, reader, path: paths[recorded.object as usize].clone() });
    }
    assert!(!reader.was_cut_off());
    readings
}

/// The data set of `readings` as a listing shows it, and its paths in that order: file numbers count from 1 000.
fn table(readings: &[Reading]) -> (FileTable, Vec<&str>) {
    let mut paths: Vec<&str> = readings.iter().map(|reading| reading.path.as_str()).collect();
    paths.sort_unstable();
    paths.dedup();
    let mut builder = FileTable::builder();
    for (number, path) in paths.iter().enumerate() {
        // train/c07/003.bin, and `train` is directory 2.
        let class: u32 = path["train/c".len()..][..2].parse().unwrap();
        builder.add(FileNo(1_000 + number as u32), 10 + class, 10_000);
    }
    let table =
        builder.finish(|dir| if dir >= 10 { 2 } else { 1 }, |dir| dir == 2 && is_split_name(b"train"));
    (table, paths)
}

/// Plays them; the epochs that ended, and whether a reading in the first of them told what it was.
fn play(history: &mut History, readings: &[Reading], paths: &[&str]) -> (Vec<EpochSummary>, Option<usize>) {
    let mut known_after = None;
    for (count, reading) in readings.iter().enumerate() {
        let number = paths.binary_search(&reading.path.as_str()).unwrap();
        history.touch(&Touch {
            at_ns: reading.at_us * 1_000,
            file: FileNo(1_000 + number as u32),
            reader: reading.reader,
            group: 1,
            first: 0,
            end: 10_000,
            begins: true,
            ends: true,
        });
        if known_after.is_none() && history.jobs()[0].workload() == Workload::Epochs {
            known_after = Some(count + 1);
        }
    }
    (history.take_ended(), known_after)
}

#[test]
fn shuffled_epochs_of_torch_and_of_paddle_are_recognised() {
    for name in ["torch.trace", "paddle.trace"] {
        let readings = recorded(name);
        assert_eq!(readings.len(), (FILES * EPOCHS) as usize, "{name}");
        let readers: HashSet<u32> = readings.iter().map(|reading| reading.reader).collect();
        assert_eq!(readers.len(), WORKERS * EPOCHS as usize, "{name}: other processes in each epoch");
        let (table, paths) = table(&readings);
        let mut history = History::new(Arc::new(table));
        let (ended, known_after) = play(&mut history, &readings, &paths);

        assert!(known_after.is_some_and(|count| count <= 200), "{name}: {known_after:?}");
        assert_eq!(ended.iter().map(|epoch| epoch.epoch).collect::<Vec<_>>(), [1, 2], "{name}");
        for epoch in &ended {
            assert!(epoch.is_exactly_once, "{name}: {epoch:?}");
            assert_eq!(epoch.of_files, FILES, "{name}: {epoch:?}");
            // One that came twice by then was opened for the next epoch by a worker that was ahead.
            assert!((FILES - 16..=FILES).contains(&epoch.files), "{name}: {epoch:?}");
        }
        let [job] = history.jobs() else { panic!("{name}: {} jobs", history.jobs().len()) };
        assert_eq!(
            (job.workload(), job.epoch(), job.set_files()),
            (Workload::Epochs, EPOCHS, FILES),
            "{name}"
        );
        assert!(
            job.coverage() > 0.95 && job.confidence() > 0.9,
            "{name}: {} {}",
            job.coverage(),
            job.confidence()
        );
    }
}

#[test]
fn a_job_that_was_killed_and_one_that_drops_its_last_batch_are_still_epochs() {
    for name in ["torch.trace", "paddle.trace"] {
        let readings = recorded(name);
        let (table, paths) = table(&readings);
        let table = Arc::new(table);
        let epoch = |number: u32| &readings[(number * FILES) as usize..][..FILES as usize];
        // Killed in the second epoch, and begun anew; then two epochs without their last batch.
        for parts in
            [vec![epoch(0), &epoch(1)[..300], epoch(2)], vec![&epoch(0)[..464], &epoch(1)[..464], epoch(2)]]
        {
            let mut history = History::new(table.clone());
            let mut ended = Vec::new();
            for part in &parts {
                ended.extend(play(&mut history, part, &paths).0);
            }
            assert_eq!(ended.len(), 2, "{name}: {ended:?}");
            assert!(ended.iter().all(|epoch| epoch.is_exactly_once), "{name}: {ended:?}");
            assert_eq!(history.jobs()[0].workload(), Workload::Epochs, "{name}");
        }
    }
}
