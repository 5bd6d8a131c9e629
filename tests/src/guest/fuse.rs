//! What a kernel offers in FUSE's INIT, read from the request itself.
//!
//! A mount with nobody behind it: the kernel sends INIT at once, and is never answered. The layout is `struct
//! fuse_in_header` and `struct fuse_init_in` of Linux `include/uapi/linux/fuse.h`.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;

use anyhow::{Context, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Bits of `flags`, and from 32 on of `flags2`, with the names that are shown.
const FLAGS: [(u32, &str); 6] = [
    (17, "no-open"),
    (22, "max-pages"),
    (24, "no-opendir"),
    (37, "passthrough"),
    (41, "over-io-uring"),
    (42, "request-timeout"),
];

const HEADER_BYTES: usize = 40;
const OPCODE_INIT: u32 = 26;
/// FUSE_INIT_EXT: `flags2` is there.
const INIT_EXT: u64 = 1 << 30;

/// The protocol's version and the names of the flags that are offered.
pub fn offer() -> anyhow::Result<((u32, u32), Vec<String>)> {
    let mut device = File::options().read(true).write(true).open("/dev/fuse").context("/dev/fuse")?;
    let directory = tempfile::tempdir()?;
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    mount(Some("facts"), directory.path(), Some("fuse"), MsFlags::empty(), Some(options.as_str()))
        .context("mounting FUSE")?;
    // The least buffer that the kernel accepts is FUSE_MIN_READ_BUFFER, 8 KiB.
    let mut request = vec![0; 64 << 10];
    let len = device.read(&mut request).context("reading INIT");
    // First, so that no error leaves a mount behind that nobody answers.
    umount2(directory.path(), MntFlags::MNT_DETACH).context("unmounting FUSE")?;
    parse(&request[..len?])
}

fn parse(request: &[u8]) -> anyhow::Result<((u32, u32), Vec<String>)> {
    let word = |at: usize| -> anyhow::Result<u32> {
        let bytes = request.get(at..at + 4).context("INIT is too short")?;
        Ok(u32::from_ne_bytes(bytes.try_into().expect("four bytes")))
    };
    ensure!(word(4)? == OPCODE_INIT, "the first request is no INIT but {}", word(4)?);
    let mut flags = u64::from(word(HEADER_BYTES + 12)?);
    if flags & INIT_EXT != 0 {
        flags |= u64::from(word(HEADER_BYTES + 16)?) << 32;
    }
    let names = FLAGS.iter().filter(|(bit, _)| flags & (1 << bit) != 0).map(|(_, name)| (*name).to_owned());
    Ok(((word(HEADER_BYTES)?, word(HEADER_BYTES + 4)?), names.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn init(minor: u32, flags: u32, flags2: u32) -> Vec<u8> {
        let header = [104, OPCODE_INIT, 0, 0, 0, 0, 0, 0, 0, 0];
        header.into_iter().chain([7, minor, 131_072, flags, flags2]).flat_map(u32::to_ne_bytes).collect()
    }

    #[test]
    fn flags_of_both_words_are_told_and_the_second_only_where_it_is_said_to_be_there() {
        let extended = parse(&init(41, 1 << 17 | 1 << 30, 1 << 5)).unwrap();
        assert_eq!(extended, ((7, 41), vec!["no-open".to_owned(), "passthrough".to_owned()]));
        let old = parse(&init(32, 1 << 17, 1 << 5)).unwrap();
        assert_eq!(old, ((7, 32), vec!["no-open".to_owned()]));
        assert!(parse(&init(41, 0, 0)[..30]).is_err());
    }
}
