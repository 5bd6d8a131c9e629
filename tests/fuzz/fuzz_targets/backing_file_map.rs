#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cache_daemon::fuzzing::backing_file_map(bytes));
