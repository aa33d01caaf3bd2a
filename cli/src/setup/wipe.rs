//! Blanking a drive: what finds file systems, partition tables and stores at either end finds
//! zeroes.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::Context;
use rustix::fs::{FallocateFlags, fallocate};

use super::media::{Kind, Media};

/// Every known signature lies within this of an end; a GPT's copy and a RAID's superblock stand at
/// the far one.
const END_BYTES: u64 = 1 << 20;

/// Blanks a drive: all of a file, and of a device that can zero itself; else both its ends.
///
/// A device is opened exclusively, so that one which got mounted since it was looked at fails here.
pub(super) fn wipe(drive: &Media) -> anyhow::Result<()> {
    let path = drive.path.display();
    let mut options = OpenOptions::new();
    options.write(true);
    if drive.kind == Kind::Device {
        options.custom_flags(rustix::fs::OFlags::EXCL.bits() as i32);
    }
    let file = options
        .open(&drive.path)
        .with_context(|| format!("open {path} to wipe it"))?;
    let wiped = match drive.kind {
        Kind::File => file.set_len(0).and_then(|()| file.sync_all()),
        Kind::Device | Kind::Absent => blank(file),
    };
    wiped.with_context(|| format!("wipe {path}"))
}

/// Zeroes all of it where the device does that by itself, as NVMe does; else both ends.
fn blank(mut file: File) -> io::Result<()> {
    let bytes = file.seek(SeekFrom::End(0))?;
    let zero = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    // The kernel refuses rather than write zeroes itself.
    if bytes > 0 && fallocate(&file, zero, 0, bytes).is_err() {
        blank_ends(&mut file, bytes)?;
    }
    file.sync_all()
}

fn blank_ends(file: &mut File, bytes: u64) -> io::Result<()> {
    let zeroes = vec![0; END_BYTES.min(bytes) as usize];
    for start in [0, bytes.saturating_sub(END_BYTES)] {
        file.seek(SeekFrom::Start(start))?;
        file.write_all(&zeroes)?;
    }
    Ok(())
}

/// Whether a drive's first bytes are a store's of ours; either of the two copies of its superblock
/// there will do.
pub(super) fn is_memkv(head: &[u8]) -> bool {
    [0, 64 << 10]
        .iter()
        .any(|at| head.get(*at..at + 7) == Some(b"memkvSB".as_slice()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_device_cannot_zero_itself_both_ends_are_blanked() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; 5 << 20]).unwrap();
        blank_ends(&mut file, 5 << 20).unwrap();
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        io::Read::read_to_end(&mut file, &mut bytes).unwrap();
        let all = |range: std::ops::Range<usize>, byte| bytes[range].iter().all(|b| *b == byte);
        assert_eq!(bytes.len(), 5 << 20);
        assert!(all(0..1 << 20, 0) && all(4 << 20..5 << 20, 0) && all(1 << 20..4 << 20, 7));
    }
}
