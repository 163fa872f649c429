//! Durations and sizes as people write them: `25s`, `64KiB`.
//!
//! Owns units. Must never know which values are sensible: ranges belong to the knobs.

use std::time::Duration;

/// 1024 bytes.
pub(super) const KIB: usize = 1024;
/// 1024 KiB.
pub(super) const MIB: usize = 1024 * KIB;
/// 1024 MiB.
pub(super) const GIB: usize = 1024 * MIB;
/// 1024 GiB.
pub(super) const TIB: usize = 1024 * GIB;

/// Smallest unit last, as both ways of writing prefer the largest that fits.
const DURATIONS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const SIZES: [(&str, u64); 5] =
    [("TiB", TIB as u64), ("GiB", GIB as u64), ("MiB", MIB as u64), ("KiB", KIB as u64), ("B", 1)];

/// Reads `100ms`, `25s`, `5m` or `1h`.
pub fn duration(text: &str) -> Option<Duration> {
    scaled(text, &DURATIONS).map(Duration::from_millis)
}

/// Reads `512B`, `64KiB`, `1MiB`, `2GiB` or `1TiB`.
pub fn size(text: &str) -> Option<usize> {
    scaled(text, &SIZES).and_then(|bytes| usize::try_from(bytes).ok())
}

/// Writes a duration as [`duration`] reads it.
pub(super) fn show_duration(duration: Duration) -> String {
    show(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &DURATIONS)
}

/// Writes a size as [`size`] reads it.
pub(super) fn show_size(bytes: usize) -> String {
    show(bytes as u64, &SIZES)
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn show(value: u64, units: &[(&str, u64)]) -> String {
    let exact = |(_, factor): &&(&str, u64)| value >= *factor && value.is_multiple_of(*factor);
    let (name, factor) = units.iter().find(exact).copied().unwrap_or(("s", 1));
    format!("{}{name}", value / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        for (text, millis) in
            [("100ms", 100), ("25s", 25_000), ("5m", 300_000), ("1h", 3_600_000), ("1500ms", 1500)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
            assert_eq!(show_duration(Duration::from_millis(millis)), text);
        }
        assert_eq!(duration("0s"), Some(Duration::ZERO));
    }

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes) in [
            ("512B", 512),
            ("64KiB", 65_536),
            ("1MiB", 1_048_576),
            ("3GiB", 3 << 30),
            ("2TiB", 2 << 40),
            ("1025B", 1025),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
            assert_eq!(show_size(bytes), text);
        }
    }

    #[test]
    fn anything_else_is_refused() {
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
