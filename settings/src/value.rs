//! The types a field may have, and how each is read, bounded and shown.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde_json::json;

use crate::problem::Wrong;
use crate::secret::{AuthKey, Secret};
use crate::size::ByteSize;
use crate::yaml::{Node, Yaml};

/// A type that a field can have.
pub trait Value: Sized + Clone {
    /// What the documentation calls the type: `size`, `integer`, `auto | true | false`.
    fn type_name() -> String;

    /// Reads it from text: a YAML scalar, an environment variable, a flag.
    ///
    /// # Errors
    /// The bound that the text breaks. It must not hold the text.
    fn from_text(text: &str) -> Result<Self, Wrong>;

    /// Reads it from YAML; a scalar unless the type says otherwise.
    ///
    /// # Errors
    /// As [`Value::from_text`].
    fn from_node(node: &Node) -> Result<Self, Wrong> {
        match &node.value {
            Yaml::Scalar(text) => Self::from_text(text),
            Yaml::Null => {
                let must_be = format!("set ({})", Self::type_name());
                Err(Wrong::new(must_be, "give it a value or remove the line"))
            }
            Yaml::Sequence(_) | Yaml::Mapping(_) => Err(Wrong::new(
                format!("a single value ({})", Self::type_name()),
                "",
            )),
        }
    }

    /// How tables show it; for a secret only that it is set.
    fn show(&self) -> String;

    /// How YAML writes it.
    fn to_yaml(&self) -> String {
        self.show()
    }

    /// How JSON shows it.
    fn to_json(&self) -> serde_json::Value {
        json!(self.show())
    }

    /// Whether its text must not appear in messages.
    const SECRET: bool = false;
}

/// A rule for numbers: `range(value, 0, 7, "what to do")`.
///
/// # Errors
/// When `value` lies outside `low..=high`.
pub fn range<T: PartialOrd + std::fmt::Display>(
    value: &T,
    low: T,
    high: T,
    remedy: &str,
) -> Result<(), Wrong> {
    if *value >= low && *value <= high {
        Ok(())
    } else {
        Err(Wrong::new(format!("{low} to {high}"), remedy))
    }
}

/// A closed set of words. Implement it for an enum and it is a [`Value`].
pub trait Choice: Sized + Copy + PartialEq + 'static {
    /// The words and what they stand for, in the order in which messages list them.
    ///
    /// A value may have several words: the first is its name, the others are taken silently.
    const CHOICES: &'static [(&'static str, Self)];

    /// The name of each value.
    fn names() -> impl Iterator<Item = &'static str> {
        let first = |value: &Self| Self::CHOICES.iter().find(|(_, other)| other == value);
        let is_name = move |(name, value): &&(&'static str, Self)| {
            first(value).is_some_and(|(own, _)| own == name)
        };
        Self::CHOICES.iter().filter(is_name).map(|(name, _)| *name)
    }
}

impl<T: Choice> Value for T {
    fn type_name() -> String {
        T::names().collect::<Vec<_>>().join(" | ")
    }

    fn from_text(text: &str) -> Result<Self, Wrong> {
        let found = T::CHOICES.iter().find(|(name, _)| *name == text);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let remedy =
                crate::nearest(text, T::names()).map(|name| format!("did you mean {name}?"));
            Wrong::new(Self::type_name(), remedy.unwrap_or_default())
        })
    }

    fn show(&self) -> String {
        let found = T::CHOICES.iter().find(|(_, value)| value == self);
        found.map_or("?", |(name, _)| name).to_owned()
    }
}

impl Choice for bool {
    const CHOICES: &'static [(&'static str, Self)] = &[("true", true), ("false", false)];
}

macro_rules! unsigned {
    ($($ty:ty),*) => {$(
        impl Value for $ty {
            fn type_name() -> String {
                "integer".to_owned()
            }

            fn from_text(text: &str) -> Result<Self, Wrong> {
                let number = match text.strip_prefix("0x") {
                    Some(digits) if !digits.starts_with('+') => <$ty>::from_str_radix(digits, 16).ok(),
                    Some(_) => None,
                    None => text.parse::<$ty>().ok().filter(|_| !text.starts_with('+')),
                };
                let bound = || Wrong::new(format!("a whole number from 0 to {}", <$ty>::MAX), "");
                number.ok_or_else(bound)
            }

            fn show(&self) -> String {
                self.to_string()
            }

            fn to_json(&self) -> serde_json::Value {
                json!(self)
            }
        }
    )*};
}
unsigned!(u8, u16, u32, u64, usize);

