//! What a drive is and who uses it: facts from the kernel's files and the drive's first bytes, and
//! what they forbid.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Where the kernel's files are; tests bring their own.
#[derive(Debug, Clone)]
pub(super) struct Host {
    /// `/proc`
    pub(super) proc: PathBuf,
    /// `/sys`
    pub(super) sys: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            proc: "/proc".into(),
            sys: "/sys".into(),
        }
    }
}

/// What kind of thing a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A block device.
    Device,
    /// A regular file.
    File,
    /// Nothing yet; a server creates a file there.
    Absent,
}

/// What a drive holds, judged by its first bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// Zeroes.
    Blank,
    /// A store of ours.
    Memkv,
    /// Something with a known name.
    Known(&'static str),
    /// Something else.
    Foreign,
}

/// What is known of a drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Media {
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    /// Where it or a partition of it is mounted.
    pub(super) mounts: Vec<String>,
    /// Its partitions.
    pub(super) partitions: Vec<String>,
    /// Who else holds it: device mapper, RAID, swap.
    pub(super) holders: Vec<String>,
    pub(super) content: Content,
}

/// Bytes whose content is looked at.
const HEAD_BYTES: u64 = 1 << 20;

/// What a drive of ours starts with.
pub(super) type IsMemkv = fn(&[u8]) -> bool;

