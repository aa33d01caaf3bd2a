//! The file or device under a drive: opening it for ourselves alone, and reading it at start.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::users::Users;
use crate::error::DriveOpenError;
use crate::segment_log::bytes::PAGE;

const LOCK_ATTEMPTS: u32 = 50;
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(20);

/// See the module docs.
pub(crate) struct Media {
    pub(crate) path: PathBuf,
    pub(crate) file: OwnedFd,
    pub(crate) bytes: u64,
    /// Past the page cache.
    pub(crate) direct: bool,
    /// Longest I/O that the device takes whole.
    pub(crate) chunk_bytes: usize,
    /// A file, not a device.
    pub(crate) is_file: bool,
}

impl Media {
    /// Opens a file, made and preallocated where there is none yet (`create` bytes), or a
    /// device; and locks it.
    pub(crate) fn open(path: &Path, create: Option<u64>) -> Result<Self, DriveOpenError> {
        let exists = path.exists();
        if !exists && create.is_none() {
            let remedy = "plug the drive in, or take it out of storage.drives";
            return Err(DriveOpenError::Missing {
                path: path.into(),
                remedy,
            });
        }
        if let (false, Some(parent)) = (exists, path.parent()) {
            let parent = if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            };
            if !parent.is_dir() {
                let remedy = "create that directory, or correct storage.drives[].media";
                return Err(DriveOpenError::Missing {
                    path: parent.into(),
                    remedy,
                });
            }
        }
        let device = exists
            && path
                .metadata()
                .is_ok_and(|meta| meta.file_type().is_block_device());
        // Opening it would succeed; the first write would not.
        if device && Users::of(path).read_only {
            let remedy = "pick another one, or make it writable with blockdev --setrw";
            let why = io::ErrorKind::ReadOnlyFilesystem.into();
            return Err(access("write to", path, remedy, why));
        }
        let (file, direct) = open_file(path, !exists, device)?;
        lock(&file, path)?;
        let mut media = Self {
            path: path.into(),
            bytes: 0,
            direct,
            chunk_bytes: chunk_bytes(&file),
            is_file: !device,
            file: file.into(),
        };
        media.bytes = media.size()?;
        if let (false, Some(bytes), 0) = (device, create, media.bytes) {
            media.allocate(bytes)?;
        }
        Ok(media)
    }

    /// Lets others have it.
    pub(crate) fn unlock(&self) {
        let _ = flock(&self.file, FlockOperation::Unlock);
    }

    fn size(&self) -> Result<u64, DriveOpenError> {
        rustix::fs::seek(&self.file, rustix::fs::SeekFrom::End(0))
            .map_err(|why| self.io("find the size", why.into()))
    }

    fn allocate(&mut self, bytes: u64) -> Result<(), DriveOpenError> {
        use rustix::fs::{FallocateFlags, fallocate, ftruncate};
        let remedy = "free some space, or set storage.drives[].max_size to less";
        // Before we try: a failed try may hold blocks for a while.
        let free = rustix::fs::fstatvfs(&self.file).map_or(0, |fs| fs.f_bavail * fs.f_frsize);
        match fallocate(&self.file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => {}
            // A file system that can't preallocate: at least the length is right.
            Err(Errno::OPNOTSUPP) => ftruncate(&self.file, bytes)
                .map_err(|why| access("set the length of", &self.path, remedy, why.into()))?,
            Err(why) => {
                // Nothing half made stays behind to be taken for a drive.
                let _ = ftruncate(&self.file, 0);
                let _ = std::fs::remove_file(&self.path);
                if why == Errno::NOSPC {
                    let path = self.path.clone();
                    return Err(DriveOpenError::NoRoom { path, bytes, free });
                }
                return Err(access("preallocate", &self.path, remedy, why.into()));
            }
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Gives every byte of a file that is there already its room, so that no write ever finds none;
    /// what is in it stays. One that was copied with its holes has less room than bytes.
    pub(crate) fn fill_holes(&self, bytes: u64) -> Result<(), DriveOpenError> {
        use rustix::fs::{FallocateFlags, fallocate, fstat, fstatvfs};
        if !self.is_file {
            return Ok(());
        }
        let held = fstat(&self.file).map_err(|why| self.io("find the room", why.into()))?;
        let missing = bytes.saturating_sub(held.st_blocks as u64 * 512);
        let free = fstatvfs(&self.file).map_or(u64::MAX, |fs| fs.f_bavail * fs.f_frsize);
        let full = || DriveOpenError::Sparse {
            path: self.path.clone(),
            bytes,
            missing,
            free,
        };
        // A try that fails could take all that is left, and keep it.
        if missing > free {
            return Err(full());
        }
        match fallocate(&self.file, FallocateFlags::empty(), 0, bytes) {
            // Where a file system can't preallocate, a full one is met by the put that fills it.
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
            Err(Errno::NOSPC) => Err(full()),
            Err(why) => {
                let remedy = "free some space, or look at the quota of its file system";
                Err(access("preallocate", &self.path, remedy, why.into()))
            }
        }
    }

    /// Reads whole pages.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, DriveOpenError> {
        let mut buffer = Aligned::new(len);
        let mut at = 0;
        while at < len {
            let part = &mut buffer.bytes_mut()[at..];
            match rustix::io::pread(&self.file, part, offset + at as u64) {
                Ok(0) => return Err(self.io("read", io::ErrorKind::UnexpectedEof.into())),
                Ok(got) => at += got,
                Err(Errno::INTR) => {}
                Err(why) => return Err(self.io("read", why.into())),
            }
        }
        Ok(buffer.bytes_mut().to_vec())
    }

    /// Writes whole pages.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), DriveOpenError> {
        let mut buffer = Aligned::new(bytes.len());
        buffer.bytes_mut().copy_from_slice(bytes);
        let mut at = 0;
        while at < bytes.len() {
            let part = &buffer.bytes_mut()[at..];
            match rustix::io::pwrite(&self.file, part, offset + at as u64) {
                Ok(wrote) => at += wrote,
                Err(Errno::INTR) => {}
                Err(why) => return Err(self.io("write", why.into())),
            }
        }
        Ok(())
    }

    pub(crate) fn flush(&self) -> Result<(), DriveOpenError> {
        rustix::fs::fdatasync(self.file.as_fd()).map_err(|why| self.io("flush", why.into()))
    }

    pub(crate) fn corrupt(&self, what: &str) -> DriveOpenError {
        DriveOpenError::Corrupt {
            path: self.path.clone(),
            what: what.into(),
        }
    }

    pub(crate) fn io(&self, what: &'static str, source: io::Error) -> DriveOpenError {
        DriveOpenError::Io {
            what,
            path: self.path.clone(),
            source,
        }
    }
}

