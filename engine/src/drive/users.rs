//! Who else uses a block device, from the kernel's own files: mounts, device mapper and RAID, swap,
//! partitions.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where the kernel's files are; tests bring their own.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// `/proc`
    pub(crate) proc: PathBuf,
    /// `/sys`
    pub(crate) sys: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            proc: "/proc".into(),
            sys: "/sys".into(),
        }
    }
}

/// What is made of a device, and of its partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Users {
    /// Where it or a partition of it is mounted.
    pub(crate) mounts: Vec<String>,
    /// Devices on top of it: device mapper, RAID.
    pub(crate) holders: Vec<String>,
    /// Swap space on it.
    pub(crate) swaps: Vec<String>,
    /// Its partitions, in use or not.
    pub(crate) partitions: Vec<String>,
    /// The kernel lets nobody write to it.
    pub(crate) read_only: bool,
}

impl Users {
    /// Asks the kernel. What can't be read counts as absent: the exclusive open has the last word.
    pub(crate) fn of(path: &Path) -> Self {
        let device = fs::metadata(path).map(|meta| meta.rdev());
        let users = device.and_then(|device| Self::of_number(device, &Host::default()));
        users.unwrap_or_default()
    }

    fn of_number(device: u64, host: &Host) -> io::Result<Self> {
        let mut users = Self::default();
        let number = number(device);
        let node = host.sys.join("dev/block").join(&number);
        let mut numbers = vec![number];
        for name in names(&node)? {
            let part = node.join(&name);
            if part.join("partition").exists() {
                let number = fs::read_to_string(part.join("dev"))?.trim().to_owned();
                users.holders.extend(names(&part.join("holders"))?);
                numbers.push(number);
                users.partitions.push(name);
            }
        }
        users.holders.extend(names(&node.join("holders"))?);
        let flag = fs::read_to_string(node.join("ro")).unwrap_or_default();
        users.read_only = flag.trim() == "1";
        let mounts = fs::read_to_string(host.proc.join("self/mountinfo")).unwrap_or_default();
        for line in mounts.lines() {
            // 36 35 98:0 /root /mount/point …
            let mut fields = line.split(' ').skip(2);
            if let (Some(device), _, Some(point)) = (fields.next(), fields.next(), fields.next())
                && numbers.iter().any(|number| number == device)
            {
                users.mounts.push(point.replace("\\040", " "));
            }
        }
        let swaps = fs::read_to_string(host.proc.join("swaps")).unwrap_or_default();
        for line in swaps.lines().skip(1) {
            let name = line.split_whitespace().next().unwrap_or("");
            let swap = fs::metadata(name).map(|meta| self::number(meta.rdev()));
            if swap.is_ok_and(|swap| numbers.contains(&swap)) {
                users.swaps.push(name.to_owned());
            }
        }
        Ok(users)
    }

    /// Whether the kernel names anybody.
    pub(crate) fn any(&self) -> bool {
        !(self.mounts.is_empty() && self.holders.is_empty() && self.swaps.is_empty())
    }

    /// How a device that can't be had is used, and what to do, in words that follow "is".
    pub(crate) fn how(&self) -> String {
        let mut uses = Vec::new();
        if !self.mounts.is_empty() {
            uses.push(format!(
                "mounted at {}; unmount it first",
                self.mounts.join(", ")
            ));
        }
        if !self.swaps.is_empty() {
            let names = self.swaps.join(", ");
            uses.push(format!(
                "in use as swap space ({names}); run swapoff on that first"
            ));
        }
        if !self.holders.is_empty() {
            let names = self.holders.join(", ");
            uses.push(format!("in use by {names}; stop or remove that first"));
        }
        if uses.is_empty() {
            return IN_USE.to_owned();
        }
        uses.join("; and ")
    }
}

/// What is known where the kernel names nobody.
pub(crate) const IN_USE: &str = "in use by another memkv server or process; stop it first";

fn number(device: u64) -> String {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    format!("{major}:{minor}")
}

/// Names in a folder, sorted; none where there is no such folder.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_partitions_and_holders_are_found_by_device_number() {
        let root = tempfile::tempdir().expect("a directory");
        let host = Host {
            proc: root.path().join("proc"),
            sys: root.path().join("sys"),
        };
        let node = host.sys.join("dev/block/259:0");
        fs::create_dir_all(node.join("nvme0n1p1/holders/dm-0")).expect("dm");
        fs::create_dir_all(node.join("holders/md127")).expect("md");
        fs::create_dir_all(node.join("queue")).expect("queue");
        fs::write(node.join("nvme0n1p1/partition"), "1\n").expect("partition");
        fs::write(node.join("nvme0n1p1/dev"), "259:1\n").expect("dev");
        fs::write(node.join("ro"), "0\n").expect("ro");
        fs::create_dir_all(host.proc.join("self")).expect("proc");
        let mounts =
            "30 1 8:1 / / rw - ext4 /dev/sda1 rw\n31 1 259:1 / /mnt/my\\040data rw - xfs x rw\n";
        fs::write(host.proc.join("self/mountinfo"), mounts).expect("mountinfo");
        let users = Users::of_number(rustix::fs::makedev(259, 0), &host).expect("readable");
        assert_eq!(
            users,
            Users {
                mounts: vec!["/mnt/my data".into()],
                holders: vec!["dm-0".into(), "md127".into()],
                swaps: Vec::new(),
                partitions: vec!["nvme0n1p1".into()],
                read_only: false,
            }
        );
        assert_eq!(
            users.how(),
            "mounted at /mnt/my data; unmount it first; and in use by dm-0, md127; stop or remove \
             that first"
        );
        let nobody = Users::of_number(rustix::fs::makedev(1, 1), &host).expect("readable");
        assert_eq!((nobody.how().as_str(), nobody.read_only), (IN_USE, false));
    }
}
