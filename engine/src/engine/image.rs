//! Drive images of a format's first day: what was written then is still read.
//!
//! `MEMKV_BLESS=1` writes images that are missing. It never overwrites one: each has random
//! identities, and a drive that is in use doesn't change with us.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::harness::Client;
use super::tests::files;
use crate::config::DRIVE_BYTES_MIN;
use crate::segment_log::bytes::{PAGE, u32_at, u64_at};
use crate::{Attrs, Class, Condition, EngineConfig, Sync};

/// Of each format version a store that was shut down, and one as a kill leaves it.
pub(crate) const IMAGES: [&str; 8] = [
    "disk-v1/closed",
    "disk-v1/killed",
    "disk-v2/closed",
    "disk-v2/killed",
    "disk-v3/closed",
    "disk-v3/killed",
    "disk-v4/closed",
    "disk-v4/killed",
];

fn path(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/golden");
    root.join(format!("{name}.image"))
}

fn config(dir: &Path) -> EngineConfig {
    EngineConfig {
        extent_bytes: 64 << 10,
        sync: Sync::Always,
        ..files(dir, 1, DRIVE_BYTES_MIN)
    }
}

/// Bytes that pack well: the same in every page.
fn value(seed: u8, len: usize) -> Vec<u8> {
    let word = [seed, b'm', b'e', b'm', b'k', b'v', 0, 0];
    let page = word.iter().copied().chain([0; PAGE - 8]);
    page.cycle().take(len).collect()
}

fn attrs() -> Attrs {
    Attrs {
        type_tag: 4,
        flags: 0x0102_0304,
        expiry_ms: 0,
        class: Class::Durable,
    }
}

/// What the store holds: namespace, key, value.
fn entries() -> Vec<(u32, Vec<u8>, Vec<u8>)> {
    vec![
        (0, b"empty".to_vec(), Vec::new()),
        (0, b"record".to_vec(), value(1, 100)),
        (7, b"record".to_vec(), value(2, 5000)),
        (0, vec![0xfe; 700], value(3, 17)),
        (0, b"extent".to_vec(), value(4, 64 << 10)),
        (7, b"striped".to_vec(), value(5, 150_000)),
    ]
}

fn fill(client: &Client) {
    let put = |namespace, key: &[u8], value: &[u8], attrs| {
        let put = client.put_with(namespace, key, value, attrs, Condition::None);
        put.expect("put");
    };
    put(0, b"deleted", &value(8, 9), Attrs::default());
    put(0, b"extent", &value(9, 70_000), Attrs::default());
    for (namespace, key, value) in entries() {
        put(namespace, &key, &value, Attrs::default());
    }
    put(1, b"durable", &value(6, 50), attrs());
    assert!(client.delete(b"deleted").expect("delete"));
}

fn check(client: &Client, image: &str) {
    for (namespace, key, value) in entries() {
        let found = client.get_in(namespace, &key).expect("get");
        assert!(found == Some(value), "{image}: {}", key.escape_ascii());
    }
    let durable = client.lease(1, b"durable").expect("get").expect("a hit");
    assert_eq!(durable.attrs(), attrs(), "{image}");
    assert_eq!(client.get(b"deleted"), None, "{image}");
}

/// `offset u64 | pages u32 | bytes u32 | bytes`, again and again: pages that are all the same,
/// without their trailing zeroes. Pages of zeroes alone are left out.
fn pack(drive: &[u8]) -> Vec<u8> {
    let pages: Vec<&[u8]> = drive.chunks(PAGE).collect();
    let (mut packed, mut at) = (Vec::new(), 0);
    for run in pages.chunk_by(|a, b| a == b) {
        let len = run[0]
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |at| at + 1);
        if len > 0 {
            packed.extend(((at * PAGE) as u64).to_le_bytes());
            packed.extend((run.len() as u32).to_le_bytes());
            packed.extend((len as u32).to_le_bytes());
            packed.extend(&run[0][..len]);
        }
        at += run.len();
    }
    packed
}

/// The drive of an image.
pub(crate) fn drive(name: &str) -> Vec<u8> {
    let path = path(name);
    let packed = std::fs::read(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    let mut drive = vec![0; DRIVE_BYTES_MIN as usize];
    let mut rest = &packed[..];
    while !rest.is_empty() {
        let (offset, pages) = (u64_at(rest, 0) as usize, u32_at(rest, 8) as usize);
        let len = u32_at(rest, 12) as usize;
        for page in 0..pages {
            drive[offset + page * PAGE..][..len].copy_from_slice(&rest[16..16 + len]);
        }
        rest = &rest[16 + len..];
    }
    drive
}

fn bless() {
    let dir = tempfile::tempdir().expect("dir");
    let config = config(dir.path());
    let media = config.drives[0].media.clone();
    let client = Client::open(config);
    fill(&client);
    let killed = std::fs::read(&media).expect("read the drive");
    let shutdown = client.engine.shutdown(Duration::from_secs(20));
    shutdown.expect("shut down");
    let closed = std::fs::read(&media).expect("read the drive");
    let drives = [closed, killed];
    for (name, drive) in IMAGES.into_iter().zip(drives.iter().cycle()) {
        if !path(name).exists() {
            let folder = path(name).parent().map(Path::to_owned);
            std::fs::create_dir_all(folder.expect("a directory")).expect("create it");
            std::fs::write(path(name), pack(drive)).expect("write the image");
        }
    }
}

#[test]
fn drives_of_all_versions_are_still_read_whole() {
    if std::env::var_os("MEMKV_BLESS").is_some() && IMAGES.iter().any(|name| !path(name).exists()) {
        bless();
    }
    for name in IMAGES {
        let dir = tempfile::tempdir().expect("dir");
        let config = config(dir.path());
        let file = std::fs::File::create(&config.drives[0].media).expect("create the drive");
        file.write_all_at(&drive(name), 0).expect("write the drive");
        drop(file);
        for start in ["first", "second"] {
            let client = Client::open(config.clone());
            assert_eq!(client.engine.status().drives.len(), 1);
            check(&client, &format!("{name}, {start} start"));
            let shutdown = client.engine.shutdown(Duration::from_secs(20));
            shutdown.expect("shut down");
        }
    }
}

#[test]
fn new_drives_have_the_geometry_of_version_1() {
    let dir = tempfile::tempdir().expect("dir");
    let config = config(dir.path());
    let media = config.drives[0].media.clone();
    drop(Client::open(config));
    let (then, now) = (
        drive("disk-v1/closed"),
        std::fs::read(&media).expect("read the drive"),
    );
    let superblocks = |drive: &[u8]| -> Vec<usize> {
        let pages = drive.chunks(PAGE).enumerate();
        pages
            .filter_map(|(at, page)| page.starts_with(b"memkvSB").then_some(at))
            .collect()
    };
    assert_eq!(superblocks(&now), superblocks(&then));
    // Magic number; then capacity to segment count.
    assert_eq!(now[..8], then[..8]);
    assert_eq!(now[120..184], then[120..184]);
}
