//! Durations and sizes with units: `25s`, `64KiB`.
//!
//! Owns the units. Must never check a range; settings do.

use std::time::Duration;

/// 1024 bytes.
pub(in crate::config) const KIB: usize = 1024;
/// 1024 KiB.
pub(in crate::config) const MIB: usize = 1024 * KIB;
/// 1024 MiB.
pub(in crate::config) const GIB: usize = 1024 * MIB;
/// 1024 GiB.
pub(in crate::config) const TIB: usize = 1024 * GIB;

/// Largest unit first: formatting uses the largest unit that divides the value.
const DURATIONS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const SIZES: [(&str, u64); 5] =
    [("TiB", TIB as u64), ("GiB", GIB as u64), ("MiB", MIB as u64), ("KiB", KIB as u64), ("B", 1)];

/// Parses `100ms`, `25s`, `5m` or `1h`; `None` if it is not a duration.
pub fn duration(text: &str) -> Option<Duration> {
    scaled(text, &DURATIONS).map(Duration::from_millis)
}

/// Parses `512B`, `64KiB`, `1MiB`, `2GiB` or `1TiB`; `None` if it is not a size.
pub fn size(text: &str) -> Option<usize> {
    scaled(text, &SIZES).and_then(|bytes| usize::try_from(bytes).ok())
}

/// Formats a duration as [`duration`] parses it.
pub(in crate::config) fn format_duration(duration: Duration) -> String {
    format_value(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &DURATIONS)
}

/// Formats a size as [`size`] parses it.
pub(in crate::config) fn format_size(bytes: usize) -> String {
    format_value(bytes as u64, &SIZES)
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn format_value(value: u64, units: &[(&str, u64)]) -> String {
    let exact = |(_, factor): &&(&str, u64)| value >= *factor && value.is_multiple_of(*factor);
    let (name, factor) = units.iter().find(exact).copied().unwrap_or(("s", 1));
    format!("{}{name}", value / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed_and_formatted() {
        for (text, millis) in
            [("100ms", 100), ("25s", 25_000), ("5m", 300_000), ("1h", 3_600_000), ("1500ms", 1500)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
            assert_eq!(format_duration(Duration::from_millis(millis)), text);
        }
        assert_eq!(duration("0s"), Some(Duration::ZERO));
    }

    #[test]
    fn sizes_are_parsed_and_formatted() {
        for (text, bytes) in [
            ("512B", 512),
            ("64KiB", 65_536),
            ("1MiB", 1_048_576),
            ("3GiB", 3 << 30),
            ("2TiB", 2 << 40),
            ("1025B", 1025),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
            assert_eq!(format_size(bytes), text);
        }
    }

    #[test]
    fn rejects_other_texts() {
        for text in [
            "",
            "s",
            "10",
            "-1s",
            "1.5s",
            "1 d",
            "1S",
            "10sec",
            "99999999999999999999s",
            "18446744073709551615h",
            "१s",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
        for text in
            ["", "KiB", "64KB", "64k", "-1B", "1.5MiB", "99999999999999999999B", "18446744073709551615GiB"]
        {
            assert_eq!(size(text), None, "{text}");
        }
    }
}
