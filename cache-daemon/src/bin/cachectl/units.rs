//! Numbers for people.

/// `value` of `unit`, with at most four digits that matter.
pub fn human(value: u64, unit: &str) -> String {
    match unit {
        "bytes" => bytes(value as f64),
        "us" => duration(value),
        _ => grouped(value),
    }
}

/// Bytes with a binary prefix: `1.5 GiB`.
pub fn bytes(value: f64) -> String {
    scaled(value, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"])
}

/// A time given in microseconds: `850 us`, `12.3 ms`, `4.20 s`.
pub fn duration(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => scaled(us as f64 / 1e3, 1e3, &["ms"]),
        _ => scaled(us as f64 / 1e6, 1e3, &["s"]),
    }
}

/// Change per second, with its sign: `+12.3/s`; nothing where nothing changed.
pub fn rate(per_s: f64, unit: &str) -> String {
    if per_s == 0.0 {
        return String::new();
    }
    let sign = if per_s < 0.0 { '-' } else { '+' };
    let size = per_s.abs();
    match unit {
        "bytes" => format!("{sign}{}/s", bytes(size)),
        _ if size >= 1e4 => format!("{sign}{}/s", grouped(size as u64)),
        _ => format!("{sign}{size:.1}/s"),
    }
}

/// Seconds as `3d 04:05:06`.
pub fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    let clock = format!("{hours:02}:{minutes:02}:{:02}", seconds % 60);
    if days > 0 { format!("{days}d {clock}") } else { clock }
}

fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let digits = match value {
        _ if value.fract() == 0.0 => 0,
        v if v < 10.0 => 2,
        v if v < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {}", units[unit])
}

/// Digits in groups of three: `1 234 567`.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let first = digits.len() % 3;
    let mut out = digits[..first].to_owned();
    for start in (first..digits.len()).step_by(3) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(&digits[start..start + 3]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_times_and_counts_read_easily() {
        assert_eq!(human(0, "bytes"), "0 B");
        assert_eq!(human(1536, "bytes"), "1.50 KiB");
        assert_eq!(human(500 << 30, "bytes"), "500 GiB");
        assert_eq!(human(u64::MAX, "bytes"), "16384 PiB");
        assert_eq!(human(1_234_567, "reads"), "1 234 567");
        assert_eq!(human(12, "reads"), "12");
        assert_eq!([duration(999), duration(12_345), duration(90_000_000)], ["999 us", "12.3 ms", "90 s"]);
        assert_eq!(uptime(90_061), "1d 01:01:01");
    }

    #[test]
    fn rates_carry_their_sign_and_vanish_at_zero() {
        assert_eq!(rate(0.0, "reads"), "");
        assert_eq!(rate(-2.5, "reads"), "-2.5/s");
        assert_eq!(rate(12_345.0, "reads"), "+12 345/s");
        assert_eq!(rate(1048576.0, "bytes"), "+1 MiB/s");
    }
}
