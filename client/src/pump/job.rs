//! The core's own record of each op: where it is, and until when.

use memkv_telemetry::clock::Tick;
use slab::Slab;

use crate::error::TransportCause;

/// A caller's name for an op: the key of its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// A request id: slot in the low half, a rising sequence in the high one, so that a reply to what is gone finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpId(pub(crate) u64);

/// How far a job is.
#[derive(Debug, Clone)]
pub(crate) enum Phase {
    /// Nothing of it was sealed.
    Queued,
    /// Its frame is sealed; none, some or all of it is out.
    Sent,
    /// It is to be given up for `cause` once the server has acknowledged that, or at `until` by closing the connection.
    Fencing { cause: TransportCause, until: Tick },
}

#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: OpId,
    pub(crate) token: Token,
    /// Index of its connection in the core.
    pub(crate) conn: usize,
    pub(crate) phase: Phase,
    pub(crate) deadline: Tick,
    /// How often it was sent again.
    pub(crate) resent: u32,
    /// Whether the last byte of its frame is with the kernel.
    pub(crate) sent: bool,
    /// Whether it was answered in full before that. The rest of its payload must still leave, so its memory stays lent.
    pub(crate) answered: bool,
}

/// All jobs of a core.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    slots: Slab<Job>,
    sequence: u32,
}

impl Jobs {
    pub(crate) fn insert(&mut self, token: Token, conn: usize, deadline: Tick) -> OpId {
        // Zero is left out, so that no id is ever 0.
        self.sequence = self.sequence.checked_add(1).unwrap_or(1);
        let entry = self.slots.vacant_entry();
        let id = OpId(u64::from(self.sequence) << 32 | entry.key() as u64);
        entry.insert(Job {
            id,
            token,
            conn,
            phase: Phase::Queued,
            deadline,
            resent: 0,
            sent: false,
            answered: false,
        });
        id
    }

    pub(crate) fn get(&self, id: OpId) -> Option<&Job> {
        self.slots
            .get(id.0 as u32 as usize)
            .filter(|job| job.id == id)
    }

    pub(crate) fn get_mut(&mut self, id: OpId) -> Option<&mut Job> {
        self.slots
            .get_mut(id.0 as u32 as usize)
            .filter(|job| job.id == id)
    }

    pub(crate) fn remove(&mut self, id: OpId) -> Option<Job> {
        self.get(id)?;
        Some(self.slots.remove(id.0 as u32 as usize))
    }

    /// The ids of all jobs on connection `conn`.
    pub(crate) fn of_conn(&self, conn: usize) -> Vec<OpId> {
        self.slots
            .iter()
            .filter(|(_, job)| job.conn == conn)
            .map(|(_, job)| job.id)
            .collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }
}
