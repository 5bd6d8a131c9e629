//! What must hold for any bytes that a decoder of ours is given: from a disk, a socket, a server, a file.
//!
//! One function for each decoder. `tests/fuzz` gives them to libFuzzer, and the test `decoders` runs them
//! over the committed corpus. They panic if something is wrong, and say nothing otherwise.
//!
//! Checksums would keep a fuzzer out, so each record is decoded as it is and again with its checksums
//! put right. How, is written here a second time, from docs/on-disk-format.md and not from the encoders:
//! a checksum that covers less than it should is found as a flipped bit that is believed.

use std::collections::HashMap;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;

use zerocopy::IntoBytes;

use crate::catalog::Catalog;
use crate::checksum;
use crate::control::{self, mountinfo};
use crate::index::checkpoint::{self, BLOCK_BYTES as CHECKPOINT_BLOCK_BYTES, CheckpointError};
use crate::index::{ExtentAddr, Index, SegmentId};
use crate::io::claim::{Contents, HEAD_BYTES, inspect};
use crate::object::{CHUNK_BYTES, ExtentKey, Fingerprint};
use crate::origin::{AwsProfile, xml};
use crate::simulate::recording::{BLOCK_BYTES_MAX, Reader, Recorder};
use crate::store::files::map::{Map, slot_bytes};
use crate::store::layout::{Layout, PAGE_BYTES, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use crate::store::record::{
    EXTENT_HEADER_BYTES, ExtentHeader, Position, RecordError, SegmentHeader, StoreUuid,
};
use crate::store::superblock::{self as super_block, Found, Superblock};

/// Checks what one decoder makes of some bytes.
pub type Target = fn(&[u8]);

/// Every target by name: one file of `tests/fuzz/fuzz_targets`, one directory of `tests/fuzz/corpus`.
pub const TARGETS: [(&str, Target); 12] = [
    ("superblock", superblock),
    ("segment_header", segment_header),
    ("extent_header", extent_header),
    ("backing_file_map", backing_file_map),
    ("index_checkpoint", index_checkpoint),
    ("catalog_snapshot", catalog_snapshot),
    ("device_signature", device_signature),
    ("control_request", control_request),
    ("s3_listing", s3_listing),
    ("aws_profile", aws_profile),
    ("mountinfo", mountinfo),
    ("recorded_trace", recorded_trace),
];

const SUPERBLOCK_BYTES: usize = 96;
const SEGMENT_HEADER_BYTES: usize = 64;

/// The two copies of a superblock, one after the other.
pub fn superblock(bytes: &[u8]) {
    let (first, second) = bytes.split_at(bytes.len().min(SUPERBLOCK_BYTES));
    check_superblock([first, second]);
    let signed = [first, second].map(|copy| signed(copy, SUPERBLOCK_BYTES, b""));
    check_superblock([&signed[0], &signed[1]]);
    // Whatever can be written is read back, and is what the document says.
    let pages = SEGMENT_BYTES_MIN / PAGE_BYTES + u32_at(bytes, 40) % (SEGMENT_BYTES_MAX / PAGE_BYTES - 1);
    let segments = u32_at(bytes, 44) % (SegmentId::NUMBERS + 1);
    check_superblock_page(&Superblock {
        store: SOMEWHERE.store,
        volume: u32_at(bytes, 10) as u8,
        layout: Layout { segment_bytes: pages * PAGE_BYTES, segments },
        generation_ceiling: u32_at(bytes, 48),
        sequence: u64::from(u32_at(bytes, 32)),
    });
}

fn check_superblock(copies: [&[u8]; 2]) {
    let Found::Ours(found) = Superblock::find(copies) else { return };
    assert!((SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&found.layout.segment_bytes));
    assert!(found.layout.segment_bytes.is_multiple_of(PAGE_BYTES));
    assert!(found.layout.segments <= SegmentId::NUMBERS, "an array of them would have no bound");
    for copy in copies {
        // A copy alone is never newer than the two.
        match Superblock::find([copy, b""]) {
            Found::Ours(alone) => assert!(alone.sequence <= found.sequence),
            Found::Version(_) | Found::Nothing => {}
        }
    }
    check_superblock_page(&found);
}

fn check_superblock_page(superblock: &Superblock) {
    let page = superblock.page();
    assert_eq!(Superblock::find([b"", &page]), Found::Ours(*superblock));
    assert!(superblock.is_of_this_volume(&page));
    assert!(signed(&page, SUPERBLOCK_BYTES, b"") == page);
    let damaged = damaged(&page[..SUPERBLOCK_BYTES]);
    assert!(!matches!(Superblock::find([&damaged, b""]), Found::Ours(_)), "a flipped bit is believed");
}

/// A segment header, as of the segment that it says it is.
pub fn segment_header(bytes: &[u8]) {
    let position = Position { segment: u32_at(bytes, 16), offset: 0, ..SOMEWHERE };
    let seal = sealed_position(position);
    for bytes in [bytes, &signed(bytes, SEGMENT_HEADER_BYTES, &seal)] {
        let Ok(generation) = SegmentHeader::read(bytes, position) else { continue };
        assert_eq!(generation, u32_at(bytes, 8));
        let damaged = damaged(&bytes[..SEGMENT_HEADER_BYTES]);
        assert!(SegmentHeader::read(&damaged, position).is_err(), "a flipped bit is believed");
        let elsewhere = Position { volume: position.volume ^ 1, ..position };
        assert_eq!(SegmentHeader::read(bytes, elsewhere), Err(RecordError::Checksum));
    }
    // Whatever can be written is read back, and is what the document says.
    let written = SegmentHeader::new(position, u32_at(bytes, 8));
    assert_eq!(SegmentHeader::read(written.as_bytes(), position), Ok(u32_at(bytes, 8)));
    assert!(signed(written.as_bytes(), SEGMENT_HEADER_BYTES, &seal) == written.as_bytes());
}

/// An extent: its header, and as much of its data as there is.
pub fn extent_header(bytes: &[u8]) {
    let seal = sealed_position(SOMEWHERE);
    let generation = u32_at(bytes, 8);
    for bytes in [bytes, &signed(bytes, EXTENT_HEADER_BYTES, &seal)] {
        let Ok(header) = ExtentHeader::read(bytes, SOMEWHERE, generation) else { continue };
        let (head, data) = bytes.split_at(EXTENT_HEADER_BYTES);
        assert!((1..=CHUNK_BYTES).contains(&u64::from(header.data_bytes())));
        let damaged = damaged(head);
        assert!(ExtentHeader::read(&damaged, SOMEWHERE, generation).is_err(), "a flipped bit is believed");
        let stale = ExtentHeader::read(bytes, SOMEWHERE, generation ^ 1).err();
        assert_eq!(stale, Some(RecordError::Generation { found: generation, expected: generation ^ 1 }));
        // Any block number may come from a caller's arithmetic: none is a panic.
        let _ = header.check_data(usize::from(head[60]), data);
    }
    // Whatever can be written is read back, and is what the document says.
    let Some((head, data)) = bytes.split_at_checked(EXTENT_HEADER_BYTES) else { return };
    if data.is_empty() || data.len() as u64 > CHUNK_BYTES {
        return;
    }
    let object = Fingerprint(*head[16..].first_chunk().expect("a header is longer"));
    let key = ExtentKey { object, chunk: u32_at(head, 32) };
    let written = ExtentHeader::new(SOMEWHERE, generation, key, data);
    assert!(signed(written.as_bytes(), EXTENT_HEADER_BYTES, &seal) == written.as_bytes());
    let read = ExtentHeader::read(written.as_bytes(), SOMEWHERE, generation).expect("it was just written");
    assert_eq!((read.key(), read.data_bytes() as usize), (key, data.len()));
    assert_eq!(read.check_data(0, data), Ok(()));
    assert!(matches!(read.check_data(0, &damaged(data)), Err(RecordError::Data(_))));
}

/// A slot of the map of a backing file.
pub fn backing_file_map(bytes: &[u8]) {
    check_map(bytes);
    check_map(&signed_map(bytes));
}

fn check_map(slot: &[u8]) {
    let Ok(map) = Map::decode(slot) else { return };
    assert!(4 * map.checksums.len() + 8 * map.chunks.len() < slot.len(), "more than the slot can hold");
    let there: u32 = map.chunks.iter().map(|word| word.count_ones()).sum();
    assert!(there <= map.identity.chunks(), "a chunk that the object does not have");
    assert!(Map::decode(&damaged(slot)).is_err(), "a flipped bit is believed");
    let again = map.encode();
    assert_eq!(Map::decode(&again).as_ref(), Ok(&map));
    // Two slots, and one that was torn.
    assert_eq!(Map::newest(&[&again[..], slot].concat()).as_ref(), Some(&map));
    assert_eq!(Map::newest(&[&damaged(&again)[..], slot].concat()).as_ref(), Some(&map));
}

/// The slot that `bytes` come nearest to: as long as its object asks for, and its checksum right.
fn signed_map(bytes: &[u8]) -> Vec<u8> {
    const HEADER_BYTES: usize = 96;
    let mut slot = bytes.to_vec();
    let Some(length) = slot.get_mut(48..56) else { return slot };
    // A fuzzer has no time for long objects.
    length[4..].fill(0);
    length[3] &= 0x0f;
    let object_bytes = u64::from(u32_at(bytes, 48) & 0x0fff_ffff);
    slot.resize(slot_bytes(object_bytes) as usize, 0);
    slot[HEADER_BYTES - 4..HEADER_BYTES].fill(0);
    let checksum = checksum::crc32c(&slot);
    slot[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    slot
}

/// A checkpoint of the index.
pub fn index_checkpoint(bytes: &[u8]) {
    if let Ok(extents) = decoded_checkpoint(bytes) {
        check_extents(extents);
    }
    let Some(signed) = signed_checkpoint(bytes) else { return };
    match decoded_checkpoint(&signed) {
        Ok(extents) => check_extents(extents),
        Err(CheckpointError::Record { .. }) => {}
        Err(error) => panic!("{error}, though it is as the document says"),
    }
    assert!(decoded_checkpoint(&damaged(&signed)).is_err(), "a flipped bit is believed");
}

fn decoded_checkpoint(bytes: &[u8]) -> Result<Vec<(ExtentKey, ExtentAddr)>, CheckpointError> {
    let decoder = checkpoint::decode(bytes)?;
    assert!(decoder.extents() <= bytes.len() as u64, "a count that the file cannot hold");
    let mut extents = Vec::with_capacity(decoder.extents() as usize);
    decoder.for_each(|key, addr| extents.push((key, addr)))?;
    assert_eq!(extents.len() as u64, decoder.extents());
    Ok(extents)
}

/// The index that they give holds the last address of every key, and no other.
fn check_extents(extents: Vec<(ExtentKey, ExtentAddr)>) {
    let index = Index::with_capacity(extents.len());
    for (key, addr) in &extents {
        assert!(addr.offset.is_multiple_of(PAGE_BYTES) && (1..=CHUNK_BYTES).contains(&u64::from(addr.len)));
        index.insert(*key, *addr);
    }
    let last: HashMap<_, _> = extents.into_iter().collect();
    assert_eq!(index.len(), last.len());
    assert!(last.iter().all(|(key, addr)| index.get(key) == Some(*addr)));
    assert_eq!(index.self_check(), Ok(()));
}

/// The checkpoint that `bytes` come nearest to: the header's count of segments, as many extents as there
/// is room for, and all checksums right.
fn signed_checkpoint(bytes: &[u8]) -> Option<Vec<u8>> {
    const HEADER_BYTES: usize = 128;
    let (header, records) = bytes.split_at_checked(HEADER_BYTES)?;
    let mut signed = header.to_vec();
    let segments = (u32_at(header, 40) as usize).min(records.len() / 16);
    let (segments, extents) = records.split_at(16 * segments);
    let extents = &extents[..extents.len() / 36 * 36];
    signed[..8].copy_from_slice(b"EPCINDEX");
    signed[8..12].copy_from_slice(&checkpoint::VERSION.to_le_bytes());
    signed[12..16].fill(0);
    signed[40..48].copy_from_slice(&(segments.len() as u64 / 16).to_le_bytes());
    signed[48..56].copy_from_slice(&(extents.len() as u64 / 36).to_le_bytes());
    let crc = checksum::crc32c(&signed[..HEADER_BYTES - 4]);
    signed[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    for (section, record_bytes) in [(segments, 16), (extents, 36)] {
        for block in section.chunks(CHECKPOINT_BLOCK_BYTES / record_bytes * record_bytes) {
            signed.extend_from_slice(block);
            signed.extend_from_slice(&checksum::crc32c_append(crc, block).to_le_bytes());
        }
    }
    Some(signed)
}

/// A snapshot of the catalog.
pub fn catalog_snapshot(bytes: &[u8]) {
    Catalog::decode_for_fuzzing(bytes);
}

/// The beginning of a device: patches of a blank one, each an offset of 3 bytes, a length of 1, and content.
pub fn device_signature(bytes: &[u8]) {
    inspect(bytes, &super_block::MAGIC);
    // No longer than it must be: a device may be short, and a fuzzer has no time for zeros.
    let mut head = Vec::new();
    let mut rest = bytes;
    while let Some(([a, b, c, len], tail)) = rest.split_first_chunk() {
        let (content, tail) = tail.split_at(tail.len().min(usize::from(*len)));
        let at = u32::from_le_bytes([*a, *b, *c, 0]) as usize % HEAD_BYTES;
        let end = HEAD_BYTES.min(at + content.len());
        head.resize(head.len().max(end), 0);
        head[at..end].copy_from_slice(&content[..end - at]);
        rest = tail;
    }
    let is_blank = head.iter().all(|byte| *byte == 0);
    let contents = inspect(&head, &super_block::MAGIC);
    assert_eq!(contents == Contents::Blank, is_blank, "data would be overwritten, or a blank device refused");
    assert_eq!(contents == Contents::Own, head.starts_with(&super_block::MAGIC));
    if let Contents::Foreign(signature) = contents {
        assert!(!signature.to_string().is_empty());
    }
}

/// The line that a client of the control socket sends.
pub fn control_request(line: &[u8]) {
    let Ok(request) = control::decode_request(line) else { return };
    let mut again = serde_json::to_value(&request).expect("a request is JSON");
    again["v"] = control::PROTOCOL_VERSION.into();
    assert_eq!(control::decode_request(again.to_string().as_bytes()), Ok(request));
}

/// A reply to ListObjectsV2, or an error reply of S3.
pub fn s3_listing(body: &[u8]) {
    let told = xml::error(body);
    assert!(told.code.len() + told.message.len() <= body.len());
    let Ok(page) = xml::page(body) else { return };
    let text_bytes: usize = page.entries.iter().map(|entry| entry.key.len()).sum();
    assert!(text_bytes + page.prefixes.iter().map(String::len).sum::<usize>() <= body.len());
    let again = xml::page(page_as_xml(&page).as_bytes()).expect("it is a page");
    assert_eq!((&again.entries, &again.prefixes), (&page.entries, &page.prefixes));
    assert_eq!((again.truncated, again.url_encoded), (page.truncated, page.url_encoded));
    assert_eq!(again.next_token, page.next_token);
}

fn page_as_xml(page: &xml::Page) -> String {
    let mut out = "<ListBucketResult>".to_owned();
    for entry in &page.entries {
        out += "<Contents>";
        element(&mut out, "Key", &entry.key);
        element(&mut out, "Size", &entry.size_bytes.to_string());
        if let Some(modified) = entry.modified {
            element(&mut out, "LastModified", &humantime::format_rfc3339_nanos(modified).to_string());
        }
        if let Some(etag) = &entry.etag {
            element(&mut out, "ETag", etag);
        }
        out += "</Contents>";
    }
    for prefix in &page.prefixes {
        out += "<CommonPrefixes>";
        element(&mut out, "Prefix", prefix);
        out += "</CommonPrefixes>";
    }
    element(&mut out, "IsTruncated", if page.truncated { "true" } else { "false" });
    element(&mut out, "EncodingType", if page.url_encoded { "url" } else { "" });
    if let Some(token) = &page.next_token {
        element(&mut out, "NextContinuationToken", token);
    }
    out + "</ListBucketResult>"
}

fn element(out: &mut String, name: &str, text: &str) {
    write!(out, "<{name}>").expect("a string takes everything");
    for character in text.chars() {
        // A NUL is the one character that XML has no reference for, and servers send as it is.
        match character {
            '\0' | 'a'..='z' | '0'..='9' => out.push(character),
            other => write!(out, "&#{};", u32::from(other)).expect("a string takes everything"),
        }
    }
    write!(out, "</{name}>").expect("a string takes everything");
}

/// The two files of the AWS command line: config, a NUL, credentials.
pub fn aws_profile(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (config, credentials) = text.split_once('\0').unwrap_or((&text, ""));
    for name in ["default", "lab"] {
        let Ok(profile) = AwsProfile::of_texts(name, config, credentials) else { continue };
        assert!(profile.session_token.is_none() || profile.keys.is_some(), "a token of no keys");
        let [config, credentials] = profile_as_texts(name, &profile);
        let again = AwsProfile::of_texts(name, &config, &credentials);
        assert_eq!(again.expect("it is whole"), profile);
    }
}

fn profile_as_texts(name: &str, profile: &AwsProfile) -> [String; 2] {
    let section = |name: &str, settings: &[(&str, Option<&String>)]| {
        let settings = settings.iter().filter_map(|(key, value)| Some(format!("{key} = {}\n", (*value)?)));
        format!("[{name}]\n{}", settings.collect::<String>())
    };
    let config_name = if name == "default" { name.to_owned() } else { format!("profile {name}") };
    let config = [("region", profile.region.as_ref()), ("endpoint_url", profile.endpoint.as_ref())];
    let credentials = [
        ("aws_access_key_id", profile.keys.as_ref().map(|(id, _)| id)),
        ("aws_secret_access_key", profile.keys.as_ref().map(|(_, secret)| secret)),
        ("aws_session_token", profile.session_token.as_ref()),
    ];
    [section(&config_name, &config), section(name, &credentials)]
}

/// `/proc/self/mountinfo`: mounts of other users are in it, with names that they chose.
pub fn mountinfo(text: &[u8]) {
    let mounts = mountinfo::parse(text);
    assert!(mounts.len() <= text.split(|byte| *byte == b'\n').count());
    let mut again = Vec::new();
    for mount in &mounts {
        let (of_mount, of_system) = mount.options.split_once(',').expect("both kinds of options");
        again.extend_from_slice(format!("1 1 {} / ", mount.device).as_bytes());
        again.extend_from_slice(&escaped(mount.mountpoint.as_os_str().as_bytes()));
        let source = String::from_utf8(escaped(mount.source.as_bytes())).expect("only ASCII was replaced");
        again.extend_from_slice(format!(" {of_mount} - {} {source} {of_system}\n", mount.fs_type).as_bytes());
    }
    assert_eq!(mountinfo::parse(&again), mounts);
}

/// As the kernel escapes (`show_mountinfo`, Linux fs/proc_namespace.c).
fn escaped(text: &[u8]) -> Vec<u8> {
    let escaped = |&byte: &u8| match byte {
        b' ' | b'\t' | b'\n' | b'\\' | b'#' => format!("\\{byte:03o}").into_bytes(),
        other => vec![other],
    };
    text.iter().flat_map(escaped).collect()
}

/// A recorded trace: a file, and the payload of its blocks.
pub fn recorded_trace(bytes: &[u8]) {
    check_trace(bytes);
    check_trace(&signed_trace(bytes));
}

/// A use: when, by whom, of what.
type TraceUse = (u64, u32, Vec<u8>);

fn check_trace(bytes: &[u8]) {
    let (uses, _) = trace_uses(bytes);
    let mut again = Vec::new();
    let mut recorder = Recorder::new(&mut again).expect("a vector takes everything");
    for (at_us, reader, path) in &uses {
        recorder.record(*at_us, *reader, path, 7).expect("a vector takes everything");
    }
    recorder.flush().expect("a vector takes everything");
    assert_eq!(trace_uses(&again), (uses.clone(), true));
    let (believed, is_whole) = trace_uses(&damaged(&again));
    assert!(!is_whole, "a flipped bit was believed");
    assert!(uses.starts_with(&believed));
}

/// The uses up to the end or to what is wrong, and whether nothing is.
fn trace_uses(bytes: &[u8]) -> (Vec<TraceUse>, bool) {
    let (mut uses, mut paths) = (Vec::new(), Vec::<Vec<u8>>::new());
    let Ok(mut reader) = Reader::new(bytes) else { return (uses, false) };
    loop {
        match reader.next_use() {
            Ok(Some(recorded)) => {
                if let Some((_, path)) = recorded.new {
                    assert!(path.len() <= 4096 && paths.len() == recorded.object as usize);
                    paths.push(path.to_vec());
                }
                uses.push((recorded.at_us, recorded.reader, paths[recorded.object as usize].clone()));
            }
            Ok(None) => return (uses, !reader.was_cut_off()),
            Err(_) => return (uses, false),
        }
    }
}

/// The recording whose blocks have these bytes as their payload.
fn signed_trace(bytes: &[u8]) -> Vec<u8> {
    let mut signed = b"ECTRACE\0\x01\0\0\0".to_vec();
    for payload in bytes.chunks(BLOCK_BYTES_MAX) {
        signed.extend((payload.len() as u32).to_le_bytes());
        signed.extend(checksum::crc32c(payload).to_le_bytes());
        signed.extend(payload);
    }
    signed
}

/// A place for records: which one is of no consequence, and is part of their checksums.
pub const SOMEWHERE: Position = Position { store: StoreUuid([7; 16]), volume: 1, segment: 3, offset: 4096 };

/// What a record's checksum begins with.
fn sealed_position(position: Position) -> Vec<u8> {
    let numbers = [u32::from(position.volume), position.segment, position.offset];
    [&position.store.0[..], &numbers.map(u32::to_le_bytes).concat()].concat()
}

/// `bytes` with the checksum at the end of their first `record_bytes` put right: CRC32C of `prefix` and
/// the record, whose own checksum counts as zero.
fn signed(bytes: &[u8], record_bytes: usize, prefix: &[u8]) -> Vec<u8> {
    let mut signed = bytes.to_vec();
    if let Some(record) = signed.get_mut(..record_bytes) {
        let at = record_bytes - 4;
        record[at..].fill(0);
        let checksum = checksum::crc32c_append(checksum::crc32c(prefix), record);
        record[at..].copy_from_slice(&checksum.to_le_bytes());
    }
    signed
}

/// `bytes` with one bit flipped; which one follows from them.
fn damaged(bytes: &[u8]) -> Vec<u8> {
    let mut damaged = bytes.to_vec();
    let bit = checksum::crc32c(bytes) as usize % (8 * bytes.len());
    damaged[bit / 8] ^= 1 << (bit % 8);
    damaged
}

/// The little-endian number at `at`; 0 where there is none.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |number| u32::from_le_bytes(*number))
}
