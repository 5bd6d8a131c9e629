//! Decoders of what others may have written: the corpus of the fuzzers, and stores of earlier formats.

mod corpus;
mod fixtures;
mod format;
mod seeds;
