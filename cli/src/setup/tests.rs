use std::path::Path;

use super::*;
use clap::Parser;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    setup: Setup,
}

fn setup(arguments: &[&str]) -> Setup {
    Line::parse_from([&["setup"], arguments].concat()).setup
}

fn drive(path: &str, kind: Kind, content: Content) -> Media {
    Media {
        path: path.into(),
        kind,
        mounts: Vec::new(),
        partitions: Vec::new(),
        holders: Vec::new(),
        content,
    }
}

/// What `setup` plans for one device, or why it refuses.
fn plan(flags: &[&str], drive: Media) -> String {
    let setup = setup(&[&["--drives", "/dev/x"], flags].concat());
    match setup.plan(&[drive]) {
        Ok(plans) => format!("{:?}", plans[0]),
        Err(failure) => {
            assert_eq!(failure.exit, Exit::Refused);
            let text = failure.error.unwrap().to_string();
            text.strip_prefix("nothing was touched, because\n  ")
                .unwrap()
                .to_owned()
        }
    }
}

#[test]
fn what_holds_something_is_refused_unless_forced() {
    let device = |content| drive("/dev/x", Kind::Device, content);
    let xfs = || device(Content::Known("an XFS file system"));
    assert_eq!(plan(&[], device(Content::Blank)), "Keep");
    assert_eq!(
        plan(&[], xfs()),
        "/dev/x holds an XFS file system; --force wipes it"
    );
    assert_eq!(
        plan(&["--idempotent"], xfs()),
        "/dev/x holds an XFS file system; --force wipes it"
    );
    assert_eq!(plan(&["--force"], xfs()), "Wipe");
    let foreign = plan(&[], device(Content::Foreign));
    assert_eq!(
        foreign,
        "/dev/x holds data that isn't memkv's; --force wipes it"
    );
    let parted = Media {
        partitions: vec!["x1".into(), "x2".into()],
        ..device(Content::Foreign)
    };
    assert_eq!(
        plan(&[], parted.clone()),
        "/dev/x has the partitions x1, x2, holds data that isn't memkv's; --force wipes it"
    );
    assert_eq!(plan(&["--force"], parted), "Wipe");
}

#[test]
fn drives_of_memkv_are_kept_only_when_told_so() {
    let ours = || drive("/dev/x", Kind::Device, Content::Memkv);
    let refusal = "/dev/x already belongs to memkv; --idempotent keeps it, --force wipes it";
    assert_eq!(plan(&[], ours()), refusal);
    assert_eq!(plan(&["--idempotent"], ours()), "Keep");
    assert_eq!(plan(&["--force"], ours()), "Wipe");
}

#[test]
fn what_is_in_use_is_refused_even_when_forced() {
    let blank = drive("/dev/x", Kind::Device, Content::Blank);
    let mounted = Media {
        mounts: vec!["/srv".into()],
        ..blank.clone()
    };
    let held = Media {
        holders: vec!["dm-0".into()],
        ..blank
    };
    for flags in [&[][..], &["--force"], &["--idempotent"]] {
        assert_eq!(
            plan(flags, mounted.clone()),
            "/dev/x is mounted at /srv; unmount or stop what uses it first"
        );
        assert_eq!(
            plan(flags, held.clone()),
            "/dev/x is in use by dm-0; unmount or stop what uses it first"
        );
    }
}

#[test]
fn the_shard_size_becomes_the_block_size_from_1024_on() {
    for (shard, block) in [
        ("1", "4 MiB"),
        ("64", "4 MiB"),
        ("1023", "4 MiB"),
        ("1024", "1 MiB"),
        ("8192", "8 MiB"),
    ] {
        let setup = setup(&["--drives", "/dev/x", "--shard-size", shard]);
        let drives = [drive("/dev/x", Kind::Device, Content::Blank)];
        let yaml = setup.yaml(Mode::Direct, &drives, ByteSize::gib(8), "mlx5_0");
        assert!(
            yaml.contains(&format!("\n  block_size: {block}\n  drives:")),
            "{shard}: {yaml}"
        );
    }
    let line = ["setup", "--drives", "x", "--shard-size", "16385"];
    assert!(Line::try_parse_from(line).is_err());
}

