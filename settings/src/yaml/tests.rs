use std::time::{Duration, Instant};

use expect_test::{Expect, expect};

use super::*;

fn check(text: impl AsRef<[u8]>, expected: Expect) {
    let shown = match Document::parse("f.yaml", text.as_ref()) {
        Ok(document) => show(&document.root),
        Err(problems) => problems.to_string(),
    };
    expected.assert_eq(&shown);
}

fn show(node: &Node) -> String {
    match &node.value {
        Yaml::Null => "~".to_owned(),
        Yaml::Scalar(text) => format!("{text:?}@{}:{}", node.at.line, node.at.column),
        Yaml::Sequence(items) => {
            format!(
                "[{}]",
                items.iter().map(show).collect::<Vec<_>>().join(", ")
            )
        }
        Yaml::Mapping(entries) => {
            let one = |e: &Entry| format!("{}@{}: {}", e.key, e.at.line, show(&e.value));
            format!(
                "{{{}}}",
                entries.iter().map(one).collect::<Vec<_>>().join(", ")
            )
        }
    }
}

#[test]
fn values_know_their_lines() {
    check(
        "# c\na: 1 # one\nb:\n  - { media: /dev/x }\n  - ~\nc: \"~\"\nd:\n",
        expect![[r#"{a@2: "1"@2:4, b@3: [{media@4: "/dev/x"@4:14}, ~], c@6: "~"@6:4, d@7: ~}"#]],
    );
}

#[test]
fn an_empty_file_is_an_empty_mapping() {
    check("", expect!["{}"]);
    check("# only a comment\n", expect!["{}"]);
    check("\u{feff}a: 1\n", expect![[r#"{a@1: "1"@1:4}"#]]);
    check("\u{feff}", expect!["{}"]);
}

#[test]
fn broken_files_are_refused_with_the_place() {
    check(
        "a: 1\nb: [1,\n",
        expect!["f.yaml:3:1: not YAML: while parsing a node, did not find expected node content"],
    );
    check(
        "a:\n\tb: 1\n",
        expect!["f.yaml:2:1: a tab indents this line; YAML allows only blanks"],
    );
    check(
        "a:\n  b: 1\n \tc: 2\n",
        expect!["f.yaml:3:2: a tab indents this line; YAML allows only blanks"],
    );
    check(
        "a: 1\n---\nb: 2\n",
        expect!["f.yaml:2:1: a second document starts here; put everything in one"],
    );
    check(
        "a: !!int 3\n",
        expect!["f.yaml:1:4: a YAML tag (!…) has no meaning here; remove it"],
    );
    check(
        "? [a, b]\n: 1\n",
        expect!["f.yaml:1:3: a key must be a plain word"],
    );
    check(
        "a: *nowhere\n",
        expect!["f.yaml:1:4: not YAML: while parsing node, found unknown anchor"],
    );
    check(
        "a: &x [*x]\n",
        expect!["f.yaml:1:8: an alias (*) to an anchor that isn't complete here"],
    );
    check(
        "a: 1\n a: 2\n",
        expect!["f.yaml:2:3: not YAML: mapping values are not allowed in this context"],
    );
    check(
        b"a: 1\nb: \xff\n",
        expect!["f.yaml: line 2 isn't UTF-8; save the file as UTF-8"],
    );
    check(
        b"\xff\xfea\0",
        expect!["f.yaml: the file is UTF-16; save it as UTF-8"],
    );
    check(
        "a: \"open\n",
        expect![
            "f.yaml:1:4: not YAML: while scanning a quoted scalar, found unexpected end of stream"
        ],
    );
}

#[test]
fn every_duplicate_key_is_named_with_its_first_line() {
    check(
        "a: 1\nb: {c: 1, c: 2}\na: 3\n",
        expect![[r#"
        f.yaml:2:11: the key c is already set in line 2; keep one of them
        f.yaml:3:1: the key a is already set in line 1; keep one of them"#]],
    );
}

#[test]
fn aliases_repeat_their_anchor() {
    check(
        "a: &x {k: 1}\nb: *x\n",
        expect![[r#"{a@1: {k@1: "1"@1:11}, b@2: {k@1: "1"@1:11}}"#]],
    );
}

#[test]
fn hostile_files_end_early_with_a_reason() {
    let begin = Instant::now();
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let items = vec![format!("*a{}", n - 1); 9].join(", ");
        bomb.push_str(&format!("a{n}: &a{n} [{items}]\n"));
    }
    check(
        bomb,
        expect!["f.yaml:5:5: more than 100000 values, repetitions by alias (*) included"],
    );
    check(
        "[".repeat(500_000),
        expect!["f.yaml:1:256: not YAML: recursion limit exceeded"],
    );
    check(
        "- ".repeat(400_000),
        expect!["f.yaml:1:65: nested deeper than 32 levels"],
    );
    check(
        "{a: ".repeat(200_000),
        expect!["f.yaml:1:1021: not YAML: recursion limit exceeded"],
    );
    check(
        format!("a: {}", "&a ".repeat(100_000)),
        expect!["f.yaml:1:7: not YAML: while parsing a block mapping, did not find expected key"],
    );
    check(
        "a:\n".repeat(300_000),
        expect!["f.yaml:100000:2: more than 100000 values, repetitions by alias (*) included"],
    );
    check(
        "- 1\n".repeat(200_000),
        expect!["f.yaml:100000:3: more than 100000 values, repetitions by alias (*) included"],
    );
    check(
        vec![b' '; BYTES_MAX + 1],
        expect![
            "f.yaml: the file has 1048577 bytes, but must have at most 1048576; is it a configuration file?"
        ],
    );
    assert!(
        begin.elapsed() < Duration::from_secs(20),
        "took {:?}",
        begin.elapsed()
    );
}
