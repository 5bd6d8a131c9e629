//! What is going on, on a terminal, for whatever takes longer than two seconds.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Nothing is shown before.
const QUIET: Duration = Duration::from_secs(2);

/// A line on standard error, if that is a terminal.
pub struct Progress {
    bar: ProgressBar,
    since: Instant,
}

impl Default for Progress {
    fn default() -> Self {
        let style =
            ProgressStyle::with_template("{spinner} {msg}, {elapsed}").expect("the template is fixed");
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()).with_style(style);
        Self { bar, since: Instant::now() }
    }
}

impl Progress {
    /// `what` goes on now.
    pub fn say(&mut self, what: &str) {
        if self.bar.is_hidden() && self.since.elapsed() > QUIET {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.bar.enable_steady_tick(Duration::from_millis(200));
        }
        self.bar.set_message(what.to_owned());
    }

    /// Makes room for other lines.
    pub fn clear(&mut self) {
        self.bar.finish_and_clear();
        *self = Self::default();
    }
}
