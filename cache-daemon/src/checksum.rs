//! CRC-32C (Castagnoli; RFC 3720, appendix B.4), the checksum of everything that is written to disk.
//!
//! It finds what disks do to data: every burst of up to 32 bits, and all but one in four billion of larger damage. By
//! carry-less multiplication where the CPU has it, by its CRC instruction otherwise, by tables at worst: the sums are the same.

use crc_fast::{CrcAlgorithm, Digest};

/// The checksum of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// The checksum of what has the checksum `crc`, followed by `bytes`.
pub fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!crc));
    digest.update(bytes);
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sums_are_those_of_the_standard() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b""), 0);
    }

    proptest! {
        /// Of every length that an implementation has a loop of its own for.
        #[test]
        fn sums_are_those_of_another_implementation_and_of_the_parts(
            bytes in proptest::collection::vec(any::<u8>(), 0..5_000), at in 0.0..1.0, align in 0_usize..64,
        ) {
            let bytes = &bytes[align.min(bytes.len())..];
            let sum = ::crc32c::crc32c(bytes);
            prop_assert_eq!(crc32c(bytes), sum);
            let (head, tail) = bytes.split_at((bytes.len() as f64 * at) as usize);
            prop_assert_eq!(crc32c_append(crc32c(head), tail), sum);
        }
    }
}
