//! Text drawings for terminals: bars of a fixed width, sizes in units a person would use.

/// A bar that fills `fraction` (0 to 1, clamped) of `width` columns, in eighths of a column.
///
/// Anything above nothing shows at least the thinnest mark, so that a short stage is not mistaken for an absent one.
pub(crate) fn bar(fraction: f64, width: usize) -> String {
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let fraction = if fraction.is_finite() {
        fraction.clamp(0.0, 1.0)
    } else {
        0.0
    };
    let mut eighths = (fraction * (width * 8) as f64).round() as usize;
    if fraction > 0.0 {
        eighths = eighths.max(1);
    }
    let mut text: String = std::iter::repeat_n('█', eighths / 8).collect();
    if !eighths.is_multiple_of(8) {
        text.push(EIGHTHS[eighths % 8]);
    }
    while text.chars().count() < width {
        text.push(' ');
    }
    text
}

/// Bytes in binary units: `512 B`, `64.0 KiB`, `1.50 GiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be shown as 1024.0 of the smaller unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 10.0 { 2 } else { 1 };
    format!("{value:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_always_as_wide_as_asked() {
        for fraction in [0.0, 0.001, 0.5, 0.999, 1.0, 7.0, f64::NAN] {
            assert_eq!(bar(fraction, 10).chars().count(), 10, "{fraction}");
        }
        assert_eq!(bar(0.5, 4), "██  ");
        assert_eq!(bar(0.0001, 4), "▏   ");
        assert_eq!(bar(0.0, 4), "    ");
    }

    #[test]
    fn units_follow_the_size() {
        let cases: [(u64, &str); 8] = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (65536, "64.0 KiB"),
            ((1 << 20) - 1, "1.00 MiB"),
            (4 << 20, "4.00 MiB"),
            (3 << 29, "1.50 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ];
        for (count, shown) in cases {
            assert_eq!(bytes(count), shown);
        }
    }
}