impl Media {
    /// Looks at a path.
    pub(super) fn inspect(path: &Path, host: &Host, is_memkv: IsMemkv) -> io::Result<Self> {
        let mut media = Self {
            path: path.to_owned(),
            kind: Kind::Absent,
            mounts: Vec::new(),
            partitions: Vec::new(),
            holders: Vec::new(),
            content: Content::Blank,
        };
        let meta = match fs::metadata(path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let parent = path
                    .parent()
                    .filter(|parent| !parent.as_os_str().is_empty());
                let folder = fs::metadata(parent.unwrap_or(Path::new(".")))?;
                if folder.is_dir() {
                    return Ok(media);
                }
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        if meta.file_type().is_block_device() {
            media.kind = Kind::Device;
            media.users(meta.rdev(), host)?;
        } else if meta.is_file() {
            media.kind = Kind::File;
        } else {
            return Err(io::Error::other(
                "is neither a block device nor a regular file",
            ));
        }
        let mut head = Vec::new();
        File::open(path)?.take(HEAD_BYTES).read_to_end(&mut head)?;
        media.content = content(&head, is_memkv);
        Ok(media)
    }

    /// Finds mounts, partitions and holders of a block device by its number.
    fn users(&mut self, device: u64, host: &Host) -> io::Result<()> {
        let number = number(device);
        let node = host.sys.join("dev/block").join(&number);
        let mut numbers = vec![number];
        for name in names(&node)? {
            let part = node.join(&name);
            if part.join("partition").exists() {
                let number = fs::read_to_string(part.join("dev"))?.trim().to_owned();
                self.holders.extend(names(&part.join("holders"))?);
                numbers.push(number);
                self.partitions.push(name);
            }
        }
        self.holders.extend(names(&node.join("holders"))?);
        let mounts = fs::read_to_string(host.proc.join("self/mountinfo")).unwrap_or_default();
        for line in mounts.lines() {
            // 36 35 98:0 /root /mount/point …
            let mut fields = line.split(' ').skip(2);
            if let (Some(device), _, Some(point)) = (fields.next(), fields.next(), fields.next())
                && numbers.iter().any(|number| number == device)
            {
                self.mounts.push(point.replace("\\040", " "));
            }
        }
        let swaps = fs::read_to_string(host.proc.join("swaps")).unwrap_or_default();
        for line in swaps.lines().skip(1) {
            let name = line.split_whitespace().next().unwrap_or("");
            let swap = fs::metadata(name).map(|meta| self::number(meta.rdev()));
            if swap.is_ok_and(|swap| numbers.contains(&swap)) {
                self.holders.push(format!("swap on {name}"));
            }
        }
        Ok(())
    }

    /// Why it must not be taken without `--force`, in words that follow the path.
    pub(super) fn objections(&self) -> Vec<String> {
        let mut objections = Vec::new();
        if !self.mounts.is_empty() {
            objections.push(format!("is mounted at {}", self.mounts.join(", ")));
        }
        if !self.holders.is_empty() {
            objections.push(format!("is in use by {}", self.holders.join(", ")));
        }
        if !self.partitions.is_empty() {
            objections.push(format!("has the partitions {}", self.partitions.join(", ")));
        }
        match &self.content {
            Content::Blank => {}
            Content::Memkv => objections.push("already belongs to memkv".to_owned()),
            Content::Known(name) => objections.push(format!("holds {name}")),
            Content::Foreign => objections.push("holds data that isn't memkv's".to_owned()),
        }
        objections
    }

    /// Whether somebody uses it right now, which no flag can make safe.
    pub(super) fn busy(&self) -> bool {
        !self.mounts.is_empty() || !self.holders.is_empty()
    }
}

fn number(device: u64) -> String {
    format!(
        "{}:{}",
        rustix::fs::major(device),
        rustix::fs::minor(device)
    )
}

/// The names in a folder, sorted; none where it isn't there.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// (what it is, offset, bytes there); the first that matches wins, so containers come before what
/// they may contain.
const SIGNATURES: &[(&str, usize, &[u8])] = &[
    ("a GPT partition table", 512, b"EFI PART"),
    ("a GPT partition table", 4096, b"EFI PART"),
    ("an LVM physical volume", 512, b"LABELONE"),
    ("an LVM physical volume", 536, b"LVM2 001"),
    ("a Linux RAID member", 4096, &[0xFC, 0x4E, 0x2B, 0xA9]),
    ("a Linux RAID member", 0, &[0xFC, 0x4E, 0x2B, 0xA9]),
    ("a LUKS volume", 0, b"LUKS\xBA\xBE"),
    ("a Ceph OSD", 0, b"bluestore block device"),
    ("an XFS file system", 0, b"XFSB"),
    ("an ext2, ext3 or ext4 file system", 0x438, &[0x53, 0xEF]),
    ("a Btrfs file system", 0x10040, b"_BHRfS_M"),
    ("an F2FS file system", 1024, &[0x10, 0x20, 0xF5, 0xF2]),
    ("a ZFS pool", 0x20000, &[0x0C, 0xB1, 0xBA, 0x00]),
    (
        "a bcachefs file system",
        4120,
        &[0xC6, 0x85, 0x73, 0xF6, 0x4E, 0x1A, 0x45, 0xCA],
    ),
    ("swap space", 4086, b"SWAPSPACE2"),
    ("a SquashFS file system", 0, b"hsqs"),
    ("an ISO 9660 file system", 0x8001, b"CD001"),
    ("an NTFS file system", 3, b"NTFS    "),
    ("an exFAT file system", 3, b"EXFAT   "),
    ("a FAT file system", 0x52, b"FAT32"),
    ("a FAT file system", 0x36, b"FAT1"),
    ("an MBR partition table", 510, &[0x55, 0xAA]),
];

fn content(head: &[u8], is_memkv: IsMemkv) -> Content {
    if is_memkv(head) {
        return Content::Memkv;
    }
    let has = |offset: usize, magic: &[u8]| {
        head.get(offset..offset + magic.len())
            .is_some_and(|found| found == magic)
    };
    match SIGNATURES
        .iter()
        .find(|(_, offset, magic)| has(*offset, magic))
    {
        Some((name, ..)) => Content::Known(name),
        None if head.iter().all(|byte| *byte == 0) => Content::Blank,
        None => Content::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_memkv(head: &[u8]) -> bool {
        head.starts_with(b"OURS")
    }

    #[test]
    fn every_signature_is_told_by_name_at_its_offset() {
        for (name, offset, magic) in SIGNATURES {
            let mut head = vec![0; 256 << 10];
            head[*offset..offset + magic.len()].copy_from_slice(magic);
            assert_eq!(content(&head, is_memkv), Content::Known(name));
            let short = content(&head[..offset + magic.len() - 1], is_memkv);
            assert_ne!(short, Content::Known(name), "a cut {name}");
        }
    }

    #[test]
    fn blank_foreign_and_own_content_are_told_apart() {
        assert_eq!(content(&[], is_memkv), Content::Blank);
        assert_eq!(content(&[0; 4096], is_memkv), Content::Blank);
        assert_eq!(content(b"OURS and more", is_memkv), Content::Memkv);
        let mut head = vec![0; 1 << 20];
        head[777_777] = 1;
        assert_eq!(content(&head, is_memkv), Content::Foreign);
    }

    #[test]
    fn mounts_partitions_and_holders_are_found_by_device_number() {
        let root = tempfile::tempdir().unwrap();
        let host = Host {
            proc: root.path().join("proc"),
            sys: root.path().join("sys"),
        };
        let node = host.sys.join("dev/block/259:0");
        fs::create_dir_all(node.join("nvme0n1p1/holders/dm-0")).unwrap();
        fs::create_dir_all(node.join("holders/md127")).unwrap();
        fs::create_dir_all(node.join("queue")).unwrap();
        fs::write(node.join("nvme0n1p1/partition"), "1\n").unwrap();
        fs::write(node.join("nvme0n1p1/dev"), "259:1\n").unwrap();
        fs::create_dir_all(host.proc.join("self")).unwrap();
        let mounts =
            "30 1 8:1 / / rw - ext4 /dev/sda1 rw\n31 1 259:1 / /mnt/my\\040data rw - xfs x rw\n";
        fs::write(host.proc.join("self/mountinfo"), mounts).unwrap();
        let mut media = Media {
            path: "/dev/nvme0n1".into(),
            kind: Kind::Device,
            mounts: Vec::new(),
            partitions: Vec::new(),
            holders: Vec::new(),
            content: Content::Known("a GPT partition table"),
        };
        media.users(rustix::fs::makedev(259, 0), &host).unwrap();
        assert_eq!(
            media.objections(),
            [
                "is mounted at /mnt/my data",
                "is in use by dm-0, md127",
                "has the partitions nvme0n1p1",
                "holds a GPT partition table",
            ]
        );
        assert!(media.busy());
    }

    #[test]
    fn files_and_places_for_files_are_told_from_the_rest() {
        let root = tempfile::tempdir().unwrap();
        let inspect = |path: &Path| Media::inspect(path, &Host::default(), is_memkv);
        let file = root.path().join("f");
        assert_eq!(inspect(&file).unwrap().kind, Kind::Absent);
        fs::write(&file, "text").unwrap();
        let media = inspect(&file).unwrap();
        assert_eq!((media.kind, media.content), (Kind::File, Content::Foreign));
        assert!(inspect(root.path()).is_err(), "a folder is no drive");
        assert!(inspect(&root.path().join("no/such")).is_err());
        assert!(inspect(&file.join("below")).is_err());
    }
}
