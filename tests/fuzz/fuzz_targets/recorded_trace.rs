#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cache_daemon::fuzzing::recorded_trace(bytes));
