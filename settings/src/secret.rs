//! Values that must not be shown.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// A shared key of 32 bytes, written as 64 hexadecimal digits; never printed, wiped when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct AuthKey([u8; 32]);

impl AuthKey {
    /// The key of these bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads 64 hexadecimal digits of either case; `None` for anything else.
    pub fn from_hex(text: &str) -> Option<Self> {
        let text = text.as_bytes();
        if text.len() != 64 {
            return None;
        }
        let mut bytes = [0u8; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            let digit = |c: u8| (c as char).to_digit(16);
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Some(Self(bytes))
    }

    /// The raw bytes, for deriving keys.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 digits, for writing a key file.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for AuthKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthKey(not shown)")
    }
}

/// Text that must not be shown, such as a bearer token; wiped when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(not shown)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_64_hexadecimal_digits_of_either_case() {
        let digits = "00112233445566778899aabbccddeeff".repeat(2);
        let key = AuthKey::from_hex(&digits).expect("a key");
        assert_eq!(key.to_hex(), digits);
        assert!(AuthKey::from_hex(&digits.to_uppercase()) == Some(key));
        for len in [0, 2, 62, 63] {
            assert!(AuthKey::from_hex(&digits[..len]).is_none(), "{len} digits");
        }
        for more in ["0", "00"] {
            assert!(AuthKey::from_hex(&format!("{digits}{more}")).is_none());
        }
        assert!(AuthKey::from_hex(&digits.replace('f', "g")).is_none());
    }

    #[test]
    fn what_is_secret_is_not_in_its_debug_output() {
        let key = AuthKey::new([0xab; 32]);
        assert_eq!(format!("{key:?}"), "AuthKey(not shown)");
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?}"), "Secret(not shown)");
    }
}