/// Locks a drive for us alone. A server that was killed holds its lock for as long as the
/// kernel takes to end its I/O.
fn lock(file: &File, path: &Path) -> Result<(), DriveOpenError> {
    let locked = patiently(
        || flock(file, FlockOperation::NonBlockingLockExclusive),
        |why| *why == Errno::WOULDBLOCK,
    );
    locked.map_err(|why| match why {
        Errno::WOULDBLOCK => DriveOpenError::InUse {
            path: path.into(),
            how: super::users::IN_USE.into(),
        },
        why => access("lock", path, "use a local file system", why.into()),
    })
}

/// Tries again for a while as long as the failure says that somebody `holds` what is wanted: what a
/// server that has ended held, the kernel gives back a moment later.
fn patiently<T, E>(attempt: impl Fn() -> Result<T, E>, holds: impl Fn(&E) -> bool) -> Result<T, E> {
    for _ in 0..LOCK_ATTEMPTS {
        match attempt() {
            Err(why) if holds(&why) => std::thread::sleep(LOCK_PAUSE),
            done => return done,
        }
    }
    attempt()
}

fn access(
    what: &'static str,
    path: &Path,
    remedy: &'static str,
    source: io::Error,
) -> DriveOpenError {
    DriveOpenError::Access {
        what,
        path: path.into(),
        remedy,
        source,
    }
}

/// Opens a device that may still be held by a server that has ended. One that is mounted or has
/// holders is refused at once.
fn open_patiently(path: &Path, options: &OpenOptions) -> io::Result<File> {
    patiently(
        || options.open(path),
        |why| why.raw_os_error() == Some(libc::EBUSY) && !Users::of(path).any(),
    )
}

fn open_file(path: &Path, create: bool, device: bool) -> Result<(File, bool), DriveOpenError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(create);
    if create {
        options.mode(0o600);
    }
    let exclusive = if device { libc::O_EXCL } else { 0 };
    let mut past_cache = options.clone();
    past_cache.custom_flags(libc::O_DIRECT | exclusive);
    let direct = open_patiently(path, &past_cache);
    let refused = |why: io::Error| match why.raw_os_error() {
        Some(libc::EBUSY) => DriveOpenError::InUse {
            path: path.into(),
            how: Users::of(path).how(),
        },
        Some(libc::EROFS) => access("write to", path, "mount its file system read-write", why),
        Some(libc::EACCES | libc::EPERM) => access(
            "write to",
            path,
            "run as root, or give this user read and write access to it",
            why,
        ),
        Some(libc::EISDIR) => access(
            "open",
            path,
            "name a file or a device, not a directory",
            why,
        ),
        _ => access("open", path, "check storage.drives[].media", why),
    };
    match direct {
        Ok(file) => {
            let direct = !is_in_memory(&file);
            Ok((file, direct))
        }
        // The file system has no O_DIRECT (tmpfs before 6.6, some overlays).
        Err(why) if why.raw_os_error() == Some(libc::EINVAL) => {
            let file = options
                .custom_flags(exclusive)
                .open(path)
                .map_err(refused)?;
            Ok((file, false))
        }
        Err(why) => Err(refused(why)),
    }
}

/// Whether a file is nowhere but in the page cache: tmpfs takes O_DIRECT from 6.6 on, and reads from there all the same.
fn is_in_memory(file: &File) -> bool {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    rustix::fs::fstatfs(file).is_ok_and(|found| found.f_type == TMPFS_MAGIC)
}

/// What the queue under a file takes without splitting: `max_sectors_kb`.
fn chunk_bytes(file: &File) -> usize {
    let fallback = 1 << 20;
    let Ok(meta) = file.metadata() else {
        return fallback;
    };
    let device = if meta.file_type().is_block_device() {
        meta.rdev()
    } else {
        meta.dev()
    };
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let block = format!("/sys/dev/block/{major}:{minor}");
    // A partition has no queue of its own.
    let limit = ["queue", "../queue"]
        .iter()
        .find_map(|queue| std::fs::read_to_string(format!("{block}/{queue}/max_sectors_kb")).ok());
    let kib = limit
        .and_then(|text| text.trim().parse::<usize>().ok())
        .unwrap_or(1024);
    (kib << 10).clamp(64 << 10, 2 << 20) / PAGE * PAGE
}

/// A page-aligned buffer, for reads past the page cache.
struct Aligned {
    roomy: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        let roomy = vec![0; len + PAGE];
        let start = roomy.as_ptr().align_offset(PAGE);
        Self { roomy, start, len }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.roomy[self.start..self.start + self.len]
    }
}
