//! W3C trace context in binary: which trace an op belongs to and whether it is sampled.

use std::hash::{BuildHasher, Hasher};

/// A caller's trace: 16-byte trace id, 8-byte id of its span, flags (bit 0: sampled).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The trace; all zero is not a trace.
    pub trace_id: [u8; 16],
    /// The caller's span, which becomes the parent; all zero where there is none.
    pub span_id: [u8; 8],
    /// W3C trace flags.
    pub flags: u8,
}

impl TraceContext {
    /// The flag that says the caller records this trace.
    pub const SAMPLED: u8 = 1;

    /// Whether there is a trace.
    pub fn is_valid(&self) -> bool {
        self.trace_id != [0; 16]
    }

    /// Whether the caller records it.
    pub fn is_sampled(&self) -> bool {
        self.flags & Self::SAMPLED != 0
    }

    /// Reads the text form (`00-<trace id>-<span id>-<flags>`); `None` where it isn't one.
    ///
    /// Source: W3C Trace Context, `traceparent`.
    pub fn parse(text: &str) -> Option<TraceContext> {
        let mut parts = text.trim().split('-');
        let (version, trace, span, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        // A later version may append fields; version ff is invalid for ever.
        let version = unhex::<1>(version)?[0];
        if version == 0xff || (version == 0 && parts.next().is_some()) {
            return None;
        }
        let context = TraceContext {
            trace_id: unhex(trace)?,
            span_id: unhex(span)?,
            flags: unhex::<1>(flags)?[0],
        };
        (context.is_valid() && context.span_id != [0; 8]).then_some(context)
    }

    /// The text form.
    pub fn traceparent(&self) -> String {
        format!(
            "00-{}-{}-{:02x}",
            hex(&self.trace_id),
            hex(&self.span_id),
            self.flags
        )
    }
}

/// Lower-case hexadecimal, as trace ids are written.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// The bytes of exactly `N` pairs of lower-case hexadecimal digits.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != N * 2 {
        return None;
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

/// Makes trace and span ids and decides about new traces; 2 ns an id.
///
/// The ids must be unlikely to collide, not hard to guess.
#[derive(Clone, Debug)]
pub struct IdSource {
    state: u64,
    /// A new trace is sampled when the upper half of its id is below this.
    bound: u64,
}

impl IdSource {
    /// Ids from a seed of the operating system; `ratio` of new traces are sampled.
    pub fn new(ratio: f64) -> IdSource {
        // RandomState is seeded by the operating system once a thread and counts up from there.
        let seed = std::hash::RandomState::new().build_hasher().finish();
        IdSource::with_seed(seed, ratio)
    }

    /// The same ids for the same seed, for tests.
    pub fn with_seed(seed: u64, ratio: f64) -> IdSource {
        IdSource {
            state: seed,
            bound: ratio_bound(ratio),
        }
    }

    /// Changes the share of new traces that are sampled.
    pub fn set_ratio(&mut self, ratio: f64) {
        self.bound = ratio_bound(ratio);
    }

    /// An id for a span; never zero.
    #[inline]
    pub fn span_id(&mut self) -> [u8; 8] {
        loop {
            let id = self.next();
            if id != 0 {
                return id.to_be_bytes();
            }
        }
    }

    /// A new trace with no parent span, sampled or not by the ratio.
    #[inline]
    pub fn root(&mut self) -> TraceContext {
        let (upper, lower) = (self.next(), self.next() | 1);
        let mut trace_id = [0; 16];
        trace_id[..8].copy_from_slice(&lower.to_be_bytes());
        trace_id[8..].copy_from_slice(&upper.to_be_bytes());
        // As OpenTelemetry's ratio sampler does it: all who see the id decide alike.
        let flags = u8::from(upper >> 1 < self.bound);
        TraceContext {
            trace_id,
            span_id: [0; 8],
            flags,
        }
    }

    #[inline]
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn ratio_bound(ratio: f64) -> u64 {
    (ratio.clamp(0.0, 1.0) * (1u64 << 63) as f64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traceparent_round_trips() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = TraceContext::parse(text).unwrap();
        assert!(context.is_sampled());
        assert_eq!(context.traceparent(), text);
    }

    #[test]
    fn a_broken_traceparent_is_no_trace() {
        for text in [
            "",
            "00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_ratio_is_the_share_of_sampled_roots() {
        for (ratio, least, most) in [(0.0, 0, 0), (0.1, 850, 1150), (1.0, 10_000, 10_000)] {
            let mut ids = IdSource::with_seed(7, ratio);
            let sampled = (0..10_000).filter(|_| ids.root().is_sampled()).count();
            assert!(
                (least..=most).contains(&sampled),
                "{sampled} of 10000 at {ratio}"
            );
        }
    }
}
