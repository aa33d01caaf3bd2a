//! `memkv setup`: looks at drives, blanks them for memkv, and writes the configuration of a server
//! on them.
//!
//! Nothing is touched before every drive was found fit, or `--force` given. Blank drives are
//! formatted by the server's first start, which knows their share of the store.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::bail;
use clap::Args;
use memkv_engine::{DriveOpenError, FILE_DRIVE_BYTES, MediaContent, format_drive, inspect_media};
use memkv_server::config::Facts;
use memkv_settings::{ByteSize, Value};

use crate::exit::{Exit, Failure, Outcome};
use crate::out;

/// Prepare drives and write a server's configuration to stdout
#[derive(Debug, Args)]
#[command(
    after_help = "The configuration goes to stdout, everything else to stderr. A drive that is mounted, in use,
partitioned, or holds a file system or other data is refused (exit code 7), and then no drive is
touched. Paths of files, which need not exist yet, give a server in file mode.

memory.max_size becomes the reserved huge pages in direct mode, where there are any; else 80 % of
the free RAM, but no more than the drives hold (a new file: 4 GiB), and at least 64 MiB.

Examples:
  memkv setup --drives /dev/nvme1n1 /dev/nvme2n1 > /etc/memkv/config.yaml
  memkv setup --drives /dev/nvme1n1 --rdma mlx5_1 --shard-size 8192
  memkv setup --drives /dev/nvme1n1 --idempotent   keep what is on a drive of memkv's
  memkv setup --drives /dev/nvme1n1 --force        wipe whatever is on it
  memkv setup --drives /var/lib/memkv/drive0       a file instead of a device"
)]
pub(crate) struct Setup {
    /// Block devices, or files for file mode
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    drives: Vec<PathBuf>,
    /// The RDMA device; by default the first there is, else mlx5_0
    #[arg(long, value_name = "DEVICE")]
    rdma: Option<String>,
    /// From 1024 on, storage.block_size becomes KB / 1024 MiB; smaller values keep the default
    #[arg(long, value_name = "KB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=16_384))]
    shard_size: u64,
    /// Wipe drives that hold something, memkv's own data included
    #[arg(long)]
    force: bool,
    /// Keep drives that already belong to memkv as they are
    #[arg(long, conflicts_with = "force")]
    idempotent: bool,
}

/// What kind of thing a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Device,
    /// There or not: a server creates it.
    File,
}

/// A drive as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Drive {
    path: PathBuf,
    kind: Kind,
    content: Content,
}

/// What a drive holds.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Blank,
    /// A whole store of ours.
    Store,
    /// Something else, in words that follow the path.
    Other(String),
    /// Somebody uses it right now, which no flag can make safe: who, and what to do about it.
    InUse(String),
}

/// What happens to a drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// It is blank, or its content stays.
    Keep,
    /// It is blanked.
    Wipe,
}

impl Setup {
    pub(crate) fn run(self) -> Outcome {
        let drives = self.inspect()?;
        let mode = mode_of(&drives)?;
        let plans = self.plan(&drives)?;
        for (drive, plan) in drives.iter().zip(plans) {
            let path = drive.path.display();
            match plan {
                Plan::Wipe => {
                    wipe(drive)?;
                    out::tell(format_args!("memkv: wiped {path}"));
                }
                Plan::Keep if drive.content == Content::Store => {
                    out::tell(format_args!(
                        "memkv: kept {path}, which already belongs to memkv"
                    ));
                }
                Plan::Keep => out::tell(format_args!("memkv: {path} is blank")),
            }
        }
        let facts = Facts::read();
        let pool = pool_size(mode, &facts, drives.iter().map(Drive::capacity).sum());
        let device = self
            .rdma
            .clone()
            .unwrap_or_else(|| first_rdma_device(Path::new("/sys")));
        out::print(&self.yaml(mode, &drives, pool, &device))?;
        advise(mode, pool, &facts);
        Ok(Exit::Done)
    }

    fn inspect(&self) -> Result<Vec<Drive>, Failure> {
        let mut drives = Vec::new();
        let mut problems = Vec::new();
        let mut seen = HashSet::new();
        for path in &self.drives {
            let absolute = std::path::absolute(path)?;
            // Two names of one drive are one drive.
            let identity = identity(&absolute);
            match Drive::inspect(absolute) {
                Ok(drive) => drives.push(drive),
                Err(error) => problems.push(error),
            }
            if !seen.insert(identity) {
                problems.push(format!(
                    "{} is named twice; name each drive once",
                    path.display()
                ));
            }
        }
        if problems.is_empty() {
            return Ok(drives);
        }
        Err(Failure::new(
            Exit::Failed,
            anyhow::anyhow!("{}", problems.join("\n  ")),
        ))
    }

