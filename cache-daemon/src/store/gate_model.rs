//! The gate as it is, over loom's atomics: every interleaving that the memory model allows.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

mod sync {
    pub(super) use loom::sync::atomic::{AtomicU32, Ordering, fence};
}

#[path = "gate.rs"]
#[expect(clippy::duplicate_mod, reason = "the same code over other atomics is the point")]
mod gate;

#[test]
fn nobody_is_inside_when_a_segment_is_used_again() {
    loom::model(|| {
        let gate = Arc::new(gate::Gate::new());
        // The segment's bytes: loom reports a read that overlaps the write.
        let bytes = Arc::new(UnsafeCell::new(1));
        gate.open(1);
        // One reader: two say the same and take a minute.
        let reader = thread::spawn({
            let (gate, bytes) = (gate.clone(), bytes.clone());
            move || {
                if gate.enter(1) {
                    // SAFETY: what the model is there to show.
                    bytes.with(|bytes| assert_eq!(unsafe { *bytes }, 1));
                    gate.leave();
                }
            }
        });
        gate.close();
        if gate.is_empty() {
            // SAFETY: what the model is there to show.
            bytes.with_mut(|bytes| unsafe { *bytes = 2 });
            gate.open(2);
        }
        reader.join().unwrap();
        assert!(gate.generation() != 1);
    });
}
