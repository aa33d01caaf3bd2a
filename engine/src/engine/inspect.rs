//! What a device or file holds already, so that nothing foreign is ever overwritten.
//!
//! A device is judged by what the kernel says of it (mounts, holders, partitions) and by its
//! bytes: all of its first and last MiB, where signatures stand, and pages spread evenly between
//! them. Formatting zeroes at least all of these, so that a drive that was formatted is blank to
//! the next look.

mod signatures;

use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, ftruncate};

use super::open::read_superblock;
use crate::config::DRIVE_BYTES_MIN;
use crate::drive::media::Media;
use crate::drive::users::Users;
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
/// An empty file is blank: a start gives it its size.
///
/// # Errors
/// [`DriveOpenError`].
pub fn inspect_media(path: &Path) -> Result<MediaContent, DriveOpenError> {
    inspect(&Media::open(path, None)?)
}

fn inspect(media: &Media) -> Result<MediaContent, DriveOpenError> {
    let device = is_device(media);
    if !device && media.bytes == 0 {
        return Ok(MediaContent::Blank);
    }
    if media.bytes < DRIVE_BYTES_MIN {
        if let (false, Some(what)) = (device, data(media)?) {
            return Ok(MediaContent::Foreign(what));
        }
        return Err(DriveOpenError::TooSmall {
            path: media.path.clone(),
            bytes: media.bytes,
            needed: DRIVE_BYTES_MIN,
        });
    }
    Ok(match read_superblock(media)? {
        Decoded::Valid(block) => MediaContent::Store {
            store: show_uuid(&block.store_uuid),
            drive: show_uuid(&block.drive_uuid),
            bytes: block.geometry.capacity,
            clean: block.clean,
            media_errors: block.media_errors,
        },
        Decoded::Newer(version) => MediaContent::NewerStore(version),
        Decoded::Corrupt => MediaContent::DamagedStore,
        Decoded::Foreign => match signature(media)? {
            Some(what) => MediaContent::Foreign(what),
            None => MediaContent::Blank,
        },
    })
}

fn is_device(media: &Media) -> bool {
    let meta = media.path.metadata();
    meta.is_ok_and(|meta| meta.file_type().is_block_device())
}

/// Blanks a drive, so that the next start makes it a new member of the store: everything on it
/// is lost. What isn't blank is refused, unless `force` says that it may go.
///
/// A file is emptied; a start gives it its size again. A device is told to drop all of its blocks
/// (zeroes where it can do that by itself, else a discard), so that it starts its new life trimmed;
/// and what is looked at by [`inspect_media`] is zeroed in any case.
///
/// # Errors
/// [`DriveOpenError`]; nothing was written then, unless a write failed.
pub fn format_drive(path: &Path, force: bool) -> Result<(), DriveOpenError> {
    let media = Media::open(path, None)?;
    let foreign = |what: String| DriveOpenError::Foreign {
        path: path.into(),
        what,
    };
    match inspect(&media) {
        Ok(MediaContent::Blank) => return Ok(()),
        // A file has whatever size it is given.
        Err(DriveOpenError::TooSmall { .. }) if force && !is_device(&media) => {}
        Ok(_) if force => {}
        Ok(MediaContent::NewerStore(found)) => {
            let (path, supported) = (path.into(), FORMAT_VERSION);
            return Err(DriveOpenError::NewerVersion {
                path,
                found,
                supported,
            });
        }
        Ok(MediaContent::Store { store, .. }) => {
            return Err(foreign(format!("a drive of memkv store {store}")));
        }
        Ok(MediaContent::DamagedStore) => {
            return Err(foreign("a damaged drive of a memkv store".into()));
        }
        Ok(MediaContent::Foreign(what)) => return Err(foreign(what)),
        Err(error) => return Err(error),
    }
    if is_device(&media) {
        blank(&media)?;
    } else {
        ftruncate(&media.file, 0).map_err(|why| media.io("empty", why.into()))?;
    }
    media.flush()
}

fn blank(media: &Media) -> Result<(), DriveOpenError> {
    if let Decoded::Valid(block) = read_superblock(media)? {
        // Its copies may lie before the end of the media.
        for at in block.geometry.copies() {
            media.write(at, &[0; PAGE])?;
        }
    }
    // The kernel refuses either rather than write zeroes by itself, which would take hours.
    let zeroes = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let discard = zeroes | FallocateFlags::NO_HIDE_STALE;
    let dropped = [zeroes, discard]
        .into_iter()
        .any(|how| fallocate(&media.file, how, 0, media.bytes).is_ok());
    tracing::debug!(drive = %media.path.display(), dropped, "blanked");
    for (at, len) in places(media.bytes) {
        media.write(at, &vec![0; len])?;
    }
    Ok(())
}

