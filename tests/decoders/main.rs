//! Decoders of what others may have written: the corpus of the fuzzers, and stores of earlier formats.

#![allow(clippy::unwrap_used, reason = "a test may panic, and says where")]

mod corpus;
mod fixtures;
mod format;
mod seeds;
