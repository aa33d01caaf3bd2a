//! The two sides of the handshake. Time and nonces come in as arguments; nonces must be random and never repeat.

use std::marker::PhantomData;

use super::keys::{Channels, KeyId, KeyUse, Schedule, Side};
use super::message::{FORMAT_FIELD, Features, Hello, read_finish, write_finish};
use super::refusal::{Refusal, RefusalCode};
use super::{AuthKey, KeyRing, Session, SessionInfo};
use crate::limits::{CLOCK_SKEW_NS_MAX, NODE_BYTES_MAX};
use crate::mac::{FrameMac, HmacSha256};
use crate::op::OpCode;
use crate::wire::DecodeError;
use crate::{VERSION_MAX, VERSION_MIN};

/// Why a client got no session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// A refusal. It isn't signed: anyone on the way can have sent it, so it proves nothing about the server.
    #[error(
        "unauthenticated refusal (anyone on the way can send one; nothing was downgraded): {0}"
    )]
    Refused(Refusal),
    /// The answer isn't a hello.
    #[error("decode the server's hello")]
    Malformed(#[source] DecodeError),
    /// The server's proof doesn't verify: it has another key, or someone altered a hello.
    #[error(
        "the server's proof doesn't verify: it has another auth_key, or the hellos were altered"
    )]
    BadMac,
    /// The answer speaks of another key than ours.
    #[error("the server answered with key {found}, ours is {ours}")]
    WrongKey {
        /// The id it names.
        found: KeyId,
        /// The id of our key.
        ours: KeyId,
    },
    /// The server, authenticated, chose a version that we don't speak.
    #[error("the server chose version {found}; this build speaks {min} to {max}", min = VERSION_MIN, max = VERSION_MAX)]
    UnsupportedVersion {
        /// What it chose.
        found: u8,
    },
    /// A side requires features that the other lacks.
    #[error("features {missing:#x} are required by one side and unknown to the other; update it")]
    MissingFeature {
        /// The bits.
        missing: u64,
    },
    /// The clocks are too far apart.
    #[error("the server's clock is {} s from ours, the bound is 60 s; synchronise both", *.skew_ns as f64 / 1e9)]
    ClockSkew {
        /// Server's minus ours, in ns.
        skew_ns: i64,
    },
    /// Our own node identity is too long.
    #[error("node identity of {0} bytes; the limit is 255, so shorten it")]
    NodeTooLong(usize),
}

/// What a client learns from an authenticated hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHello {
    /// The server's own node identity; compare with the one that placement uses.
    pub node_id: String,
    /// The server's clock minus ours, in ns, half the round trip taken off.
    pub clock_skew_ns: i64,
    /// The features in use.
    pub features: u64,
    /// The version in use.
    pub version: u8,
    /// Whether our key is the server's current one; `Previous` means that it is about to be removed.
    pub key_use: KeyUse,
}

/// The client's side, between its Hello and the server's.
#[derive(Debug)]
pub struct ClientHandshake<M: FrameMac = HmacSha256> {
    key: AuthKey,
    hello: Vec<u8>,
    features: Features,
    started_unix_ns: u64,
    mac: PhantomData<fn() -> M>,
}

impl<M: FrameMac> ClientHandshake<M> {
    /// Starts a handshake; returns the Hello to send.
    ///
    /// `node` is how this client names itself to the server (for logs and fairness), `nonce` 32 fresh random bytes.
    ///
    /// # Errors
    /// [`HandshakeError::NodeTooLong`].
    pub fn start(
        key: &AuthKey,
        node: &str,
        features: Features,
        now_unix_ns: u64,
        nonce: [u8; 32],
    ) -> Result<(Self, Vec<u8>), HandshakeError> {
        if node.len() > NODE_BYTES_MAX {
            return Err(HandshakeError::NodeTooLong(node.len()));
        }
        let hello = Hello {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            key_use: KeyUse::Current,
            features,
            unix_ns: now_unix_ns,
            key_id: key.id(),
            nonce,
            node,
        }
        .write(OpCode::Hello, 0);
        let key = key.clone();
        let started_unix_ns = now_unix_ns;
        let bytes = hello.clone();
        Ok((
            ClientHandshake {
                key,
                hello,
                features,
                started_unix_ns,
                mac: PhantomData,
            },
            bytes,
        ))
    }

