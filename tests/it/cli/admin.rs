//! `memkv admin status` and `memkv slow`, by HTTP and by HTTPS.

use std::path::PathBuf;
use std::time::Duration;

use memkv_tests::poll::until;
use memkv_tests::program::Setup;
use rustix::process::Signal;
use tempfile::TempDir;

use super::{Shell, server};

/// The server crate's certificates, which are good for nothing but tests.
fn testdata(name: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let path = root.join("server/src/admin/serve/testdata").join(name);
    path.display().to_string()
}

#[test]
fn status_and_slow_are_shown_for_people_and_for_programs() {
    let home = TempDir::new().unwrap();
    let server = server(&home);
    let admin = server.admin.to_string();
    let shell = Shell::at(&server);
    shell.pipe(&["put", "k", "-"], b"value").ends(0, &[]);

    let shell = shell.with("MEMKV_SERVERS", &admin);
    let done = shell.run(&["admin", "status"]);
    let text = done.ends(0, &[]).text();
    for words in ["healthy", "file mode", "drive-0", "1 entries"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let done = shell.run(&["admin", "status", "--json"]);
    let all: serde_json::Value = serde_json::from_str(done.ends(0, &[]).text()).unwrap();
    assert_eq!(all[0]["admin_url"], format!("http://{admin}"));
    assert_eq!(all[0]["storage"]["entries"], 1);
    for total in ["raw_bytes_total", "usable_bytes_total", "used_bytes_total"] {
        assert!(all[0]["storage"][total].is_u64(), "{total}");
    }

    let done = shell.run(&["slow", "--sort", "slowest"]);
    let text = done.ends(0, &[]).text();
    assert!(text.contains("PUT"), "{text}");
    let done = shell.run(&["slow", "--sort", "slowest", "--json"]);
    let all: serde_json::Value = serde_json::from_str(done.ends(0, &[]).text()).unwrap();
    assert_eq!(all[0]["server"], format!("http://{admin}"));
    assert!(!all[0]["ops"].as_array().unwrap().is_empty());
    server.stop();
}

#[test]
fn a_data_address_leads_to_the_admin_endpoint_above_it() {
    let home = TempDir::new().unwrap();
    let mut setup = Setup::new(home.path(), "64 MiB");
    setup.address = memkv_tests::free_pair().to_string();
    let server = setup.start();
    assert_eq!(server.admin.port(), server.data.port() + 1);
    let shell = Shell::at(&server);
    shell.run(&["admin", "status"]).ends(0, &[]);
    shell.run(&["slow"]).ends(0, &[]);
    server.stop();
}

#[test]
fn an_admin_endpoint_with_tls_is_asked_by_https_and_must_be_trusted() {
    let home = TempDir::new().unwrap();
    let mut setup = Setup::new(home.path(), "64 MiB");
    setup.network = vec![
        format!("tls_cert: {}", testdata("one.cert.pem")),
        format!("tls_key: {}", testdata("one.key.pem")),
    ];
    let server = setup.start();
    let admin = server.admin.to_string();
    let (own, other) = (testdata("one.cert.pem"), testdata("two.cert.pem"));
    let shell = Shell::at(&server);
    let https = format!("https://{admin}");
    // By its URL, and by the bare address, where HTTP is tried first.
    for servers in [&https, &admin] {
        let status = ["admin", "status", "--servers", servers];
        let done = shell.run(&[&status[..], &["--ca", &own, "--json"]].concat());
        let all: serde_json::Value = serde_json::from_str(done.ends(0, &[]).text()).unwrap();
        assert_eq!(all[0]["admin_url"], https);
        let slow = ["slow", "--servers", servers, "--ca", &own];
        shell.run(&slow).ends(0, &[]);
        let distrusted = ["its certificate isn't trusted", "--ca FILE"];
        shell.run(&status).ends(4, &distrusted);
        let with_other = [&status[..], &["--ca", &other]].concat();
        shell.run(&with_other).ends(4, &distrusted);
    }
    let by_environment = Shell::of(&https).with("SSL_CERT_FILE", &own);
    by_environment.run(&["admin", "status"]).ends(0, &[]);
    let http = format!("http://{admin}");
    shell
        .run(&["admin", "status", "--servers", &http])
        .ends(4, &[&http]);
    for (file, words) in [
        ("none.pem", "none.pem"),
        (&testdata("one.key.pem"), "no certificate"),
    ] {
        let arguments = ["admin", "status", "--servers", &https, "--ca", file];
        shell.run(&arguments).ends(2, &["--ca", words]);
    }
    server.stop();
}

#[test]
fn sighup_brings_new_certificates_and_keeps_the_old_where_the_new_cant_serve() {
    let home = TempDir::new().unwrap();
    let (cert, key) = (home.path().join("c.pem"), home.path().join("k.pem"));
    let renew = |name: &str| {
        for (kind, file) in [("cert", &cert), ("key", &key)] {
            std::fs::copy(testdata(&format!("{name}.{kind}.pem")), file).unwrap();
        }
    };
    renew("one");
    let mut setup = Setup::new(home.path(), "64 MiB").allow("the old ones stay in use");
    setup.network = vec![
        format!("tls_cert: {}", cert.display()),
        format!("tls_key: {}", key.display()),
    ];
    let server = setup.start();
    let https = format!("https://{}", server.admin);
    let shell = Shell::at(&server);
    let trusting = |name: &str, code: i32| {
        let ca = testdata(&format!("{name}.cert.pem"));
        let status = ["admin", "status", "--servers", &https, "--ca", &ca];
        shell.run(&status).ends(code, &[]);
    };
    let says = |words: [&str; 2]| {
        until(words[1], Duration::from_secs(10), || {
            let log = server.stderr();
            let is_there = |line: &str| words.iter().all(|word| line.contains(word));
            log.lines().any(is_there).then_some(())
        });
    };
    trusting("one", 0);
    renew("two");
    server.signal(Signal::HUP);
    says(["\"reloaded\"", "\"certificates\":true"]);
    trusting("two", 0);
    trusting("one", 4);
    std::fs::write(&key, "no key").unwrap();
    server.signal(Signal::HUP);
    says(["\"reload\"", "network.tls_key"]);
    trusting("two", 0);
    server.stop();
}
