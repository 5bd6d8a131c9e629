//! `guest-init`: PID 1 of a guest of `cargo xtask vm-test`. Does nothing anywhere else.

use std::path::Path;
use std::process::ExitCode;

use epochcache_tests::guest::{machine, protocol, run};

fn main() -> ExitCode {
    let worker = std::env::args().nth(1).is_some_and(|argument| argument == machine::WORK);
    if worker {
        return match run::work() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("guest-init: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    if std::process::id() != 1 {
        eprintln!("guest-init: runs in the guests of `cargo xtask vm-test` only");
        return ExitCode::from(2);
    }
    machine::be_init(&Path::new(protocol::PROGRAMS).join("guest-init"))
}
