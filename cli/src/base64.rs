//! Base64 (RFC 4648, with padding), for values that aren't text in JSON Lines.

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The text of `bytes`.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group
            .iter()
            .fold(0u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - group.len()));
        for idx in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * idx)) as usize & 63];
            text.push(if idx > group.len() {
                '='
            } else {
                char::from(digit)
            });
        }
    }
    text
}

/// The bytes of `text`; `None` where it isn't what [`encode`] gives for any.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let digits = text
        .strip_suffix(b"==")
        .or_else(|| text.strip_suffix(b"="))
        .unwrap_or(text);
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.chunks(4) {
        let mut word = 0u32;
        for digit in group {
            let value = DIGITS.iter().position(|known| known == digit)?;
            word = word << 6 | value as u32;
        }
        word <<= 6 * (4 - group.len());
        let (count, unused) = match group.len() {
            4 => (3, 0),
            3 => (2, 0xff),
            2 => (1, 0xffff),
            _ => return None,
        };
        // Bits that no byte has must be zero, so that each value has one text.
        if word & unused != 0 {
            return None;
        }
        bytes.extend_from_slice(&word.to_be_bytes()[1..=count]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_that_of_the_rfc() {
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ];
        for (bytes, text) in cases {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text).as_deref(), Some(bytes.as_bytes()));
        }
    }

    #[test]
    fn every_byte_comes_back_and_garbage_does_not_pass() {
        let all: Vec<u8> = (0..=255).collect();
        for cut in 0..all.len() {
            assert_eq!(decode(&encode(&all[cut..])).as_deref(), Some(&all[cut..]));
        }
        for garbage in [
            "Z", "Zg", "Zg=", "Z===", "====", "Zh==", "Zm9=", "Zm 9", "Zg==Zg==",
        ] {
            assert_eq!(decode(garbage), None, "{garbage:?}");
        }
    }
}
