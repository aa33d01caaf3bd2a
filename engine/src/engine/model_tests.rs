//! The engine against a `BTreeMap`: whatever is done in whatever order, over restarts, on files
//! and in memory, both say the same.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::harness::{Client, value_of};
use super::tests::files;
use crate::{Attrs, Condition, EngineConfig, PutError};

#[derive(Clone, Debug)]
enum Action {
    Put { key: u8, len: usize, condition: u8 },
    Delete(u8),
    Get(u8),
    Exists(u8),
    Restart,
}

fn action() -> impl Strategy<Value = Action> {
    let len = prop_oneof![
        0..200usize,
        4000..4200usize,
        60_000..70_000usize,
        Just(65_536),
        262_140..262_150usize,
        Just(700_000),
    ];
    let key = 0..12u8;
    prop_oneof![
        6 => (key.clone(), len, 0..4u8)
            .prop_map(|(key, len, condition)| Action::Put { key, len, condition }),
        2 => key.clone().prop_map(Action::Delete),
        4 => key.clone().prop_map(Action::Get),
        2 => key.prop_map(Action::Exists),
        1 => Just(Action::Restart),
    ]
}

fn check(config: &EngineConfig, actions: &[Action], restarts: bool) {
    let mut client = Client::open(config.clone());
    let mut model: BTreeMap<u8, (u64, Vec<u8>)> = BTreeMap::new();
    for (step, action) in actions.iter().enumerate() {
        match action {
            Action::Put {
                key,
                len,
                condition,
            } => {
                let value = value_of(step as u64, *len);
                let current = model.get(key).map(|(version, _)| *version);
                let (condition, holds) = match condition {
                    1 => (Condition::IfAbsent, current.is_none()),
                    2 => (
                        Condition::IfVersion(current.unwrap_or(7)),
                        current.is_some(),
                    ),
                    _ => (Condition::None, true),
                };
                match client.put_with(0, &[*key], &value, Attrs::default(), condition) {
                    Ok(committed) => {
                        assert!(holds, "step {step}: the condition doesn't hold");
                        let last = model.insert(*key, (committed.version, value));
                        assert!(last.is_none_or(|(version, _)| version < committed.version));
                    }
                    Err(PutError::ConditionFailed { current: found }) => {
                        assert!(!holds, "step {step}: the condition holds");
                        assert_eq!(found, current, "step {step}");
                    }
                    Err(error) => panic!("step {step}: {error:?}"),
                }
            }
            Action::Delete(key) => {
                let was = client.delete(&[*key]).expect("delete");
                assert_eq!(was, model.remove(key).is_some(), "step {step}");
            }
            Action::Get(key) => {
                let expected = model.get(key).map(|(_, value)| value.clone());
                assert!(
                    client.get(&[*key]) == expected,
                    "step {step}: key {key} differs"
                );
            }
            Action::Exists(key) => {
                assert_eq!(
                    client.exists(&[*key]),
                    model.contains_key(key),
                    "step {step}"
                );
            }
            Action::Restart if restarts => {
                client
                    .engine
                    .shutdown(Duration::from_secs(20))
                    .expect("clean stop");
                client = Client::open(config.clone());
            }
            Action::Restart => {}
        }
    }
    for key in 0..12u8 {
        let expected = model.get(&key).map(|(_, value)| value.clone());
        assert!(
            client.get(&[key]) == expected,
            "key {key} differs at the end"
        );
    }
    client
        .engine
        .shutdown(Duration::from_secs(20))
        .expect("clean stop");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn store_on_files_is_a_map(actions in prop::collection::vec(action(), 1..60)) {
        let dir = tempfile::tempdir().expect("dir");
        check(&files(dir.path(), 2, 128 << 20), &actions, true);
    }

    #[test]
    fn store_in_memory_is_a_map(actions in prop::collection::vec(action(), 1..120)) {
        let config = EngineConfig { slab_bytes: 64 << 10, ..EngineConfig::memory(32 << 20) };
        check(&config, &actions, false);
    }
}
