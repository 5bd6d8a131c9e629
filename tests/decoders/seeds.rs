//! Seeds: inputs for the fuzzers of binary formats, made by the encoders of this version.
//!
//! Written by hand, after a change of a format: `cargo test -p epochcache-tests --test decoders -- --ignored seeds`.
//! The seeds of texts are files to be edited.

use std::fs;
use std::time::{Duration, UNIX_EPOCH};

use cache_daemon::catalog::{Builder, Catalog, Item};
use cache_daemon::fuzzing::SOMEWHERE;
use cache_daemon::index::checkpoint::{Scope, SealedSegment, save};
use cache_daemon::index::{ExtentAddr, Generation, Index, SegmentId};
use cache_daemon::object::{Etag, ExtentKey, Fingerprint};
use cache_daemon::simulate::recording::Recorder;
use cache_daemon::store::files::map::{Identity, Map};
use cache_daemon::store::layout::Layout;
use cache_daemon::store::record::{ExtentHeader, Position, SegmentHeader, StoreUuid};
use cache_daemon::store::superblock::Superblock;
use zerocopy::IntoBytes;

use crate::corpus::fuzz_dir;

fn write(target: &str, name: &str, bytes: &[u8]) {
    let dir = fuzz_dir().join("corpus").join(target);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(name), bytes).unwrap();
}

#[test]
#[ignore = "writes tests/fuzz/corpus"]
fn seeds_of_binary_formats() {
    superblocks();
    segment_headers();
    extents();
    backing_file_maps();
    checkpoints();
    catalogs();
    devices();
    traces();
}

fn traces() {
    const HEAD_BYTES: usize = 12;
    const BLOCK_HEAD_BYTES: usize = 8;
    let recording = |uses: &[(u64, u32, &str, u64)]| {
        let mut file = Vec::new();
        let mut recorder = Recorder::new(&mut file).unwrap();
        for &(at_us, reader, path, size_bytes) in uses {
            recorder.record(at_us, reader, path.as_bytes(), size_bytes).unwrap();
        }
        recorder.flush().unwrap();
        file
    };
    let few = recording(&[
        (5, 7, "train/c00/000.bin", 20_000),
        (900, 8, "train/c00/001.bin", 130),
        (901, 7, "train/c00/000.bin", 20_000),
        (70_000, u32::MAX, "val/x", u64::MAX),
    ]);
    let name = "y".repeat(5_000);
    write("recorded_trace", "few", &few);
    write("recorded_trace", "few-payload", &few[HEAD_BYTES + BLOCK_HEAD_BYTES..]);
    write("recorded_trace", "few-cut", &few[..few.len() - 9]);
    write("recorded_trace", "two-blocks", &[&few[..], &few[HEAD_BYTES..]].concat());
    write("recorded_trace", "long-path", &recording(&[(0, 1, &name, 1), (u64::MAX, 1, "y", 2)]));
    write("recorded_trace", "empty", &recording(&[]));
}

fn superblocks() {
    let copy = |sequence, segments| {
        let layout = Layout { segment_bytes: 64 << 20, segments };
        let superblock =
            Superblock { store: StoreUuid([5; 16]), volume: 3, layout, generation_ceiling: 257, sequence };
        superblock.page()[..96].to_vec()
    };
    let newer_version = |mut copy: Vec<u8>| {
        copy[8] += 1;
        copy
    };
    write("superblock", "same", &[copy(1, 100), copy(1, 100)].concat());
    write("superblock", "one-newer", &[copy(2, 100), copy(1, 90)].concat());
    write("superblock", "most-segments", &copy(u64::MAX, SegmentId::NUMBERS));
    write("superblock", "too-many-segments", &copy(u64::MAX, SegmentId::NUMBERS + 1));
    write("superblock", "newer-version", &newer_version(copy(1, 100)));
    write("superblock", "one-of-newer-version", &[newer_version(copy(1, 100)), copy(1, 1)].concat());
    write("superblock", "torn", &[copy(1, 1), copy(2, 2)[..50].to_vec()].concat());
}

fn backing_file_maps() {
    let slot = |object_bytes, sequence, chunks: Vec<u64>| {
        let object = Fingerprint([9; 16]);
        let identity = Identity { store: StoreUuid([5; 16]), volume: 3, object, object_bytes };
        let checksums = (0..identity.blocks() as u32).map(|block| block.wrapping_mul(0x9e37_79b9)).collect();
        Map { identity, sequence, chunks, checksums }.encode()
    };
    write("backing_file_map", "one-byte", &slot(1, 1, vec![1]));
    write("backing_file_map", "partial", &slot((5 << 20) + 13, 2, vec![0b10_0101]));
    write("backing_file_map", "two-words", &slot(70 << 20, u64::MAX, vec![u64::MAX, 0b11_1111]));
    write("backing_file_map", "chunk-past-the-end", &slot(70 << 20, 3, vec![0, 0b100_0000]));
    write("backing_file_map", "cut", &slot(70 << 20, 4, vec![0, 0])[..4096]);
}

fn segment_headers() {
    for (name, segment, generation) in
        [("first", 0, 1), ("some", 70_000, 900), ("last", (1 << 24) - 1, u32::MAX)]
    {
        let position = Position { segment, offset: 0, ..SOMEWHERE };
        write("segment_header", name, SegmentHeader::new(position, generation).as_bytes());
    }
}