#[test]
fn files_and_devices_do_not_mix() {
    let device = drive("/dev/x", Kind::Device, Content::Blank);
    let file = drive("/data/x", Kind::Absent, Content::Blank);
    assert_eq!(
        mode_of(std::slice::from_ref(&device)).ok(),
        Some(Mode::Direct)
    );
    assert_eq!(mode_of(std::slice::from_ref(&file)).ok(), Some(Mode::File));
    let failure = mode_of(&[device, file]).unwrap_err();
    assert_eq!(
        failure.error.unwrap().to_string(),
        "--drives names 1 block devices and 1 files; a server takes one kind"
    );
}

#[test]
fn the_pool_takes_four_fifths_of_free_ram_or_the_reserved_huge_pages() {
    let facts = |ram: u64, huge: u64| Facts {
        cores: 1,
        hugepages_free_bytes: Some(huge),
        hugepage_bytes: 2 << 20,
        memlock_bytes: None,
        ram_available_bytes: Some(ram),
    };
    let gib = |n: u64| n << 30;
    for (mode, ram, huge, expected) in [
        (Mode::Direct, gib(310), 0, ByteSize::gib(248)),
        (Mode::Direct, gib(64), gib(200), ByteSize::gib(200)),
        (Mode::Direct, gib(10), 64 << 20, ByteSize::gib(8)),
        (Mode::File, gib(10), gib(200), ByteSize::gib(8)),
        (Mode::File, 1 << 20, 0, ByteSize::mib(64)),
        (Mode::File, 1001 << 20, 0, ByteSize::mib(800)),
    ] {
        assert_eq!(
            pool_size(mode, &facts(ram, huge)),
            expected,
            "{mode:?} {ram} {huge}"
        );
    }
}

#[test]
fn a_wiped_file_is_empty_and_a_wiped_device_has_no_signature() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("drive");
    let wipe = |kind| {
        fs::write(&path, vec![7; 5 << 20]).unwrap();
        wipe::wipe(&Media {
            path: path.clone(),
            ..drive("", kind, Content::Foreign)
        })
        .unwrap();
        fs::read(&path).unwrap()
    };
    assert!(wipe(Kind::File).is_empty());

    // A regular file stands in for a device; only the exclusive open differs.
    let bytes = wipe(Kind::Absent);
    assert_eq!(bytes.len(), 5 << 20);
    assert!(
        bytes[..1 << 20]
            .iter()
            .chain(&bytes[4 << 20..])
            .all(|byte| *byte == 0)
    );
}

#[test]
fn the_first_rdma_device_is_taken() {
    let root = tempfile::tempdir().unwrap();
    let host = Host {
        proc: root.path().into(),
        sys: root.path().into(),
    };
    assert_eq!(first_rdma_device(&host), "mlx5_0");
    for name in ["mlx5_2", "bnxt_re0"] {
        fs::create_dir_all(root.path().join("class/infiniband").join(name)).unwrap();
    }
    assert_eq!(first_rdma_device(&host), "bnxt_re0");
}

#[test]
fn what_setup_writes_is_a_configuration() {
    let facts = Facts {
        cores: 4,
        hugepages_free_bytes: Some(1 << 40),
        hugepage_bytes: 2 << 20,
        memlock_bytes: None,
        ram_available_bytes: None,
    };
    for (mode, path) in [
        (Mode::Direct, "/dev/nvme0n1"),
        (Mode::File, "/data/my drive: one"),
        (Mode::File, "/d/#1"),
    ] {
        let setup = setup(&["--drives", path, "--shard-size", "2048"]);
        let drives = [drive(path, Kind::Absent, Content::Blank)];
        let yaml = setup.yaml(mode, &drives, ByteSize::gib(8), "mlx5_1");
        let environment =
            memkv_settings::Environment::default().with("MEMKV_AUTH_KEY", "0f".repeat(32));
        let options = memkv_settings::LoadOptions::default();
        let config = memkv_server::config::Config::from_yaml(
            "s",
            yaml.as_bytes(),
            &environment,
            &facts,
            &options,
        )
        .unwrap();
        assert_eq!(
            (config.storage.extent_bytes, config.memory.pool_bytes),
            (2 << 20, 8 << 30)
        );
        assert_eq!(config.rdma.device, "mlx5_1");
        let media = match config.storage.backend {
            memkv_server::config::Backend::Direct(drives) if mode == Mode::Direct => drives,
            memkv_server::config::Backend::File(drives) if mode == Mode::File => drives,
            other => panic!("{other:?}"),
        };
        assert_eq!(media[0].media, Path::new(path));
    }
}