    /// Decides about every drive, or says of each why it can't be taken.
    fn plan(&self, drives: &[Drive]) -> Result<Vec<Plan>, Failure> {
        let mut refusals = Vec::new();
        let mut plans = Vec::new();
        for drive in drives {
            let path = drive.path.display();
            match &drive.content {
                Content::InUse(how) => refusals.push(format!("{path} is {how}")),
                Content::Blank => plans.push(Plan::Keep),
                _ if self.force => plans.push(Plan::Wipe),
                Content::Store if self.idempotent => plans.push(Plan::Keep),
                Content::Store => refusals.push(format!(
                    "{path} already belongs to memkv; --idempotent keeps it, --force wipes it"
                )),
                Content::Other(what) => refusals.push(format!("{path} {what}; --force wipes it")),
            }
        }
        if refusals.is_empty() {
            return Ok(plans);
        }
        let text = format!("nothing was touched, because\n  {}", refusals.join("\n  "));
        Err(Failure::new(Exit::Refused, anyhow::anyhow!(text)))
    }

    fn yaml(&self, mode: Mode, drives: &[Drive], pool: ByteSize, device: &str) -> String {
        let block = match self.shard_size / 1024 {
            0 => ByteSize::mib(4),
            mib => ByteSize::mib(mib),
        };
        let mut yaml = format!(
            "# Written by memkv setup. Set MEMKV_AUTH_KEY, or network.auth_key, to 64 hexadecimal digits:\n# openssl rand \
             -hex 32. All keys: memkv doc, or config/server.yaml.\nnetwork:\n  address: 0.0.0.0:9900\n\nmemory:\n  \
             block_size: 2 MiB\n  max_size: {pool}\n\nrdma:\n  device: {}\n\nstorage:\n  mode: {}\n  block_size: {block}\n  \
             drives:\n",
            device.to_owned().to_yaml(),
            mode.word(),
        );
        for drive in drives {
            let _ = writeln!(yaml, "    - media: {}", drive.path.to_yaml());
        }
        yaml
    }
}

impl Drive {
    /// What it holds at most: a device's size; a store's file as it is; else what a server makes a file.
    fn capacity(&self) -> u64 {
        let end = fs::File::open(&self.path).and_then(|mut media| media.seek(SeekFrom::End(0)));
        match (self.kind, &self.content, end) {
            (Kind::Device, _, Ok(bytes)) | (Kind::File, Content::Store, Ok(bytes)) => bytes,
            // Unreadable, it sets no bound.
            (Kind::Device, _, Err(_)) => 1 << 50,
            (Kind::File, ..) => FILE_DRIVE_BYTES,
        }
    }

    /// Looks at a path; the error is a line for the user.
    fn inspect(path: PathBuf) -> Result<Self, String> {
        let named = |error: io::Error| format!("{}: {error}", path.display());
        let kind = match fs::metadata(&path) {
            Ok(meta) if meta.file_type().is_block_device() => Kind::Device,
            Ok(meta) if meta.is_file() => Kind::File,
            Ok(_) => {
                let what = "is neither a block device nor a regular file";
                return Err(named(io::Error::other(what)));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let folder = path.parent().unwrap_or(Path::new("/"));
                return match fs::metadata(folder) {
                    Ok(meta) if meta.is_dir() => Ok(Self {
                        path,
                        kind: Kind::File,
                        content: Content::Blank,
                    }),
                    Ok(_) => Err(named(error)),
                    Err(error) => Err(named(error)),
                };
            }
            Err(error) => return Err(named(error)),
        };
        let content = match inspect_media(&path) {
            Ok(content) => Content::of(content),
            Err(DriveOpenError::InUse { how, .. }) => Content::InUse(how),
            Err(error @ DriveOpenError::TooSmall { .. }) if kind == Kind::File => {
                // Emptied, it gets the size that the server wants.
                let text = error.to_string();
                let name = path.display().to_string();
                Content::Other(text.strip_prefix(&name).unwrap_or(&text).trim().to_owned())
            }
            Err(error) => return Err(chain(&error)),
        };
        Ok(Self {
            path,
            kind,
            content,
        })
    }
}

