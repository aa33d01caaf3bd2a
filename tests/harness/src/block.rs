//! Block devices for tests: loop devices over files in a folder of the test's.
//!
//! A device is detached as soon as nobody has it open any more, we included: the kernel does that
//! (autoclear), so none is left behind even by a test that is killed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::tier::Tier;

/// How a device is made.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Bytes of a logical block.
    pub sector: u32,
    /// Nobody may write to it.
    pub read_only: bool,
}

impl Default for Kind {
    fn default() -> Self {
        Self {
            sector: 4096,
            read_only: false,
        }
    }
}

/// A loop device.
#[derive(Debug)]
pub struct BlockDevice {
    /// `/dev/loopN`
    pub path: PathBuf,
    /// The file under it.
    pub backing: PathBuf,
    /// Keeps it attached.
    _open: File,
}

impl BlockDevice {
    /// A blank device over a new file `name` in `dir`; `None` where this machine has none, which is
    /// reported as a skip.
    pub fn new(dir: &Path, name: &str, bytes: u64, kind: Kind) -> Option<Self> {
        let backing = dir.join(name);
        let file = File::create(&backing).expect("a file in the test's folder");
        file.set_len(bytes).expect("a sparse file");
        match attach(&backing, kind) {
            Ok(device) => {
                Tier::Block.ran();
                Some(device)
            }
            Err(reason) => {
                Tier::Block.skipped(&reason);
                None
            }
        }
    }

    /// Its path, as an argument.
    ///
    /// # Panics
    /// If it isn't UTF-8.
    pub fn name(&self) -> &str {
        self.path.to_str().expect("/dev/loopN")
    }

    /// Bytes that the file under it takes on its disk.
    ///
    /// # Panics
    /// If it went away.
    pub fn allocated_bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(&self.backing).expect("its file").blocks() * 512
    }
}

fn attach(backing: &Path, kind: Kind) -> Result<BlockDevice, String> {
    let mut losetup = Command::new("losetup");
    losetup
        .args(["--find", "--show", "--partscan", "--direct-io=on"])
        .arg(format!("--sector-size={}", kind.sector));
    if kind.read_only {
        losetup.arg("--read-only");
    }
    let output = run(losetup.arg(backing))?;
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    // Open first: what is open isn't detached at once, but when the last one closes it.
    let open = File::open(&path).map_err(|error| format!("open {}: {error}", path.display()));
    run(Command::new("losetup").arg("--detach").arg(&path))?;
    Ok(BlockDevice {
        path,
        backing: backing.into(),
        _open: open?,
    })
}

/// Runs a program to its end.
///
/// # Errors
/// What it said, if it isn't there or fails.
pub fn run(command: &mut Command) -> Result<Output, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program} can't be run: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {} ({})", said.trim(), output.status))
}

/// A mounted file system; unmounted when dropped.
#[derive(Debug)]
pub struct Mount(PathBuf);

impl Mount {
    /// Mounts a device on a folder.
    ///
    /// # Errors
    /// What `mount` said.
    pub fn new(device: &BlockDevice, folder: &Path) -> Result<Self, String> {
        run(Command::new("mount").arg(&device.path).arg(folder))?;
        Ok(Self(folder.into()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = run(Command::new("umount").arg(&self.0));
        if let (Err(why), false) = (unmounted, std::thread::panicking()) {
            panic!("{why}");
        }
    }
}
