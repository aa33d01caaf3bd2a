//! A drive that may lose power: it tells what it was made to write from what it has to keep.
//!
//! The bytes are those of a file in memory, so that recovery reads them as it reads any other file.
//! Next to it lie the writes that no flush has covered yet. A loss of power keeps any of them, in any
//! order, each torn anywhere between two sectors.

use std::os::fd::OwnedFd;

use super::Random;
use crate::drive::media::Media;

const SECTOR: usize = 512;

/// How a run ends without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Crash {
    /// The process is killed: what the drive was told, it has.
    Kill,
    /// The power fails: what no flush covers may be there, or not.
    PowerCut,
}

/// A write that ended, and that no flush has covered.
struct Unflushed {
    offset: u64,
    before: Vec<u8>,
    after: Vec<u8>,
}

/// See the module docs.
pub(in crate::engine) struct Disk {
    file: OwnedFd,
    bytes: u64,
    /// In the order in which they ended.
    unflushed: Vec<Unflushed>,
    /// How many writes have ended, how many a flush has covered, and how many one is about to.
    pub(in crate::engine) written: u64,
    pub(in crate::engine) flushed: u64,
    pub(in crate::engine) flushing: u64,
}

impl Disk {
    pub(in crate::engine) fn new(bytes: u64) -> Self {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let file = rustix::fs::memfd_create("memkv-disk", flags).expect("a memfd");
        rustix::fs::ftruncate(&file, bytes).expect("set its length");
        Self {
            file,
            bytes,
            unflushed: Vec::new(),
            written: 0,
            flushed: 0,
            flushing: 0,
        }
    }

    /// What recovery opens. It flushes before the first change that relies on what it found, so
    /// whatever is there when it opens counts as flushed.
    pub(in crate::engine) fn media(&mut self, idx: usize) -> Media {
        self.flush(self.written);
        Media {
            path: format!("disk{idx}").into(),
            file: self.file.try_clone().expect("a descriptor"),
            bytes: self.bytes,
            direct: false,
            chunk_bytes: 1 << 20,
            is_file: false,
        }
    }

    pub(super) fn read(&self, offset: u64, bytes: &mut [u8]) {
        let got = rustix::io::pread(&self.file, &mut *bytes, offset).expect("read");
        assert_eq!(got, bytes.len(), "within the disk");
    }

    fn put(&self, offset: u64, bytes: &[u8]) {
        let put = rustix::io::pwrite(&self.file, bytes, offset).expect("write");
        assert_eq!(put, bytes.len(), "within the disk");
    }

    pub(super) fn write(&mut self, offset: u64, after: Vec<u8>) {
        let mut before = vec![0; after.len()];
        self.read(offset, &mut before);
        self.put(offset, &after);
        self.unflushed.push(Unflushed {
            offset,
            before,
            after,
        });
        self.written += 1;
    }

    /// A flush ended that was begun when so many writes had ended.
    pub(super) fn flush(&mut self, begun_at: u64) {
        let count = begun_at.saturating_sub(self.flushed);
        self.unflushed.drain(..count as usize);
        self.flushed += count;
    }

    /// Ends the run; `in_flight` are writes that were begun and have not ended.
    pub(super) fn crash(
        &mut self,
        crash: Crash,
        in_flight: Vec<(u64, Vec<u8>)>,
        random: &mut Random,
    ) {
        let mut maybe = in_flight;
        if crash == Crash::PowerCut {
            for write in std::mem::take(&mut self.unflushed).into_iter().rev() {
                self.put(write.offset, &write.before);
                maybe.push((write.offset, write.after));
            }
            self.written = self.flushed;
        }
        // Sometimes nearly all of it is there, sometimes next to nothing.
        let share = random.below(101);
        while !maybe.is_empty() {
            let (offset, bytes) = maybe.swap_remove(random.below(maybe.len()));
            if random.below(100) < share {
                self.put(offset, &bytes);
            } else if random.below(3) == 0 {
                for (at, sector) in (offset..).step_by(SECTOR).zip(bytes.chunks(SECTOR)) {
                    if random.below(2) == 0 {
                        self.put(at, sector);
                    }
                }
            }
        }
    }
}
