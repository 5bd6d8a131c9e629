//! Opens and mappings: each is told once and in order, of our files only, and only while somebody listens.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use cache_daemon::probe::{Event, Probes};
use memmap2::{Mmap, MmapMut};

use crate::{Mounted, Sample, assert_counted, events, is_disturbed, missed, tid};

/// A file that is opened or mapped, by its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Opening {
    Open(u64),
    Map(u64),
}

/// What a test opens and maps, in order.
#[derive(Default)]
pub(crate) struct Done(Vec<Opening>);

impl Done {
    pub(crate) fn open(&mut self, sample: &Sample) -> File {
        self.open_with(sample, 0)
    }

    pub(crate) fn open_with(&mut self, sample: &Sample, flags: i32) -> File {
        self.0.push(Opening::Open(sample.ino.0));
        OpenOptions::new().read(true).custom_flags(flags).open(&sample.path).unwrap()
    }

    pub(crate) fn read(&mut self, sample: &Sample) {
        self.0.push(Opening::Open(sample.ino.0));
        fs::read(&sample.path).unwrap();
    }

    pub(crate) fn map(&mut self, file: &File, sample: &Sample) -> Mmap {
        self.0.push(Opening::Map(sample.ino.0));
        // SAFETY: nobody changes the file: the mount is read-only and its source constant.
        unsafe { Mmap::map(file).unwrap() }
    }

    /// Checks that `events` tell just that, as far as `seen`; whatever runs were left out.
    #[track_caller]
    pub(crate) fn check(&self, seen: Seen, events: &[Event], missed: u64) {
        let done: Vec<Opening> = self.0.iter().copied().filter(|done| seen.sees(*done)).collect();
        let told: Vec<Opening> = events.iter().filter_map(opening).collect();
        eprintln!("{} opens and mappings told of {}", told.len(), done.len());
        assert_counted(told.len() as u64, done.len() as u64, missed, 1);
        let mut rest = done.iter();
        let differs = told.iter().position(|told| !rest.any(|done| done == told));
        assert_eq!(differs, None, "{told:?} of {done:?}");
    }
}

fn opening(event: &Event) -> Option<Opening> {
    assert!(!event.is_opening() || event.bytes == (0..0) && !event.begins && !event.ends, "{event:?}");
    match (event.opens, event.maps) {
        (true, _) => Some(Opening::Open(event.ino.0)),
        (_, true) => Some(Opening::Map(event.ino.0)),
        _ => None,
    }
}

/// What is seen here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    opens: bool,
    maps: bool,
}

impl Seen {
    /// From now on, as far as something attaches; what does not is printed.
    pub(crate) fn from_now_on(probes: &Probes) -> Self {
        let report = probes.report();
        probes.watch_openings(true);
        for (hook, is_seen) in
            [("security_file_open", report.sees_opens), ("security_mmap_file", report.sees_maps)]
        {
            let left_out = report.left_out.iter().find(|left_out| left_out.program.contains(hook));
            let why = left_out.map_or("not asked for", |left_out| left_out.why.as_str());
            if !is_seen {
                eprintln!("SKIPPED: nothing attaches to {hook} here: {why}");
            }
        }
        Self { opens: report.sees_opens, maps: report.sees_maps }
    }

    fn sees(self, opening: Opening) -> bool {
        match opening {
            Opening::Open(_) => self.opens,
            Opening::Map(_) => self.maps,
        }
    }

    fn nothing(self) -> bool {
        !self.opens && !self.maps
    }
}

#[test]
fn opens_and_mappings_are_told_while_somebody_listens() {
    let Some(mounted) = Mounted::new(&[10_000, 20_000]) else { return };
    let Some(probes) = mounted.watch() else { return };
    let round = |done: &mut Done| {
        for sample in &mounted.samples {
            let file = done.open(sample);
            // Mapped twice, and neither is touched.
            drop((done.map(&file, sample), done.map(&file, sample)));
        }
    };
    let (mut unheard, mut done) = (Done::default(), Done::default());
    round(&mut unheard);
    let seen = Seen::from_now_on(&probes);
    round(&mut done);
    let began = Instant::now();
    probes.watch_openings(false);
    let detached = began.elapsed();
    probes.watch_openings(true);
    eprintln!("detached in {detached:?}, attached in {:?}", began.elapsed() - detached);
    probes.watch_openings(false);
    round(&mut unheard);
    probes.watch_openings(true);
    probes.watch_openings(true);
    round(&mut done);
    let events = events(&probes);
    done.check(seen, &events, missed(&probes));
    let by = (std::process::id(), tid());
    assert!(events.iter().all(|event| (event.tgid, event.tid) == by), "{events:?}");
    assert!(events.is_sorted_by_key(|event| event.at_ns), "{events:?}");
    assert!(mounted.samples.iter().all(|sample| probes.heat(sample.ino).begins == 0), "nothing was read");
    assert!(probes.readers().is_empty(), "nobody read");
}