impl Value for f64 {
    fn type_name() -> String {
        "number".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Wrong> {
        let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
        number.ok_or_else(|| Wrong::new("a number such as 0.01", ""))
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn to_json(&self) -> serde_json::Value {
        json!(self)
    }
}

impl Value for ByteSize {
    fn type_name() -> String {
        "size".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Wrong> {
        ByteSize::parse(text).ok_or_else(|| {
            Wrong::new(
                "a size",
                "write bytes or a number with B, KiB, KB, MiB, MB, GiB, GB, TiB, TB",
            )
        })
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for String {
    fn type_name() -> String {
        "text".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Wrong> {
        if text.is_empty() || text.contains('\0') {
            return Err(Wrong::new("text of at least one character", ""));
        }
        Ok(text.to_owned())
    }

    fn show(&self) -> String {
        self.clone()
    }

    fn to_yaml(&self) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
        // A colon is plain text only where something of the same word follows it.
        let mut parts = self.split(':').peekable();
        let mut words = !matches!(self.as_str(), "null" | "Null" | "NULL");
        while let Some(part) = parts.next() {
            words &= !part.is_empty() && part.chars().all(plain);
            words &= parts.peek().is_some() || part.len() < self.len() || !self.contains(':');
        }
        if words && self.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/') {
            self.clone()
        } else {
            // JSON strings are YAML double-quoted scalars.
            json!(self).to_string()
        }
    }
}

impl Value for PathBuf {
    fn type_name() -> String {
        "path".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Wrong> {
        if text.is_empty() || text.contains('\0') {
            return Err(Wrong::new("a path", "or remove the line"));
        }
        Ok(Self::from(text))
    }

    fn show(&self) -> String {
        self.display().to_string()
    }

    fn to_yaml(&self) -> String {
        self.display().to_string().to_yaml()
    }
}

impl Value for SocketAddr {
    fn type_name() -> String {
        "ip:port".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Wrong> {
        text.parse().map_err(|_| {
            Wrong::new(
                "ip:port",
                "write for example 0.0.0.0:9900, 127.0.0.1:9900 or, with quotes, \"[::]:9900\"",
            )
        })
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for IpAddr {
    fn type_name() -> String {
        "ip".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Wrong> {
        text.parse()
            .map_err(|_| Wrong::new("an IP address", "write for example 192.168.1.10"))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for AuthKey {
    const SECRET: bool = true;

    fn type_name() -> String {
        "64 hex digits".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Wrong> {
        AuthKey::from_hex(text).ok_or_else(|| {
            let found = match text.chars().count() {
                64 => "a character that is no hexadecimal digit".to_owned(),
                n => format!("{n} characters"),
            };
            let remedy = format!("it has {found}; make one with: openssl rand -hex 32");
            Wrong::new("64 hexadecimal digits (32 bytes)", remedy)
        })
    }

    fn show(&self) -> String {
        "(set, not shown)".to_owned()
    }
}

impl Value for Secret {
    const SECRET: bool = true;

    fn type_name() -> String {
        "text".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Wrong> {
        if text.is_empty() {
            return Err(Wrong::new("text of at least one character", ""));
        }
        Ok(Secret::new(text))
    }

    fn show(&self) -> String {
        "(set, not shown)".to_owned()
    }
}

impl<T: Value> Value for Option<T> {
    const SECRET: bool = T::SECRET;

    fn type_name() -> String {
        T::type_name()
    }

    fn from_text(text: &str) -> Result<Self, Wrong> {
        // An empty item of a list in a variable stands for YAML's `~`.
        if text.is_empty() {
            Ok(None)
        } else {
            T::from_text(text).map(Some)
        }
    }

    fn from_node(node: &Node) -> Result<Self, Wrong> {
        match node.value {
            Yaml::Null => Ok(None),
            _ => T::from_node(node).map(Some),
        }
    }

    fn show(&self) -> String {
        self.as_ref().map_or_else(|| "-".to_owned(), T::show)
    }

    fn to_yaml(&self) -> String {
        self.as_ref().map_or_else(|| "~".to_owned(), T::to_yaml)
    }

    fn to_json(&self) -> serde_json::Value {
        self.as_ref().map_or(serde_json::Value::Null, T::to_json)
    }
}

/// A list: a YAML sequence, or in a variable a comma-separated text.
impl<T: Value> Value for Vec<T> {
    const SECRET: bool = T::SECRET;

    fn type_name() -> String {
        format!("list of {}", T::type_name())
    }

    fn from_text(text: &str) -> Result<Self, Wrong> {
        let items = text.split(',').map(str::trim).enumerate();
        items
            .map(|(idx, item)| {
                let shown = (!T::SECRET).then(|| item.to_owned());
                T::from_text(item).map_err(|wrong| Wrong {
                    item: Some((idx, None, shown)),
                    ..wrong
                })
            })
            .collect()
    }

    fn from_node(node: &Node) -> Result<Self, Wrong> {
        let Yaml::Sequence(items) = &node.value else {
            return Err(Wrong::new(
                Self::type_name(),
                "write one item per line, each after `- `",
            ));
        };
        let read = |(idx, item): (usize, &Node)| {
            T::from_node(item).map_err(|wrong| {
                let shown = if T::SECRET { None } else { Some(item.shown()) };
                Wrong {
                    item: Some((idx, Some(item.at), shown)),
                    ..wrong
                }
            })
        };
        items.iter().enumerate().map(read).collect()
    }

    fn show(&self) -> String {
        self.iter().map(T::show).collect::<Vec<_>>().join(", ")
    }

    fn to_yaml(&self) -> String {
        format!(
            "[{}]",
            self.iter().map(T::to_yaml).collect::<Vec<_>>().join(", ")
        )
    }

    fn to_json(&self) -> serde_json::Value {
        self.iter().map(T::to_json).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_digits_or_hexadecimal_and_finite() {
        for (text, expected) in [("0", 0), ("255", 255), ("0xff", 255), ("0x0A", 10)] {
            assert_eq!(u8::from_text(text), Ok(expected), "{text}");
        }
        for text in [
            "", "256", "-1", "+1", "0x", "0x+1", "0x100", "1.0", "1e1", " 1", "1_0",
        ] {
            assert!(u8::from_text(text).is_err(), "{text}");
        }
        for text in ["0.01", "-1", "1e-3"] {
            assert!(f64::from_text(text).is_ok(), "{text}");
        }
        for text in ["", "inf", "-inf", "NaN", "1e999", "0,5"] {
            assert!(f64::from_text(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_range_has_both_its_ends() {
        for (number, is_inside) in [(0, false), (1, true), (7, true), (8, false)] {
            assert_eq!(range(&number, 1, 7, "").is_ok(), is_inside, "{number}");
        }
    }
}
