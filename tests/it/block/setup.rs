//! `memkv setup` before a device that somebody needs.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use memkv_tests::block::{BlockDevice, Kind, Mount, run};
use memkv_tests::program;
use tempfile::TempDir;

const BYTES: u64 = 64 << 20;

/// Exit code, stdout and stderr of `memkv setup --drives DRIVES FLAGS`.
fn setup(home: &Path, drives: &[&str], flags: &[&str]) -> (i32, String, String) {
    let arguments = [&["setup", "--drives"], drives, flags].concat();
    let output = program::run(home, &arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().expect("an exit code");
    (code, text(&output.stdout), text(&output.stderr))
}

/// What a drive is refused with; and that nothing was printed.
#[track_caller]
fn refused(home: &Path, drives: &[&str], flags: &[&str]) -> String {
    let (code, stdout, stderr) = setup(home, drives, flags);
    assert_eq!((code, stdout.as_str()), (7, ""), "{stderr}");
    stderr
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    for words in words {
        assert!(text.contains(words), "{words:?} isn't in:\n{text}");
    }
}

#[test]
fn what_stands_at_either_end_or_between_is_refused_by_name() {
    let home = TempDir::new().unwrap();
    let blank = BlockDevice::new(home.path(), "blank", BYTES, Kind::default());
    let kind = Kind {
        sector: 512,
        ..Kind::default()
    };
    // A size that no page divides: what stands at the very end still counts.
    let bytes = BYTES + 512;
    let device = BlockDevice::new(home.path(), "device", bytes, kind);
    let (Some(blank), Some(device)) = (blank, device) else {
        return;
    };
    let cases: [(u64, &[u8], &str); 8] = [
        (0, b"XFSB", "an XFS file system"),
        (512, b"EFI PART", "a GPT partition table"),
        (
            bytes - 512,
            b"EFI PART",
            "the backup of a GPT partition table",
        ),
        (4096, &[0xfc, 0x4e, 0x2b, 0xa9], "an md RAID member"),
        (
            (bytes - 8192) / 4096 * 4096,
            &[0xfc, 0x4e, 0x2b, 0xa9],
            "an md RAID member",
        ),
        (
            bytes - 512 - (256 << 10) - (128 << 10),
            &[0x0c, 0xb1, 0xba, 0],
            "a ZFS pool member",
        ),
        (bytes - 1, &[1], "data of unknown origin"),
        (1 << 20, &[1; 300 << 10], "data of unknown origin"),
    ];
    for (at, magic, what) in cases {
        let raw = fs::OpenOptions::new()
            .write(true)
            .open(&device.path)
            .unwrap();
        raw.write_all_at(magic, at).unwrap();
        drop(raw);
        let refusal = refused(home.path(), &[blank.name(), device.name()], &[]);
        let line = format!("{} holds {what}; --force wipes it", device.name());
        says(&refusal, &["nothing was touched", &line]);
        // Neither flag is a way round it but --force, which leaves the drive blank.
        refused(home.path(), &[device.name()], &["--idempotent"]);
        let (code, yaml, stderr) = setup(home.path(), &[device.name()], &["--force"]);
        assert_eq!(code, 0, "{what}: {stderr}");
        says(&yaml, &["mode: direct", device.name()]);
        let (code, _, stderr) = setup(home.path(), &[device.name(), blank.name()], &[]);
        assert_eq!(code, 0, "{what}: {stderr}");
        says(&stderr, &["is blank"]);
    }
}

#[test]
fn a_mounted_drive_is_refused_whatever_the_flags() {
    let home = TempDir::new().unwrap();
    let Some(device) = BlockDevice::new(home.path(), "device", BYTES, Kind::default()) else {
        return;
    };
    run(Command::new("mkfs.ext4").arg("-q").arg(&device.path)).unwrap();
    let line = format!("{} holds an ext2/3/4 file system", device.name());
    says(&refused(home.path(), &[device.name()], &[]), &[&line]);

    let folder = home.path().join("data of mine");
    fs::create_dir(&folder).unwrap();
    let mount = Mount::new(&device, &folder).unwrap();
    fs::write(folder.join("file"), "precious").unwrap();
    for flags in [&[][..], &["--force"], &["--idempotent"]] {
        let refusal = refused(home.path(), &[device.name()], flags);
        let place = format!("{} is mounted at {}", device.name(), folder.display());
        says(&refusal, &[&place, "unmount it first"]);
    }
    // A server would say the same.
    let yaml = super::direct::yaml(&[device.name()]);
    let server = program::Setup::of_text(home.path(), yaml);
    let refusal = server.refused();
    assert_eq!(refusal.code, Some(7), "{}", refusal.stderr);
    says(
        refusal.error(),
        &[device.name(), "is mounted at", "unmount it first"],
    );
    assert_eq!(fs::read(folder.join("file")).unwrap(), b"precious");
    drop(mount);

    // And of the file system, once it is nobody's any more.
    let refusal = server.refused();
    says(
        refusal.error(),
        &["holds an ext2/3/4 file system", "--force"],
    );
    let (code, _, stderr) = setup(home.path(), &[device.name()], &["--force"]);
    assert_eq!(code, 0, "{stderr}");
    server.start().stop();
}

#[test]
fn a_partitioned_drive_is_refused_and_loses_its_partitions_when_forced() {
    let home = TempDir::new().unwrap();
    let Some(device) = BlockDevice::new(home.path(), "device", BYTES, Kind::default()) else {
        return;
    };
    // The kernel knows of a partition that no byte on the device tells of.
    let mut addpart = Command::new("addpart");
    run(addpart.arg(&device.path).args(["1", "2048", "20480"])).unwrap();
    let part = format!("{}p1", device.path.file_name().unwrap().to_str().unwrap());
    let line = format!("{} holds the partitions {part}", device.name());
    says(
        &refused(home.path(), &[device.name()], &[]),
        &[&line, "--force"],
    );
    let (code, _, stderr) = setup(home.path(), &[device.name()], &["--force"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(!Path::new("/sys/class/block").join(&part).exists());
    assert_eq!(setup(home.path(), &[device.name()], &[]).0, 0);
}

#[test]
fn a_drive_that_no_flag_can_make_fit_is_said_to_be_so() {
    let home = TempDir::new().unwrap();
    let small = BlockDevice::new(home.path(), "small", 8 << 20, Kind::default());
    let kind = Kind {
        read_only: true,
        ..Kind::default()
    };
    let locked = BlockDevice::new(home.path(), "locked", BYTES, kind);
    let (Some(small), Some(locked)) = (small, locked) else {
        return;
    };
    let link = home.path().join("link");
    std::os::unix::fs::symlink(&locked.path, &link).unwrap();
    for flags in [&[][..], &["--force"]] {
        let drives = [small.name(), locked.name(), link.to_str().unwrap()];
        let (code, stdout, stderr) = setup(home.path(), &drives, flags);
        assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
        let size = format!(
            "{} has 8388608 bytes; needs at least 16777216",
            small.name()
        );
        let write = format!("write to {}", locked.name());
        let twice = format!("{} is named twice", link.display());
        says(&stderr, &[&size, &write, "blockdev --setrw", &twice]);
    }
}

#[test]
fn devices_and_files_are_not_mixed() {
    let home = TempDir::new().unwrap();
    let Some(device) = BlockDevice::new(home.path(), "device", BYTES, Kind::default()) else {
        return;
    };
    let (code, stdout, stderr) = setup(home.path(), &[device.name(), "file"], &[]);
    assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
    says(&stderr, &["1 block devices and 1 files"]);
}

#[test]
fn a_wiped_drive_is_trimmed() {
    let home = TempDir::new().unwrap();
    let Some(device) = BlockDevice::new(home.path(), "device", BYTES, Kind::default()) else {
        return;
    };
    let raw = fs::OpenOptions::new()
        .write(true)
        .open(&device.path)
        .unwrap();
    raw.write_all_at(&vec![7; 32 << 20], 4 << 20).unwrap();
    raw.sync_all().unwrap();
    drop(raw);
    let before = device.allocated_bytes();
    assert!(before >= 32 << 20, "{before}");
    let (code, _, stderr) = setup(home.path(), &[device.name()], &["--force"]);
    assert_eq!(code, 0, "{stderr}");
    let after = device.allocated_bytes();
    // Zeroed ends and pages are all that is left.
    assert!(after <= 4 << 20, "{after} of {before} bytes are left");
}
