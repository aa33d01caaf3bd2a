//! The admin endpoint's unix socket: the same routes for who may open the file, which only the server's own user and
//! root may. So nobody needs a token there.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};

const BACKLOG: i32 = 64;

/// Why the socket can't be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers there.
    #[error(
        "network.admin_socket {path:?} is in use by another process; stop it or name another path"
    )]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// What is there isn't a socket, and isn't ours to remove.
    #[error(
        "network.admin_socket {path:?} exists and isn't a socket; remove it or name another path"
    )]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The kernel said something else.
    #[error(
        "listen on network.admin_socket {path:?}; its directory must exist and be writable for this user"
    )]
    Other {
        /// The path.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// Its file goes when this is dropped, unless another server's has taken its place.
#[derive(Debug)]
pub(crate) struct AdminSocket {
    path: PathBuf,
    /// Device and number of the file.
    file: (u64, u64),
}

impl AdminSocket {
    /// Listens at `path`. A socket that nobody listens on is what a killed server left there, and is replaced.
    pub(crate) fn bind(path: &Path) -> Result<(Self, UnixListener), SocketError> {
        let other = |source| SocketError::Other {
            path: path.to_owned(),
            source,
        };
        clear(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(other)?;
        // The file gets the mode that the socket has when it is bound: there is no moment in which others may open it.
        fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(|error| other(error.into()))?;
        let address = SockAddr::unix(path).map_err(other)?;
        socket.bind(&address).map_err(other)?;
        socket.listen(BACKLOG).map_err(other)?;
        socket.set_nonblocking(true).map_err(other)?;
        let file = identity(path).map_err(other)?;
        let path = path.to_owned();
        Ok((Self { path, file }, UnixListener::from(socket)))
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            // What can't be removed is replaced at the next start.
            _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let meta = path.symlink_metadata()?;
    Ok((meta.dev(), meta.ino()))
}

/// Removes a socket that nobody listens on.
fn clear(path: &Path) -> Result<(), SocketError> {
    let path = path.to_owned();
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(SocketError::Other { path, source }),
        Ok(meta) if !meta.file_type().is_socket() => Err(SocketError::NotASocket { path }),
        Ok(_) => match UnixStream::connect(&path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(&path).map_err(|source| SocketError::Other { path, source })
            }
            _ => Err(SocketError::InUse { path }),
        },
    }
}
