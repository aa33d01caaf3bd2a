//! Committed files that follow from the code; `MEMKV_BLESS=1` writes what these tests otherwise
//! compare.

use std::fs;
use std::path::PathBuf;

use clap::CommandFactory;
use memkv_client::config::RawConfig as ClientConfig;
use memkv_server::config::raw::RawConfig as ServerConfig;
use memkv_settings::reference::{example_yaml, fill, markdown};

use crate::exit::Exit;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(name)
}

/// Compares a committed file with what it should hold, or writes it.
fn compare(name: &str, expected: &str) {
    let path = path(name);
    if std::env::var_os("MEMKV_BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, expected).unwrap();
        return;
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "{name} isn't current; write it with: cargo xtask docs"
    );
}

const SERVER_HEADER: &str = "Every key of a memkv server, with its default. Start from minimal.yaml instead: few of these \
    ever need to be set.\n\nServers read /etc/memkv/config.yaml or the file after --config; memkv start --check shows what \
    became of it. Sizes take B, KiB, KB, MiB, MB, GiB, GB, TiB and TB. Keys may be written in camelCase too.";

const CLIENT_HEADER: &str = "Every key of a memkv client, with its default. The variable MEMKV_CONFIG names the file; \
    variables win over it. Advanced settings have variables only: see docs/configuration.md.";

#[test]
fn example_server_config_is_current() {
    compare(
        "config/server.yaml",
        &example_yaml::<ServerConfig>(SERVER_HEADER),
    );
}

#[test]
fn example_client_config_is_current() {
    compare(
        "config/client.yaml",
        &example_yaml::<ClientConfig>(CLIENT_HEADER),
    );
}

#[test]
fn configuration_page_is_current() {
    let name = "docs/configuration.md";
    let page = fs::read_to_string(path(name)).unwrap();
    let tables = [
        ("server", markdown::<ServerConfig>(3)),
        ("client", markdown::<ClientConfig>(3)),
        (
            "client-advanced",
            markdown::<memkv_client::config::Advanced>(3),
        ),
    ];
    let filled = tables.iter().fold(page, |page, (place, table)| {
        fill(&page, place, table).expect("the page has the place")
    });
    compare(name, &filled);
}

#[test]
fn command_line_page_is_current() {
    let mut page = String::from(
        "# Command line\n\nGenerated from the program's own help; `memkv help VERB` shows the same.\n\nWhat a verb prints for \
         programs goes to stdout, everything else to stderr. A reader that leaves early (`memkv … | head`) ends it quietly.\n",
    );
    page.push_str("\n## Exit codes\n\n| Code | Meaning |\n|---|---|\n");
    for (exit, what) in Exit::ALL {
        page.push_str(&format!("| {} | {what} |\n", *exit as u8));
    }
    let command = crate::Cli::command().term_width(100);
    verbs(command, "memkv", &mut page);
    compare("docs/cli.md", &page);
}

fn verbs(command: clap::Command, name: &str, page: &mut String) {
    for mut verb in command.get_subcommands().cloned() {
        if verb.get_name() == "help" {
            continue;
        }
        let name = format!("{name} {}", verb.get_name());
        verb = verb.bin_name(&name).term_width(100);
        let help = verb.render_long_help().to_string();
        let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
        page.push_str(&format!(
            "\n## `{name}`\n\n```text\n{}\n```\n",
            lines.join("\n").trim_end()
        ));
        verbs(verb, &name, page);
    }
}
