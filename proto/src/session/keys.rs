//! Shared keys, their ids, and the keys derived from them.

use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{Opener, Sealer};
use crate::mac::{FrameMac, HmacSha256};

/// Names a shared key without telling it: the first 8 bytes of HMAC-SHA256(key, "memkv key id").
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId(pub [u8; 8]);

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// A shared key: 32 random bytes, wiped when dropped, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct AuthKey([u8; 32]);

impl AuthKey {
    /// Takes 32 bytes, which must be random: whoever records a handshake can try guesses against it.
    pub fn new(key: [u8; 32]) -> Self {
        AuthKey(key)
    }

    /// Its id.
    pub fn id(&self) -> KeyId {
        let tag = HmacSha256::new(&self.0).tag(&[b"memkv key id"]);
        let mut id = [0; 8];
        id.copy_from_slice(&tag[..8]);
        KeyId(id)
    }
}

impl std::fmt::Debug for AuthKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AuthKey({})", self.id())
    }
}

impl From<[u8; 32]> for AuthKey {
    fn from(key: [u8; 32]) -> Self {
        AuthKey(key)
    }
}

/// Which of a server's keys a session was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyUse {
    /// `network.auth_key`.
    Current,
    /// `network.auth_key_previous`: the client hasn't moved to the new key yet.
    Previous,
}

impl KeyUse {
    /// Its name as a metric label.
    pub fn name(self) -> &'static str {
        match self {
            KeyUse::Current => "current",
            KeyUse::Previous => "previous",
        }
    }
}

/// The keys a server takes: the current one, and during a rotation the previous one.
#[derive(Clone, Debug)]
pub struct KeyRing {
    current: (KeyId, AuthKey),
    previous: Option<(KeyId, AuthKey)>,
}

impl KeyRing {
    /// A ring of one key or two; ids are computed here, once.
    pub fn new(current: AuthKey, previous: Option<AuthKey>) -> Self {
        KeyRing {
            current: (current.id(), current),
            previous: previous.map(|previous| (previous.id(), previous)),
        }
    }

    /// How the ring holds the key of that id. `None` means that its sessions are to be closed.
    pub fn key_use(&self, id: KeyId) -> Option<KeyUse> {
        self.find(id).map(|(key_use, _)| key_use)
    }

    /// The current key.
    pub fn current(&self) -> &AuthKey {
        &self.current.1
    }

    pub(crate) fn find(&self, id: KeyId) -> Option<(KeyUse, &AuthKey)> {
        if self.current.0 == id {
            return Some((KeyUse::Current, &self.current.1));
        }
        let previous = self.previous.as_ref().filter(|previous| previous.0 == id)?;
        Some((KeyUse::Previous, &previous.1))
    }
}

/// Which end of the session we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// The keys of one session: HKDF-Extract(salt = hash of both hellos, shared key), expanded per purpose.
#[derive(Clone)]
pub(crate) struct Schedule {
    prk: Zeroizing<[u8; 32]>,
    transcript: [u8; 32],
}

impl Schedule {
    /// From the client's hello and the server's without its MAC.
    pub(crate) fn new(key: &AuthKey, hello: &[u8], reply: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(hello);
        hash.update(reply);
        let transcript: [u8; 32] = hash.finalize().into();
        let (prk, _) = Hkdf::<Sha256>::extract(Some(&transcript), &key.0);
        Schedule {
            prk: Zeroizing::new(prk.into()),
            transcript,
        }
    }

    pub(crate) fn derive(&self, label: &str, context: &[u8]) -> [u8; 32] {
        let mut out = [0; 32];
        let hkdf = Hkdf::<Sha256>::from_prk(&*self.prk).expect("32 bytes are a whole PRK");
        hkdf.expand_multi_info(&[b"memkv 1 ", label.as_bytes(), context], &mut out)
            .expect("32 bytes are within HKDF's limit");
        out
    }

    /// The server's proof that it holds the key and saw these hellos.
    pub(crate) fn server_proof(&self) -> HmacProof {
        let mac = HmacSha256::new(&self.derive("server hello", &[]));
        HmacProof {
            mac,
            message: self.transcript,
        }
    }

    /// The client's, which covers the server's proof too.
    pub(crate) fn client_proof(&self, server_tag: &[u8; 32]) -> HmacProof {
        let mut hash = Sha256::new();
        hash.update(self.transcript);
        hash.update(server_tag);
        let mac = HmacSha256::new(&self.derive("client finish", &[]));
        HmacProof {
            mac,
            message: hash.finalize().into(),
        }
    }

    pub(crate) fn session_id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        id.copy_from_slice(&self.derive("session id", &[])[..16]);
        id
    }

    /// The two directions of channel `channel`; 0 is the TCP connection itself.
    pub(crate) fn directions<M: FrameMac>(
        &self,
        side: Side,
        version: u8,
        payload_mac: bool,
        channel: u32,
    ) -> (Sealer<M>, Opener<M>) {
        let context = channel.to_le_bytes();
        let (ours, theirs) = match side {
            Side::Client => ("c2s", "s2c"),
            Side::Server => ("s2c", "c2s"),
        };
        let key = |direction| Zeroizing::new(self.derive(direction, &context));
        let payload = |direction: &str| {
            payload_mac.then(|| self.derive(&format!("payload {direction}"), &context))
        };
        let server = side == Side::Server;
        (
            Sealer::new(&key(ours), payload(ours), version, server),
            Opener::new(&key(theirs), payload(theirs), version, !server),
        )
    }
}

/// A tag to give or to check.
pub(crate) struct HmacProof {
    mac: HmacSha256,
    message: [u8; 32],
}

impl HmacProof {
    pub(crate) fn tag(&self) -> [u8; 32] {
        self.mac.tag(&[&self.message])
    }

    pub(crate) fn verify(&self, tag: &[u8; 32]) -> bool {
        self.mac.verify(&[&self.message], tag)
    }
}

/// Makes the keys of a session's further channels, one per queue pair, each with sequences of its own.
pub struct Channels<M: FrameMac = HmacSha256> {
    schedule: Schedule,
    side: Side,
    version: u8,
    payload_mac: bool,
    last: u32,
    mac: std::marker::PhantomData<fn() -> M>,
}

impl<M: FrameMac> Channels<M> {
    pub(crate) fn new(schedule: Schedule, side: Side, version: u8, payload_mac: bool) -> Self {
        let mac = std::marker::PhantomData;
        Channels {
            schedule,
            side,
            version,
            payload_mac,
            last: 0,
            mac,
        }
    }

    /// The directions of channel `id`, which both sides name in their Connect.
    ///
    /// Ids must rise from 1, so that no channel's keys are ever used from sequence 1 twice; `None` if this one doesn't.
    pub fn open(&mut self, id: u32) -> Option<(Sealer<M>, Opener<M>)> {
        if id <= self.last {
            return None;
        }
        self.last = id;
        Some(
            self.schedule
                .directions(self.side, self.version, self.payload_mac, id),
        )
    }
}

impl<M: FrameMac> std::fmt::Debug for Channels<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Channels(last {})", self.last)
    }
}