    /// Takes the server's answer; returns the Finish to send, and the session, which may send at once.
    ///
    /// # Errors
    /// [`HandshakeError`]; nothing was proven unless the variant says so, and there is no lesser way to connect.
    pub fn on_hello_reply(
        self,
        bytes: &[u8],
        now_unix_ns: u64,
    ) -> Result<(Vec<u8>, Session<M>, ServerHello), HandshakeError> {
        if let Ok(refusal) = Refusal::decode(bytes) {
            return Err(HandshakeError::Refused(refusal));
        }
        let (reply, tag) =
            Hello::read(bytes, OpCode::HelloReply).map_err(HandshakeError::Malformed)?;
        let tag: &[u8; 32] = tag.try_into().map_err(|_| {
            let (need, have) = (32, tag.len());
            HandshakeError::Malformed(DecodeError::Truncated {
                field: "server MAC",
                need,
                have,
            })
        })?;
        let ours = self.key.id();
        if reply.key_id != ours {
            return Err(HandshakeError::WrongKey {
                found: reply.key_id,
                ours,
            });
        }
        let schedule = Schedule::new(&self.key, &self.hello, &bytes[..bytes.len() - 32]);
        if !schedule.server_proof().verify(tag) {
            return Err(HandshakeError::BadMac);
        }
        let version = reply.version_max;
        if !(VERSION_MIN..=VERSION_MAX).contains(&version) || reply.version_min != version {
            return Err(HandshakeError::UnsupportedVersion { found: version });
        }
        let features = self
            .features
            .agree(reply.features)
            .map_err(|missing| HandshakeError::MissingFeature { missing })?;
        // The server read its clock somewhere in the round trip; the middle is the best guess.
        let round_trip_ns = now_unix_ns.saturating_sub(self.started_unix_ns);
        let skew_ns = skew_ns(reply.unix_ns, self.started_unix_ns + round_trip_ns / 2);
        if skew_ns.unsigned_abs() > CLOCK_SKEW_NS_MAX {
            return Err(HandshakeError::ClockSkew { skew_ns });
        }
        let finish = write_finish(&schedule.client_proof(tag).tag());
        let (node_id, key_use) = (reply.node.to_owned(), reply.key_use);
        let info = SessionInfo {
            session_id: schedule.session_id(),
            version,
            features,
            peer_node: node_id.clone(),
            key_id: ours,
            key_use,
            clock_skew_ns: skew_ns,
        };
        let session = establish(schedule, Side::Client, info);
        let hello = ServerHello {
            node_id,
            clock_skew_ns: skew_ns,
            features,
            version,
            key_use,
        };
        Ok((finish, session, hello))
    }
}

/// How a server presents itself.
#[derive(Clone, Copy, Debug)]
pub struct ServerIdentity<'a> {
    /// Its node identity, at most [`NODE_BYTES_MAX`] bytes.
    pub node_id: &'a str,
    /// What it can do and insists on.
    pub features: Features,
}

/// The server's side, between its hello and the client's Finish.
#[derive(Debug)]
pub struct ServerHandshake<M: FrameMac = HmacSha256> {
    schedule: Schedule,
    tag: [u8; 32],
    info: SessionInfo,
    mac: PhantomData<fn() -> M>,
}

