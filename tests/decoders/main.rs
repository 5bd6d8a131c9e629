//! Decoders of what others may have written: the corpus of the fuzzers, and stores of earlier formats.

#![allow(clippy::unwrap_used, reason = "tests")]

mod corpus;
mod fixtures;
mod format;
mod seeds;
