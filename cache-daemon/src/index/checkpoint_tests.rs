//! What a checkpoint promises: all of it back, or an error.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const STORE: [u8; 16] = *b"one of our tests";

fn scope(segments: u32) -> Scope {
    let segments = (0..segments).map(|number| SealedSegment {
        segment: SegmentId::new(number as u8, number),
        generation: Generation(number * 3),
        sealed_bytes: number * 4096,
    });
    Scope { store: STORE, epoch: 77, segments: segments.collect() }
}

fn extent(n: u64) -> (ExtentKey, ExtentAddr) {
    let object = Fingerprint::of("o", &n.to_string(), "e", n);
    let (segment, generation) = (SegmentId(n as u32 % 7), Generation(n as u32));
    let addr =
        ExtentAddr { segment, generation, offset: (n as u32 % 99) << 12, len: 1 + n as u32 % (1 << 20) };
    (ExtentKey { object, chunk: n as u32 % 3 }, addr)
}

fn filled(extents: u64) -> Index {
    let index = Index::with_capacity(extents as usize);
    (0..extents).map(extent).for_each(|(key, addr)| assert_eq!(index.insert(key, addr), None));
    index
}

fn all(index: &Index) -> HashMap<ExtentKey, ExtentAddr> {
    let mut extents = HashMap::new();
    index.for_each(&mut |key, addr| assert_eq!(extents.insert(*key, addr), None));
    extents
}

/// A checkpoint as bytes.
fn saved(index: &Index, scope: &Scope) -> Vec<u8> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("index");
    save(&path, index, scope).expect("a checkpoint is written");
    assert!(!temporary_of(&path).exists());
    fs::read(&path).expect("it can be read")
}

/// Everything that a reader looks at.
fn read(bytes: &[u8]) -> Result<(Scope, Vec<(ExtentKey, ExtentAddr)>), CheckpointError> {
    let decoder = decode(bytes)?;
    let mut extents = Vec::new();
    decoder.for_each(|key, addr| extents.push((key, addr)))?;
    Ok((decoder.scope().clone(), extents))
}

fn reseal(bytes: &mut [u8], change: impl FnOnce(&mut Header)) {
    let (mut header, _) = Header::read_from_prefix(bytes).expect("a header");
    change(&mut header);
    header.crc = crc_of_header(&header).into();
    bytes[..size_of::<Header>()].copy_from_slice(header.as_bytes());
}

#[test]
fn what_was_saved_is_loaded_over_many_blocks_and_none() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("index");
    // 1820 extents and 4096 segments fill a block exactly.
    for (extents, segments) in [(0, 0), (1, 1), (1820, 4096), (1821, 4097), (10_000, 3)] {
        let (index, scope) = (filled(extents), scope(segments));
        save(&path, &index, &scope).expect("a checkpoint is written");
        let (loaded, loaded_scope) = load(&path, STORE).expect("it is read");
        assert_eq!(loaded_scope, scope);
        assert_eq!(all(&loaded), all(&index));
        assert_eq!(loaded.self_check(), Ok(()));
    }
}

#[test]
fn a_checkpoint_of_another_store_is_foreign_and_none_at_all_is_an_io_error() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("index");
    assert!(matches!(load(&path, STORE), Err(CheckpointError::Io(_))));
    save(&path, &filled(3), &scope(1)).expect("a checkpoint is written");
    assert!(matches!(load(&path, [0; 16]), Err(CheckpointError::Foreign)));
    fs::write(&path, b"").expect("it is emptied");
    assert!(load(&path, STORE).is_err());
}

#[test]
fn a_failed_save_leaves_the_old_checkpoint() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("index");
    save(&path, &filled(3), &scope(1)).expect("a checkpoint is written");
    fs::create_dir(temporary_of(&path)).expect("something is in the way");
    assert!(matches!(save(&path, &filled(9), &scope(1)), Err(CheckpointError::Io(_))));
    assert_eq!(load(&path, STORE).expect("the old one").0.len(), 3);
}

#[test]
fn every_truncation_is_detected() {
    let bytes = saved(&filled(20), &scope(3));
    assert!((0..bytes.len()).all(|length| read(&bytes[..length]).is_err()));
    assert!(read(&[&bytes[..], b"x"].concat()).is_err());
}

#[test]
fn every_flipped_bit_of_a_small_checkpoint_is_detected() {
    let mut bytes = saved(&filled(20), &scope(3));
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&bytes).is_err(), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(read(&bytes).is_ok());
}

#[test]
fn another_version_says_so_and_absurd_counts_allocate_nothing() {
    let bytes = saved(&filled(20), &scope(3));
    let changed = |change: fn(&mut Header)| {
        let mut bytes = bytes.clone();
        reseal(&mut bytes, change);
        read(&bytes)
    };
    let newer = changed(|header| header.version = 2.into());
    assert!(matches!(newer, Err(CheckpointError::Version { found: 2 })));
    let absurd = changed(|header| header.extents = u64::MAX.into());
    assert!(matches!(absurd, Err(CheckpointError::Length { .. })));
    let absurd = changed(|header| header.segments = u64::MAX.into());
    assert!(matches!(absurd, Err(CheckpointError::Length { .. })));
    // Blocks are sealed with the header that they were written under.
    let other = changed(|header| header.epoch = 78.into());
    assert!(matches!(other, Err(CheckpointError::Block { block: 0 })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_flipped_bit_over_several_blocks_is_detected(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        thread_local! {
            static BYTES: Vec<u8> = saved(&filled(4000), &scope(5000));
        }
        let mut bytes = BYTES.with(Clone::clone);
        let at = at.index(bytes.len());
        bytes[at] ^= 1u8 << bit;
        prop_assert!(read(&bytes).is_err());
    }

    #[test]
    fn any_bytes_are_an_error_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(read(&bytes).is_err());
    }

    #[test]
    fn bytes_under_a_good_header_are_an_error_and_no_panic(
        segments in 0u64..5, extents in 0u64..9, rest in proptest::collection::vec(any::<u8>(), 0..500),
    ) {
        let mut bytes = [&saved(&Index::with_capacity(0), &scope(0))[..], &rest].concat();
        reseal(&mut bytes, |header| {
            header.segments = segments.into();
            header.extents = extents.into();
        });
        prop_assert!(read(&bytes).is_err() || (segments, extents, rest.len()) == (0, 0, 0));
    }
}
