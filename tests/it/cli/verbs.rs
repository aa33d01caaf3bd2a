//! put, get, exists, del and batch: bytes through files and pipes, rows of JSON.

use std::fs;
use std::time::Duration;

use memkv_tests::poll::until;
use memkv_tests::wire::value;
use serde_json::json;
use tempfile::TempDir;

use super::{Shell, server};

#[test]
fn values_of_all_sizes_go_through_files_and_pipes_unchanged() {
    let home = TempDir::new().unwrap();
    let server = server(&home);
    let shell = Shell::at(&server);
    let block = 4 << 20;
    for (number, len) in [0, 1, 65_536, block - 1, block, block + 1]
        .into_iter()
        .enumerate()
    {
        let (key, bytes) = (format!("model/{number}"), value(number as u64, len));
        fs::write(shell.path().join("in"), &bytes).unwrap();
        shell.run(&["put", &key, "in"]).ends(0, &["stored", &key]);
        assert!(
            shell.run(&["get", &key]).ends(0, &[]).stdout == bytes,
            "{len}"
        );

        let pipe = format!("pipe/{number}");
        let done = shell.pipe(&["put", &pipe, "-", "--json"], &bytes);
        let row = &done.ends(0, &[]).rows()[0];
        assert_eq!((&row["key"], &row["bytes"]), (&json!(pipe), &json!(len)));
        let done = shell.run(&["get", &pipe, "-o", "out", "--json"]);
        let read = &done.ends(0, &[]).rows()[0];
        assert_eq!(
            (&read["version"], &read["bytes"]),
            (&row["version"], &json!(len))
        );
        assert!(
            fs::read(shell.path().join("out")).unwrap() == bytes,
            "{len}"
        );
    }
    server.stop();
}

#[test]
fn a_dash_is_a_pipe_and_never_a_file() {
    let home = TempDir::new().unwrap();
    let server = server(&home);
    let shell = Shell::at(&server);
    let bytes = value(1, 100_000);
    shell.pipe(&["put", "k", "-"], &bytes).ends(0, &[]);
    let done = shell.run(&["get", "k", "-o", "-"]);
    assert!(done.ends(0, &[]).stdout == bytes && done.stderr.is_empty());
    // Row and value would be one heap there.
    let done = shell.run(&["get", "k", "-o", "-", "--json"]);
    assert!(done.ends(2, &["--json", "--output"]).stdout.is_empty());
    let rows = "{\"key\": \"row\", \"value\": \"text\"}\n";
    let done = shell.pipe(&["batch", "put", "-"], rows.as_bytes());
    assert!(done.ends(0, &["1 stored"]).stdout.is_empty());
    let done = shell.pipe(&["batch", "get", "--keys-from", "-"], b"row\n");
    assert_eq!(done.ends(0, &["1 read"]).rows()[0]["value"], "text");
    assert_eq!(fs::read_dir(shell.path()).unwrap().count(), 0, "no file -");
    server.stop();
}

#[test]
fn exists_and_del_answer_per_key_in_order() {
    let home = TempDir::new().unwrap();
    let server = server(&home);
    let shell = Shell::at(&server);
    for key in ["a", "b"] {
        shell.pipe(&["put", key, "-"], b"value").ends(0, &[]);
    }
    let done = shell.run(&["exists", "a", "b"]);
    assert_eq!(done.ends(0, &[]).text(), "exists  a\nexists  b\n");
    let done = shell.run(&["exists", "a", "nobody", "b", "--json"]);
    let rows = done.ends(5, &[]).rows();
    let outcomes: Vec<_> = rows.iter().map(|row| &row["outcome"]).collect();
    assert_eq!(outcomes, ["ok", "miss", "ok"]);
    assert_eq!(rows[1]["key"], "nobody");
    let done = shell.run(&["del", "a", "nobody"]);
    assert_eq!(done.ends(5, &[]).text(), "deleted  a\nmissing  nobody\n");
    shell.run(&["exists", "a"]).ends(5, &[]);
    shell.run(&["del", "b", "--json"]).ends(0, &[]);
    shell.run(&["get", "b"]).ends(5, &["the key isn't there"]);

    // Name spaces keep keys apart.
    let other = ["--namespace", "7"];
    shell
        .pipe(&[&["put", "a", "-"][..], &other].concat(), b"seven")
        .ends(0, &[]);
    shell.run(&["get", "a"]).ends(5, &[]);
    let done = shell.run(&[&["get", "a"][..], &other].concat());
    assert_eq!(done.ends(0, &[]).stdout, b"seven");
    server.stop();
}

