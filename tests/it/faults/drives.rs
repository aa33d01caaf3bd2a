//! Drives and ports that aren't there, aren't ours, or aren't what they were.

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use memkv_tests::program::{Program, Setup, run};
use memkv_tests::tier::Tier;
use memkv_tests::wire::value;
use tempfile::TempDir;

fn key_of(number: u64) -> Vec<u8> {
    format!("key-{number}").into_bytes()
}

/// Puts 60 values of two kinds.
fn fill(server: &Program) {
    let client = server.client();
    for number in 0..60 {
        client
            .put(&key_of(number), &value(number, len_of(number)))
            .unwrap();
    }
}

fn len_of(number: u64) -> usize {
    [1000, 100_000][number as usize % 2]
}

/// How many of the values are there; none may be another one.
fn hits(server: &Program) -> usize {
    let client = server.client();
    let is_hit = |number: &u64| {
        let found = client.get(&key_of(*number)).unwrap();
        if let Some(found) = &found {
            assert!(found == &value(*number, len_of(*number)), "{number}");
        }
        found.is_some()
    };
    (0..60).filter(is_hit).count()
}

/// Two drives, each in a folder of its own as if it were a mount.
fn two_drives(home: &TempDir) -> Setup {
    let mut setup = Setup::new(home.path(), "64 MiB");
    setup.drives = ["a", "b"]
        .map(|name| (format!("{name}/drive"), "64 MiB".into()))
        .into();
    for name in ["a", "b"] {
        fs::create_dir(home.path().join(name)).unwrap();
    }
    setup
}

#[track_caller]
fn says(error: &str, words: &[&str]) {
    for words in words {
        assert!(error.contains(words), "{words:?} isn't in:\n{error}");
    }
}

#[test]
fn a_missing_drive_degrades_and_is_refused_when_it_returns_stale() {
    let home = TempDir::new().unwrap();
    let setup = two_drives(&home).allow("left out");
    let server = setup.start();
    fill(&server);
    assert_eq!(hits(&server), 60);
    assert_eq!(server.metric("memkv_drive_up", &[]), Some(2.0));
    server.stop();

    let (b, away) = (home.path().join("b"), home.path().join("away"));
    fs::rename(&b, &away).unwrap();
    let server = setup.start();
    let left = hits(&server);
    assert!(
        (1..60).contains(&left),
        "{left} of 60 left with one of two drives"
    );
    let status = server.status();
    assert_eq!(status["status"], "degraded", "{status:#}");
    let devices = status["storage"]["devices"].as_array().unwrap();
    let online: Vec<_> = devices.iter().map(|device| &device["online"]).collect();
    assert_eq!(online, [true, false]);
    says(
        &devices[1]["offline_because"].to_string(),
        &["does not exist", "create that directory"],
    );
    says(
        &status["findings"].to_string(),
        &["storage.drive_offline", "b/drive"],
    );
    assert_eq!(server.metric("memkv_drive_up", &[]), Some(1.0));
    // What is put now lands on the drive that is there.
    fill(&server);
    assert_eq!(hits(&server), 60);
    server.stop();

    fs::rename(&away, &b).unwrap();
    let refused = setup.refused();
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    says(
        refused.error(),
        &["b/drive", "missed 1 start", "stale", "memkv setup --force"],
    );

    fs::remove_file(b.join("drive")).unwrap();
    let server = setup.start();
    assert_eq!(hits(&server), 60, "the newer values are on the other drive");
    assert_eq!(server.status()["status"], "healthy");
    server.stop();
}

#[test]
fn a_drive_that_may_use_less_than_it_was_formatted_with_is_the_configurations_fault() {
    let home = TempDir::new().unwrap();
    Setup::new(home.path(), "64 MiB").start().stop();
    let smaller = Setup::new(home.path(), "32 MiB");
    let refused = smaller.refused();
    assert_eq!(refused.code, Some(3), "{}", refused.stderr);
    says(
        refused.error(),
        &[
            "drive-0",
            "formatted with",
            "max_size",
            "memkv setup --force",
        ],
    );
    // Which a look at the configuration alone can't tell.
    let check = ["start", "--config", "memkv.yaml", "--check"];
    assert_eq!(run(home.path(), &check).status.code(), Some(0));
}

#[test]
fn a_second_server_on_the_same_drive_is_refused_by_its_lock() {
    let home = TempDir::new().unwrap();
    let setup = Setup::new(home.path(), "64 MiB");
    let server = setup.start();
    fill(&server);
    let refused = setup.refused();
    assert_eq!(refused.code, Some(7), "{}", refused.stderr);
    says(
        refused.error(),
        &["drive-0", "in use by another memkv server", "stop it first"],
    );
    assert_eq!(hits(&server), 60, "the first one never noticed");
    server.stop();
    let server = setup.start();
    assert_eq!(hits(&server), 60);
    server.stop();
}

