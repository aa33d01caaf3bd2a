//! The development key: a random shared key in a file of the user's, for servers and clients on one
//! host.
//!
//! It stands in for `auth_key` on loopback only. Whichever side comes first creates
//! `$HOME/.memkv/dev-key` (mode 0600, in a directory of mode 0700); the other reads it. Anyone who
//! can read the file is let in, so a file that others can read, that belongs to somebody else or
//! that is no regular file is refused.

use std::fs;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::secret::AuthKey;

/// The key's path below the home directory.
pub const PATH: &str = ".memkv/dev-key";

/// Why there is no development key.
#[derive(Debug, thiserror::Error)]
pub enum DevKeyError {
    /// There is no home directory to keep it in.
    #[error("no development key: HOME is not set; set HOME, or set auth_key (MEMKV_AUTH_KEY)")]
    NoHome,
    /// The file can't be read or made.
    #[error("no development key: {path}")]
    Io {
        /// The file or its directory.
        path: PathBuf,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// The file isn't one that only we can read and write.
    #[error("no development key: {path} {what}; {remedy}")]
    Unsafe {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What to do.
        remedy: String,
    },
}

/// A development key and where it is kept, for the warning that is due.
#[derive(Debug, Clone)]
pub struct DevKey {
    /// The key.
    pub key: AuthKey,
    /// Its file.
    pub path: PathBuf,
    /// Whether this call made it.
    pub created: bool,
}

/// Whether the development key may serve this address: loopback only.
pub fn allowed_for(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => {
            ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback())
        }
    }
}

/// Says what [`load_or_create`] would refuse, and makes nothing.
///
/// # Errors
/// When there is no home, or what is there is no key that only we can read.
pub fn check(home: Option<&Path>) -> Result<(), DevKeyError> {
    let home = home
        .filter(|home| home.is_absolute())
        .ok_or(DevKeyError::NoHome)?;
    read(&home.join(PATH)).map(|_| ())
}

/// Reads the development key under `home`, or makes it. Two callers at once get the same key.
///
/// # Errors
/// When there is no home, the file can't be made, or others can read it.
pub fn load_or_create(home: Option<&Path>) -> Result<DevKey, DevKeyError> {
    let home = home
        .filter(|home| home.is_absolute())
        .ok_or(DevKeyError::NoHome)?;
    let path = home.join(PATH);
    let directory = path.parent().unwrap_or(home);
    let mut builder = fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(directory);
    made.map_err(|source| DevKeyError::Io {
        path: directory.to_owned(),
        source,
    })?;
    if let Some(key) = read(&path)? {
        return Ok(DevKey {
            key,
            path,
            created: false,
        });
    }
    let created = create(directory, &path).map_err(|source| DevKeyError::Io {
        path: path.clone(),
        source,
    })?;
    // Read back even what we made: another process may have linked its own first, and one key must
    // win.
    let key = read(&path)?.ok_or_else(|| DevKeyError::Io {
        path: path.clone(),
        source: io::Error::from(io::ErrorKind::NotFound),
    })?;
    Ok(DevKey { key, path, created })
}

fn read(path: &Path) -> Result<Option<AuthKey>, DevKeyError> {
    let fail = |source| DevKeyError::Io {
        path: path.to_owned(),
        source,
    };
    let refuse = |what: String, remedy: &str| DevKeyError::Unsafe {
        path: path.to_owned(),
        what,
        remedy: remedy.to_owned(),
    };
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits() as i32;
    let file = match fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
    {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let meta = file.metadata().map_err(fail)?;
    if !meta.is_file() {
        return Err(refuse("isn't a regular file".into(), "remove it"));
    }
    if meta.uid() != rustix::process::geteuid().as_raw() {
        let what = format!("belongs to user {}", meta.uid());
        return Err(refuse(
            what,
            "run as that user, or set HOME to your own home",
        ));
    }
    if meta.mode() & 0o077 != 0 {
        let what = format!("has mode {:04o}, but must have 0600", meta.mode() & 0o7777);
        return Err(refuse(
            what,
            "remove it, since others could read it, and start again",
        ));
    }
    let mut text = String::new();
    file.take(256).read_to_string(&mut text).map_err(fail)?;
    match AuthKey::from_hex(text.trim()) {
        Some(key) => Ok(Some(key)),
        None => Err(refuse(
            "doesn't hold 64 hexadecimal digits".into(),
            "remove it",
        )),
    }
}

/// Writes a fresh key beside `path` and links it there; `false` when another process was first.
fn create(directory: &Path, path: &Path) -> io::Result<bool> {
    let mut bytes = [0u8; 32];
    let mut unique = [0u8; 8];
    getrandom::fill(&mut bytes)
        .and_then(|()| getrandom::fill(&mut unique))
        .map_err(io::Error::other)?;
    let own = directory.join(format!("dev-key.{:016x}", u64::from_ne_bytes(unique)));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&own)?;
    let written = file
        .write_all(format!("{}\n", AuthKey::new(bytes).to_hex()).as_bytes())
        .and_then(|()| file.sync_all());
    // A link appears whole or not at all, so no reader sees half a key.
    let linked = written.and_then(|()| match fs::hard_link(&own, path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    });
    fs::remove_file(&own)?;
    linked
}

#[cfg(test)]
mod tests;
