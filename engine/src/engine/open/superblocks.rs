//! Opening drives and their superblocks.

use super::super::inspect;
use super::Opened;
use crate::config::{DRIVE_BYTES_MIN, DriveConfig};
use crate::drive::media::Media;
use crate::error::DriveOpenError;
use crate::segment_log::bytes::PAGE;
use crate::segment_log::superblock::{Decoded, FORMAT_VERSION, Superblock, copies};

/// Bytes that a drive must have.
const CAPACITY_MIN: u64 = DRIVE_BYTES_MIN;

/// Opens a drive and reads its superblock, where it has one.
pub(super) fn open_drive(
    drive: &DriveConfig,
    create: Option<u64>,
) -> Result<Opened, DriveOpenError> {
    examine(Media::open(&drive.media, create)?, drive, create.is_some())
}

/// Reads the superblock of a drive that was opened.
pub(in crate::engine) fn examine(
    mut media: Media,
    drive: &DriveConfig,
    file: bool,
) -> Result<Opened, DriveOpenError> {
    let capacity = drive.max_size.unwrap_or(u64::MAX).min(media.bytes);
    if capacity < CAPACITY_MIN {
        let (path, bytes) = (drive.media.clone(), capacity);
        return Err(DriveOpenError::TooSmall {
            path,
            bytes,
            needed: CAPACITY_MIN,
        });
    }
    let superblock = match read_superblock(&media)? {
        Decoded::Valid(superblock) => Some(*superblock),
        Decoded::Newer(found) => {
            let path = drive.media.clone();
            return Err(DriveOpenError::NewerVersion {
                path,
                found,
                supported: FORMAT_VERSION,
            });
        }
        Decoded::Corrupt => return Err(media.corrupt("every copy of the superblock")),
        Decoded::Foreign => {
            if let Some(what) = inspect::signature(&media)? {
                return Err(DriveOpenError::Foreign {
                    path: drive.media.clone(),
                    what,
                });
            }
            None
        }
    };
    if let Some(superblock) = &superblock {
        if superblock.geometry.capacity > media.bytes {
            let (path, needed) = (drive.media.clone(), superblock.geometry.capacity);
            return Err(DriveOpenError::TooSmall {
                path,
                bytes: media.bytes,
                needed,
            });
        }
        if superblock.blacklisted {
            let (path, failures) = (drive.media.clone(), superblock.media_errors);
            return Err(DriveOpenError::Blacklisted { path, failures });
        }
        let finding = compare_size(drive, superblock, file, media.bytes)?;
        media.fill_holes(superblock.geometry.capacity)?;
        return Ok(Opened {
            media,
            superblock: Some(superblock.clone()),
            finding,
        });
    }
    media.fill_holes(capacity)?;
    media.bytes = capacity;
    Ok(Opened {
        media,
        superblock: None,
        finding: None,
    })
}

/// Compares what a formatted drive may use with what it was formatted with, which is what it uses.
/// A finding where it could use more.
fn compare_size(
    drive: &DriveConfig,
    superblock: &Superblock,
    file: bool,
    media_bytes: u64,
) -> Result<Option<String>, DriveOpenError> {
    let Some(max_size) = drive.max_size else {
        return Ok(None);
    };
    let formatted = superblock.geometry.capacity;
    // A device has no more than it has; a file would be made with that size.
    let usable = if file {
        max_size
    } else {
        max_size.min(media_bytes)
    };
    let usable = usable / PAGE as u64 * PAGE as u64;
    if usable < formatted {
        let path = drive.media.clone();
        return Err(DriveOpenError::Capped {
            path,
            formatted,
            max_size,
        });
    }
    Ok((usable > formatted).then(|| {
        format!(
            "{} is formatted with {formatted} bytes and uses no more, although its \
             storage.drives[].max_size is {max_size}: wipe it with `memkv setup --force` to use more",
            drive.media.display()
        )
    }))
}

/// Reads all copies. Those at the end are found by the capacity of the first valid one, else by
/// the size of the media.
pub(in crate::engine) fn read_superblock(media: &Media) -> Result<Decoded, DriveOpenError> {
    let mut found = Vec::new();
    for at in [0, copies(media.bytes)[1]] {
        found.push(Superblock::decode(&media.read(at, PAGE)?));
    }
    let capacity = found.iter().find_map(|copy| match copy {
        Decoded::Valid(superblock) => Some(superblock.geometry.capacity),
        _ => None,
    });
    let capacity = capacity.unwrap_or(media.bytes / PAGE as u64 * PAGE as u64);
    for at in &copies(capacity)[2..] {
        if at + PAGE as u64 <= media.bytes {
            found.push(Superblock::decode(&media.read(*at, PAGE)?));
        }
    }
    let chosen = Superblock::choose(&found);
    let is_valid = |copy: &&Decoded| matches!(copy, Decoded::Valid(_));
    let valid = found.iter().filter(is_valid).count();
    if valid > 0 && valid < found.len() {
        let (drive, copies) = (media.path.display(), found.len());
        tracing::warn!(
            %drive, valid, copies,
            "some copies of the superblock were damaged; they are written anew"
        );
    }
    Ok(chosen)
}

/// Writes the copies of a superblock, two by two.
pub(in crate::engine) fn write_superblock(
    media: &Media,
    block: &mut Superblock,
) -> Result<(), DriveOpenError> {
    block.generation += 1;
    let page = block.encode();
    let [first, second, third, fourth] = block.geometry.copies();
    for pair in [[first, third], [second, fourth]] {
        for at in pair {
            media.write(at, &page)?;
        }
        media.flush()?;
    }
    Ok(())
}
