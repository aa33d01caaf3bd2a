//! Listening sockets: bound before anything else is opened, so that a port in use costs nothing and is named.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};

/// Connections that the kernel completes before we accept them.
const BACKLOG: i32 = 4096;

/// Why a listener could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process listens there.
    #[error(
        "{role} address {address} is in use by another process; stop it (`ss -ltnp 'sport = :{port}'` names it) \
         or set network.address (with --dev: --port) to another port",
        port = address.port()
    )]
    InUse {
        /// What it was for: `data` or `admin`.
        role: &'static str,
        /// Where.
        address: SocketAddr,
    },
    /// No interface of this host has the address.
    #[error(
        "{role} address {address} belongs to no interface of this host; set network.address to one that does"
    )]
    NotLocal {
        /// What it was for.
        role: &'static str,
        /// Where.
        address: SocketAddr,
    },
    /// A port below 1024, without the privilege.
    #[error(
        "{role} address {address} needs a privilege; use a port of 1024 or above, or grant CAP_NET_BIND_SERVICE"
    )]
    NotAllowed {
        /// What it was for.
        role: &'static str,
        /// Where.
        address: SocketAddr,
    },
    /// The kernel said something else.
    #[error("listen on {role} address {address}")]
    Other {
        /// What it was for.
        role: &'static str,
        /// Where.
        address: SocketAddr,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

impl ListenError {
    fn new(role: &'static str, address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { role, address },
            io::ErrorKind::AddrNotAvailable => Self::NotLocal { role, address },
            io::ErrorKind::PermissionDenied => Self::NotAllowed { role, address },
            _ => Self::Other {
                role,
                address,
                source,
            },
        }
    }
}

/// The two listeners of a server.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub(crate) data: TcpListener,
    pub(crate) admin: TcpListener,
}

impl Listeners {
    /// Listens on `address` and, for the admin endpoint, on its port + 1; with port 0 the kernel chooses both.
    pub(crate) fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        let data = listen("data", address)?;
        let mut admin_address = address;
        if address.port() != 0 {
            // The configuration has refused port 65535.
            admin_address.set_port(address.port() + 1);
        }
        let admin = listen("admin", admin_address)?;
        Ok(Self { data, admin })
    }
}

fn listen(role: &'static str, address: SocketAddr) -> Result<TcpListener, ListenError> {
    let bind = || -> io::Result<TcpListener> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        // A restart must not wait for the old connections' TIME_WAIT. It doesn't allow two listeners.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::from(address))?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    bind().map_err(|source| ListenError::new(role, address, source))
}

/// Options of an accepted data connection.
///
/// Replies are coalesced by us, so Nagle would only delay them. Keepalive finds peers that vanished without a word: they
/// are gone after about two minutes.
pub(crate) fn prepare(stream: &tokio::net::TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(std::time::Duration::from_secs(60))
        .with_interval(std::time::Duration::from_secs(15))
        .with_retries(4);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named_with_its_remedy() {
        let first = Listeners::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let taken = first.data.local_addr().unwrap();
        let error = Listeners::bind(taken).unwrap_err().to_string();
        assert!(error.contains(&taken.to_string()), "{error}");
        assert!(error.contains("network.address"), "{error}");
    }

    #[tokio::test]
    async fn a_peer_that_vanishes_without_a_word_is_found() {
        let listener = Listeners::bind("127.0.0.1:0".parse().unwrap())
            .unwrap()
            .data;
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        prepare(&stream).unwrap();
        assert!(stream.nodelay().unwrap());
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        let silent = socket.tcp_keepalive_time().unwrap();
        let probes =
            socket.tcp_keepalive_interval().unwrap() * socket.tcp_keepalive_retries().unwrap();
        assert_eq!(
            (silent.as_secs(), probes.as_secs()),
            (60, 60),
            "two minutes"
        );
    }

    #[test]
    fn an_address_of_another_host_is_told_from_a_port_in_use() {
        let error = Listeners::bind("192.0.2.1:9900".parse().unwrap()).unwrap_err();
        assert!(matches!(error, ListenError::NotLocal { .. }), "{error}");
    }
}
