//! Formats numbers for tables.

/// Formats a number with three significant digits, or with thousands separators.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => {
            let digits = format!("{value:.0}");
            let head = digits.len() % 3;
            let groups = digits.char_indices().map(|(index, digit)| {
                if index > 0 && index % 3 == head { format!(",{digit}") } else { digit.to_string() }
            });
            groups.collect()
        }
        large if large >= 100.0 => format!("{value:.0}"),
        large if large >= 10.0 => format!("{value:.1}"),
        small if small >= 0.1 || small == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_suitable_precision() {
        let shown = [0.0, 0.0123, 4.944, 16.61, 122.2, 1000.0, 12_345.6, 171_661.0].map(number);
        assert_eq!(shown, ["0.00", "0.0123", "4.94", "16.6", "122", "1,000", "12,346", "171,661"]);
    }
}