impl<M: FrameMac> ServerHandshake<M> {
    /// Takes a client's Hello; returns the hello to answer with. `nonce` is 32 fresh random bytes.
    ///
    /// What the client says isn't proven before [`ServerHandshake::on_finish`]. Costs about 3 µs.
    ///
    /// # Errors
    /// A [`Refusal`] to send before closing. Its order of checks is: form, versions, key, clock, features.
    ///
    /// # Panics
    /// If the server's own node identity is too long: configuration checks that.
    pub fn on_hello(
        bytes: &[u8],
        keys: &KeyRing,
        identity: &ServerIdentity<'_>,
        now_unix_ns: u64,
        nonce: [u8; 32],
    ) -> Result<(Vec<u8>, Self), Refusal> {
        assert!(
            identity.node_id.len() <= NODE_BYTES_MAX,
            "node identity above 255 bytes"
        );
        let refuse = |code| Refusal::new(code, now_unix_ns);
        let hello = read_hello(bytes).map_err(refuse)?;
        if hello.version_min > VERSION_MAX || hello.version_max < VERSION_MIN {
            return Err(refuse(RefusalCode::UnsupportedVersion));
        }
        let version = hello.version_max.min(VERSION_MAX);
        let (key_use, key) = keys
            .find(hello.key_id)
            .ok_or_else(|| refuse(RefusalCode::UnknownKey))?;
        let clock_skew_ns = skew_ns(hello.unix_ns, now_unix_ns);
        if clock_skew_ns.unsigned_abs() > CLOCK_SKEW_NS_MAX {
            return Err(Refusal {
                skew_ns: clock_skew_ns,
                ..refuse(RefusalCode::ClockSkew)
            });
        }
        let features = identity
            .features
            .agree(hello.features)
            .map_err(|_| refuse(RefusalCode::MissingFeature))?;
        let mut reply = Hello {
            version_min: version,
            version_max: version,
            key_use,
            features: identity.features,
            unix_ns: now_unix_ns,
            key_id: hello.key_id,
            nonce,
            node: identity.node_id,
        }
        .write(OpCode::HelloReply, 32);
        let schedule = Schedule::new(key, bytes, &reply);
        let tag = schedule.server_proof().tag();
        reply.extend_from_slice(&tag);
        let info = SessionInfo {
            session_id: schedule.session_id(),
            version,
            features,
            peer_node: hello.node.to_owned(),
            key_id: hello.key_id,
            key_use,
            clock_skew_ns,
        };
        Ok((
            reply,
            ServerHandshake {
                schedule,
                tag,
                info,
                mac: PhantomData,
            },
        ))
    }

    /// Takes the client's Finish; from here on the client is authenticated.
    ///
    /// # Errors
    /// A [`Refusal`] to send before closing: the client doesn't hold the key, or replays an old handshake.
    pub fn on_finish(self, bytes: &[u8], now_unix_ns: u64) -> Result<Session<M>, Refusal> {
        let tag =
            read_finish(bytes).map_err(|_| Refusal::new(RefusalCode::Malformed, now_unix_ns))?;
        if !self.schedule.client_proof(&self.tag).verify(&tag) {
            return Err(Refusal::new(RefusalCode::BadMac, now_unix_ns));
        }
        Ok(establish(self.schedule, Side::Server, self.info))
    }

    /// What the client claims so far; proven once [`ServerHandshake::on_finish`] is ok.
    pub fn claimed(&self) -> &SessionInfo {
        &self.info
    }
}

impl std::fmt::Debug for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Schedule(..)")
    }
}

fn read_hello(bytes: &[u8]) -> Result<Hello<'_>, RefusalCode> {
    match Hello::read(bytes, OpCode::Hello) {
        Ok((hello, [])) => Ok(hello),
        // A format of the future is a version we don't speak, and is refused by that name.
        Err(DecodeError::BadValue {
            field: FORMAT_FIELD,
            ..
        }) => Err(RefusalCode::UnsupportedVersion),
        Ok(_) | Err(_) => Err(RefusalCode::Malformed),
    }
}

fn establish<M: FrameMac>(schedule: Schedule, side: Side, info: SessionInfo) -> Session<M> {
    let (version, payload_mac) = (info.version, info.payload_mac());
    let (sealer, opener) = schedule.directions(side, version, payload_mac, 0);
    let channels = Channels::new(schedule, side, version, payload_mac);
    Session {
        info,
        sealer,
        opener,
        channels,
    }
}

/// `theirs - ours`, at most what fits.
fn skew_ns(theirs: u64, ours: u64) -> i64 {
    let skew = i128::from(theirs) - i128::from(ours);
    skew.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}