impl Content {
    fn of(content: MediaContent) -> Self {
        match content {
            MediaContent::Blank => Self::Blank,
            MediaContent::Store { .. } => Self::Store,
            MediaContent::NewerStore(version) => Self::Other(format!(
                "belongs to a newer memkv (on-disk format {version}), which can read it"
            )),
            MediaContent::DamagedStore => {
                Self::Other("belongs to memkv, but all copies of its superblock are damaged".into())
            }
            MediaContent::Foreign(what) => Self::Other(format!("holds {what}")),
        }
    }
}

/// Blanks a drive, and makes sure that the server's start finds it so.
fn wipe(drive: &Drive) -> anyhow::Result<()> {
    format_drive(&drive.path, true)?;
    if drive.kind == Kind::File {
        return Ok(());
    }
    // The kernel still has the partitions of the table that went; where it can't read the table
    // anew, the look below says so.
    for program in ["blockdev", "/usr/sbin/blockdev", "/sbin/blockdev"] {
        let mut blockdev = Command::new(program);
        blockdev.arg("--rereadpt").arg(&drive.path);
        let quiet = blockdev.stdin(Stdio::null()).stderr(Stdio::null());
        if quiet.status().is_ok() {
            break;
        }
    }
    let path = drive.path.display();
    match inspect_media(&drive.path)? {
        MediaContent::Blank => Ok(()),
        MediaContent::Foreign(what) => bail!(
            "{path} was wiped, but the kernel still sees {what}; run blockdev --rereadpt {path}, or \
             plug it in again"
        ),
        _ => bail!("{path} was wiped and holds a store again; what else writes to it?"),
    }
}

/// What tells drives apart: the number of a device, else the path without links.
fn identity(path: &Path) -> (Option<u64>, PathBuf) {
    match fs::metadata(path) {
        Ok(meta) if meta.file_type().is_block_device() => (Some(meta.rdev()), PathBuf::new()),
        _ => {
            let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
            (None, path)
        }
    }
}

/// An error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(why) = cause {
        let _ = write!(text, ": {why}");
        cause = why.source();
    }
    text
}

/// The storage modes that have drives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Direct,
    File,
}

impl Mode {
    fn word(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::File => "file",
        }
    }
}

fn mode_of(drives: &[Drive]) -> Result<Mode, Failure> {
    let devices = drives
        .iter()
        .filter(|drive| drive.kind == Kind::Device)
        .count();
    match devices {
        0 => Ok(Mode::File),
        n if n == drives.len() => Ok(Mode::Direct),
        n => Err(Failure::new(
            Exit::Usage,
            anyhow::anyhow!(
                "--drives names {n} block devices and {} files; a server takes one kind",
                drives.len() - n
            ),
        )),
    }
}

/// A pool is at least this large, whatever the machine has.
const POOL_MIN: u64 = 64 << 20;

/// The pool: the huge pages that are reserved, where there are any worth it; else 80 % of the RAM
/// that is free, but no more than `drives` hold: a pool that has room for all values has no use for
/// more.
fn pool_size(mode: Mode, facts: &Facts, drives: u64) -> ByteSize {
    let reserved = facts.hugepages_free_bytes.unwrap_or(0);
    let share = facts.ram_available_bytes.unwrap_or(1 << 30) / 10 * 8;
    let bytes = if mode == Mode::Direct && reserved >= 256 << 20 {
        reserved
    } else {
        share.min(drives.max(POOL_MIN))
    };
    // Whole GiB where that loses little; always whole slabs, and a few of them.
    let unit = if bytes >= 16 << 30 { 1 << 30 } else { 2 << 20 };
    ByteSize((bytes / unit * unit).max(POOL_MIN))
}

fn first_rdma_device(sys: &Path) -> String {
    let devices = fs::read_dir(sys.join("class/infiniband"));
    let devices = devices.into_iter().flatten();
    let names = devices.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.min().unwrap_or_else(|| "mlx5_0".to_owned())
}

/// What the machine still needs before the server starts.
fn advise(mode: Mode, pool: ByteSize, facts: &Facts) {
    let huge = facts.hugepages_free_bytes.unwrap_or(0);
    if mode == Mode::Direct && huge < pool.bytes() {
        let pages = pool.bytes().div_ceil(facts.hugepage_bytes.max(1));
        out::tell(format_args!(
            "memkv: direct mode needs huge pages: sysctl vm.nr_hugepages={pages}"
        ));
    }
    out::tell(format_args!(
        "memkv: check the configuration with: memkv start --config FILE --check"
    ));
}

#[cfg(test)]
mod tests;
