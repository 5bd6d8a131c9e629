//! The reader: every way to read gives every byte, and a wrong one is seen.

use epochcache_tests::bed::data_set::{DataSet, Shape};
use epochcache_tests::bed::reader::{Access, Job, Readers, Reading, Sampler, read_here};
use epochcache_tests::bed::s3::{Origin, Weather};

#[test]
fn every_way_of_reading_reads_every_file_once() {
    let home = tempfile::tempdir().unwrap();
    let data_set = DataSet::make(home.path(), &Shape::awkward(60)).unwrap();
    for access in Access::OF_FILES {
        let reading = Reading::new(&data_set.directory, &data_set.manifest_path).with(access);
        let mut readers = Readers::start(&reading).unwrap();
        for epoch in 1..=2 {
            let report = readers.epoch(epoch).unwrap();
            report.must_be_right(60).unwrap();
            assert_eq!(report.bytes, data_set.manifest.total_bytes());
        }
    }
}

#[test]
fn ranks_read_an_epoch_together() {
    let home = tempfile::tempdir().unwrap();
    let data_set = DataSet::make(home.path(), &Shape::of(60)).unwrap();
    let reading =
        Reading { workers: 2, ranks: 3, ..Reading::new(&data_set.directory, &data_set.manifest_path) };
    let mut bytes = 0;
    for rank in 0..3 {
        let report = Readers::start(&Reading { rank, ..reading.clone() }).unwrap().epoch(7).unwrap();
        report.must_be_right(20).unwrap();
        bytes += report.bytes;
    }
    assert_eq!(bytes, data_set.manifest.total_bytes());
}

#[test]
fn a_job_reads_its_epochs_by_every_sampler_and_ends_when_it_is_killed() {
    let home = tempfile::tempdir().unwrap();
    let data_set = DataSet::make(home.path(), &Shape { validation: 10, ..Shape::of(60) }).unwrap();
    let reading =
        Reading { forgets: true, workers: 2, ..Reading::new(&data_set.directory, &data_set.manifest_path) };
    for sampler in [Sampler::Shuffle, Sampler::Listing, Sampler::Replacement] {
        let reports = Job::start(&Reading { sampler, ..reading.clone() }, 3..=4).unwrap().end().unwrap();
        assert_eq!(reports.iter().map(|report| report.epoch).collect::<Vec<_>>(), [3, 4]);
        reports.iter().for_each(|report| report.must_be_right(60).unwrap());
    }
    // It would take an hour.
    Job::start(&reading.paced(1.0 / 60.0), 1..=1).unwrap().kill();
}

#[test]
fn a_flipped_bit_and_a_missing_file_are_reported() {
    let home = tempfile::tempdir().unwrap();
    let data_set = DataSet::make(home.path(), &Shape::of(40)).unwrap();
    let path = |number: usize| data_set.directory.join(&data_set.manifest.files[number].path);
    let mut bytes = std::fs::read(path(3)).unwrap();
    bytes[1000] ^= 4;
    std::fs::write(path(3), bytes).unwrap();
    std::fs::remove_file(path(5)).unwrap();

    let reading = Reading::new(&data_set.directory, &data_set.manifest_path);
    let report = Readers::start(&reading).unwrap().epoch(1).unwrap();
    assert_eq!((report.files, report.wrong_bytes, report.errors), (39, 1, 1));
    assert!(report.must_be_right(40).is_err());
}

#[test]
fn reading_straight_from_the_server_is_one_get_a_file() {
    let home = tempfile::tempdir().unwrap();
    let data_set = DataSet::make(home.path(), &Shape::awkward(60)).unwrap();
    let origin = Origin::start(&data_set.root, &Weather::default()).unwrap();
    let url = format!("{}/{}/{}", origin.endpoint(), DataSet::BUCKET, DataSet::PREFIX);
    let reading = Reading::new(url, &data_set.manifest_path).with(Access::Direct);
    Readers::start(&reading).unwrap().epoch(1).unwrap().must_be_right(60).unwrap();
    let counters = origin.counters().unwrap();
    assert_eq!((counters.get, counters.get_bytes), (60, data_set.manifest.total_bytes()));
    read_here(&reading, 2).unwrap().must_be_right(60).unwrap();
}
