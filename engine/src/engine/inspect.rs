//! What a device or file holds already, so that nothing foreign is ever overwritten.

use std::path::Path;

use super::open::read_superblock;
use crate::drive::media::Media;
use crate::error::DriveOpenError;
use crate::segment_log::bytes::PAGE;
use crate::segment_log::superblock::{Decoded, FORMAT_VERSION, show_uuid};

/// What a device or file is, as far as a store is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaContent {
    /// Nothing that we know: free to use.
    Blank,
    /// A drive of a memkv store.
    Store {
        /// The store's UUID.
        store: String,
        /// The drive's own UUID.
        drive: String,
        /// Bytes that it uses.
        bytes: u64,
        /// Whether it was stopped cleanly.
        clean: bool,
        /// Media errors since it was formatted.
        media_errors: u64,
    },
    /// A drive of a newer memkv, with its format version.
    NewerStore(u16),
    /// A memkv drive whose superblocks are all damaged.
    DamagedStore,
    /// Somebody else's data: what it is.
    Foreign(String),
}

/// Looks what a device or file holds, without changing it. It must not be in use: a device that
/// is mounted or has holders, or that a server has, is refused as such.
///
/// # Errors
/// [`DriveOpenError`].
pub fn inspect_media(path: &Path) -> Result<MediaContent, DriveOpenError> {
    let media = Media::open(path, None)?;
    if media.bytes < crate::config::DRIVE_BYTES_MIN {
        let path = path.into();
        let (bytes, needed) = (media.bytes, crate::config::DRIVE_BYTES_MIN);
        return Err(DriveOpenError::TooSmall {
            path,
            bytes,
            needed,
        });
    }
    Ok(match read_superblock(&media)? {
        Decoded::Valid(block) => MediaContent::Store {
            store: show_uuid(&block.store_uuid),
            drive: show_uuid(&block.drive_uuid),
            bytes: block.geometry.capacity,
            clean: block.clean,
            media_errors: block.media_errors,
        },
        Decoded::Newer(version) => MediaContent::NewerStore(version),
        Decoded::Corrupt => MediaContent::DamagedStore,
        Decoded::Foreign => match signature(&media)? {
            Some(what) => MediaContent::Foreign(what),
            None => MediaContent::Blank,
        },
    })
}

/// Blanks a drive, so that the next start makes it a new member of the store: everything on it
/// is lost. What isn't blank is refused, unless `force` says that it may go.
///
/// # Errors
/// [`DriveOpenError`]; nothing was written then, unless a write failed.
pub fn format_drive(path: &Path, force: bool) -> Result<(), DriveOpenError> {
    let content = inspect_media(path)?;
    let path_buf = || path.to_path_buf();
    match content {
        MediaContent::Blank => return Ok(()),
        _ if force => {}
        MediaContent::NewerStore(found) => {
            let (path, supported) = (path_buf(), FORMAT_VERSION);
            return Err(DriveOpenError::NewerVersion {
                path,
                found,
                supported,
            });
        }
        MediaContent::Store { store, .. } => {
            let what = format!("a drive of memkv store {store}");
            return Err(DriveOpenError::Foreign {
                path: path_buf(),
                what,
            });
        }
        MediaContent::DamagedStore => {
            let what = "a damaged drive of a memkv store".into();
            return Err(DriveOpenError::Foreign {
                path: path_buf(),
                what,
            });
        }
        MediaContent::Foreign(what) => {
            return Err(DriveOpenError::Foreign {
                path: path_buf(),
                what,
            });
        }
    }
    let media = Media::open(path, None)?;
    if let Decoded::Valid(block) = read_superblock(&media)? {
        // Its copies may lie before the end of the media.
        for at in block.geometry.copies() {
            media.write(at, &[0; PAGE])?;
        }
    }
    let len = (SAMPLE as u64).min(media.bytes) / PAGE as u64 * PAGE as u64;
    let zeroes = vec![0; len as usize];
    media.write(0, &zeroes)?;
    media.write((media.bytes - len) / PAGE as u64 * PAGE as u64, &zeroes)?;
    media.flush()
}

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
