//! Signatures: what the first MiB of a device says it is used for.
//!
//! Pure. The offsets are those of libblkid (util-linux `libblkid/src/superblocks`), of the kinds that a
//! training box may have; what is neither known nor blank is told apart too, because it may be data.

use std::fmt;

/// How much of a device [`inspect`] wants to see.
pub const HEAD_BYTES: usize = 1 << 20;

/// What a device holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contents {
    /// Zeros: nobody's.
    Blank,
    /// A store of ours, of whatever version.
    Own,
    /// Something that we know and that is not ours.
    Foreign(Signature),
    /// Not zeros, and nothing that we know.
    Unknown,
}

/// A kind of foreign content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "their Display says what they are")]
pub enum Signature {
    Bcache,
    Bcachefs,
    Btrfs,
    Erofs,
    Exfat,
    Ext,
    F2fs,
    Fat,
    Gpt,
    Iso9660,
    Luks,
    Lvm,
    MdRaid,
    Mbr,
    Ntfs,
    Squashfs,
    Swap,
    Xfs,
    Zfs,
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bcache => "a bcache device",
            Self::Bcachefs => "a bcachefs file system",
            Self::Btrfs => "a btrfs file system",
            Self::Erofs => "an EROFS image",
            Self::Exfat => "an exFAT file system",
            Self::Ext => "an ext2, ext3 or ext4 file system",
            Self::F2fs => "an F2FS file system",
            Self::Fat => "a FAT file system",
            Self::Gpt => "a GPT partition table",
            Self::Iso9660 => "an ISO 9660 image",
            Self::Luks => "a LUKS encrypted volume",
            Self::Lvm => "an LVM physical volume",
            Self::MdRaid => "a member of an MD RAID array",
            Self::Mbr => "a partition table or boot sector",
            Self::Ntfs => "an NTFS file system",
            Self::Squashfs => "a squashfs image",
            Self::Swap => "swap space",
            Self::Xfs => "an XFS file system",
            Self::Zfs => "a member of a ZFS pool",
        })
    }
}

/// Bytes that stand at an offset for a kind. In order: what stands later may also match what stands earlier,
/// like the boot sector of a disk with a GPT.
const MAGICS: &[(usize, &[u8], Signature)] = &[
    (512, b"EFI PART", Signature::Gpt),
    // Logical blocks of 4 KiB.
    (4096, b"EFI PART", Signature::Gpt),
    (0, b"XFSB", Signature::Xfs),
    (0x10040, b"_BHRfS_M", Signature::Btrfs),
    (0, b"LUKS\xba\xbe", Signature::Luks),
    // The second header of LUKS 2, when the first is damaged.
    (0x4000, b"SKUL\xba\xbe", Signature::Luks),
    // The label may be in any of the first four sectors.
    (0, b"LABELONE", Signature::Lvm),
    (512, b"LABELONE", Signature::Lvm),
    (1024, b"LABELONE", Signature::Lvm),
    (1536, b"LABELONE", Signature::Lvm),
    // Versions 1.1 and 1.2; 0.90 and 1.0 stand at the end of the device, and O_EXCL finds those in use.
    (0, b"\xfc\x4e\x2b\xa9", Signature::MdRaid),
    (4096, b"\xfc\x4e\x2b\xa9", Signature::MdRaid),
    // At the end of the first page, whatever its size.
    (4096 - 10, b"SWAPSPACE2", Signature::Swap),
    (4096 - 10, b"SWAP-SPACE", Signature::Swap),
    (16384 - 10, b"SWAPSPACE2", Signature::Swap),
    (65536 - 10, b"SWAPSPACE2", Signature::Swap),
    (4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", Signature::Bcache),
    (4096 + 24, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef", Signature::Bcachefs),
    (1024, b"\x10\x20\xf5\xf2", Signature::F2fs),
    (1024, b"\xe2\xe1\xf5\xe0", Signature::Erofs),
    (0, b"hsqs", Signature::Squashfs),
    (32769, b"CD001", Signature::Iso9660),
    (3, b"NTFS    ", Signature::Ntfs),
    (3, b"EXFAT   ", Signature::Exfat),
    (82, b"FAT32   ", Signature::Fat),
    (54, b"FAT16   ", Signature::Fat),
    (54, b"FAT12   ", Signature::Fat),
    // Two bytes only, so after everything that is longer.
    (1024 + 56, b"\x53\xef", Signature::Ext),
    (510, b"\x55\xaa", Signature::Mbr),
];

/// What a device holds whose first bytes are `head`; a store of ours begins with `own_magic`.
pub fn inspect(head: &[u8], own_magic: &[u8]) -> Contents {
    if head.starts_with(own_magic) {
        return Contents::Own;
    }
    let stands = |at: usize, magic: &[u8]| head.get(at..at + magic.len()) == Some(magic);
    let known = MAGICS.iter().find(|(at, magic, _)| stands(*at, magic)).map(|(_, _, signature)| *signature);
    match known.or_else(|| is_zfs(head).then_some(Signature::Zfs)) {
        Some(signature) => Contents::Foreign(signature),
        None if head.iter().all(|byte| *byte == 0) => Contents::Blank,
        None => Contents::Unknown,
    }
}

/// Uberblocks fill the second half of the first label, one each KiB or more, in the byte order of their writer.
fn is_zfs(head: &[u8]) -> bool {
    const UBERBLOCK: u64 = 0x00ba_b10c;
    let label = head.get(128 << 10..256 << 10).unwrap_or_default();
    label.chunks(1024).any(|block| {
        block.starts_with(&UBERBLOCK.to_le_bytes()) || block.starts_with(&UBERBLOCK.to_be_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &[u8] = b"OURSTORE";

    #[test]
    fn every_magic_is_found_alone() {
        for (at, magic, signature) in MAGICS {
            let mut head = vec![0; HEAD_BYTES];
            head[*at..at + magic.len()].copy_from_slice(magic);
            assert_eq!(inspect(&head, OWN), Contents::Foreign(*signature));
        }
    }

    #[test]
    fn a_disk_with_a_gpt_is_not_taken_for_its_protective_boot_sector() {
        let mut head = vec![0; HEAD_BYTES];
        head[510..512].copy_from_slice(b"\x55\xaa");
        assert_eq!(inspect(&head, OWN), Contents::Foreign(Signature::Mbr));
        head[512..520].copy_from_slice(b"EFI PART");
        assert_eq!(inspect(&head, OWN), Contents::Foreign(Signature::Gpt));
    }

    #[test]
    fn zeros_are_blank_ours_is_ours_and_noise_is_neither() {
        let mut head = vec![0; HEAD_BYTES];
        assert_eq!(inspect(&head, OWN), Contents::Blank);
        head[HEAD_BYTES - 1] = 1;
        assert_eq!(inspect(&head, OWN), Contents::Unknown);
        head[..8].copy_from_slice(OWN);
        assert_eq!(inspect(&head, OWN), Contents::Own);
    }

    #[test]
    fn uberblocks_of_either_byte_order_are_a_zfs_pool() {
        for magic in [0x00ba_b10c_u64.to_le_bytes(), 0x00ba_b10c_u64.to_be_bytes()] {
            let mut head = vec![0; HEAD_BYTES];
            head[(132 << 10)..][..8].copy_from_slice(&magic);
            assert_eq!(inspect(&head, OWN), Contents::Foreign(Signature::Zfs));
        }
    }

    #[test]
    fn a_device_shorter_than_the_head_is_no_panic() {
        for len in [0, 1, 511, 600, 4096, 200_000] {
            inspect(&vec![7; len], OWN);
        }
    }
}
