//! Decoders of what others may have written: the corpus of the fuzzers, stores of earlier formats, recorded traces.

#![allow(clippy::unwrap_used, reason = "a test may panic, and says where")]

mod corpus;
mod fixtures;
mod format;
mod seeds;
mod traces;