#[test]
fn a_drive_of_another_store_is_refused_by_its_superblock() {
    let (home, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let setup = two_drives(&home);
    let stranger = Setup::new(other.path(), "64 MiB");
    let server = setup.start();
    fill(&server);
    server.stop();
    let server = stranger.start();
    fill(&server);
    server.stop();
    let mut mixed = setup.clone();
    mixed.drives[1].0 = stranger.media(0).display().to_string();
    let before = fs::read(stranger.media(0)).unwrap();
    let refused = mixed.refused();
    assert_eq!(refused.code, Some(7), "{}", refused.stderr);
    let media = stranger.media(0).display().to_string();
    says(
        refused.error(),
        &[&media, "belongs to another store", "memkv setup --force"],
    );
    assert!(
        before == fs::read(stranger.media(0)).unwrap(),
        "nothing was written to it"
    );
    // Both stores are what they were.
    for setup in [setup, stranger] {
        let server = setup.start();
        assert_eq!(hits(&server), 60);
        server.stop();
    }
}

#[test]
fn a_data_folder_removed_while_running_harms_only_the_next_start() {
    let home = TempDir::new().unwrap();
    let mut setup = Setup::new(home.path(), "64 MiB").pool("16 MiB");
    setup.drives[0].0 = "data/drive".into();
    let data = home.path().join("data");
    fs::create_dir(&data).unwrap();
    let server = setup.start();
    fill(&server);
    fs::remove_dir_all(&data).unwrap();
    assert_eq!(hits(&server), 60);
    fill(&server);
    assert_eq!(hits(&server), 60);
    server.stop();
    let refused = setup.refused();
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    says(
        refused.error(),
        &["data does not exist", "create that directory", "media"],
    );
}

/// Whether a tool with these arguments works here; says so where it doesn't.
pub(super) fn works(tool: &[&str]) -> bool {
    let (program, arguments) = tool.split_first().unwrap();
    let works = Command::new(program)
        .args(arguments)
        .arg("true")
        .output()
        .is_ok_and(|output| output.status.success());
    match works {
        true => Tier::Faults.ran(),
        false => Tier::Faults.skipped(&format!("{tool:?} doesn't work on this machine")),
    }
    works
}

#[test]
fn a_read_only_file_system_is_named_at_the_start() {
    let namespace = ["unshare", "--map-root-user", "--mount"];
    if !works(&namespace) {
        return;
    }
    let home = TempDir::new().unwrap();
    let mut setup = Setup::new(home.path(), "64 MiB");
    setup.drives[0].0 = "ro/drive".into();
    fs::create_dir(home.path().join("ro")).unwrap();
    let mount = "mount --bind ro ro && mount -o remount,bind,ro ro && exec \"$@\"";
    setup.wrapper = namespace.map(String::from).into();
    setup
        .wrapper
        .extend(["sh", "-c", mount, "sh"].map(String::from));
    // Neither a new drive nor an old one.
    let new = setup.refused();
    let mut writable = setup.clone();
    writable.wrapper.clear();
    writable.start().stop();
    for refused in [new, setup.refused()] {
        assert_eq!(refused.code, Some(1), "{}", refused.stderr);
        says(
            refused.error(),
            &[
                "write to ro/drive",
                "mount its file system read-write",
                "Read-only",
            ],
        );
    }
}

#[test]
fn a_drive_that_we_may_not_write_is_named_at_the_start() {
    // Root may write to anything unless it gives that up.
    let caps = "-dac_override,-dac_read_search";
    let without = [
        "setpriv".to_owned(),
        format!("--inh-caps={caps}"),
        format!("--bounding-set={caps}"),
    ];
    let is_root = rustix::process::geteuid().is_root();
    if is_root && !works(&without.each_ref().map(String::as_str)) {
        return;
    }
    let home = TempDir::new().unwrap();
    let mut setup = Setup::new(home.path(), "64 MiB");
    setup.start().stop();
    let mode = |bits| {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(bits);
        fs::set_permissions(setup.media(0), permissions).unwrap();
    };
    mode(0o400);
    if is_root {
        setup.wrapper = without.into();
    }
    let refused = setup.refused();
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    says(
        refused.error(),
        &[
            "write to drive-0",
            "read and write access",
            "Permission denied",
        ],
    );
}

#[test]
fn a_port_in_use_is_named_whichever_of_the_two_it_is() {
    let home = TempDir::new().unwrap();
    let mut setup = Setup::new(home.path(), "64 MiB");
    // Below the ports that the kernel hands out, so that nobody takes the free one meanwhile.
    let first = 12_000 + (std::process::id() % 10_000) as u16;
    let pair = (first..).find_map(|port| {
        let free = TcpListener::bind(("127.0.0.1", port - 1)).ok()?;
        let taken = TcpListener::bind(("127.0.0.1", port)).ok()?;
        drop(free);
        Some((taken, port))
    });
    let (_taken, port) = pair.unwrap();
    for (address, role) in [
        (format!("127.0.0.1:{port}"), "data"),
        (format!("127.0.0.1:{}", port - 1), "admin"),
    ] {
        setup.address = address;
        let refused = setup.refused();
        assert_eq!(refused.code, Some(1), "{}", refused.stderr);
        says(
            refused.error(),
            &[
                role,
                &format!("127.0.0.1:{port}"),
                "in use",
                "network.address",
            ],
        );
        assert!(!setup.media(0).exists(), "a port in use costs nothing");
    }
}
