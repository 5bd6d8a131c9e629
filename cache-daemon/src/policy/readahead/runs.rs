//! Runs: sequential, backward and strided reading within large objects.
//!
//! An object of many units (a tar shard, a Parquet file) is read a unit at a time, each a round trip. Two steps of the
//! same length make a run, or one to the next unit right after the last read: the units that it will come to are fetched ahead, first one, then twice as many each time
//! that the reader arrives where something was fetched, up to [`WINDOW_MAX`]. A reader that jumps elsewhere begins a
//! new run with nothing ahead. Several readers of one object have a run each, told apart by where they are.

use super::Prefetch;
use crate::access::FileNo;

/// Units ahead of a reader at most: 64 MiB.
const WINDOW_MAX: u32 = 16;

/// Units that a step may have: a larger one is a jump.
const STEP_MAX: i64 = 8;

/// Runs of one object: readers that jump about must not leave so many behind that every read follows one of them.
const RUNS_OF_FILE_MAX: usize = 16;

/// Runs that are remembered; the one that moved last longest ago gives way.
const RUNS_MAX: usize = 256;

/// A part of a large object was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnitRead {
    /// The object.
    pub file: FileNo,
    /// Its unit.
    pub unit: u32,
    /// How many it has.
    pub units: u32,
    /// Bytes of a whole unit.
    pub unit_bytes: u64,
}

/// A reader on its way through an object.
#[derive(Clone, Debug)]
struct Run {
    file: FileNo,
    at: u32,
    /// Units between two reads; 0 before the second.
    step: i64,
    /// Steps ahead that are to be fetched.
    window: u32,
    /// Steps ahead that were asked for.
    ahead: u32,
    moved: u64,
}

/// All runs.
#[derive(Debug, Default)]
pub struct Runs {
    runs: Vec<Run>,
    moves: u64,
    wanted: Vec<Prefetch>,
}

impl Runs {
    /// Takes a read; what follows it is then in [`Runs::wanted`].
    pub fn read(&mut self, read: &UnitRead) {
        self.moves += 1;
        let moves = self.moves;
        let its_runs = || self.runs.iter().enumerate().filter(|(_, run)| run.file == read.file);
        // Where a run is, or just was: the rest of a unit, or a request that was overtaken.
        let is_there = |run: &Run| {
            let unit = i64::from(read.unit);
            unit == i64::from(run.at) || run.step != 0 && unit == i64::from(run.at) - run.step
        };
        if let Some((place, _)) = its_runs().find(|(_, run)| is_there(run)) {
            self.runs[place].moved = moves;
            return;
        }
        let step = |run: &Run| i64::from(read.unit) - i64::from(run.at);
        let follows = its_runs().find(|(_, run)| run.step != 0 && step(run) == run.step);
        let could_follow = || {
            let near = its_runs().filter(|(_, run)| step(run).abs() <= STEP_MAX);
            near.min_by_key(|(_, run)| step(run).abs())
        };
        match follows.or_else(could_follow).map(|(place, _)| place) {
            Some(place) => self.step(place, read),
            None => self.begin(read),
        }
    }

    fn begin(&mut self, read: &UnitRead) {
        let its_runs = self.runs.iter().filter(|run| run.file == read.file).count();
        let any = its_runs < RUNS_OF_FILE_MAX;
        if self.runs.len() == RUNS_MAX || !any {
            let all = self.runs.iter().enumerate().filter(|(_, run)| any || run.file == read.file);
            let oldest = all.min_by_key(|(_, run)| run.moved);
            self.runs.swap_remove(oldest.map_or(0, |(place, _)| place));
        }
        let run = Run { file: read.file, at: read.unit, step: 0, window: 0, ahead: 0, moved: self.moves };
        self.runs.push(run);
    }

