//! What time means in a simulation: three limits of the origin, and readers that compute between files.
//!
//! A fluid model, worked out an epoch at a time. The origin needs, for what an epoch fetches,
//!
//!     by latency     sum of (latency + size / bandwidth) / GETs in flight
//!     by bandwidth   bytes / bandwidth
//!     by requests    requests / requests a second
//!
//! and the readers compute for files / (what they read a second when nothing is slow). Where nothing is read ahead,
//! GETs are in flight only while readers wait: their number is that of the readers, and an epoch takes the larger of
//! (computing + by latency), by bandwidth and by requests. Where something reads ahead, it takes the largest of the
//! four. What it takes beyond computing is the time that readers wait. Hits cost nothing.

/// The origin and the readers.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Model {
    /// To the first byte of an answer.
    pub latency_s: f64,
    /// Of the link.
    pub bandwidth_bytes_per_s: f64,
    /// GETs a second that the origin allows; infinite if it allows any number.
    pub requests_per_s: f64,
    /// Files a second that all readers together read when nothing is slow; infinite if they do nothing else.
    pub files_per_s: f64,
    /// Readers of this node.
    pub readers: u32,
    /// GETs in flight if something reads ahead; readers fetch for themselves otherwise.
    pub ahead: Option<u32>,
}

/// An epoch's time so far.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Clock {
    /// Files that were read.
    files: f64,
    latencies_s: f64,
    bytes: f64,
    requests: f64,
}

impl Clock {
    /// A file was read.
    pub fn read(&mut self) {
        self.files += 1.0;
    }

    /// It had to be fetched.
    pub fn fetched(&mut self, bytes: u64, model: &Model) {
        self.requests += 1.0;
        self.bytes += bytes as f64;
        self.latencies_s += model.latency_s + bytes as f64 / model.bandwidth_bytes_per_s;
    }

    /// What the readers take alone.
    pub fn computing_s(&self, model: &Model) -> f64 {
        self.files / model.files_per_s
    }

    /// What the epoch took so far.
    pub fn elapsed_s(&self, model: &Model) -> f64 {
        let computing_s = self.computing_s(model);
        let in_flight = model.ahead.unwrap_or(model.readers);
        let by_latency_s = self.latencies_s / f64::from(in_flight);
        let waiting_s = match model.ahead {
            Some(_) => by_latency_s.max(computing_s),
            None => by_latency_s + computing_s,
        };
        let by_bandwidth_s = self.bytes / model.bandwidth_bytes_per_s;
        waiting_s.max(by_bandwidth_s).max(self.requests / model.requests_per_s)
    }

    /// How long the readers waited.
    pub fn waited_s(&self, model: &Model) -> f64 {
        self.elapsed_s(model) - self.computing_s(model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: Model = Model {
        latency_s: 0.02,
        bandwidth_bytes_per_s: 125e6,
        requests_per_s: f64::INFINITY,
        files_per_s: f64::INFINITY,
        readers: 8,
        ahead: None,
    };

    fn cold(model: &Model) -> Clock {
        let mut clock = Clock::default();
        for _ in 0..1000 {
            clock.read();
            clock.fetched(112_640, model);
        }
        clock
    }

    #[test]
    fn eight_blocking_readers_use_a_third_of_a_link_that_reading_ahead_fills() {
        let link_s = 1000.0 * 112_640.0 / 125e6;
        let blocking_s = cold(&MODEL).elapsed_s(&MODEL);
        assert!((link_s / blocking_s - 0.345).abs() < 0.001, "{}", link_s / blocking_s);
        let ahead = Model { ahead: Some(64), ..MODEL };
        assert!((cold(&ahead).elapsed_s(&ahead) - link_s).abs() < 1e-9);
        // At 80 % of the link's rate nobody waits.
        let paced = Model { files_per_s: 0.8 * 1000.0 / link_s, ..ahead };
        assert_eq!(cold(&paced).waited_s(&paced), 0.0);
    }

    #[test]
    fn requests_a_second_are_a_limit_too() {
        let model = Model { requests_per_s: 100.0, ahead: Some(64), ..MODEL };
        assert_eq!(cold(&model).elapsed_s(&model), 10.0);
    }
}
