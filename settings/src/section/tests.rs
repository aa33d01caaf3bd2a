use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::reference::{example_yaml, fill, markdown};
use crate::suggest::nearest;
use crate::value::{Choice, Value as _, range};
use crate::{ByteSize, Secret, effective_json, effective_of, effective_table};

section! {
    /// A test.
    struct Top {
        /// A size.
        max_size: Setting<ByteSize> = ByteSize::gib(1), env ["T_SIZE", "T_OLD_SIZE"], when "Always.";
        /// Some servers.
        servers: Setting<Vec<String>> = vec!["a:1".to_owned()], env ["T_SERVERS"], check few;
        /// Hidden.
        token: Setting<Option<Secret>> = None, env ["T_TOKEN"], example "<token>";
        /// Deeper.
        inner: Inner = ();
        /// Things.
        things: Vec<Inner> = ();
    }
}

section! {
    /// Deeper.
    struct Inner {
        /// A colour.
        main_colour: Setting<Option<Colour>> = None, example "red";
        /// A level, which has a rule and documentation that is long enough to be wrapped when it
        /// becomes a comment in YAML.
        level: Setting<u8> = 3, check |v| range(v, 1, 9, "3 is fine");
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Colour {
    Red,
    Green,
}

impl Choice for Colour {
    const CHOICES: &'static [(&'static str, Self)] = &[("red", Self::Red), ("green", Self::Green)];
}

#[expect(clippy::ptr_arg, reason = "the field's own type")]
fn few(servers: &Vec<String>) -> Result<(), Wrong> {
    if servers.len() <= 2 {
        Ok(())
    } else {
        Err(Wrong::new("at most 2 servers", "remove some"))
    }
}

fn check(yaml: &str, environment: &[(&str, &str)], expected: Expect) {
    let environment: Environment = environment.iter().copied().collect();
    let read = Document::parse("t.yaml", yaml.as_bytes())
        .and_then(|document| load::<Top>(Some(&document), &environment, &LoadOptions::default()));
    expected.assert_eq(&match read {
        Ok(loaded) => effective_table(&effective_of(&loaded.value)),
        Err(problems) => problems.to_string(),
    });
}

