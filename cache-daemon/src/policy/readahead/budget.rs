//! The budget of one plan: how much it may add to what is under way.

use super::{Activity, Limits, PLAN_EVERY_S, Prefetch, Situation};

/// Files of a set that are looked at for one plan, and those that the store is asked about: a plan is a few milliseconds.
const LOOKS_MAX: u32 = 16 << 10;
const QUESTIONS_MAX: u32 = 2 << 10;

/// What one plan may add.
#[derive(Debug)]
pub struct Budget {
    commands: u32,
    bytes: u64,
    bytes_max: u64,
    room: u64,
    allowed: u64,
    /// Files that may still be looked at.
    pub looks: u32,
    /// Files that the store may still be asked about.
    pub questions: u32,
}

impl Budget {
    /// What may be added now, `depth` requests being wanted in flight, and the link delivering `per_s` objects a second.
    pub fn new(limits: &Limits, now: &Situation, (depth, per_s): (u32, f64), allowed: u64) -> Self {
        let waiting = (per_s * 2.0 * PLAN_EVERY_S).ceil() as u32 + 1;
        Self {
            commands: (depth + waiting).saturating_sub(now.commands),
            // One object may be larger than all that may wait.
            bytes: match now.commands {
                0 => u64::MAX,
                _ => limits.bytes_max.saturating_sub(now.commands_bytes),
            },
            bytes_max: limits.bytes_max,
            room: now.room_bytes.saturating_sub(now.commands_bytes),
            allowed,
            looks: LOOKS_MAX,
            questions: QUESTIONS_MAX,
        }
    }

    /// Whether nothing more may be looked for.
    pub fn is_spent(&self) -> bool {
        self.commands == 0 || self.looks == 0 || self.questions == 0
    }

    /// Takes `command` from what is left, or says why it cannot be given now.
    pub fn take(&mut self, command: &Prefetch) -> Result<(), Activity> {
        match () {
            () if command.bytes > self.room => return Err(Activity::Full),
            () if command.bytes > self.allowed => return Err(Activity::Capped),
            () if self.commands == 0 || command.bytes > self.bytes => return Err(Activity::Fetching),
            () => {}
        }
        self.commands -= 1;
        self.bytes = self.bytes.min(self.bytes_max).saturating_sub(command.bytes);
        self.room -= command.bytes;
        self.allowed -= command.bytes;
        Ok(())
    }
}
