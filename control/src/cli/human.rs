//! Times, counts and rates as people read them.

use std::time::Duration;

/// The two largest units: `35s`, `5m12s`, `3h2m`, `4d7h`.
pub(super) fn show_duration(duration: Duration) -> String {
    let s = duration.as_secs();
    let (minutes, hours, days) = (s / 60, s / 3600, s / 86_400);
    let join = |large: u64, unit: char, small: u64, small_unit: char| match small {
        0 => format!("{large}{unit}"),
        _ => format!("{large}{unit}{small}{small_unit}"),
    };
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{s}s"),
        (0, 0, _) => join(minutes, 'm', s % 60, 's'),
        (0, _, _) => join(hours, 'h', minutes % 60, 'm'),
        _ => join(days, 'd', hours % 24, 'h'),
    }
}

/// Three digits and a unit from 10,000 on: `9999`, `92.6k`, `1.20G`.
pub(super) fn show_count(count: u64) -> String {
    if count < 10_000 { count.to_string() } else { scale(count) }
}

/// Bits per second: `10M`, `1.5G`.
pub(super) fn show_rate(bits_per_s: u64) -> String {
    let text = scale(bits_per_s);
    let unit = text.trim_start_matches(|it: char| it.is_ascii_digit() || it == '.');
    let number = &text[..text.len() - unit.len()];
    match number.contains('.') {
        true => format!("{}{unit}", number.trim_end_matches('0').trim_end_matches('.')),
        false => text,
    }
}

fn scale(count: u64) -> String {
    let units = ["", "k", "M", "G", "T", "P", "E"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 999.5 {
        value /= 1000.0;
        unit += 1;
    }
    match (unit, value) {
        (0, _) => count.to_string(),
        (_, ..9.995) => format!("{value:.2}{}", units[unit]),
        (_, ..99.95) => format!("{value:.1}{}", units[unit]),
        _ => format!("{value:.0}{}", units[unit]),
    }
}

/// How full something is, in whole percent, rounded down: 100 means that nothing is left.
pub(super) fn percent(used: u64, limit: u64) -> u64 {
    let percent = u128::from(used) * 100 / u128::from(limit.max(1));
    u64::try_from(percent).unwrap_or(u64::MAX)
}

/// `1 pod`, `3 pods`.
pub(super) fn plural(count: impl Into<u64>, noun: &str) -> String {
    match (count.into(), noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (count, Some(stem)) => format!("{count} {stem}ies"),
        (count, None) => format!("{count} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let durations = [0, 35, 60, 312, 3600, 10_920, 86_400, 370_800];
        let shown = durations.map(|it| show_duration(Duration::from_secs(it)));
        assert_eq!(shown, ["0s", "35s", "1m", "5m12s", "1h", "3h2m", "1d", "4d7h"]);
        let counts = [0, 9999, 10_000, 92_649, 999_499, 999_500, 1_200_000_000, u64::MAX];
        let shown = counts.map(show_count);
        assert_eq!(shown, ["0", "9999", "10.0k", "92.6k", "999k", "1.00M", "1.20G", "18.4E"]);
        let rates = [500, 10_000_000, 1_500_000_000, 100_000];
        assert_eq!(rates.map(show_rate), ["500", "10M", "1.5G", "100k"]);
        assert_eq!([percent(0, 0), percent(799, 1000), percent(5, 5)], [0, 79, 100]);
        let plurals = [plural(1_u32, "pod"), plural(0_u32, "pod"), plural(2_u32, "policy")];
        assert_eq!(plurals, ["1 pod", "0 pods", "2 policies"]);
    }
}
