//! Ops, entry attributes, conditions and outcomes: what the protocol is about.

use crate::wire::DecodeError;

macro_rules! wire_enum {
    ($(#[$meta:meta])* $name:ident: $repr:ty, $field:literal {
        $($(#[$vmeta:meta])* $variant:ident = $value:literal, $text:literal;)+
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr($repr)]
        pub enum $name { $($(#[$vmeta])* $variant = $value,)+ }

        impl $name {
            /// All of them, by rising wire value.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// Its value on the wire.
            #[inline]
            pub const fn to_wire(self) -> $repr { self as $repr }

            /// The one that `value` stands for.
            ///
            /// # Errors
            /// [`DecodeError::BadValue`] for a value that this version doesn't define.
            #[inline]
            pub const fn from_wire(value: $repr) -> Result<Self, DecodeError> {
                match value {
                    $($value => Ok($name::$variant),)+
                    _ => Err(DecodeError::BadValue { field: $field, value: value as u64 }),
                }
            }

            /// Its name in metrics, logs and docs.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(self.name()) }
        }
    };
}
pub(crate) use wire_enum;

wire_enum! {
    /// What a message is for. Puts, gets and deletes keep MemKV's published codes; the others are ours.
    OpCode: u8, "op" {
        /// Handshake, client to server: versions, features, node, key id, nonce, time.
        Hello = 0x01, "hello";
        /// Handshake, server to client: the same and a MAC.
        HelloReply = 0x02, "hello_reply";
        /// Handshake, client to server: a MAC.
        Finish = 0x03, "finish";
        /// Handshake, server to client: why there will be no session. Never authenticated.
        Refusal = 0x04, "refusal";
        /// Exchanges queue pair data and fabric facts for RDMA.
        Connect = 0x06, "connect";
        /// Stores one value.
        Put = 0x20, "put";
        /// Reads one value.
        Get = 0x21, "get";
        /// Removes keys.
        Delete = 0x22, "delete";
        /// Asks which keys are there.
        Exists = 0x23, "exists";
        /// Stores several values.
        BatchWrite = 0x24, "batch_write";
        /// Reads several values.
        BatchRead = 0x25, "batch_read";
        /// Takes back a request.
        Cancel = 0x28, "cancel";
        /// Asks for a sign of life and the server's clock.
        Ping = 0x29, "ping";
        /// Asks for the server's key figures.
        Stat = 0x2a, "stat";
    }
}

impl OpCode {
    /// Whether it may appear in a frame, that is after the handshake.
    #[inline]
    pub const fn is_frame(self) -> bool {
        self.to_wire() >= OpCode::Connect.to_wire()
    }

    /// Whether its request carries values.
    #[inline]
    pub const fn is_write(self) -> bool {
        matches!(self, OpCode::Put | OpCode::BatchWrite)
    }

    /// Whether its replies carry values.
    #[inline]
    pub const fn is_read(self) -> bool {
        matches!(self, OpCode::Get | OpCode::BatchRead)
    }

    /// Whether its request is a list of keys.
    #[inline]
    pub const fn is_keyed(self) -> bool {
        matches!(
            self,
            OpCode::Get | OpCode::BatchRead | OpCode::Delete | OpCode::Exists
        )
    }
}

wire_enum! {
    /// Whether a full store may drop an entry.
    #[derive(Default)]
    Class: u8, "class" {
        /// May be evicted.
        #[default]
        Evictable = 0, "evictable";
        /// Leaves only by delete or expiry; a full store refuses it instead.
        Durable = 1, "durable";
    }
}

wire_enum! {
    /// Why an entry or a whole request failed. 0 and 1 are taken: on the wire they mean ok and miss.
    #[non_exhaustive]
    ErrorCode: u16, "error code" {
        /// Overload; try again after the reply's `retry_after_us`.
        Busy = 2, "busy";
        /// A key count, control part or value is above its limit.
        TooLarge = 3, "too_large";
        /// The key is empty or longer than 512 bytes.
        BadKey = 4, "bad_key";
        /// The store is full and may not evict.
        NoSpace = 5, "no_space";
        /// `if_absent` or `if_version` didn't hold.
        ConditionFailed = 6, "condition_failed";
        /// The payload that arrived doesn't have the CRC32C that was signed.
        CrcMismatch = 7, "crc_mismatch";
        /// The deadline passed before the work was started.
        DeadlineExceeded = 8, "deadline_exceeded";
        /// The server is going down and takes no new work.
        Draining = 9, "draining";
        /// A drive failed.
        Io = 10, "io";
        /// What is stored is damaged; it has been removed.
        Corrupt = 11, "corrupt";
        /// The protocol version isn't spoken here.
        UnsupportedVersion = 12, "unsupported_version";
        /// The request makes no sense.
        BadRequest = 13, "bad_request";
        /// A fault of the server.
        Internal = 14, "internal";
        /// Taken back by a Cancel.
        Cancelled = 15, "cancelled";
        /// The op is known but not served here, such as Connect without an RDMA device.
        Unsupported = 16, "unsupported";
    }
}

/// How one entry fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Done: stored, found, removed, there.
    Ok,
    /// The key isn't there.
    Miss,
    /// Not done, and why.
    Error(ErrorCode),
}

impl Outcome {
    /// Its value on the wire: 0 ok, 1 miss, else an error code.
    #[inline]
    pub const fn to_wire(self) -> u16 {
        match self {
            Outcome::Ok => 0,
            Outcome::Miss => 1,
            Outcome::Error(code) => code.to_wire(),
        }
    }

    /// The outcome that `value` stands for.
    ///
    /// # Errors
    /// [`DecodeError::BadValue`] for a code that this version doesn't define.
    #[inline]
    pub const fn from_wire(value: u16) -> Result<Self, DecodeError> {
        match value {
            0 => Ok(Outcome::Ok),
            1 => Ok(Outcome::Miss),
            _ => match ErrorCode::from_wire(value) {
                Ok(code) => Ok(Outcome::Error(code)),
                Err(error) => Err(error),
            },
        }
    }
}

/// What is stored beside a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Attrs {
    /// The key's name space; 0 is the native default.
    pub namespace: u32,
    /// What kind of value it is; 0 is plain bytes.
    pub type_tag: u8,
    /// The owner's own bits, returned as they came.
    pub flags: u32,
    /// When it expires, in milliseconds of Unix time; 0 is never.
    pub expiry_ms: u64,
    /// Whether it may be evicted.
    pub class: Class,
}

/// What must hold for a put to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Condition {
    /// Nothing.
    #[default]
    None,
    /// The key isn't there.
    IfAbsent,
    /// The key is there, with exactly this version.
    IfVersion(u64),
}

/// One value to store, as its request describes it; the bytes follow in the payload, in the order of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutEntry<'a> {
    /// Its key.
    pub key: &'a [u8],
    /// What is stored beside it.
    pub attrs: Attrs,
    /// What must hold.
    pub condition: Condition,
    /// Length of the value in bytes.
    pub value_len: u64,
    /// CRC32C of the whole value.
    pub crc: u32,
}

impl PutEntry<'_> {
    /// Says whether key and length are within the protocol's limits.
    ///
    /// # Errors
    /// [`ErrorCode::BadKey`] or [`ErrorCode::TooLarge`]: the outcome of this entry alone. Its payload still follows.
    pub fn check(&self) -> Result<(), ErrorCode> {
        crate::limits::check_key(self.key)?;
        crate::limits::check_value_len(self.value_len)
    }
}

/// A stretch of one value in the payload of a reply, or the word that there is none.
///
/// All fields but `offset` and `chunk_len` are the same in every segment of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Which entry of the request it answers, from 0.
    pub entry_idx: u32,
    /// How that entry fared; bytes come with [`Outcome::Ok`] only.
    pub outcome: Outcome,
    /// What is stored beside the value; zeroes unless ok.
    pub attrs: Attrs,
    /// The value's version; 0 unless ok.
    pub version: u64,
    /// Length of the whole value.
    pub value_len: u64,
    /// CRC32C of the whole value.
    pub crc: u32,
    /// Where in the value this stretch starts.
    pub offset: u64,
    /// How many bytes of payload are its.
    pub chunk_len: u32,
}

impl Segment {
    /// The segment of an entry that has no value to show.
    pub fn without_value(entry_idx: u32, outcome: Outcome) -> Self {
        Segment {
            entry_idx,
            outcome,
            attrs: Attrs::default(),
            version: 0,
            value_len: 0,
            crc: 0,
            offset: 0,
            chunk_len: 0,
        }
    }

    /// Whether it reaches the end of its value.
    pub fn is_last(&self) -> bool {
        self.offset + u64::from(self.chunk_len) == self.value_len
    }
}
