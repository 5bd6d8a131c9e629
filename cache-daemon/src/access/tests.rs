//! History against workloads of which the truth is known.

use std::sync::Arc;

use proptest::prelude::*;

use super::workload::{Set, jumbled, read, sampled, shuffled, timed};
use super::{EpochSummary, FileNo, History, Job, Touch, Workload};

fn history(set: &Set) -> History {
    History::new(Arc::new(set.table()))
}

fn feed(history: &mut History, touches: &[Touch]) -> Vec<EpochSummary> {
    touches.iter().for_each(|touch| history.touch(touch));
    history.take_ended()
}

fn only_job(history: &History) -> &Job {
    assert_eq!(history.jobs().len(), 1);
    &history.jobs()[0]
}

#[test]
fn evidence_is_two_hundred_distinct_files_in_no_order() {
    let set = Set::default();
    let (mut history, epoch) = (history(&set), shuffled(&set, 1, 0));
    feed(&mut history, &epoch[..199]);
    assert_eq!(only_job(&history).workload(), Workload::Unclear);
    feed(&mut history, &epoch[199..200]);
    let job = only_job(&history);
    assert_eq!((job.workload(), job.span().files()), (Workload::Epochs, 2_000));
    assert!((0.4..0.9).contains(&job.confidence()), "{}", job.confidence());
}

#[test]
fn reading_the_same_files_again_and_again_is_no_evidence() {
    let set = Set::default();
    let mut history = history(&set);
    let files = set.train();
    for round in 0..50 {
        let few: Vec<FileNo> = (0..100).map(|at| files[(at * 17 + round) % 90 * 20]).collect();
        feed(&mut history, &timed(&few, round as u64 * 100));
        assert_ne!(only_job(&history).workload(), Workload::Epochs);
    }
    assert_eq!(only_job(&history).workload(), Workload::Hot);
}

#[test]
fn one_process_that_walks_the_listing_is_no_shuffle_and_neither_are_sixteen() {
    for workers in [1, 16] {
        let set = Set { files: 4_000, classes: 40, ..Set::default() };
        let mut history = history(&set);
        let files = set.train();
        let each = files.len() / workers;
        let side_by_side: Vec<FileNo> = (0..each)
            .flat_map(|at| (0..workers).map(move |worker| worker * each + at))
            .map(|at| files[at])
            .collect();
        for touch in timed(&side_by_side, 0) {
            history.touch(&touch);
            assert_ne!(only_job(&history).workload(), Workload::Epochs);
        }
        assert_eq!(only_job(&history).workload(), Workload::InOrder);
    }
}