fn extents() {
    for (name, chunk, len) in [("one-byte", 0, 1), ("a-page", 7, 3968), ("cut-off", u32::MAX, 100_000)] {
        let key = ExtentKey { object: Fingerprint([0xab; 16]), chunk };
        let data = vec![0x5a; len];
        let header = ExtentHeader::new(SOMEWHERE, 900, key, &data);
        write("extent_header", name, &[header.as_bytes(), &data[..len.min(300)]].concat());
    }
}

fn checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    for (name, segments, extents) in [("empty", 0, 0), ("one", 1, 1), ("some", 3, 20), ("no-segments", 0, 5)]
    {
        let index = Index::with_capacity(0);
        for extent in 0..extents {
            let key = ExtentKey { object: Fingerprint([extent as u8; 16]), chunk: extent };
            let segment = SegmentId::new(1, extent % 3);
            let generation = Generation(5 + extent % 3);
            index.insert(
                key,
                ExtentAddr { segment, generation, offset: 4096 * (1 + extent), len: 1 + extent },
            );
        }
        let sealed = |number| SealedSegment {
            segment: SegmentId::new(1, number),
            generation: Generation(5 + number),
            sealed_bytes: 1 << 20,
        };
        let scope = Scope { store: [5; 16], epoch: 9, segments: (0..segments).map(sealed).collect() };
        let path = dir.path().join(name);
        save(&path, &index, &scope).unwrap();
        write("index_checkpoint", name, &fs::read(&path).unwrap());
    }
}

fn catalogs() {
    const MD5: &str = "\"0123456789abcdef0123456789abcdef\"";
    let dir = tempfile::tempdir().unwrap();
    let catalogs: [(&str, &[(&str, &str)]); 3] = [
        ("empty", &[]),
        ("flat", &[("a", MD5), ("b", "\"text\""), ("c", "\"0123456789abcdef0123456789abcdef-7\"")]),
        (
            "tree",
            &[
                ("a/1", MD5),
                ("a/b/2", "text"),
                ("a/b/c/3", ""),
                ("c", MD5),
                ("d/", MD5),
                ("é/x y", "W/\"1\""),
            ],
        ),
    ];
    for (name, objects) in catalogs {
        let mut builder = Builder::new("memory:///train");
        for (size_bytes, (key, etag)) in (0..).zip(objects) {
            let modified = UNIX_EPOCH + Duration::from_secs(size_bytes);
            builder.add(Item { key: (*key).to_owned(), size_bytes, modified, etag: Etag::new(*etag) });
        }
        let (catalog, _): (Catalog, _) = builder.finish(None);
        let path = dir.path().join(name);
        catalog.save(&path).unwrap();
        write("catalog_snapshot", name, &without_padding(&fs::read(&path).unwrap()));
    }
}

/// A snapshot with its sections one behind the other: a fuzzer should not spend its time on zeros. The
/// checksums are put right by the target.
fn without_padding(snapshot: &[u8]) -> Vec<u8> {
    const SECTIONS: usize = 32;
    const HEADER_BYTES: usize = 152;
    let number = |at: usize| u64::from_le_bytes(snapshot[at..at + 8].try_into().unwrap()) as usize;
    let mut packed = snapshot[..HEADER_BYTES].to_vec();
    for at in (SECTIONS..HEADER_BYTES).step_by(24) {
        let (offset, len_bytes) = (number(at), number(at + 8));
        let packed_offset = packed.len() as u64;
        packed[at..at + 8].copy_from_slice(&packed_offset.to_le_bytes());
        packed.extend_from_slice(&snapshot[offset..offset + len_bytes]);
    }
    packed
}

fn devices() {
    let patch = |at: u32, content: &[u8]| {
        let mut patch = at.to_le_bytes()[..3].to_vec();
        patch.push(content.len() as u8);
        patch.extend_from_slice(content);
        patch
    };
    write("device_signature", "blank", &patch(4096, &[0; 8]));
    write("device_signature", "noise-at-the-end", &patch((1 << 20) - 1, &[1]));
    write("device_signature", "gpt-and-mbr", &[patch(512, b"EFI PART"), patch(510, b"\x55\xaa")].concat());
    // One of each kind of signature: what a fuzzer would not guess.
    let signatures: [(&str, u32, &[u8]); 16] = [
        ("own", 0, b"epochst\n"),
        ("own-torn", 0, b"epochst"),
        ("ext", 1080, b"\x53\xef"),
        ("xfs", 0, b"XFSB"),
        ("btrfs", 0x10040, b"_BHRfS_M"),
        ("luks", 0, b"LUKS\xba\xbe"),
        ("lvm", 512, b"LABELONE"),
        ("md-raid", 4096, b"\xfc\x4e\x2b\xa9"),
        ("swap", 4096 - 10, b"SWAPSPACE2"),
        ("bcache", 4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"),
        ("f2fs", 1024, b"\x10\x20\xf5\xf2"),
        ("squashfs", 0, b"hsqs"),
        ("iso9660", 32769, b"CD001"),
        ("ntfs", 3, b"NTFS    "),
        ("fat", 82, b"FAT32   "),
        ("zfs", 132 << 10, b"\x0c\xb1\xba\x00\x00\x00\x00\x00"),
    ];
    for (name, at, magic) in signatures {
        write("device_signature", name, &patch(at, magic));
    }
}
