//! Sizes in bytes, as people write them.

use std::fmt;

/// A number of bytes, read from `4 MiB`, `500MB`, `1024` …
///
/// Units: B, KB MB GB TB (powers of 1000) and KiB MiB GiB TiB (powers of 1024), of either case,
/// with or without a blank; a plain number is bytes. A fraction is taken where it comes to whole
/// bytes (`1.5 GiB`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

impl ByteSize {
    /// `n` × 1024 bytes.
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    /// `n` × 1024² bytes.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// `n` × 1024³ bytes.
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }

    /// The bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Reads a size; `None` where it isn't one or exceeds 64 bits.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let digits = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim_start_matches([' ', '\t']);
        let scale = if unit.is_empty() {
            1
        } else {
            UNITS
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(unit))?
                .1
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || fraction.len() > 9 || (number.contains('.') && fraction.is_empty()) {
            return None;
        }
        let bytes = whole.parse::<u64>().ok()?.checked_mul(scale)?;
        if fraction.is_empty() {
            return Some(Self(bytes));
        }
        let tenths = 10u128.pow(fraction.len() as u32);
        let part = fraction.parse::<u128>().ok()? * u128::from(scale);
        if part % tenths != 0 {
            return None;
        }
        bytes
            .checked_add(u64::try_from(part / tenths).ok()?)
            .map(Self)
    }
}

impl fmt::Display for ByteSize {
    /// The largest binary unit that divides it, else the largest decimal one, else bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS
            .iter()
            .find(|(_, scale)| self.0 >= *scale && self.0.is_multiple_of(*scale));
        match unit {
            Some((name, scale)) => write!(f, "{} {name}", self.0 / scale),
            None => write!(f, "{} B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<u64>) {
        assert_eq!(
            ByteSize::parse(text).map(ByteSize::bytes),
            expected,
            "{text:?}"
        );
    }

    #[test]
    fn every_unit_reads_with_and_without_a_blank() {
        for (unit, scale) in UNITS {
            check(&format!("3 {unit}"), Some(3 * scale));
            check(&format!("3{unit}"), Some(3 * scale));
            check(&format!("3{}", unit.to_lowercase()), Some(3 * scale));
        }
        check("4096", Some(4096));
        check("1.5 GiB", Some(3 << 29));
        check("0.5 KB", Some(500));
        check(" 247 GiB ", Some(247 << 30));
    }

    #[test]
    fn a_unit_is_a_power_of_1000_or_with_an_i_of_1024() {
        for (text, bytes) in [
            ("1 B", 1),
            ("1 KB", 1_000),
            ("1 KiB", 1_024),
            ("1 MB", 1_000_000),
            ("1 MiB", 1_048_576),
            ("1 GB", 1_000_000_000),
            ("1 GiB", 1_073_741_824),
            ("1 TB", 1_000_000_000_000),
            ("1 TiB", 1_099_511_627_776),
        ] {
            check(text, Some(bytes));
        }
    }

    #[test]
    fn what_is_not_a_size_is_refused() {
        for text in [
            "",
            "GiB",
            "-1",
            "1 XB",
            "1..5 GB",
            "1.5",
            "1.",
            ".5 GB",
            "1 GiB 2",
            "0x10",
            "1e3",
            "99999999999999999999",
            "16777216 TiB",
            "1.0000000001 TB",
            "1 G",
            "٣ MB",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn a_shown_size_reads_back_as_itself() {
        for bytes in [
            0,
            1,
            1000,
            1024,
            1500,
            4 << 20,
            5_000_000_000,
            u64::MAX,
            (247 << 30) + 1,
        ] {
            check(&ByteSize(bytes).to_string(), Some(bytes));
        }
        assert_eq!(ByteSize::gib(2048).to_string(), "2 TiB");
    }
}