    fn step(&mut self, place: usize, read: &UnitRead) {
        let is_last =
            !self.runs.iter().any(|run| run.file == read.file && run.moved > self.runs[place].moved);
        let run = &mut self.runs[place];
        let step = i64::from(read.unit) - i64::from(run.at);
        (run.at, run.moved) = (read.unit, self.moves);
        if step != run.step {
            // The second read of a run, or another way from here: nothing is ahead.
            (run.step, run.window, run.ahead) = (step, u32::from(step == 1 && is_last), 0);
        } else {
            let arrived = run.ahead > 0;
            run.ahead = run.ahead.saturating_sub(1);
            run.window = if arrived { (run.window * 2).min(WINDOW_MAX) } else { run.window.max(1) };
        }
        while run.ahead < run.window {
            let unit = i64::from(run.at) + run.step * i64::from(run.ahead + 1);
            let Some(unit) = u32::try_from(unit).ok().filter(|&unit| unit < read.units) else { break };
            run.ahead += 1;
            self.wanted.push(Prefetch { file: run.file, unit: Some(unit), bytes: read.unit_bytes });
        }
    }

    /// A unit that was asked for was there already: the run needs no help for now.
    pub fn was_needless(&mut self, file: FileNo) {
        for run in self.runs.iter_mut().filter(|run| run.file == file) {
            (run.window, run.ahead) = (1, run.ahead.min(1));
        }
    }

    /// What is to be fetched, the most urgent last; what is left in it may be asked for later.
    pub fn wanted(&mut self) -> &mut Vec<Prefetch> {
        // What could not be fetched for so long has been passed by its reader.
        let excess = self.wanted.len().saturating_sub(RUNS_MAX);
        self.wanted.drain(..excess);
        &mut self.wanted
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn feed(runs: &mut Runs, units: impl IntoIterator<Item = u32>) -> Vec<u32> {
        let mut asked = Vec::new();
        for unit in units {
            runs.read(&UnitRead { file: FileNo(7), unit, units: 1_000, unit_bytes: 4 << 20 });
            asked.extend(runs.wanted().drain(..).filter_map(|command| command.unit));
        }
        asked
    }

    #[test]
    fn a_window_grows_while_it_pays_and_no_unit_is_asked_for_twice() {
        let mut runs = Runs::default();
        assert_eq!(feed(&mut runs, [0]), [] as [u32; 0]);
        assert_eq!(feed(&mut runs, [0, 0, 1]), [2]);
        assert_eq!(feed(&mut runs, [2]), [3, 4]);
        assert_eq!(feed(&mut runs, [3]), [5, 6, 7]);
        let all = feed(&mut runs, 4..500);
        assert!(all.windows(2).all(|pair| pair[1] == pair[0] + 1) && all[0] == 8, "{all:?}");
        assert_eq!(all.last(), Some(&515));
        assert_eq!(feed(&mut runs, 500..1_000).last(), Some(&999), "and none beyond the end");
    }

    #[test]
    fn backward_and_strided_runs_are_followed() {
        assert_eq!(feed(&mut Runs::default(), [90, 89, 88, 87]), [87, 86, 85]);
        assert_eq!(feed(&mut Runs::default(), [10, 14, 18, 22]), [22, 26, 30]);
        assert_eq!(feed(&mut Runs::default(), [1, 0]), [] as [u32; 0]);
    }

    #[test]
    fn a_jump_and_units_that_are_there_begin_anew() {
        let mut runs = Runs::default();
        feed(&mut runs, 0..20);
        assert_eq!(feed(&mut runs, [500]), [] as [u32; 0]);
        assert_eq!(feed(&mut runs, [501]), [502]);
        runs.was_needless(FileNo(7));
        assert_eq!(feed(&mut runs, [502]), [503, 504]);
    }

    #[test]
    fn random_reads_fetch_nothing_and_two_readers_have_a_run_each() {
        let mut dice = SmallRng::seed_from_u64(3);
        let random: Vec<u32> = (0..1_000).map(|_| dice.random_range(0..1_000)).collect();
        let by_chance = feed(&mut Runs::default(), random).len();
        assert!(by_chance < 30, "{by_chance}");
        let side_by_side = (0..50).flat_map(|at| [at, 500 + at]);
        let asked = feed(&mut Runs::default(), side_by_side);
        assert_eq!(asked.iter().filter(|&&unit| unit < 500).count(), 49 + 16 - 2);
        assert_eq!(asked.len(), 2 * (49 + 16 - 2));
    }
}
