//! Values and keys at their bounds, through a small pool and a drive.

use memkv_client::{ErrorCode, OpError};
use memkv_tests::program::Setup;
use memkv_tests::wire::value;
use tempfile::TempDir;

const BLOCK: usize = 4 << 20;
const SLAB: usize = 2 << 20;

#[test]
fn values_of_every_size_survive_a_small_pool_and_a_restart() {
    let home = TempDir::new().unwrap();
    let setup = Setup::new(home.path(), "2 GiB").pool("32 MiB");
    let sizes = [
        0,
        1,
        65_535,
        65_536,
        65_537,
        SLAB - 1,
        SLAB,
        SLAB + 1,
        BLOCK - 1,
        BLOCK,
        BLOCK + 1,
        64 << 20,
        256 << 20,
    ];
    let server = setup.start();
    let client = server.client();
    for (number, len) in (0..).zip(sizes) {
        let key = format!("size-{len}");
        let value = value(number, len);
        client
            .put(key.as_bytes(), &value)
            .unwrap_or_else(|error| panic!("{key}: {error:?}"));
        let found = client
            .get(key.as_bytes())
            .unwrap_or_else(|error| panic!("{key}: {error:?}"));
        assert!(found == Some(value), "{key}");
    }
    server.stop();
    let server = setup.start();
    let client = server.client();
    for (number, len) in (0..).zip(sizes) {
        let key = format!("size-{len}");
        let found = client
            .get(key.as_bytes())
            .unwrap_or_else(|error| panic!("{key}: {error:?}"));
        assert!(found == Some(value(number, len)), "{key} after a restart");
    }
    server.stop();
}

#[test]
fn each_entry_of_a_batch_has_its_own_outcome() {
    let home = TempDir::new().unwrap();
    let server = Setup::new(home.path(), "64 MiB").start();
    let client = server.client();
    let keys = [
        vec![b'a'],
        vec![],
        vec![b'k'; 512],
        vec![b'k'; 513],
        vec![b'z'],
    ];
    let values = [
        value(1, 10),
        value(2, 10),
        value(3, 100_000),
        value(4, 10),
        vec![],
    ];
    let items: Vec<(&[u8], &[u8])> = keys
        .iter()
        .zip(&values)
        .map(|(key, value)| (&key[..], &value[..]))
        .collect();
    let is_bad_key =
        |error: &OpError| error.outcome() == memkv_client::EntryOutcome::Error(ErrorCode::BadKey);
    let put = client.batch_put_views(&items);
    let got = client.batch_get(&keys);
    let exists = client.batch_exists(&keys);
    for idx in 0..keys.len() {
        if [1, 3].contains(&idx) {
            assert!(
                put[idx].as_ref().is_err_and(is_bad_key),
                "{idx}: {:?}",
                put[idx]
            );
            assert!(
                got[idx].as_ref().is_err_and(is_bad_key),
                "{idx}: {:?}",
                got[idx]
            );
            assert!(
                exists[idx].as_ref().is_err_and(is_bad_key),
                "{idx}: {:?}",
                exists[idx]
            );
        } else {
            assert!(put[idx].is_ok(), "{idx}: {:?}", put[idx]);
            assert_eq!(
                got[idx].as_ref().unwrap().as_ref(),
                Some(&values[idx]),
                "{idx}"
            );
            assert!(exists[idx].as_ref().unwrap(), "{idx}");
        }
    }
    let deleted = client.batch_delete(&[&b"a"[..], b"absent", b"z"]);
    let deleted: Vec<bool> = deleted.into_iter().map(Result::unwrap).collect();
    assert_eq!(deleted, [true, false, true]);
    let got = client.batch_get(&[&b"a"[..], &keys[2], b"absent"]);
    let hits: Vec<bool> = got
        .into_iter()
        .map(|found| found.unwrap().is_some())
        .collect();
    assert_eq!(hits, [false, true, false]);
    server.stop();
}
