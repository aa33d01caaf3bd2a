//! Where values live: mode, drives and their sizes.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use memkv_engine::DRIVES_MAX;
use memkv_settings::{ByteSize, Setting, Source};

use super::super::raw::{RawDrive, RawStorage, StorageMode, Switch};
use super::super::{Backend, Drive, Storage};
use super::Checker;

/// The capacity of a file drive that doesn't say.
const FILE_CAPACITY: ByteSize = ByteSize(memkv_engine::FILE_DRIVE_BYTES);

impl Checker<'_> {
    pub(super) fn storage(&mut self, raw: RawStorage) -> Option<Storage> {
        let RawStorage {
            mode,
            block_size,
            flap_threshold,
            max_size,
            sync,
            eviction,
            verify,
            drives,
        } = raw;
        let extent_bytes = self.power_of_two("storage.block_size", &block_size);
        let backend = self.backend(mode.value, max_size, drives)?;
        Some(Storage {
            backend,
            extent_bytes,
            flap_threshold: flap_threshold.value,
            sync: sync.value,
            eviction: eviction.value == Switch::On,
            verify: verify.value,
        })
    }

    fn backend(
        &mut self,
        mode: StorageMode,
        max_size: Setting<Option<ByteSize>>,
        drives: Vec<RawDrive>,
    ) -> Option<Backend> {
        if !self.sound(&["storage.mode", "storage.drives"]) {
            return None;
        }
        if mode == StorageMode::Memory {
            if !drives.is_empty() {
                self.warn("storage.drives is ignored in memory mode; remove it".to_owned());
            }
            let Some(capacity) = max_size.value else {
                if self.sound(&["storage.max_size"]) {
                    self.refuse(
                        "storage.mode is memory, but storage.max_size is not set; set it to the bytes for values, \
                         such as 16 GiB"
                            .to_owned(),
                    );
                }
                return None;
            };
            return Some(Backend::Memory {
                capacity_bytes: capacity.bytes(),
            });
        }
        if max_size.value.is_some() {
            let source = &max_size.source;
            self.warn(format!(
                "{source}: storage.max_size counts in memory mode only; use storage.drives[].max_size"
            ));
        }
        if drives.is_empty() {
            let (word, what) = match mode {
                StorageMode::File => ("file", "file"),
                _ => ("direct", "block device such as /dev/nvme0n1"),
            };
            self.refuse(format!(
                "storage.mode is {word}, but storage.drives is empty; add a drive with media: and the path of a {what}, or \
                 let memkv setup write them"
            ));
            return None;
        }
        if drives.len() > DRIVES_MAX {
            self.refuse(format!(
                "storage.drives has {} entries, but must have at most {DRIVES_MAX}; run a second server for the others",
                drives.len()
            ));
            return None;
        }
        let drives = self.drives(mode, drives);
        Some(match mode {
            StorageMode::File => Backend::File(drives),
            _ => Backend::Direct(drives),
        })
    }

    fn drives(&mut self, mode: StorageMode, raw: Vec<RawDrive>) -> Vec<Drive> {
        let mut seen: HashMap<Identity, usize> = HashMap::new();
        let mut drives = Vec::with_capacity(raw.len());
        for (idx, RawDrive { media, max_size }) in raw.into_iter().enumerate() {
            let field = format!("storage.drives[{idx}].media");
            let Some(path) = media.value else {
                if self.sound(&[&field]) {
                    self.refuse(format!("{field} is not set; give the path of the drive"));
                }
                continue;
            };
            if let Some(first) = seen.insert(identity(&path), idx) {
                self.refuse(format!(
                    "{}: {field} is {}, the same as storage.drives[{first}]; a drive may be listed once",
                    media.source,
                    path.display()
                ));
            }
            let capacity = match (mode, max_size.value) {
                (StorageMode::File, None) => {
                    let field = format!("storage.drives[{idx}].max_size");
                    self.show(&field, FILE_CAPACITY.to_string(), Source::Default);
                    Some(FILE_CAPACITY)
                }
                (_, size) => size,
            };
            drives.push(Drive {
                media: path,
                capacity_bytes: capacity.map(ByteSize::bytes),
            });
        }
        drives
    }
}

/// What tells drives apart, however their paths are written.
#[derive(PartialEq, Eq, Hash)]
enum Identity {
    /// The number of a block device.
    Device(u64),
    /// Device and inode of a file.
    File(u64, u64),
    /// A file that isn't there yet: its folder, resolved where that exists, and its name.
    New(PathBuf, Option<OsString>),
}

fn identity(path: &Path) -> Identity {
    match fs::metadata(path) {
        Ok(meta) if meta.file_type().is_block_device() => Identity::Device(meta.rdev()),
        Ok(meta) => Identity::File(meta.dev(), meta.ino()),
        Err(_) => {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
            let folder = path.parent().unwrap_or(Path::new("/"));
            let folder = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
            Identity::New(folder, path.file_name().map(Into::into))
        }
    }
}
