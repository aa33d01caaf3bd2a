//! Blanking a drive: what finds file systems, partition tables and stores at either end finds zeroes.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::Context;

use super::media::{Kind, Media};

/// Every known signature lies within this of an end; a GPT's copy and a RAID's superblock stand at the far one.
const END_BYTES: u64 = 1 << 20;

/// Blanks a drive: both ends of a device, all of a file.
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
        Kind::Device | Kind::Absent => blank_ends(file),
    };
    wiped.with_context(|| format!("wipe {path}"))
}

fn blank_ends(mut file: File) -> io::Result<()> {
    let bytes = file.seek(SeekFrom::End(0))?;
    let zeroes = vec![0; END_BYTES.min(bytes) as usize];
    for start in [0, bytes.saturating_sub(END_BYTES)] {
        file.seek(SeekFrom::Start(start))?;
        file.write_all(&zeroes)?;
    }
    file.sync_all()
}

/// Whether a drive's first bytes are a store's of ours; either of the two copies of its superblock there will do.
pub(super) fn is_memkv(head: &[u8]) -> bool {
    [0, 64 << 10]
        .iter()
        .any(|at| head.get(*at..at + 7) == Some(b"memkvSB".as_slice()))
}
