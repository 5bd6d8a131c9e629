//! Depth: how many requests in flight fill the link.
//!
//! By Little's law a link that delivers `r` objects a second, each `l` after it was asked for, has `r x l` requests in
//! flight. More than that only wait in a queue, and readers wait behind them. So, as in BBR (Cardwell et al. 2016):
//! `r` is the highest rate of late, `l` the lowest latency, and the depth twice their product. While the link is not full,
//! twice as many requests deliver twice as much, and the depth doubles; once it is, the rate stands still, and so
//! does the depth.
//!
//! The lowest latency can only be seen without a queue: every ten seconds the depth is halved for a moment to look.
//!
//! An origin that refuses (503, 429, timeouts) for more than 2 % of the requests lowers a ceiling by a third;
//! success raises it again. Fewer are an origin's ordinary bad luck.

/// Fetches that ended since the last look, whoever wanted them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sample {
    /// How many succeeded.
    pub fetched: u32,
    /// Their latencies, together.
    pub latency_us: u64,
    /// Attempts that were refused, or timed out.
    pub refused: u32,
}

/// The depth at the beginning: what a training job's own workers would keep in flight.
const FIRST: f64 = 8.0;
const LEAST: f64 = 2.0;
const GAIN: f64 = 2.0;

/// Windows whose highest rate counts.
const RATES: usize = 10;

/// A window lasts a latency, and at least so long.
const WINDOW_NS: u64 = 20_000_000;

/// A lowest latency that is older is looked for again.
const LOW_AGE_NS: u64 = 10_000_000_000;

/// The depth.
#[derive(Debug)]
pub struct Depth {
    max: f64,
    ceiling: f64,
    /// Objects a second, of the last windows.
    rates: [f64; RATES],
    next_rate: usize,
    low: Option<Low>,
    /// While the depth is halved: until when, and the lowest since.
    looking: Option<(u64, Option<f64>)>,
    window: Window,
}

/// The lowest latency, and when it was seen.
#[derive(Clone, Copy, Debug)]
struct Low {
    us: f64,
    at_ns: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    began_ns: u64,
    sample: Sample,
    /// The depth was used up at every look.
    is_full: bool,
}

impl Depth {
    /// At most `max` requests.
    pub fn new(max: u32) -> Self {
        let max = f64::from(max).max(LEAST);
        Self {
            max,
            ceiling: max,
            rates: [0.0; RATES],
            next_rate: 0,
            low: None,
            looking: None,
            window: Window::default(),
        }
    }

    /// Requests that should be in flight.
    pub fn get(&self) -> u32 {
        let wanted = match self.low {
            Some(low) if self.per_s() > 0.0 => GAIN * self.per_s() * low.us / 1e6 + 4.0,
            _ => FIRST,
        };
        let wanted = if self.looking.is_some() { wanted / GAIN } else { wanted };
        wanted.clamp(LEAST, self.ceiling.min(self.max)) as u32
    }

