//! The queue in front of a filler, and the answers that are owed for what is in it.
//!
//! Fillers block in system calls, which a silent device can hold for minutes. So the answer to the append
//! that is being worked on stays here too: when the deadline is over, whoever watches takes it and says
//! that the device failed, and the filler finds nobody to answer. Nothing waits for a silent device.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::file::BackingFile;
use crate::object::ExtentKey;
use crate::store::answer::AppendAnswer;
use crate::store::writer::SyncFailed;

/// Is told how a sync of files ended.
pub type Synced = Box<dyn FnOnce(Result<(), SyncFailed>) + Send>;

/// A chunk to be stored in the file of its object.
pub struct Append {
    /// Which chunk.
    pub key: ExtentKey,
    /// The length of its object.
    pub object_bytes: u64,
    /// The chunk's bytes.
    pub data: Bytes,
    /// When it was asked for.
    pub asked: Instant,
}

/// What may wait in a queue.
#[derive(Clone, Copy, Debug)]
pub struct QueueMax {
    /// Jobs.
    pub jobs: usize,
    /// Bytes of data in them: memory.
    pub bytes: u64,
}

/// What is to be done next.
pub enum Next {
    /// Remove files that do not count any more.
    Remove(Vec<Arc<BackingFile>>),
    /// Store a chunk; then [`Queue::take_answer`].
    Append(Append),
    /// Make durable what was stored, and tell.
    Sync(Synced),
    /// Nothing was asked for in the time given.
    Idle,
    /// Nothing will be asked for any more.
    Closed,
}

/// See the head of the module.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Of data in them.
    bytes: u64,
    current: Option<(Instant, AppendAnswer)>,
    gone: Vec<Arc<BackingFile>>,
    is_closed: bool,
}

enum Job {
    Append(Append, AppendAnswer),
    Sync(Synced),
}

impl Queue {
    /// Asks for a chunk to be stored, unless as much as `most` waits.
    ///
    /// # Errors
    /// Gives the answer back if it is full.
    pub fn append(&self, append: Append, answer: AppendAnswer, most: QueueMax) -> Result<(), AppendAnswer> {
        let mut state = self.state.lock();
        let bytes = state.bytes + append.data.len() as u64;
        if state.jobs.len() >= most.jobs || bytes > most.bytes {
            return Err(answer);
        }
        state.bytes = bytes;
        state.jobs.push_back(Job::Append(append, answer));
        self.changed.notify_one();
        Ok(())
    }

    /// Asks for a sync of what was asked for before.
    pub fn sync(&self, done: Synced) {
        self.state.lock().jobs.push_back(Job::Sync(done));
        self.changed.notify_one();
    }

    /// Asks for the removal of a file that is gone.
    pub fn remove(&self, file: Arc<BackingFile>) {
        self.state.lock().gone.push(file);
        self.changed.notify_one();
    }

    /// Nothing more will be asked for.
    pub fn close(&self) {
        self.state.lock().is_closed = true;
        self.changed.notify_one();
    }

    /// Waits up to `wait` for something to do. Removals come first: their space may be what is wanted, and
    /// their names.
    pub fn next(&self, wait: Duration) -> Next {
        let mut state = self.state.lock();
        if state.gone.is_empty() && state.jobs.is_empty() && !state.is_closed {
            self.changed.wait_for(&mut state, wait);
        }
        if !state.gone.is_empty() {
            return Next::Remove(std::mem::take(&mut state.gone));
        }
        match state.jobs.pop_front() {
            Some(Job::Append(append, answer)) => {
                state.bytes -= append.data.len() as u64;
                state.current = Some((append.asked, answer));
                Next::Append(append)
            }
            Some(Job::Sync(done)) => Next::Sync(done),
            None if state.is_closed => Next::Closed,
            None => Next::Idle,
        }
    }

    /// The answer for the append that was taken last, if it is still owed.
    pub fn take_answer(&self) -> Option<AppendAnswer> {
        self.state.lock().current.take().map(|(_, answer)| answer)
    }

    /// The answers that have been owed for longer than `deadline`, and whether one of them is for what the
    /// filler works on.
    pub fn overdue(&self, now: Instant, deadline: Duration) -> (Vec<AppendAnswer>, bool) {
        let is_late = |asked: &Instant| now.saturating_duration_since(*asked) >= deadline;
        let mut state = self.state.lock();
        let current = state.current.take_if(|(asked, _)| is_late(asked)).map(|(_, answer)| answer);
        let is_stuck = current.is_some();
        let mut late: Vec<_> = current.into_iter().collect();
        let jobs = std::mem::take(&mut state.jobs);
        for job in jobs {
            match job {
                Job::Append(append, answer) if is_late(&append.asked) => {
                    state.bytes -= append.data.len() as u64;
                    late.push(answer);
                }
                job => state.jobs.push_back(job),
            }
        }
        (late, is_stuck)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::object::Fingerprint;
    use crate::store::{Appended, Rejection};

    fn append(asked: Instant) -> (Append, AppendAnswer, mpsc::Receiver<Appended>) {
        let (done, answer) = mpsc::channel();
        let key = ExtentKey { object: Fingerprint([1; 16]), chunk: 0 };
        let append = Append { key, object_bytes: 1, data: Bytes::from_static(b"x"), asked };
        (append, AppendAnswer::to(Box::new(move |appended| done.send(appended).unwrap())), answer)
    }

    #[test]
    fn what_is_owed_too_long_can_be_answered_while_the_filler_is_stuck() {
        let (queue, start) = (Queue::default(), Instant::now());
        let most = QueueMax { jobs: 9, bytes: 2 };
        let (first, answer, told_first) = append(start);
        assert!(queue.append(first, answer, most).is_ok());
        let (second, answer, told_second) = append(start + Duration::from_secs(5));
        assert!(queue.append(second, answer, most).is_ok());
        let (third, answer, _told) = append(start);
        assert!(queue.append(third, answer, most).is_err(), "the queue is bounded");
        assert!(matches!(queue.next(Duration::ZERO), Next::Append(_)));
        let deadline = Duration::from_secs(10);
        assert!(queue.overdue(start + Duration::from_secs(9), deadline).0.is_empty());
        let (late, is_stuck) = queue.overdue(start + deadline, deadline);
        assert_eq!((late.len(), is_stuck), (1, true));
        late.into_iter().for_each(|answer| answer.give(Appended::Rejected(Rejection::Failed)));
        assert!(told_first.try_recv().is_ok() && told_second.try_recv().is_err());
        assert!(queue.take_answer().is_none(), "it was answered");
        let (late, is_stuck) = queue.overdue(start + 2 * deadline, deadline);
        assert_eq!((late.len(), is_stuck), (1, false));
    }
}
