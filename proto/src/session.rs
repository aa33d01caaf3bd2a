//! Sessions: the handshake that makes one, and the two directions of frames that it then protects.
//!
//! ```text
//! client                                                                server
//!   Hello       versions, features, node, key id, nonce, time    ─────►
//!               ◄─────  HelloReply   version, features, node, nonce, time, MAC     or Refusal
//!   Finish      MAC                                              ─────►   (or Refusal)
//!   frames, sequence 1, 2, …  signed with the key client → server  ─►
//!               ◄─────  frames, sequence 1, 2, … signed with the key server → client
//! ```
//!
//! All keys come from HKDF-SHA256 over the shared key and a hash of both hellos, so that every byte of the hellos is
//! authenticated, and no key serves two sessions, two directions or two purposes. A receiver takes exactly the next
//! sequence number. So a frame can't be replayed, reflected, reordered, dropped or moved to another connection; the
//! attempt closes the connection. Nothing here is encrypted.

mod handshake;
mod keys;
mod message;
mod refusal;

pub use handshake::{
    ClientHandshake, HandshakeError, ServerHandshake, ServerHello, ServerIdentity,
};
pub use keys::{AuthKey, Channels, KeyId, KeyRing, KeyUse};
pub use message::{Features, MESSAGE_BYTES_MAX, MessageError, PREFIX_BYTES, message_len};
pub use refusal::{REFUSAL_BYTES, Refusal, RefusalCode};

use crate::frame::{FRAME_MAGIC, FrameHead, HEADER_BYTES, HeadError, SIGNED_BYTES, digest, field};
use crate::mac::{FrameMac, HmacSha256};
use crate::payload::PayloadKey;

/// What both sides know of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// Names the session in logs of both sides; not a secret.
    pub session_id: [u8; 16],
    /// The protocol version that was agreed on.
    pub version: u8,
    /// The features in use, bits of [`Features`].
    pub features: u64,
    /// How the other side names itself; authenticated.
    pub peer_node: String,
    /// Which shared key it was made with.
    pub key_id: KeyId,
    /// Whether the server holds that key as its current or its previous one.
    pub key_use: KeyUse,
    /// The other side's clock minus ours, in ns; the client's figure takes half the round trip off.
    pub clock_skew_ns: i64,
}

impl SessionInfo {
    /// Whether payloads are followed by a MAC, see [`crate::payload`].
    pub fn payload_mac(&self) -> bool {
        self.features & Features::PAYLOAD_MAC != 0
    }
}

/// An established session. Take it apart to give each direction to whoever sends or receives.
#[derive(Debug)]
pub struct Session<M: FrameMac = HmacSha256> {
    /// What is known of it.
    pub info: SessionInfo,
    /// Signs what we send.
    pub sealer: Sealer<M>,
    /// Verifies what we receive.
    pub opener: Opener<M>,
    /// Makes keys for queue pairs.
    pub channels: Channels<M>,
}

/// Signs frames of one direction.
#[derive(Clone, Debug)]
pub struct Sealer<M: FrameMac = HmacSha256> {
    mac: M,
    payload_key: Option<PayloadKey>,
    version: u8,
    reply: bool,
    sequence: u64,
}

impl<M: FrameMac> Sealer<M> {
    pub(crate) fn new(
        key: &[u8; 32],
        payload_key: Option<[u8; 32]>,
        version: u8,
        reply: bool,
    ) -> Self {
        let payload_key = payload_key.map(PayloadKey::new);
        Sealer {
            mac: M::new(key),
            payload_key,
            version,
            reply,
            sequence: 0,
        }
    }

    /// Signs the next frame and returns its header. Frames must leave in the order in which they were sealed, and a
    /// sealed frame must leave: the other side refuses what follows a gap.
    ///
    /// Two SHA-256 blocks beyond the control part's digest; doesn't allocate.
    ///
    /// # Panics
    /// If `head` isn't one that the other side would accept, or `control` isn't of its length: our own bug.
    pub fn seal(&mut self, head: &FrameHead, control: &[u8]) -> [u8; HEADER_BYTES] {
        assert_eq!(
            head.control_len as usize,
            control.len(),
            "control part's length"
        );
        if let Err(error) = head.check(self.reply) {
            panic!("unsound frame: {error}");
        }
        self.sequence += 1;
        let signed = head.write(self.version, self.sequence, control);
        let mut header = [0u8; HEADER_BYTES];
        header[..SIGNED_BYTES].copy_from_slice(&signed);
        header[SIGNED_BYTES..].copy_from_slice(&self.mac.tag(&[&signed]));
        header
    }

