//! The key figures of a server, as a Stat reply carries them: `count 2 | count × { key 2 | value 8 }`, keys rising.
//! A key that a client doesn't know is skipped, so that a server can gain figures without a new version.

use crate::op::wire_enum;
use crate::wire::{DecodeError, Reader};

const FIELD_BYTES: usize = 10;

wire_enum! {
    /// A figure in a Stat reply.
    #[non_exhaustive]
    StatKey: u16, "stat key" {
        /// Milliseconds since the server started.
        UptimeMs = 1, "uptime_ms";
        /// Entries in the store.
        Entries = 2, "entries";
        /// Bytes of values that the store holds.
        UsedBytes = 3, "used_bytes";
        /// Bytes that the store can hold.
        CapacityBytes = 4, "capacity_bytes";
        /// Bytes of the slab pool.
        PoolBytes = 5, "pool_bytes";
        /// Bytes of the slab pool that nothing leases.
        PoolFreeBytes = 6, "pool_free_bytes";
        /// Open connections.
        Connections = 7, "connections";
        /// Requests being served.
        InFlight = 8, "in_flight";
        /// Configured drives.
        Drives = 9, "drives";
        /// Drives that serve.
        DrivesUp = 10, "drives_up";
        /// The highest version committed so far.
        Version = 11, "version";
        /// Longest value the server takes, in bytes.
        ValueBytesMax = 12, "value_bytes_max";
        /// Most entries the server takes in a batch.
        BatchEntriesMax = 13, "batch_entries_max";
    }
}

/// The figures of a Stat reply, checked and not copied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StatFields<'a> {
    rows: &'a [u8],
}

impl<'a> StatFields<'a> {
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let count = usize::from(reader.u16("stat count")?);
        let rows = reader.bytes("stat fields", count * FIELD_BYTES)?;
        let mut last = 0;
        for (key, _) in rows.chunks_exact(FIELD_BYTES).map(row) {
            if key <= last {
                return Err(DecodeError::BadValue {
                    field: "stat key",
                    value: u64::from(key),
                });
            }
            last = key;
        }
        Ok(StatFields { rows })
    }

    /// The figures that this build knows, by rising key.
    pub fn iter(&self) -> impl Iterator<Item = (StatKey, u64)> + use<'a> {
        self.rows
            .chunks_exact(FIELD_BYTES)
            .map(row)
            .filter_map(|(key, value)| Some((StatKey::from_wire(key).ok()?, value)))
    }

    /// One figure; `None` if the server didn't send it.
    pub fn get(&self, key: StatKey) -> Option<u64> {
        self.iter()
            .find(|(found, _)| *found == key)
            .map(|(_, value)| value)
    }
}

fn row(bytes: &[u8]) -> (u16, u64) {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[2..]);
    (
        u16::from_le_bytes([bytes[0], bytes[1]]),
        u64::from_le_bytes(value),
    )
}

pub(crate) fn write(out: &mut Vec<u8>, fields: &[(StatKey, u64)]) {
    assert!(
        fields.windows(2).all(|pair| pair[0].0 < pair[1].0),
        "stat keys must rise"
    );
    out.extend_from_slice(&(fields.len() as u16).to_le_bytes());
    for (key, value) in fields {
        out.extend_from_slice(&key.to_wire().to_le_bytes());
        out.extend_from_slice(&value.to_le_bytes());
    }
}
