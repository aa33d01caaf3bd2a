//! What a device or file holds already, so that nothing foreign is ever overwritten.

use crate::drive::media::Media;
use crate::error::DriveOpenError;
use crate::segment_log::bytes::PAGE;

/// A signature: where it is, what it is, whose it is.
const SIGNATURES: &[(usize, &[u8], &str)] = &[
    (512, b"EFI PART", "a GPT partition table"),
    (4096, b"EFI PART", "a GPT partition table"),
    (510, &[0x55, 0xaa], "a partition table or boot sector"),
    (1080, &[0x53, 0xef], "an ext2/3/4 file system"),
    (0, b"XFSB", "an XFS file system"),
    (65_600, b"_BHRfS_M", "a btrfs file system"),
    (536, b"LVM2 001", "an LVM physical volume"),
    (24, b"LVM2 001", "an LVM physical volume"),
    (0, &[0xfc, 0x4e, 0x2b, 0xa9], "an md RAID member"),
    (4096, &[0xfc, 0x4e, 0x2b, 0xa9], "an md RAID member"),
    (0, b"LUKS\xba\xbe", "a LUKS volume"),
    (4086, b"SWAPSPACE2", "swap space"),
    (4086, b"SWAP-SPACE", "swap space"),
    (0, b"hsqs", "a squashfs file system"),
    (32_769, b"CD001", "an ISO 9660 file system"),
    (1024, &[0x10, 0x20, 0xf5, 0xf2], "an F2FS file system"),
];
const SAMPLE: usize = 1 << 20;

/// Looks for a known signature, then for anything at all.
pub(super) fn signature(media: &Media) -> Result<Option<String>, DriveOpenError> {
    let len = SAMPLE.min(media.bytes as usize / PAGE * PAGE);
    let start = media.read(0, len)?;
    let end_at = (media.bytes - len as u64) / PAGE as u64 * PAGE as u64;
    let end = media.read(end_at, len)?;
    for (at, bytes, what) in SIGNATURES {
        if start.get(*at..at + bytes.len()) == Some(*bytes) {
            return Ok(Some((*what).into()));
        }
    }
    // ZFS labels hold arrays of uberblocks, 1 KiB apart, at both ends.
    let uberblock = |bytes: &[u8]| {
        bytes.chunks_exact(1024).any(|block| {
            let magic = u64::from_le_bytes(block[..8].try_into().unwrap_or_default());
            magic == 0x00ba_b10c || magic.swap_bytes() == 0x00ba_b10c
        })
    };
    if uberblock(&start) || uberblock(&end) {
        return Ok(Some("a ZFS pool member".into()));
    }
    let tail = |magic: &[u8]| {
        end.windows(magic.len())
            .rev()
            .take(PAGE)
            .any(|part| part == magic)
    };
    if tail(b"EFI PART") {
        return Ok(Some("the backup of a GPT partition table".into()));
    }
    let used = |bytes: &[u8]| bytes.iter().any(|byte| *byte != 0);
    if used(&start) || used(&end) {
        return Ok(Some("data of unknown origin".into()));
    }
    Ok(None)
}