    /// The same for a frame that lies in one buffer: [`HEADER_BYTES`] of room, then the control part.
    ///
    /// # Panics
    /// As [`Sealer::seal`], and if there is no room for a header.
    pub fn seal_in_place(&mut self, head: &FrameHead, frame: &mut [u8]) {
        let (header, control) = frame.split_at_mut(HEADER_BYTES);
        header.copy_from_slice(&self.seal(head, control));
    }

    /// The key for payload trailers, where the session has them; else frames carry none.
    pub fn payload_key(&self) -> Option<&PayloadKey> {
        self.payload_key.as_ref()
    }

    /// The number of the frame that was sealed last; 0 before the first.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

/// Verifies frames of one direction, header first. After the first error it refuses everything.
#[derive(Clone, Debug)]
pub struct Opener<M: FrameMac = HmacSha256> {
    mac: M,
    payload_key: Option<PayloadKey>,
    version: u8,
    reply: bool,
    sequence: u64,
    closed: bool,
}

impl<M: FrameMac> Opener<M> {
    pub(crate) fn new(
        key: &[u8; 32],
        payload_key: Option<[u8; 32]>,
        version: u8,
        reply: bool,
    ) -> Self {
        let payload_key = payload_key.map(PayloadKey::new);
        Opener {
            mac: M::new(key),
            payload_key,
            version,
            reply,
            sequence: 0,
            closed: false,
        }
    }

    /// Verifies the next header: MAC, then sequence, then limits. Buffer no byte of a body before this is ok.
    ///
    /// # Errors
    /// Any error is final: the caller closes the connection, and this opener opens nothing more.
    pub fn open(&mut self, header: &[u8; HEADER_BYTES]) -> Result<FrameHead, OpenError> {
        if self.closed {
            return Err(OpenError::Closed);
        }
        let result = self.verify(header);
        match &result {
            Ok(head) => self.sequence = head.auth.sequence,
            Err(_) => self.closed = true,
        }
        result
    }

    fn verify(&self, header: &[u8; HEADER_BYTES]) -> Result<FrameHead, OpenError> {
        if header[..4] != FRAME_MAGIC {
            return Err(match Refusal::sniff(header) {
                Some(refusal) => OpenError::Refused(refusal),
                None => OpenError::NotAFrame(field(header, 0)),
            });
        }
        if header[4] != self.version {
            return Err(OpenError::WrongVersion {
                found: header[4],
                agreed: self.version,
            });
        }
        let (signed, tag) = header.split_at(SIGNED_BYTES);
        let tag = tag.try_into().unwrap_or(&[0; 32]);
        if !self.mac.verify(&[signed], tag) {
            return Err(OpenError::BadMac);
        }
        let found = u64::from_le_bytes(field(header, 16));
        let expected = self.sequence.wrapping_add(1);
        if found != expected {
            return Err(OpenError::Sequence { expected, found });
        }
        Ok(FrameHead::parse(header, self.reply)?)
    }

    /// Verifies the control part that belongs to `head`, by its digest.
    ///
    /// # Errors
    /// [`OpenError::BadDigest`], which is final as any other.
    pub fn check_control(&mut self, head: &FrameHead, control: &[u8]) -> Result<(), OpenError> {
        if self.closed {
            return Err(OpenError::Closed);
        }
        // No secret is compared here: whoever can alter the control part can compute its digest too.
        if control.len() == head.control_len as usize && digest(control) == head.auth.digest {
            return Ok(());
        }
        self.closed = true;
        Err(OpenError::BadDigest)
    }

    /// The key for payload trailers, where the session has them; else frames carry none.
    pub fn payload_key(&self) -> Option<&PayloadKey> {
        self.payload_key.as_ref()
    }

