//! The watch: answers for fillers that are stuck in the kernel, so that nothing waits for a silent device.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::Receiver;

use super::volume_files::VolumeFiles;
use crate::store::config::Clock;
use crate::store::roster::Roster;
use crate::store::writer::{Appended, Rejection};

/// How late an answer can be, beyond the deadline.
const INTERVAL: Duration = Duration::from_millis(500);

/// Looks at the queues of `volumes` until `stop` is closed.
pub fn watch(volumes: &Roster<Arc<VolumeFiles>>, deadline: Duration, clock: &Clock, stop: &Receiver<()>) {
    while stop.recv_timeout(INTERVAL).is_err_and(|error| error.is_timeout()) {
        for volume in volumes.iter() {
            answer_overdue(volume, deadline, clock);
        }
    }
}

fn answer_overdue(volume: &VolumeFiles, deadline: Duration, clock: &Clock) {
    let now = clock();
    for queue in &volume.queues {
        let (late, is_stuck) = queue.overdue(now, deadline);
        if is_stuck {
            volume.volume.device_failed("filling a file", &io::ErrorKind::TimedOut.into(), now);
        }
        // The filler has counted down for the one that it works on.
        volume.volume.figures.appends_queued.sub(late.len() as u64 - u64::from(is_stuck));
        for answer in late {
            let appended = Appended::Rejected(Rejection::Failed);
            volume.count(appended);
            answer.give(appended);
        }
    }
}
