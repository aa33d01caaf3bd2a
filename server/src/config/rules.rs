//! Rules of single fields that are more than a range.

use std::net::SocketAddr;
use std::path::PathBuf;

use memkv_engine::{DRIVE_BYTES_MIN, EXTENT_BYTES_RANGE, SLAB_BYTES_RANGE};
use memkv_settings::{ByteSize, Secret, Wrong, range};

use super::raw::Rule;

pub(super) fn admin_port_exists(address: &SocketAddr) -> Rule {
    if address.port() < u16::MAX {
        return Ok(());
    }
    Err(Wrong::new(
        "at port 65534 or below",
        "the admin endpoint takes port + 1",
    ))
}

pub(super) fn slab_size(size: &ByteSize) -> Rule {
    let (low, high) = SLAB_BYTES_RANGE;
    range(size, ByteSize(low), ByteSize(high), "2 MiB suits most")
}

pub(super) fn extent_size(size: &ByteSize) -> Rule {
    let (low, high) = EXTENT_BYTES_RANGE;
    range(size, ByteSize(low), ByteSize(high), "4 MiB suits most")
}

pub(super) fn pool_size(size: &ByteSize) -> Rule {
    range(
        size,
        ByteSize::mib(1),
        ByteSize::gib(64 << 10),
        "give it 75 to 85 % of free RAM",
    )
}

pub(super) fn memory_capacity(size: &Option<ByteSize>) -> Rule {
    match size {
        Some(size) => range(
            size,
            ByteSize::mib(1),
            ByteSize::gib(64 << 10),
            "lower it to free RAM",
        ),
        None => Ok(()),
    }
}

pub(super) fn drive_capacity(size: &Option<ByteSize>) -> Rule {
    match size {
        Some(size) => range(
            size,
            ByteSize(DRIVE_BYTES_MIN),
            ByteSize::gib(64 << 10),
            "remove the line to use the whole drive",
        ),
        None => Ok(()),
    }
}

pub(super) fn mtu(mtu: &u32) -> Rule {
    if matches!(mtu, 256 | 512 | 1024 | 2048 | 4096) {
        return Ok(());
    }
    Err(Wrong::new(
        "256, 512, 1024, 2048 or 4096",
        "take the largest that the fabric carries",
    ))
}

pub(super) fn node_id(id: &Option<String>) -> Rule {
    let Some(id) = id else { return Ok(()) };
    let plain = |c: char| c.is_ascii_alphanumeric() || "._:-[]".contains(c);
    if id.len() <= 64 && id.chars().all(plain) {
        return Ok(());
    }
    Err(Wrong::new(
        "at most 64 letters, digits and . _ : - [ ]",
        "a host name will do",
    ))
}

pub(super) fn admin_socket(path: &Option<PathBuf>) -> Rule {
    match path {
        // What a socket's address has room for.
        Some(path) if !path.is_absolute() || path.as_os_str().len() > 107 => Err(Wrong::new(
            "an absolute path of at most 107 bytes",
            "write for example /run/memkv/admin.sock",
        )),
        _ => Ok(()),
    }
}

pub(super) fn admin_token(token: &Option<Secret>) -> Rule {
    match token {
        Some(token) if token.expose().len() < 16 => Err(Wrong::new(
            "16 characters or more",
            "make one with: openssl rand -hex 32",
        )),
        Some(token) if !token.expose().chars().all(|c| c.is_ascii_graphic()) => Err(Wrong::new(
            "printable ASCII without blanks",
            "make one with: openssl rand -hex 32",
        )),
        _ => Ok(()),
    }
}

pub(super) fn otlp_endpoint(url: &Option<String>) -> Rule {
    url.as_deref()
        .map_or(Ok(()), memkv_settings::check_otlp_endpoint)
}
