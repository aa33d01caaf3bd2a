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

fn drive(path: &str, kind: Kind, content: Content) -> Drive {
    Drive {
        path: path.into(),
        kind,
        content,
    }
}

/// What `setup` plans for one device, or why it refuses.
fn plan(flags: &[&str], drive: Drive) -> String {
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
    let foreign = |what: &str| device(Content::of(MediaContent::Foreign(what.into())));
    assert_eq!(plan(&[], device(Content::Blank)), "Keep");
    for flags in [&[][..], &["--idempotent"]] {
        assert_eq!(
            plan(flags, foreign("an XFS file system")),
            "/dev/x holds an XFS file system; --force wipes it"
        );
    }
    assert_eq!(plan(&["--force"], foreign("an XFS file system")), "Wipe");
    for content in [MediaContent::DamagedStore, MediaContent::NewerStore(7)] {
        let content = || device(Content::of(content.clone()));
        assert!(plan(&["--idempotent"], content()).ends_with("; --force wipes it"));
        assert_eq!(plan(&["--force"], content()), "Wipe");
    }
    let newer = device(Content::of(MediaContent::NewerStore(7)));
    assert!(plan(&[], newer).contains("on-disk format 7"));
}

#[test]
fn drives_of_memkv_are_kept_only_when_told_so() {
    let ours = || drive("/dev/x", Kind::Device, Content::Store);
    let refusal = "/dev/x already belongs to memkv; --idempotent keeps it, --force wipes it";
    assert_eq!(plan(&[], ours()), refusal);
    assert_eq!(plan(&["--idempotent"], ours()), "Keep");
    assert_eq!(plan(&["--force"], ours()), "Wipe");
}

#[test]
fn what_is_in_use_is_refused_even_when_forced() {
    let how = "mounted at /srv; unmount it first";
    let used = drive("/dev/x", Kind::Device, Content::InUse(how.into()));
    for flags in [&[][..], &["--force"], &["--idempotent"]] {
        assert_eq!(plan(flags, used.clone()), format!("/dev/x is {how}"));
    }
}

#[test]
fn files_and_places_for_files_are_told_from_the_rest() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("f");
    let inspect = |path: &Path| Drive::inspect(path.to_owned());
    assert_eq!(
        inspect(&file).unwrap(),
        drive(file.to_str().unwrap(), Kind::File, Content::Blank)
    );
    fs::write(&file, "text").unwrap();
    let content = inspect(&file).unwrap().content;
    assert_eq!(
        content,
        Content::Other("holds data of unknown origin".into())
    );
    fs::write(&file, [0; 4096]).unwrap();
    assert_eq!(
        inspect(&file).unwrap().content,
        Content::Other("has 4096 bytes; needs at least 16777216: pick a larger one".to_owned())
    );
    assert!(inspect(root.path()).is_err(), "a folder is no drive");
    assert!(inspect(&root.path().join("no/such")).is_err());
    assert!(inspect(&file.join("below")).is_err());
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
    let file = drive("/data/x", Kind::File, Content::Blank);
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
fn the_pool_takes_reserved_huge_pages_or_four_fifths_of_free_ram_up_to_what_drives_hold() {
    let facts = |ram: u64, huge: u64| Facts {
        cores: 1,
        hugepages_free_bytes: Some(huge),
        hugepage_bytes: 2 << 20,
        memlock_bytes: None,
        ram_available_bytes: Some(ram),
    };
    let gib = |n: u64| n << 30;
    let large = gib(4000);
    for (mode, ram, huge, drives, expected) in [
        (Mode::Direct, gib(310), 0, large, ByteSize::gib(248)),
        (Mode::Direct, gib(64), gib(200), large, ByteSize::gib(200)),
        (Mode::Direct, gib(10), 64 << 20, large, ByteSize::gib(8)),
        (Mode::File, gib(10), gib(200), large, ByteSize::gib(8)),
        (Mode::File, 1 << 20, 0, large, ByteSize::mib(64)),
        (Mode::File, 1001 << 20, 0, large, ByteSize::mib(800)),
        (Mode::File, gib(24), 0, gib(4), ByteSize::gib(4)),
        (Mode::File, gib(24), 0, 1 << 20, ByteSize::mib(64)),
        (Mode::Direct, gib(24), 0, gib(4), ByteSize::gib(4)),
    ] {
        assert_eq!(
            pool_size(mode, &facts(ram, huge), drives),
            expected,
            "{mode:?} {ram} {huge}"
        );
    }
}

#[test]
fn the_first_rdma_device_is_taken() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(first_rdma_device(root.path()), "mlx5_0");
    for name in ["mlx5_2", "bnxt_re0"] {
        fs::create_dir_all(root.path().join("class/infiniband").join(name)).unwrap();
    }
    assert_eq!(first_rdma_device(root.path()), "bnxt_re0");
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
        let drives = [drive(path, Kind::File, Content::Blank)];
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