    /// Objects a second that the link has delivered of late.
    pub fn per_s(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    /// Takes what ended since the last look; `in_flight` requests are under way or wait for their turn.
    pub fn observe(&mut self, now_ns: u64, sample: &Sample, in_flight: u32) {
        let depth = self.get();
        let window = &mut self.window;
        window.sample.fetched += sample.fetched;
        window.sample.latency_us += sample.latency_us;
        window.sample.refused += sample.refused;
        window.is_full &= in_flight >= depth;
        let least_ns = self.low.map_or(0.0, |low| low.us * 1e3) as u64;
        let lasted_ns = now_ns.saturating_sub(window.began_ns);
        if lasted_ns >= least_ns.max(WINDOW_NS) {
            let closed = std::mem::replace(
                &mut self.window,
                Window { began_ns: now_ns, sample: Sample::default(), is_full: true },
            );
            self.close(now_ns, lasted_ns, &closed);
        }
    }

    fn close(&mut self, now_ns: u64, lasted_ns: u64, window: &Window) {
        let Sample { fetched, latency_us, refused } = window.sample;
        self.refuse(fetched, refused);
        if fetched == 0 {
            return;
        }
        let rate = f64::from(fetched) * 1e9 / lasted_ns as f64;
        // A link that was not kept full says only that it can do so much.
        if window.is_full && self.looking.is_none() || rate > self.per_s() {
            self.rates[self.next_rate] = rate;
            self.next_rate = (self.next_rate + 1) % RATES;
        }
        self.look(now_ns, latency_us as f64 / f64::from(fetched));
    }

    fn refuse(&mut self, fetched: u32, refused: u32) {
        if refused >= 2 && f64::from(refused) > 0.02 * f64::from(fetched + refused) {
            self.ceiling = (f64::from(self.get()) * 0.67).max(LEAST);
        } else if fetched > 0 {
            self.ceiling = (self.ceiling * 1.05 + 0.5).min(self.max);
        }
    }

    /// Keeps the lowest latency, and looks for it anew from time to time.
    fn look(&mut self, now_ns: u64, us: f64) {
        if let Some((until_ns, lowest)) = &mut self.looking {
            *lowest = Some(lowest.map_or(us, |lowest| lowest.min(us)));
            if now_ns >= *until_ns {
                self.low = lowest.map(|us| Low { us, at_ns: now_ns });
                self.looking = None;
            }
            return;
        }
        match self.low {
            Some(low) if us > low.us => {
                if now_ns.saturating_sub(low.at_ns) > LOW_AGE_NS {
                    // Twice the latency with the queue, which has to drain first.
                    self.looking = Some((now_ns + (2e3 * us) as u64 + WINDOW_NS, None));
                }
            }
            _ => self.low = Some(Low { us, at_ns: now_ns }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link that delivers `per_s` objects a second, each `latency_us` after it was asked for or later.
    struct Link {
        per_s: f64,
        latency_us: f64,
        /// When each request in flight was asked for and will be answered, us.
        in_flight: Vec<(f64, f64)>,
        free_us: f64,
    }

    impl Link {
        fn new(per_s: f64, latency_us: f64) -> Self {
            Self { per_s, latency_us, in_flight: Vec::new(), free_us: 0.0 }
        }

        /// Keeps `depth` requests in flight for `step_us` from `now_us` on; what was delivered.
        fn run(&mut self, now_us: f64, step_us: f64, depth: u32) -> Sample {
            let mut sample = Sample::default();
            let (mut at, end) = (now_us, now_us + step_us);
            loop {
                while self.in_flight.len() < depth as usize {
                    self.free_us = (at + self.latency_us).max(self.free_us) + 1e6 / self.per_s;
                    self.in_flight.push((at, self.free_us));
                }
                let Some(first) = self.in_flight.iter().map(|request| request.1).reduce(f64::min) else {
                    break;
                };
                if first > end {
                    break;
                }
                at = first.max(at);
                self.in_flight.retain(|&(asked, answered)| {
                    if answered <= at {
                        sample.fetched += 1;
                        sample.latency_us += (answered - asked) as u64;
                    }
                    answered > at
                });
            }
            sample
        }
    }

    /// Drives a depth over `link` for `seconds`; objects delivered in the last of them, and the depth at the end.
    fn drive(depth: &mut Depth, link: &mut Link, from_s: f64, seconds: f64) -> (f64, u32) {
        let mut last = 0;
        let steps = (seconds / 0.02) as u64;
        for step in 0..steps {
            let now_us = from_s * 1e6 + step as f64 * 20_000.0;
            let sample = link.run(now_us, 20_000.0, depth.get());
            if step + 50 >= steps {
                last += sample.fetched;
            }
            depth.observe(((now_us + 20_000.0) * 1e3) as u64, &sample, depth.get());
        }
        (f64::from(last), depth.get())
    }

    #[test]
    fn the_link_is_full_within_two_seconds_and_the_queue_is_short() {
        for (per_s, latency_us) in
            [(1_136.0, 20_000.0), (1_136.0, 100_000.0), (5_000.0, 5_000.0), (30.0, 20_000.0)]
        {
            let mut depth = Depth::new(192);
            let (delivered, _) = drive(&mut depth, &mut Link::new(per_s, latency_us), 0.0, 2.0);
            assert!(delivered > 0.95 * per_s, "{delivered} of {per_s} at {latency_us} us");
            let needed = per_s * latency_us / 1e6;
            assert!(f64::from(depth.get()) < 3.5 * needed + 10.0, "{} of {needed}", depth.get());
        }
    }

    #[test]
    fn it_follows_a_link_that_changes_over_a_minute() {
        let mut depth = Depth::new(1_000);
        let mut link = Link::new(1_136.0, 20_000.0);
        drive(&mut depth, &mut link, 0.0, 60.0);
        assert!(depth.get() < 100, "{}", depth.get());
        link.latency_us = 120_000.0;
        let (delivered, _) = drive(&mut depth, &mut link, 60.0, 40.0);
        assert!(delivered > 0.9 * 1_136.0, "{delivered}");
    }

    #[test]
    fn an_origin_that_refuses_is_asked_less_until_it_does_not() {
        let mut depth = Depth::new(192);
        let mut link = Link::new(5_000.0, 20_000.0);
        drive(&mut depth, &mut link, 0.0, 2.0);
        let before = depth.get();
        let mut now_ns = 2_000_000_000;
        for _ in 0..10 {
            now_ns += 40_000_000;
            depth.observe(now_ns, &Sample { fetched: 90, latency_us: 1_800_000, refused: 10 }, 192);
        }
        assert!(depth.get() < before / 5, "{} of {before}", depth.get());
        drive(&mut depth, &mut link, 3.0, 5.0);
        assert!(depth.get() > before * 8 / 10, "{} of {before}", depth.get());
        for _ in 0..100 {
            now_ns += 40_000_000;
            depth.observe(now_ns, &Sample { fetched: 199, latency_us: 3_980_000, refused: 1 }, 192);
        }
        assert!(depth.get() > before / 2, "one in two hundred is bad luck: {}", depth.get());
    }
}
