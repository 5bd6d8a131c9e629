//! What history costs, to be looked at: `cargo test --release -p cache-daemon access::measure -- --ignored --nocapture`.

use std::sync::Arc;
use std::time::Instant;

use super::workload::{Set, shuffled};
use super::{History, Touch};

#[test]
#[ignore = "prints a measurement"]
fn an_event_and_an_object_cost() {
    let set = Set { files: 1_000_000, classes: 1_000, ..Set::default() };
    let table = Arc::new(set.table());
    let touches: Vec<Touch> = (0..2).flat_map(|epoch| shuffled(&set, 1, epoch)).collect();
    let mut history = History::new(table);
    let began = Instant::now();
    touches.iter().for_each(|touch| history.touch(touch));
    let each_ns = began.elapsed().as_nanos() as f64 / touches.len() as f64;
    let bytes = history.memory_bytes() as f64 / f64::from(set.files);
    println!("{each_ns:.0} ns an event, {bytes:.1} bytes an object");
    assert!(bytes < 24.0, "{bytes} bytes an object");
}