#[test]
fn a_validation_pass_has_epochs_of_its_own() {
    let set = Set { val_files: 300, ..Set::default() };
    let mut history = history(&set);
    let mut ended = Vec::new();
    for epoch in 0..4 {
        let train = shuffled(&set, 3, epoch);
        // Twice an epoch, in the listing's order.
        for half in [&train[..1_000], &train[1_000..]] {
            ended.extend(feed(&mut history, half));
            ended.extend(feed(&mut history, &timed(&set.val(), epoch)));
        }
    }
    let train: Vec<_> = ended.iter().filter(|ended| ended.part == 2).collect();
    assert_eq!(train.iter().map(|ended| ended.epoch).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(train.iter().all(|ended| ended.is_exactly_once && ended.of_files == 2_000), "{train:?}");
    let job = history.jobs().iter().find(|job| job.part() == 2).expect("it reads");
    assert_eq!((job.epoch(), job.workload()), (4, Workload::Epochs));
}

#[test]
fn a_job_of_ten_classes_of_a_thousand_has_only_those_in_its_set() {
    let set = Set { files: 20_000, classes: 1_000, ..Set::default() };
    let mut history = history(&set);
    let few = Set { files: 200, classes: 10, ..Set::default() };
    feed(&mut history, &shuffled(&few, 5, 0));
    assert_eq!(only_job(&history).span().files(), 200);
    let all = shuffled(&set, 5, 1);
    feed(&mut history, &all[..1_500]);
    assert_eq!(only_job(&history).span().files(), 20_000);
}

#[test]
fn jobs_of_two_groups_are_told_apart() {
    let set = Set::default();
    let mut history = history(&set);
    let (one, other) = (shuffled(&set, 1, 0), shuffled(&set, 2, 0));
    for (a, b) in one.iter().zip(&other) {
        history.touch(a);
        history.touch(&Touch { group: 2, ..*b });
    }
    assert!(history.take_ended().is_empty());
    assert_eq!(history.jobs().iter().map(Job::files_read).collect::<Vec<_>>(), [2_000, 2_000]);
}

#[test]
fn a_job_killed_at_two_thirds_begins_anew() {
    let set = Set::default();
    let mut history = history(&set);
    let mut ended = feed(&mut history, &shuffled(&set, 1, 0)[..1_300]);
    ended.extend(feed(&mut history, &shuffled(&set, 1, 1)));
    assert_eq!(ended.len(), 1, "{ended:?}");
    assert!((1_280..1_400).contains(&ended[0].files) && ended[0].is_exactly_once, "{ended:?}");
    let job = only_job(&history);
    assert!(job.epoch() == 2 && job.files_read() > 1_900, "{}", job.files_read());
}

#[test]
fn a_list_of_half_the_files_is_known_after_its_first_epoch() {
    let set = Set::default();
    let mut history = history(&set);
    let half: Vec<FileNo> = set.train().into_iter().step_by(2).collect();
    for epoch in 0..2 {
        let mut touches: Vec<Touch> = shuffled(&set, 9, epoch);
        touches.retain(|touch| half.contains(&touch.file));
        feed(&mut history, &touches);
    }
    let again: Vec<Touch> =
        shuffled(&set, 9, 2).into_iter().filter(|touch| half.contains(&touch.file)).collect();
    feed(&mut history, &again[..100]);
    let job = only_job(&history);
    assert_eq!((job.epoch(), job.set_files()), (3, 1_000));
    let will_read = set.train().into_iter().filter(|&file| job.will_read(file)).count();
    assert!((880..=960).contains(&will_read), "{will_read}");
}

#[test]
fn a_changed_data_set_keeps_what_was_read() {
    let set = Set::default();
    let mut history = history(&set);
    feed(&mut history, &shuffled(&set, 1, 0)[..500]);
    history.touch(&read(FileNo(999_999), 0));
    assert_eq!(history.unknown(), 1);
    let larger = Set { val_files: 10, ..set };
    history.refile(Arc::new(larger.table()));
    let job = only_job(&history);
    assert_eq!((job.files_read(), job.span().files(), history.unknown()), (500, 2_000, 0));
}

#[test]
fn a_loop_of_short_lived_readers_does_not_push_out_a_job_that_pauses() {
    let set = Set::default();
    let mut history = history(&set);
    feed(&mut history, &shuffled(&set, 1, 0)[..900]);
    for (at, &file) in set.train().iter().enumerate() {
        history.touch(&Touch { group: 100 + at as u32, ..read(file, 1_000_000_000 + at as u64) });
    }
    let job = history.jobs().iter().find(|job| job.group() == 1).expect("it is remembered");
    assert_eq!(job.files_read(), 900);
}

/// Draws among which, by chance, so few came again at first that an epoch seemed to have ended.
#[test]
fn a_lucky_start_of_a_sampler_is_no_epoch() {
    let set = Set { files: 1_201, ..Set::default() };
    let mut history = history(&set);
    feed(&mut history, &sampled(&set, 1_201, 7_484_346_196_413_153_242));
    let ended = feed(&mut history, &sampled(&set, 4 * 1_201, 7_484_346_196_413_153_243));
    assert!(ended.iter().all(|ended| !ended.is_exactly_once), "{ended:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn epochs_are_counted_whoever_runs_ahead_and_whatever_is_dropped(
        files in 400_u32..4_000, classes in 1_u32..50, epochs in 2_u64..5, ahead in 0_usize..120,
        dropped in 0_usize..64, seed: u64,
    ) {
        let set = Set { files, classes, ..Set::default() };
        let kept = files as usize - dropped;
        let truth: Vec<Touch> = (0..epochs).flat_map(|epoch| {
            let mut touches = shuffled(&set, seed % 1_000_000, epoch);
            touches.truncate(kept);
            touches
        }).collect();
        let mut history = history(&set);
        let ended = feed(&mut history, &jumbled(&truth, ahead, seed));
        prop_assert_eq!(ended.len() as u64, epochs - 1, "{:?}", ended);
        for summary in &ended {
            prop_assert!(summary.is_exactly_once, "{:?}", summary);
            let off = summary.files.abs_diff(kept as u32);
            prop_assert!(off <= 64 + ahead as u32, "{:?}", summary);
        }
        let job = only_job(&history);
        prop_assert_eq!(job.workload(), Workload::Epochs);
        let off = job.files_read().abs_diff(kept as u32);
        prop_assert!(off <= 64 + 2 * ahead as u32 + dropped as u32, "{} of {}", job.files_read(), kept);
    }

    #[test]
    fn what_is_said_to_come_was_not_read_in_this_epoch(files in 300_u32..2_000, share in 0.2..0.95_f64, seed: u64) {
        let set = Set { files, ..Set::default() };
        let mut history = history(&set);
        feed(&mut history, &shuffled(&set, seed % 1_000_000, 0));
        let now = shuffled(&set, seed % 1_000_000, 1);
        let read = &now[..(files as f64 * share) as usize];
        feed(&mut history, read);
        let job = only_job(&history);
        let wrong = read.iter().filter(|touch| job.will_read(touch.file)).count();
        // Those that were the last of one epoch and the first of the next.
        prop_assert!(wrong <= 64, "{} of {}", wrong, read.len());
        let right = now[read.len()..].iter().filter(|touch| job.will_read(touch.file)).count();
        prop_assert_eq!(right, now.len() - read.len());
    }

    #[test]
    fn a_sampler_with_replacement_is_not_taken_for_epochs(files in 500_u32..3_000, seed: u64) {
        let set = Set { files, ..Set::default() };
        let mut history = history(&set);
        feed(&mut history, &sampled(&set, files as usize, seed));
        prop_assert_eq!(only_job(&history).workload(), Workload::Sampled);
        let ended = feed(&mut history, &sampled(&set, 4 * files as usize, seed ^ 1));
        prop_assert!(ended.iter().all(|ended| !ended.is_exactly_once || ended.files < 200), "{:?}", ended);
    }
}
