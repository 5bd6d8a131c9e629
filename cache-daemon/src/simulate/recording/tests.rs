//! What is written is read again, and nothing else is believed.

use proptest::prelude::*;

use super::*;
use crate::checksum;

/// Time, reader, path, size.
type Read = (u64, u32, Vec<u8>, u64);

#[derive(Clone, Debug)]
struct Step {
    after_us: u64,
    reader: u32,
    object: usize,
}

fn step() -> impl Strategy<Value = Step> {
    let after_us = prop_oneof![0u64..1000, any::<u64>()];
    (after_us, any::<u32>(), 0usize..30).prop_map(|(after_us, reader, object)| Step {
        after_us,
        reader,
        object,
    })
}

fn path(object: usize) -> Vec<u8> {
    let mut path = format!("train/n{:03}/", object / 7).into_bytes();
    // Not only text; and one that is as long as can be.
    path.extend(std::iter::repeat_n(
        object as u8 | 0x80,
        if object == 29 { PATH_BYTES_MAX - path.len() } else { object },
    ));
    path
}

/// The recording, and the uses as they should be read.
fn recorded(steps: &[Step]) -> (Vec<u8>, Vec<(u64, u32, usize)>) {
    let mut file = Vec::new();
    let mut recorder = Recorder::new(&mut file).expect("a vector takes all");
    let (mut at_us, mut uses) = (0u64, Vec::new());
    for step in steps {
        at_us = at_us.saturating_add(step.after_us);
        recorder
            .record(at_us, step.reader, &path(step.object), step.object as u64 * 1000)
            .expect("a vector takes all");
        uses.push((at_us, step.reader, step.object));
    }
    recorder.flush().expect("a vector takes all");
    (file, uses)
}

/// All that can be read of `bytes`: the uses with their paths, and how it ended.
fn read(bytes: &[u8]) -> (Vec<Read>, Result<bool, TraceError>) {
    let mut uses = Vec::new();
    let mut objects: Vec<(Vec<u8>, u64)> = Vec::new();
    let mut reader = match Reader::new(bytes) {
        Ok(reader) => reader,
        Err(error) => return (uses, Err(error)),
    };
    loop {
        match reader.next_use() {
            Ok(None) => return (uses, Ok(reader.was_cut_off())),
            Err(error) => return (uses, Err(error)),
            Ok(Some(recorded)) => {
                if let Some((size_bytes, path)) = recorded.new {
                    assert_eq!(objects.len(), recorded.object as usize);
                    assert!(path.len() <= PATH_BYTES_MAX);
                    objects.push((path.to_vec(), size_bytes));
                }
                let (path, size_bytes) = objects[recorded.object as usize].clone();
                uses.push((recorded.at_us, recorded.reader, path, size_bytes));
            }
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(steps in prop::collection::vec(step(), 0..200)) {
        let (file, expected) = recorded(&steps);
        let (uses, end) = read(&file);
        prop_assert!(matches!(end, Ok(false)));
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(at_us, reader, object)| (at_us, reader, path(object), object as u64 * 1000))
            .collect();
        prop_assert_eq!(uses, expected);
    }

    #[test]
    fn a_recording_that_was_cut_off_is_good_up_to_there(steps in prop::collection::vec(step(), 1..200), cut: prop::sample::Index) {
        let (file, _) = recorded(&steps);
        let len = cut.index(file.len());
        let (whole, _) = read(&file);
        let (uses, end) = read(&file[..len]);
        prop_assert_eq!(&whole[..uses.len()], &uses[..]);
        prop_assert_eq!(end.is_err(), len < 12);
    }

    #[test]
    fn a_flipped_bit_is_never_believed(steps in prop::collection::vec(step(), 1..50), at: prop::sample::Index, bit in 0..8) {
        let (mut file, _) = recorded(&steps);
        let (whole, _) = read(&file);
        let at = at.index(file.len());
        file[at] ^= 1u8 << bit;
        let (uses, end) = read(&file);
        prop_assert!(!matches!(end, Ok(false)), "believed");
        prop_assert_eq!(&whole[..uses.len()], &uses[..]);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), signed: bool) {
        let mut file = [&MAGIC[..], &VERSION.to_le_bytes()].concat();
        if signed && !bytes.is_empty() {
            file.extend((bytes.len() as u32).to_le_bytes());
            file.extend(checksum::crc32c(&bytes).to_le_bytes());
        }
        file.extend(&bytes);
        let (uses, _) = read(&file);
        // Three bytes a use at least.
        prop_assert!(uses.len() * 3 <= bytes.len());
        let _ = read(&bytes);
    }
}

#[test]
fn a_recording_is_a_trace() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("trace");
    let steps: Vec<_> =
        (0..100_000).map(|n| Step { after_us: 10, reader: n % 3, object: n as usize % 30 }).collect();
    std::fs::write(&path, recorded(&steps).0).expect("written");
    let recording = Recording::open(&path).expect("it is good");
    assert_eq!((recording.objects(), recording.uses(), recording.readers()), (30, 100_000, 3));
    assert_eq!(recording.data_set_bytes(), (0..30).map(|object| object * 1000).sum::<u64>());
    let mut uses = 0;
    recording
        .replay(true, &mut |used| {
            let next = used.position + 30;
            assert_eq!(used.next_use, if next < 100_000 { next } else { u64::MAX });
            uses += 1;
            true
        })
        .expect("it is good");
    assert_eq!(uses, 100_000);
    let bytes_per_use = std::fs::metadata(&path).expect("it is there").len() / uses;
    assert!(bytes_per_use <= 3, "{bytes_per_use}");
}