#[test]
fn openings_of_other_files_and_of_what_is_no_file_are_not_told() {
    let sizes = [5000; 4];
    let (Some(ours), Some(theirs)) = (Mounted::new(&sizes), Mounted::new(&sizes)) else { return };
    let Some(probes) = ours.watch() else { return };
    let seen = Seen::from_now_on(&probes);
    let disk = tempfile::NamedTempFile::new().unwrap();
    fs::write(disk.path(), vec![1; 5000]).unwrap();
    let mut elsewhere = Done::default();
    for sample in &theirs.samples {
        let file = elsewhere.open(sample);
        drop(elsewhere.map(&file, sample));
    }
    // SAFETY: nobody else knows the file.
    drop(unsafe { Mmap::map(&File::open(disk.path()).unwrap()).unwrap() });
    drop(MmapMut::map_anon(1 << 20).unwrap());
    let directory = ours.samples[0].path.parent().unwrap();
    assert!(fs::read_dir(directory).unwrap().count() > 0);
    // SAFETY: it fails.
    assert!(unsafe { Mmap::map(&File::open(directory).unwrap()) }.is_err(), "a directory");
    let path_only =
        |path: &Path| OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path).unwrap();
    path_only(&ours.samples[0].path).metadata().unwrap();
    // Known by its name and attributes, and not opened.
    fs::metadata(&ours.samples[1].path).unwrap();
    let mut done = Done::default();
    done.read(&ours.samples[2]);
    done.check(seen, &events(&probes), missed(&probes));
}

#[test]
fn whoever_opens_is_told() {
    let Some(mounted) = Mounted::new(&[3000; 60]) else { return };
    let Some(probes) = mounted.watch() else { return };
    let seen = Seen::from_now_on(&probes);
    let (ours, theirs) = mounted.samples.split_at(40);
    let mut cat = Command::new("cat");
    let cat = cat.args(theirs.iter().map(|sample| &sample.path)).stdout(Stdio::null());
    let mut child = cat.spawn().unwrap();
    let pid = child.id();
    let open = |part: &[Sample]| {
        part.iter().for_each(|sample| drop(File::open(&sample.path).unwrap()));
        (tid(), part.iter().map(|sample| sample.ino.0).collect::<Vec<_>>())
    };
    let mut opened: Vec<(u32, Vec<u64>)> = thread::scope(|scope| {
        let running: Vec<_> = ours.chunks(10).map(|part| scope.spawn(move || open(part))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(child.wait().unwrap().success());
    opened.push((pid, theirs.iter().map(|sample| sample.ino.0).collect()));
    let events = events(&probes);
    if !seen.opens || is_disturbed(&probes) {
        return;
    }
    let told = |tid| {
        let by = events.iter().filter(move |event| event.tid == tid && event.opens);
        by.map(|event| event.ino.0).collect::<Vec<_>>()
    };
    opened.iter().for_each(|(tid, files)| assert_eq!(told(*tid), *files));
    let all: usize = opened.iter().map(|(_, files)| files.len()).sum();
    assert_eq!(events.iter().filter(|event| event.opens).count(), all, "nobody else's");
}

#[test]
fn openings_leave_half_of_the_ring_to_beginnings_and_ends() {
    let Some(mounted) = Mounted::new(&[100; 20]) else { return };
    let Some(probes) = mounted.watch_with(|options| options.ring_bytes = 4096) else { return };
    let seen = Seen::from_now_on(&probes);
    if seen.nothing() {
        return;
    }
    let mut done = Done::default();
    for _ in 0..10 {
        for sample in &mounted.samples {
            let file = done.open(sample);
            drop(done.map(&file, sample));
        }
    }
    mounted.samples.iter().for_each(|sample| done.read(sample));
    let events = events(&probes);
    let figures = probes.figures();
    let told = events.iter().filter(|event| event.is_opening()).count() as u64;
    // 56 bytes each, the one that passes the half included.
    assert!((1..=2048 / 56 + 1).contains(&told), "{told}");
    let missed = missed(&probes);
    let asked = done.0.iter().filter(|done| seen.sees(**done)).count() as u64;
    assert_counted(told + figures.openings_dropped.get(), asked, missed, 1);
    assert_eq!(figures.events_dropped.get(), 0);
    assert_eq!(probes.events_lost(), figures.openings_dropped.get());
    assert_counted(events.iter().filter(|event| event.begins).count() as u64, 20, missed, 1);
}