#[test]
fn the_first_variable_that_is_set_wins() {
    let names = [
        ("T_SIZE", " "),
        ("T_OLD_SIZE", "3 MiB"),
        ("T_SERVERS", "x:1, y:2"),
    ];
    check(
        "maxSize: 2 GiB\nthings: [{mainColour: green}, ~]\n",
        &names,
        expect![[r#"
        KEY                    VALUE     FROM
        max_size               3 MiB     env T_OLD_SIZE
        servers                x:1, y:2  env T_SERVERS
        token                  -         default
        inner.main_colour      -         default
        inner.level            3         default
        things[0].main_colour  green     t.yaml:2
        things[0].level        3         default
        things[1].main_colour  -         default
        things[1].level        3         default
    "#]],
    );
}

#[test]
fn a_flag_beats_the_environment_and_the_last_one_the_others() {
    let flag = |text: &str| crate::Override {
        path: "max_size".to_owned(),
        text: text.to_owned(),
        source: Source::Flag("--size"),
    };
    let options = LoadOptions {
        overrides: vec![flag("2 MiB"), flag("3 MiB")],
        ..LoadOptions::default()
    };
    let document = Document::parse("t.yaml", b"max_size: 5 MiB\n").unwrap();
    let environment = Environment::default().with("T_SIZE", "4 MiB");
    let size = load::<Top>(Some(&document), &environment, &options).unwrap();
    let size = size.value.max_size;
    assert_eq!(size.value, ByteSize::mib(3));
    assert_eq!(size.source, Source::Flag("--size"));
    assert_eq!(size.source.kind(), "flag");
    assert_eq!(Source::Detected("a file".into()).kind(), "detected");
}

#[test]
fn items_of_lists_are_named_by_index_and_line() {
    check(
        "things:\n- level: 1\n- level: 10\n- main_colour: gren\n",
        &[],
        expect![[r#"
        t.yaml:3: things[1].level is 10, but must be 1 to 9; 3 is fine
        t.yaml:4: things[2].main_colour is gren, but must be red | green; did you mean green?"#]],
    );
    check(
        "servers:\n- a\n- []\n",
        &[],
        expect!["t.yaml:3: servers[1] is a list, but must be a single value (text)"],
    );
    check(
        "servers: a,b\n",
        &[],
        expect![
            "t.yaml:1: servers is a,b, but must be list of text; write one item per line, each after `- `"
        ],
    );
    check(
        "servers: [a, b, c]\n",
        &[],
        expect!["t.yaml:1: servers is a list, but must be at most 2 servers; remove some"],
    );
    check(
        "",
        &[("T_SERVERS", "a,,b")],
        expect![[r#"env T_SERVERS: servers[1] is "", but must be text of at least one character"#]],
    );
}

#[test]
fn one_field_in_both_its_spellings_is_refused() {
    check(
        "max_size: 1 GiB\nmaxSize: 2 GiB\n",
        &[],
        expect!["t.yaml:2: max_size is set twice, as max_size and as maxSize; keep one of them"],
    );
}

#[test]
fn a_secret_in_the_wrong_place_is_not_quoted() {
    check(
        "token: [hunter2]\n",
        &[],
        expect!["t.yaml:1: token is (not shown), but must be a single value (text)"],
    );
    check(
        "inner: hunter2\n",
        &[],
        expect![
            "t.yaml:1: inner is a single value, but must be a section with the keys main_colour, level"
        ],
    );
    check(
        "hunter2\n",
        &[],
        expect![
            "t.yaml:1: the file is a single value, but must be a section with the keys max_size, servers, token, inner, things"
        ],
    );
    check(
        "token: hunter2\n",
        &[],
        expect![[r#"
        KEY                VALUE             FROM
        max_size           1 GiB             default
        servers            a:1               default
        token              (set, not shown)  t.yaml:1
        inner.main_colour  -                 default
        inner.level        3                 default
    "#]],
    );
}

#[test]
fn json_names_value_and_source() {
    let document = Document::parse("t.yaml", b"inner: { level: 4 }\n").unwrap();
    let loaded = load::<Top>(
        Some(&document),
        &Environment::default(),
        &LoadOptions::default(),
    )
    .unwrap();
    let json = effective_json(&effective_of(&loaded.value));
    assert_eq!(json["inner.level"]["value"], 4);
    assert_eq!(json["inner.level"]["source"], "file");
    assert_eq!(json["inner.level"]["from"], "t.yaml:1");
    assert_eq!(json["token"]["value"], serde_json::Value::Null);
    assert_eq!(json["max_size"]["source"], "default");
}

#[test]
fn documentation_follows_from_the_declaration() {
    expect![[r#"
        # A test file.

        # A size.
        # When to touch it: Always.
        # Variable: T_SIZE, T_OLD_SIZE
        max_size: 1 GiB

        # Some servers.
        # Variable: T_SERVERS
        servers: [a:1]

        # Hidden.
        # Variable: T_TOKEN
        # token: <token>

        # Deeper.
        inner:
          # A colour.
          # main_colour: red
          # A level, which has a rule and documentation that is long enough to be wrapped when it becomes a
          # comment in YAML.
          level: 3

        # Things.
        things:
          # A colour.
          - main_colour: red
            # A level, which has a rule and documentation that is long enough to be wrapped when it becomes
            # a comment in YAML.
            level: 3
    "#]].assert_eq(&example_yaml::<Top>("A test file."));
    expect![[r#"

        | Key | Type | Default | Variable | What it is |
        |---|---|---|---|---|
        | `max_size` | size | `1 GiB` | `T_SIZE` `T_OLD_SIZE` | A size. *When to touch it:* Always. |
        | `servers` | list of text | `[a:1]` | `T_SERVERS` | Some servers. |
        | `token` | text |  | `T_TOKEN` | Hidden. |

        ### `inner`

        Deeper.

        | Key | Type | Default | Variable | What it is |
        |---|---|---|---|---|
        | `inner.main_colour` | red \| green |  |  | A colour. |
        | `inner.level` | integer | `3` |  | A level, which has a rule and documentation that is long enough to be wrapped when it becomes a comment in YAML. |

        ### `things`

        Things.

        | Key | Type | Default | Variable | What it is |
        |---|---|---|---|---|
        | `things[].main_colour` | red \| green |  |  | A colour. |
        | `things[].level` | integer | `3` |  | A level, which has a rule and documentation that is long enough to be wrapped when it becomes a comment in YAML. |
    "#]].assert_eq(&markdown::<Top>(3));
}

#[test]
fn the_example_reads_back_as_the_defaults() {
    let yaml = example_yaml::<Top>("x");
    let document = Document::parse("t.yaml", yaml.as_bytes()).unwrap();
    let loaded = load::<Top>(
        Some(&document),
        &Environment::default(),
        &LoadOptions::default(),
    )
    .unwrap();
    let top = loaded.value;
    assert_eq!(
        (top.max_size.value, top.inner.level.value),
        (ByteSize::gib(1), 3)
    );
    assert_eq!(top.things.len(), 1);
    assert_eq!(top.servers.value, ["a:1"]);
}

#[test]
fn text_is_plain_yaml_where_it_reads_back_and_quoted_elsewhere() {
    for text in [
        "a",
        "/dev/x",
        "127.0.0.1:9900",
        "http://c:4317",
        "a:",
        ":a",
        "- x",
        "a: b",
        "a #b",
        "*x",
        "[::]:1",
        "&a",
        "!x",
        "\"",
        "'",
        "a\nb",
        "true",
        "@x",
        "%x",
        "a::b",
        "null",
        "x,y",
    ] {
        let yaml = format!(
            "k: {}\nl: [{}]\n",
            text.to_owned().to_yaml(),
            text.to_owned().to_yaml()
        );
        let document = Document::parse("t", yaml.as_bytes()).unwrap();
        let Yaml::Mapping(entries) = &document.root().value else {
            panic!("{yaml}")
        };
        assert_eq!(
            entries[0].value.value,
            Yaml::Scalar(text.to_owned()),
            "{yaml}"
        );
        let Yaml::Sequence(items) = &entries[1].value.value else {
            panic!("{yaml}")
        };
        assert_eq!(items[0].value, Yaml::Scalar(text.to_owned()), "{yaml}");
        assert_eq!(items.len(), 1, "{yaml}");
    }
}

#[test]
fn only_the_marked_place_of_a_text_is_replaced() {
    let text = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n";
    let filled = fill(text, "x", "new").unwrap();
    assert_eq!(filled, "a\n<!-- begin x -->\nnew\n<!-- end x -->\nb\n");
    assert_eq!(fill(text, "y", "new"), None);
}

#[test]
fn nearest_finds_typos_and_nothing_else() {
    let keys = [
        "traffic_class",
        "service_level",
        "max_size",
        "block_size",
        "mtu",
    ];
    for (written, expected) in [
        ("trafic_class", Some("traffic_class")),
        ("trafficClass", Some("traffic_class")),
        ("traffic-class", Some("traffic_class")),
        ("max_sze", Some("max_size")),
        ("MAX_SIZE", Some("max_size")),
        ("mut", Some("mtu")),
        ("colour", None),
        ("x", None),
        ("", None),
    ] {
        assert_eq!(nearest(written, keys), expected, "{written}");
    }
    assert_eq!(nearest(&"x".repeat(1 << 20), keys), None);
}

/// Text that is nearly YAML: what a scanner stumbles over, if anything.
fn nearly_yaml() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "a",
        "max_size",
        "inner",
        "things",
        "servers",
        ":",
        ": ",
        " ",
        "  ",
        "\n",
        "\n  ",
        "- ",
        "-",
        "[",
        "]",
        "{",
        "}",
        ",",
        "&x ",
        "*x",
        "|",
        ">",
        "|2-\n",
        "'",
        "\"",
        "\\",
        "#",
        " #",
        "---\n",
        "...\n",
        "%YAML 1.2\n",
        "!",
        "!!str ",
        "? ",
        "\t",
        "\r\n",
        "~",
        "null",
        "1 GiB",
        "\u{feff}",
        "é",
        "\u{0}",
        "\u{85}",
        "<<",
        "@",
        "`",
        "%",
        "\"\\x4",
        "0x",
    ]);
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_that_a_file_holds_makes_reading_panic(text in nearly_yaml()) {
        if let Ok(document) = Document::parse("t", text.as_bytes()) {
            let _ = load::<Top>(Some(&document), &Environment::default(), &LoadOptions::default());
        }
    }

    #[test]
    fn no_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Document::parse("t", &bytes);
    }

    #[test]
    fn any_size_is_shown_as_text_that_reads_back(bytes in any::<u64>()) {
        prop_assert_eq!(ByteSize::parse(&ByteSize(bytes).to_string()), Some(ByteSize(bytes)));
    }

    #[test]
    fn any_text_is_written_as_yaml_that_reads_back(text in "[ -~äé\n\t]{1,30}") {
        let yaml = format!("k: {}\n", text.clone().to_yaml());
        let document = Document::parse("t", yaml.as_bytes()).unwrap();
        let Yaml::Mapping(entries) = &document.root().value else { panic!("{yaml}") };
        prop_assert_eq!(&entries[0].value.value, &Yaml::Scalar(text), "{}", yaml);
    }
}
