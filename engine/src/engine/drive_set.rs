//! The drives by their numbers: which serve, which are lost, and who has that on record.
//!
//! What is on a drive that is lost becomes stale as soon as a change of one of its keys goes
//! elsewhere, and the drive may come back at the next start. So each loss begins a new *member
//! generation*, which the drives that are left write into their superblocks: a drive that
//! doesn't know of it is refused then. Only when all that serve have it on record do the lost
//! drive's keys go to them; until then changes of those keys fail.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Which members a store runs with, as superblocks keep it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) generation: u64,
    /// By member number.
    pub(crate) present: u64,
}

/// See the module docs.
pub(crate) struct DriveSet {
    /// The drives' numbers for good; `u16::MAX` for those that weren't there at the start.
    members: Vec<u16>,
    serving: AtomicU64,
    /// Drives that others may stand in for.
    replaced: AtomicU64,
    losses: Mutex<Losses>,
}

struct Losses {
    membership: Membership,
    /// By drive: the generation that its loss began.
    lost: Vec<Option<u64>>,
    /// By drive: the generation that it has on record.
    recorded: Vec<u64>,
}

impl DriveSet {
    /// Of drives with these numbers for good; `u16::MAX` for those that aren't there, which the
    /// generation doesn't count on. Without drives, in memory mode, everything serves.
    pub(crate) fn new(members: Vec<u16>, membership: Membership) -> Self {
        let bits = |there: bool| {
            let those = (0..)
                .zip(&members)
                .filter(|(_, m)| (**m != u16::MAX) == there);
            those.fold(0, |bits, (drive, _): (u32, _)| bits | 1u64 << drive)
        };
        let serving = if members.is_empty() {
            u64::MAX
        } else {
            bits(true)
        };
        let losses = Losses {
            membership,
            lost: vec![None; members.len()],
            recorded: vec![membership.generation; members.len()],
        };
        Self {
            serving: AtomicU64::new(serving),
            replaced: AtomicU64::new(bits(false)),
            losses: Mutex::new(losses),
            members,
        }
    }

    pub(crate) fn members(&self) -> &[u16] {
        &self.members
    }

    /// What superblocks are to have on record.
    #[cfg(test)]
    pub(crate) fn membership(&self) -> Membership {
        self.losses.lock().membership
    }

    pub(crate) fn serves(&self, drive: u8) -> bool {
        self.serving.load(Ordering::SeqCst) & bit(drive) != 0
    }

    /// The drives that serve.
    pub(crate) fn serving(&self) -> impl Iterator<Item = u8> + use<> {
        let serving = self.serving.load(Ordering::SeqCst);
        (0..self.members.len() as u8).filter(move |drive| serving & bit(*drive) != 0)
    }

    /// Who takes the changes of a drive that doesn't serve: one that does, for the same number the
    /// same one as long as that serves; the lost one itself while it can't be replaced yet.
    pub(crate) fn instead_of(&self, drive: u8, number: u32) -> Option<u8> {
        // Rendezvous: when a drive goes, only what it had moves.
        let weight = |drive: &u8| {
            let mixed = number ^ u32::from(*drive).wrapping_mul(0x9e37_79b9);
            (mixed ^ mixed >> 15).wrapping_mul(0x85eb_ca6b)
        };
        let other = self.serving().max_by_key(weight)?;
        if self.replaced.load(Ordering::SeqCst) & bit(drive) == 0 {
            return Some(drive);
        }
        Some(other)
    }

    /// A drive has stopped with the store.
    pub(crate) fn stopped(&self, drive: u8) {
        self.serving.fetch_and(!bit(drive), Ordering::SeqCst);
    }

    /// A drive is lost; returns what those that are left must put on record, the first time.
    pub(crate) fn lost(&self, drive: u8) -> Option<Membership> {
        self.stopped(drive);
        let mut losses = self.losses.lock();
        let member = *self.members.get(usize::from(drive))?;
        if losses.lost[usize::from(drive)].is_some() {
            return None;
        }
        losses.membership.generation += 1;
        losses.membership.present &= !1u64.checked_shl(member.into()).unwrap_or(0);
        losses.lost[usize::from(drive)] = Some(losses.membership.generation);
        self.judge(&losses);
        Some(losses.membership)
    }

    /// A drive has a generation on record.
    pub(crate) fn recorded(&self, drive: u8, generation: u64) {
        let mut losses = self.losses.lock();
        if let Some(recorded) = losses.recorded.get_mut(usize::from(drive)) {
            *recorded = generation.max(*recorded);
        }
        self.judge(&losses);
    }

    fn judge(&self, losses: &Losses) {
        let known = self
            .serving()
            .map(|drive| losses.recorded[usize::from(drive)])
            .min();
        for (drive, lost) in (0u8..).zip(&losses.lost) {
            if lost.is_some_and(|lost| known.is_some_and(|known| known >= lost)) {
                self.replaced.fetch_or(bit(drive), Ordering::SeqCst);
            }
        }
    }
}

fn bit(drive: u8) -> u64 {
    1u64.checked_shl(drive.into()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_drive_is_replaced_once_all_others_have_its_loss_on_record() {
        let membership = Membership {
            generation: 5,
            present: 0b1011,
        };
        // The third one isn't there, and the last one is member 3.
        let set = DriveSet::new(vec![0, 1, u16::MAX, 3], membership);
        assert_eq!(set.serving().collect::<Vec<_>>(), [0, 1, 3]);
        let others: Vec<_> = (0..64).filter_map(|at| set.instead_of(2, at)).collect();
        assert!(
            [0, 1, 3].iter().all(|drive| others.contains(drive)),
            "missing since the start: {others:?}"
        );
        let left = set.lost(3).expect("news");
        assert_eq!((left.generation, left.present), (6, 0b0011));
        assert_eq!(set.lost(3), None, "no news");
        assert_eq!(set.instead_of(3, 0), Some(3), "nobody may yet");
        set.recorded(0, 6);
        assert_eq!(set.instead_of(3, 0), Some(3), "one doesn't know yet");
        let left = set.lost(1).expect("news");
        assert_eq!((left.generation, left.present), (7, 0b0001));
        assert_eq!(set.instead_of(3, 9), Some(0), "all that are left know");
        assert_eq!(set.instead_of(1, 9), Some(1), "not of this one");
        set.recorded(0, 7);
        assert_eq!(set.instead_of(1, 9), Some(0));
        set.lost(0);
        assert_eq!(set.instead_of(1, 9), None, "none is left");
    }
}