    /// How many bytes follow the payload of `head`: [`crate::payload::TRAILER_BYTES`], or 0.
    pub fn trailer_len(&self, head: &FrameHead) -> usize {
        let some = self.payload_key.is_some() && head.payload_len > 0;
        if some {
            crate::payload::TRAILER_BYTES
        } else {
            0
        }
    }
}

/// Why a frame was refused. Each is final for its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The bytes aren't a frame.
    #[error("bytes {0:02x?} don't start a frame")]
    NotAFrame([u8; 4]),
    /// Instead of a frame came a refusal. It isn't signed, so it proves nothing; never downgrade on it.
    #[error("unauthenticated refusal in place of a frame: {0}")]
    Refused(Refusal),
    /// The frame claims another version than the handshake agreed on.
    #[error("frame of version {found} in a session of version {agreed}")]
    WrongVersion {
        /// What the frame says.
        found: u8,
        /// What was agreed on.
        agreed: u8,
    },
    /// The header isn't what the other side signed for this direction of this session.
    #[error("header MAC doesn't verify")]
    BadMac,
    /// A frame was replayed, dropped or moved.
    #[error("frame has sequence {found}, expected {expected}")]
    Sequence {
        /// The next one.
        expected: u64,
        /// What the frame says.
        found: u64,
    },
    /// Authentic, but not something this version allows.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The control part isn't the signed one.
    #[error("control part doesn't have the signed digest")]
    BadDigest,
    /// An earlier frame was refused.
    #[error("an earlier frame was refused")]
    Closed,
}

impl OpenError {
    /// The reason as a metric label: `bad_mac`, `replay`, `version`, `malformed`.
    pub fn reason(&self) -> &'static str {
        match self {
            OpenError::BadMac | OpenError::BadDigest => "bad_mac",
            OpenError::Sequence { .. } => "replay",
            OpenError::WrongVersion { .. } => "version",
            OpenError::Refused(_) => "refused",
            OpenError::NotAFrame(_) | OpenError::Head(_) | OpenError::Closed => "malformed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Flags;
    use crate::limits::{CONTROL_BYTES_MAX, PAYLOAD_BYTES_MAX};
    use crate::op::{ErrorCode, OpCode};

    const KEY: [u8; 32] = [3; 32];

    /// Opens an authentic request header after `alter` changed it and it was signed again, as a faulty peer would.
    fn open_resigned(alter: impl Fn(&mut [u8; SIGNED_BYTES])) -> Result<FrameHead, OpenError> {
        let head = FrameHead::new(OpCode::Put, Flags::NONE, 0, 0).with_request_id(77);
        let mut signed = head.write(1, 1, &[]);
        alter(&mut signed);
        let mut header = [0; HEADER_BYTES];
        header[..SIGNED_BYTES].copy_from_slice(&signed);
        header[SIGNED_BYTES..].copy_from_slice(&HmacSha256::new(&KEY).tag(&[&signed]));
        Opener::<HmacSha256>::new(&KEY, None, 1, false).open(&header)
    }

    fn head_error(alter: impl Fn(&mut [u8; SIGNED_BYTES])) -> HeadError {
        match open_resigned(alter) {
            Err(OpenError::Head(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn authentic_lengths_up_to_their_limit_are_taken_and_above_are_too_large_by_request() {
        for (at, bound) in [(28, CONTROL_BYTES_MAX as u64), (32, PAYLOAD_BYTES_MAX)] {
            let width = if at == 28 { 4 } else { 8 };
            let set = |value: u64| {
                move |signed: &mut [u8; SIGNED_BYTES]| {
                    signed[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
                }
            };
            assert!(open_resigned(set(bound)).is_ok());
            let error = head_error(set(bound + 1));
            assert_eq!(error.code(), ErrorCode::TooLarge);
            assert!(error.to_string().contains("request 77"), "{error}");
        }
    }

    #[test]
    fn authentic_headers_that_make_no_sense_are_refused() {
        let cases: [(usize, u8, &str); 6] = [
            (5, 0x99, "0x99"),
            (5, OpCode::Finish.to_wire(), "0x03"),
            (6, Flags::REPLY.bits() as u8, "flags"),
            (6, Flags::MORE.bits() as u8, "flags"),
            (7, 0x80, "flags"),
            (5, OpCode::Get.to_wire(), "payload_len"),
        ];
        for (at, value, expected) in cases {
            let error = head_error(|signed| {
                signed[32] = 1;
                signed[at] = value;
            });
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(error.code(), ErrorCode::BadRequest);
        }
    }

    #[test]
    #[should_panic(expected = "unsound frame")]
    fn sealer_refuses_to_send_what_no_opener_takes() {
        let head = FrameHead::new(OpCode::Get, Flags::NONE, 0, 1);
        Sealer::<HmacSha256>::new(&KEY, None, 1, false).seal(&head, &[]);
    }
}
