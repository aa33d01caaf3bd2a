use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn the_first_call_makes_a_private_key_and_the_second_reads_it() {
    let home = tempfile::tempdir().unwrap();
    let made = load_or_create(Some(home.path())).unwrap();
    assert!(made.created);
    assert_eq!(made.path, home.path().join(".memkv/dev-key"));
    assert_eq!(fs::metadata(&made.path).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(
        fs::metadata(home.path().join(".memkv")).unwrap().mode() & 0o7777,
        0o700
    );
    let read = load_or_create(Some(home.path())).unwrap();
    assert!(!read.created);
    assert_eq!(read.key, made.key);
    assert_eq!(
        fs::read_dir(home.path().join(".memkv")).unwrap().count(),
        1,
        "no leftovers"
    );
}

#[test]
fn two_homes_get_different_keys() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let key = |home: &tempfile::TempDir| load_or_create(Some(home.path())).unwrap().key;
    assert_ne!(key(&a), key(&b));
}

#[test]
fn racing_callers_agree_on_one_key() {
    let home = tempfile::tempdir().unwrap();
    let keys: Vec<DevKey> = std::thread::scope(|scope| {
        let path = home.path();
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(move || load_or_create(Some(path)).unwrap()))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(keys.iter().all(|key| key.key == keys[0].key));
    assert_eq!(keys.iter().filter(|key| key.created).count(), 1);
}

#[test]
fn a_key_file_that_others_can_read_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let made = load_or_create(Some(home.path())).unwrap();
    // Others may read it; the group may, or may write it.
    for mode in [0o644, 0o640, 0o620] {
        fs::set_permissions(&made.path, fs::Permissions::from_mode(mode)).unwrap();
        let error = load_or_create(Some(home.path())).unwrap_err().to_string();
        let expected = format!("has mode {mode:04o}, but must have 0600; remove it");
        assert!(error.contains(&expected), "{error}");
    }
}

#[test]
fn a_key_file_of_another_user_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let made = load_or_create(Some(home.path())).unwrap();
    // Only root can give a file away; whoever can't has shown that nobody else put it there.
    if std::os::unix::fs::chown(&made.path, Some(65_534), None).is_ok() {
        let error = load_or_create(Some(home.path())).unwrap_err().to_string();
        assert!(error.contains("belongs to user 65534"), "{error}");
    }
}

#[test]
fn damaged_or_linked_key_files_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let made = load_or_create(Some(home.path())).unwrap();
    fs::write(&made.path, "short").unwrap();
    let error = load_or_create(Some(home.path())).unwrap_err().to_string();
    assert!(
        error.ends_with("doesn't hold 64 hexadecimal digits; remove it"),
        "{error}"
    );

    fs::remove_file(&made.path).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", &made.path).unwrap();
    assert!(matches!(
        load_or_create(Some(home.path())),
        Err(DevKeyError::Io { .. })
    ));
}

#[test]
fn without_a_home_there_is_no_key() {
    for home in [None, Some(Path::new("relative"))] {
        let error = load_or_create(home).unwrap_err().to_string();
        assert_eq!(
            error,
            "no development key: HOME is not set; set HOME, or set auth_key (MEMKV_AUTH_KEY)"
        );
    }
}

#[test]
fn only_loopback_may_use_it() {
    for (ip, expected) in [
        ("127.0.0.1", true),
        ("127.9.9.9", true),
        ("::1", true),
        ("::ffff:127.0.0.1", true),
        ("0.0.0.0", false),
        ("::", false),
        ("10.0.0.1", false),
        ("192.168.1.1", false),
    ] {
        assert_eq!(allowed_for(ip.parse().unwrap()), expected, "{ip}");
    }
}
