//! Replays the corpora of the fuzz targets, and sees that no target is without one.

use std::path::{Path, PathBuf};

use memkv_proto::{FrameHead, fuzzing};

use crate::scenario;

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz")
}

/// A message as the request and reply targets take it: `op 1 | flags 2 | payload_len 8 | control`.
pub(crate) fn seed(head: &FrameHead, control: &[u8]) -> Vec<u8> {
    let mut data = vec![head.op.to_wire()];
    data.extend_from_slice(&head.flags.bits().to_le_bytes());
    data.extend_from_slice(&head.payload_len.to_le_bytes());
    data.extend_from_slice(control);
    data
}

/// One honest input per kind of message, to start fuzzing from.
fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut all = Vec::new();
    let mut pair = scenario::pair();
    for (name, bytes) in ["hello", "hello_reply", "finish"]
        .iter()
        .zip(&pair.messages)
    {
        all.push(("proto_handshake", (*name).to_owned(), bytes.clone()));
    }
    for code in memkv_proto::session::RefusalCode::ALL {
        let bytes = memkv_proto::session::Refusal::new(*code, scenario::NOW_NS).to_bytes();
        all.push(("proto_refusal", code.name().to_owned(), bytes.to_vec()));
    }
    all.push(("proto_frame", "unchanged".to_owned(), vec![0, 0, 0]));
    all.push(("proto_frame", "sequence".to_owned(), vec![16, 0, 3]));
    for (name, head, control) in scenario::requests() {
        let frame = scenario::seal(&mut pair.client.sealer, &head, &control);
        all.push(("proto_header", name.to_owned(), frame[..104].to_vec()));
        all.push(("proto_request", name.to_owned(), seed(&head, &control)));
        if name == "connect" {
            all.push(("proto_connect", name.to_owned(), control));
        }
    }
    for (name, head, control) in scenario::replies() {
        all.push(("proto_reply", name.to_owned(), seed(&head, &control)));
        if name == "stat" {
            all.push(("proto_stat", name.to_owned(), control));
        }
    }
    all
}

#[test]
fn every_fuzz_target_exists_and_its_corpus_replays() {
    if std::env::var_os("MEMKV_BLESS").is_some() {
        for (target, name, bytes) in seeds() {
            let dir = fuzz_dir().join("corpus").join(target);
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join(name), bytes).unwrap();
        }
    }
    for (name, target) in fuzzing::TARGETS {
        let source = fuzz_dir().join("fuzz_targets").join(format!("{name}.rs"));
        assert!(source.exists(), "{} is missing", source.display());
        let dir = fuzz_dir().join("corpus").join(name);
        let files = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let mut count = 0;
        for file in files {
            target(&std::fs::read(file.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 0, "{} is empty", dir.display());
    }
}

#[test]
fn honest_messages_pass_every_fuzz_property() {
    for (name, _, bytes) in seeds() {
        let (_, target) = fuzzing::TARGETS
            .iter()
            .find(|(found, _)| *found == name)
            .unwrap();
        target(&bytes);
    }
}
