//! What can go wrong, per operation, shaped by what a caller can do about it.

use std::io;
use std::path::PathBuf;

use crate::api::DriveIdx;
use crate::config::ConfigError;

/// Why a put isn't in the store.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// Too much is waiting; nothing was done.
    #[error("too much is waiting; try again in {retry_after_us} µs")]
    Busy {
        /// When to try again.
        retry_after_us: u32,
    },
    /// The value can never be stored here.
    #[error("value of {len} bytes: the limit is {bound} bytes ({limit})")]
    TooLarge {
        /// Length of the value.
        len: u64,
        /// The longest that goes.
        bound: u64,
        /// What sets the bound.
        limit: &'static str,
    },
    /// The key is empty or too long.
    #[error("key of {len} bytes: must be 1 to {bound}")]
    BadKey {
        /// Its length.
        len: usize,
        /// The longest that goes.
        bound: usize,
    },
    /// The store is full and may not evict.
    #[error("no space: {used} of {capacity} bytes are used and eviction is off; delete something")]
    NoSpace {
        /// Bytes used.
        used: u64,
        /// Bytes that there are.
        capacity: u64,
    },
    /// The file system under the drive is full. What is stored can still be read.
    #[error("no room on drive {drive}: free space in its file system")]
    DriveFull {
        /// The drive.
        drive: DriveIdx,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The condition doesn't hold.
    #[error("the condition of the put doesn't hold")]
    ConditionFailed {
        /// The version that is there; `None` if the entry is absent.
        current: Option<u64>,
    },
    /// The drive can't take it.
    #[error("write to drive {drive}")]
    Io {
        /// The drive.
        drive: DriveIdx,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// No drive of the store is up.
    #[error("no drive is up")]
    NoDrive,
    /// The engine is shutting down.
    #[error("the engine is shutting down")]
    Draining,
}

/// Why a value can't be read. A miss is not an error.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// Too much is waiting; nothing was done.
    #[error("too much is waiting; try again in {retry_after_us} µs")]
    Busy {
        /// When to try again.
        retry_after_us: u32,
    },
    /// The key is empty or too long.
    #[error("key of {len} bytes: must be 1 to {bound}")]
    BadKey {
        /// Its length.
        len: usize,
        /// The longest that goes.
        bound: usize,
    },
    /// The stored bytes aren't what was written. The entry has been purged.
    #[error("value on drive {drive} is corrupt ({what}) and was purged")]
    Corrupt {
        /// The drive.
        drive: DriveIdx,
        /// What told.
        what: &'static str,
    },
    /// The rest of a streamed value was replaced, deleted or evicted meanwhile.
    #[error("the value went away while it was being read")]
    Gone,
    /// The drive can't read it.
    #[error("read from drive {drive}")]
    Io {
        /// The drive.
        drive: DriveIdx,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The engine is shutting down.
    #[error("the engine is shutting down")]
    Draining,
}

/// Why a delete wasn't done.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// Too much is waiting; nothing was done.
    #[error("too much is waiting; try again in {retry_after_us} µs")]
    Busy {
        /// When to try again.
        retry_after_us: u32,
    },
    /// The key is empty or too long.
    #[error("key of {len} bytes: must be 1 to {bound}")]
    BadKey {
        /// Its length.
        len: usize,
        /// The longest that goes.
        bound: usize,
    },
    /// The drive, or the file system under it, has no room for the tombstone.
    #[error("no room for a tombstone on drive {drive}: free space in its file system")]
    DriveFull {
        /// The drive.
        drive: DriveIdx,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The drive can't take the tombstone.
    #[error("write a tombstone to drive {drive}")]
    Io {
        /// The drive.
        drive: DriveIdx,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The engine is shutting down.
    #[error("the engine is shutting down")]
    Draining,
}

/// Why a scan can't go on.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// Too much is waiting; nothing was done.
    #[error("too much is waiting; try again in {retry_after_us} µs")]
    Busy {
        /// When to try again.
        retry_after_us: u32,
    },
    /// The drive can't be read.
    #[error("read from drive {drive}")]
    Io {
        /// The drive.
        drive: DriveIdx,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The engine is shutting down.
    #[error("the engine is shutting down")]
    Draining,
}

/// Why an engine can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The configuration can't work.
    #[error("engine configuration")]
    Config(#[source] ConfigError),
    /// The pool can't be mapped.
    #[error("map the pool of {bytes} bytes ({field})")]
    Pool {
        /// Its size.
        bytes: u64,
        /// The key that sets it.
        field: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Direct mode can't register the pool with the drives' rings.
    #[error(
        "register {bytes} bytes of memory with the rings of {drives} drives (each takes all of \
         memory.max_size): this process may lock {limit} bytes; raise it with \
         LimitMEMLOCK=infinity (systemd), ulimit -l unlimited, or CAP_IPC_LOCK, \
         or lower memory.max_size"
    )]
    Memlock {
        /// What it takes.
        bytes: u64,
        /// How many drives take part of it.
        drives: usize,
        /// The soft limit.
        limit: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A thread, or what it works with, can't be made.
    #[error("start {what}")]
    Start {
        /// What.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A drive can't be used and the store can't go on without it.
    #[error("open drive {}", media.display())]
    Drive {
        /// Its path.
        media: PathBuf,
        /// Why.
        #[source]
        source: DriveOpenError,
    },
    /// None of the drives is there.
    #[error("none of the {count} drives of storage.drives can be opened")]
    NoDrives {
        /// How many are configured.
        count: usize,
    },
}

/// Why one drive can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum DriveOpenError {
    /// It isn't there.
    #[error("{} does not exist; {remedy}", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
        /// What to do.
        remedy: &'static str,
    },
    /// The kernel doesn't let us.
    #[error("{} {}; {remedy}", what, path.display())]
    Access {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What to do.
        remedy: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Its file can't be made: the file system is too full.
    #[error(
        "{} is to be {bytes} bytes, but its file system has {free} bytes free; \
         free some space, or set storage.drives[].max_size to less",
        path.display()
    )]
    NoRoom {
        /// The path.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// What there is.
        free: u64,
    },
    /// Its file has holes, and its file system is too full to fill them: puts would fail.
    #[error(
        "{} has {bytes} bytes, {missing} of them without room in its file system, which has {free} \
         bytes free; free some space, or wipe the drive with `memkv setup --force` and set \
         storage.drives[].max_size to less",
        path.display()
    )]
    Sparse {
        /// The path.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// What has no room yet.
        missing: u64,
        /// What there is.
        free: u64,
    },
    /// Somebody else has it: another process, a mount, a device on top of it.
    #[error("{} is {how}", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
        /// How it is used, and what to do about that.
        how: String,
    },
    /// It holds something that isn't ours.
    #[error(
        "{} holds {what}; pick another drive, or wipe it with `memkv setup --force`",
        path.display()
    )]
    Foreign {
        /// The path.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// It was written by a newer release.
    #[error(
        "{} has on-disk format version {found}, this release reads up to {supported}; \
         upgrade memkv or wipe the drive",
        path.display()
    )]
    NewerVersion {
        /// The path.
        path: PathBuf,
        /// The version on it.
        found: u16,
        /// The highest that we read.
        supported: u16,
    },
    /// It belongs to another store.
    #[error(
        "{} belongs to another store ({found}, this store is {expected}); \
         take it out of storage.drives or wipe it with `memkv setup --force`",
        path.display()
    )]
    OtherStore {
        /// The path.
        path: PathBuf,
        /// Its store.
        found: String,
        /// Ours.
        expected: String,
    },
    /// The store ran without it, so that its values may be stale.
    #[error(
        "{} missed {behind} starts of this store, so its values may be stale; \
         wipe it with `memkv setup --force` before it joins again",
        path.display()
    )]
    Stale {
        /// The path.
        path: PathBuf,
        /// How many member generations it is behind.
        behind: u64,
    },
    /// Its structures can't be read.
    #[error("{}: {what} is corrupt; wipe the drive with `memkv setup --force`", path.display())]
    Corrupt {
        /// The path.
        path: PathBuf,
        /// What.
        what: String,
    },
    /// It is too small, or smaller than it was formatted for.
    #[error("{} has {bytes} bytes; needs at least {needed}: pick a larger one", path.display())]
    TooSmall {
        /// The path.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// What it takes.
        needed: u64,
    },
    /// It is formatted with more bytes than it may use now.
    #[error(
        "{} is formatted with {formatted} bytes, but its storage.drives[].max_size is {max_size}: \
         set that to {formatted} B at least, or wipe the drive with `memkv setup --force`",
        path.display()
    )]
    Capped {
        /// The path.
        path: PathBuf,
        /// What its superblock says.
        formatted: u64,
        /// What it may use.
        max_size: u64,
    },
    /// Its blacklist flag is set.
    #[error("{} is blacklisted after {failures} media errors; replace it", path.display())]
    Blacklisted {
        /// The path.
        path: PathBuf,
        /// How many it had.
        failures: u64,
    },
    /// An I/O failed.
    #[error("{what} of {}", path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Why a shutdown wasn't clean.
#[derive(Debug, thiserror::Error)]
pub enum ShutdownError {
    /// Work was still in flight at the deadline. What was acknowledged is safe.
    #[error("{drives} drives still had work in flight at the deadline")]
    Deadline {
        /// How many drives.
        drives: usize,
    },
    /// A drive couldn't write its checkpoint. What was acknowledged is safe; the next start
    /// reads the journal instead.
    #[error("write the checkpoint of drive {drive}")]
    Checkpoint {
        /// The drive.
        drive: DriveIdx,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}