#[test]
fn conditions_and_attributes_are_kept() {
    let home = TempDir::new().unwrap();
    let server = server(&home);
    let shell = Shell::at(&server);
    let put = |flags: &[&str]| shell.pipe(&[&["put", "k", "-"], flags].concat(), b"value");
    let first = put(&["--if-absent", "--durable", "--json"]);
    let version = first.ends(0, &[]).rows()[0]["version"].to_string();
    put(&["--if-absent"]).ends(1, &["put k", "condition"]);
    let wrong = format!("{}1", version);
    put(&["--if-version", &wrong]).ends(1, &["condition"]);
    let done = shell.run(&["get", "k", "-o", "out", "--json"]);
    let row = &done.ends(0, &[]).rows()[0];
    assert_eq!(
        (&row["class"], &row["expiry_ms"]),
        (&json!("durable"), &json!(0))
    );
    put(&["--if-version", &version, "--ttl", "0.2"]).ends(0, &[]);
    until("it has expired", Duration::from_secs(5), || {
        (shell.run(&["get", "k"]).code == 5).then_some(())
    });
    server.stop();
}

#[test]
fn a_directory_goes_in_and_comes_out_again() {
    let home = TempDir::new().unwrap();
    let server = server(&home);
    let shell = Shell::at(&server);
    let blocks = shell.path().join("blocks");
    fs::create_dir_all(blocks.join("deep/er")).unwrap();
    let names = ["one", "deep/two", "deep/er/three"];
    for (number, name) in names.iter().enumerate() {
        fs::write(blocks.join(name), value(number as u64, 100_000 * number)).unwrap();
    }
    shell
        .run(&["batch", "put", "blocks", "--prefix", "m/"])
        .ends(0, &["3 stored"]);
    let keys: Vec<String> = names.iter().map(|name| format!("m/{name}")).collect();
    let done = shell.pipe(
        &["batch", "get", "--keys-from", "-", "-d", "out"],
        keys.join("\n").as_bytes(),
    );
    done.ends(0, &["3 read"]);
    assert!(done.stdout.is_empty());
    for (number, key) in keys.iter().enumerate() {
        let read = fs::read(shell.path().join("out").join(key)).unwrap();
        assert!(read == value(number as u64, 100_000 * number), "{key}");
    }
    let done = shell.run(&["batch", "get", "m/one", "../escape", "-d", "out"]);
    done.ends(6, &["../escape", "isn't a path inside"]);

    // A name that can't be written fails alone, and a link is skipped but not in silence.
    std::os::unix::fs::symlink("one", shell.path().join("blocks/link")).unwrap();
    shell
        .run(&["batch", "put", "blocks", "--prefix", "n/one/"])
        .ends(0, &["3 stored", "skipped 1 symbolic link"]);
    shell.run(&["put", "n/one", "blocks/one"]).ends(0, &[]);
    shell
        .run(&["batch", "get", "n/one", "n/one/one", "m/one", "-d", "names"])
        .ends(6, &["n/one/one", "2 read, 1 failed"]);
    assert!(shell.path().join("names/m/one").exists());
    server.stop();
}

#[test]
fn json_lines_go_in_and_come_out_again() {
    let home = TempDir::new().unwrap();
    let server = server(&home);
    let shell = Shell::at(&server);
    fs::write(shell.path().join("c.bin"), [0xff, 0xfe]).unwrap();
    let rows = concat!(
        "{\"key\": \"a\", \"value\": \"text\"}\n\n",
        "{\"key\": \"b\", \"base64\": \"AAEC/w==\"}\n",
        "{\"key\": \"c\", \"file\": \"c.bin\"}\n",
    );
    let done = shell.pipe(&["batch", "put", "-", "--json"], rows.as_bytes());
    let stored = done.ends(0, &["3 stored"]).rows();
    assert!(
        stored
            .iter()
            .all(|row| row["outcome"] == "ok" && row["version"].is_u64())
    );

    let done = shell.run(&["batch", "get", "a", "b", "nobody", "c"]);
    let read = done.ends(5, &["3 read, 1 missing"]).rows();
    assert_eq!(read[0]["value"], "text");
    assert_eq!(
        (&read[1]["base64"], &read[1]["bytes"]),
        (&json!("AAEC/w=="), &json!(4))
    );
    assert_eq!(read[2], json!({"key": "nobody", "outcome": "miss"}));
    assert_eq!(read[3]["base64"], "//4=");
    assert_eq!(read[0]["version"], stored[0]["version"]);

    // One row of several that can't be stored: the others are.
    let rows = "{\"key\": \"d\", \"file\": \"none\"}\n{\"key\": \"e\", \"value\": \"\"}\n";
    let done = shell.pipe(&["batch", "put", "-", "--json"], rows.as_bytes());
    let rows = done.ends(6, &["1 stored, 1 failed"]).rows();
    assert_eq!(rows[0]["outcome"], "error");
    assert!(rows[0]["error"].as_str().unwrap().contains("none"));
    shell.run(&["exists", "e"]).ends(0, &[]);
    let broken = "{\"key\": \"f\", \"value\": \"x\"}\n{\"kee\": 1}\n";
    shell
        .pipe(&["batch", "put", "-"], broken.as_bytes())
        .ends(2, &["-:2", "kee"]);
    server.stop();
}
