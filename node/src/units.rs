//! Quantities as people read them, the same on a terminal and on the dashboard.

/// Bytes with three digits and a decimal unit.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [(u64, &str); 6] = [
        (1_000_000_000_000_000_000, "EB"),
        (1_000_000_000_000_000, "PB"),
        (1_000_000_000_000, "TB"),
        (1_000_000_000, "GB"),
        (1_000_000, "MB"),
        (1_000, "kB"),
    ];
    // What would be rounded to 1000 of a unit is 1.00 of the next.
    match UNITS.into_iter().find(|&(size, _)| bytes >= size - size / 2_000) {
        Some((size, unit)) => {
            let value = bytes as f64 / size as f64;
            let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
            format!("{value:.digits$} {unit}")
        }
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        let shown: Vec<String> =
            [0, 999, 1000, 9_994, 12_345, 999_499, 999_500, 2_345_678, 12_000_000_000, u64::MAX]
                .into_iter()
                .map(bytes)
                .collect();
        let told = [
            "0 B", "999 B", "1.00 kB", "9.99 kB", "12.3 kB", "999 kB", "1.00 MB", "2.35 MB", "12.0 GB",
            "18.4 EB",
        ];
        assert_eq!(shown, told);
    }
}