/// Looked at whole, at either end.
const END_BYTES: u64 = 1 << 20;
/// Pages looked at between the ends.
const PAGES: u64 = 254;

/// What is looked at of media of this size: the start, the end, and pages between them.
fn places(bytes: u64) -> Vec<(u64, usize)> {
    let page = PAGE as u64;
    let head = END_BYTES.min(bytes);
    // The end may lie within a page.
    let tail = bytes.saturating_sub(END_BYTES).max(head) / page * page;
    let mut places = vec![(0, head as usize), (tail, (bytes - tail) as usize)];
    if bytes >= DRIVE_BYTES_MIN {
        let step = (tail - head) / (PAGES + 1) / page * page;
        places.extend((1..=PAGES).map(|idx| (head + idx * step, PAGE)));
    }
    places
}

/// Looks for partitions, then for a known signature, then for anything at all.
pub(super) fn signature(media: &Media) -> Result<Option<String>, DriveOpenError> {
    let users = if is_device(media) {
        Users::of(&media.path)
    } else {
        Users::default()
    };
    if users.partitions.is_empty() {
        return data(media);
    }
    let partitions = users.partitions.join(", ");
    Ok(Some(format!("the partitions {partitions}")))
}

fn data(media: &Media) -> Result<Option<String>, DriveOpenError> {
    // Through the page cache, which needs no alignment: a file may end anywhere.
    let file = File::open(&media.path).map_err(|why| media.io("open", why))?;
    let read = |(at, len): (u64, usize)| {
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, at)
            .map_err(|why| media.io("read", why))?;
        Ok::<_, DriveOpenError>(bytes)
    };
    let places = places(media.bytes);
    let (head, tail) = (read(places[0])?, read(places[1])?);
    if let Some(what) = signatures::known(&head, &tail, media.bytes) {
        return Ok(Some(what.into()));
    }
    let used = |bytes: &[u8]| bytes.iter().any(|byte| *byte != 0);
    let mut found = used(&head) || used(&tail);
    for place in &places[2..] {
        found = found || used(&read(*place)?);
    }
    Ok(found.then(|| "data of unknown origin".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_and_pages_between_them_are_looked_at() {
        for bytes in [DRIVE_BYTES_MIN, (64 << 20) + 512, 1 << 44] {
            let places = places(bytes);
            assert_eq!(places.len() as u64, PAGES + 2);
            assert_eq!(places[0], (0, 1 << 20));
            let (tail, len) = places[1];
            assert_eq!(tail + len as u64, bytes);
            assert!((1 << 20..(1 << 20) + PAGE).contains(&len), "{len}");
            let between = &places[2..];
            assert!(between.iter().all(|(at, _)| at % PAGE as u64 == 0));
            assert!(between.windows(2).all(|pair| pair[0].0 < pair[1].0));
            // No gap of more than a hundredth of the whole.
            let last = between.last().expect("pages").0;
            assert!(last < tail && tail - last < bytes / 100, "{bytes}");
        }
        assert_eq!(places(0), [(0, 0), (0, 0)]);
        assert_eq!(places(8), [(0, 8), (0, 8)]);
    }

    #[test]
    fn data_anywhere_near_the_ends_of_a_file_is_foreign() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("drive");
        let bytes = (16 << 20) + 1000;
        for at in [0, (1 << 20) - 1, bytes - (1 << 20), bytes - 1] {
            let file = File::create(&path).expect("create");
            file.set_len(bytes).expect("set_len");
            assert_eq!(inspect_media(&path).expect("inspect"), MediaContent::Blank);
            file.write_all_at(&[1], at).expect("write");
            let foreign = MediaContent::Foreign("data of unknown origin".into());
            assert_eq!(inspect_media(&path).expect("inspect"), foreign, "{at}");
        }
    }

    #[test]
    fn small_files_are_blank_only_when_empty() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("drive");
        std::fs::write(&path, "").expect("write");
        assert_eq!(inspect_media(&path).expect("inspect"), MediaContent::Blank);
        std::fs::write(&path, [0; 4096]).expect("write");
        let small = inspect_media(&path).expect_err("too small");
        assert!(matches!(small, DriveOpenError::TooSmall { .. }), "{small}");
        assert!(format_drive(&path, false).is_err());
        format_drive(&path, true).expect("format");
        std::fs::write(&path, "precious").expect("write");
        let content = inspect_media(&path).expect("inspect");
        assert!(matches!(content, MediaContent::Foreign(_)), "{content:?}");
        assert!(format_drive(&path, false).is_err());
        assert_eq!(std::fs::read(&path).expect("read"), b"precious");
        format_drive(&path, true).expect("format");
        assert_eq!(std::fs::read(&path).expect("read"), b"");
    }
}
