//! The pages, compiled in. A test fails when a document of the repository is missing here.

/// One page.
#[derive(Debug)]
pub(super) struct Page {
    /// What it is asked for by: the file's name in lower case, without its ending.
    pub(super) name: &'static str,
    /// Its Markdown.
    pub(super) text: &'static str,
}

macro_rules! pages {
    ($($name:literal => $path:literal),* $(,)?) => {
        /// All pages, in reading order.
        pub(super) const PAGES: &[Page] =
            &[$(Page { name: $name, text: include_str!(concat!("../../../", $path)) }),*];
    };
}

pages! {
    "readme" => "README.md",
    "architecture" => "ARCHITECTURE.md",
    "configuration" => "docs/configuration.md",
    "cli" => "docs/cli.md",
    "wire" => "docs/wire.md",
    "disk-format" => "docs/disk-format.md",
    "alerts" => "docs/alerts.md",
    "metrics" => "docs/metrics.md",
    "0001-blocking-client-drives-its-lane" => "docs/decisions/0001-blocking-client-drives-its-lane.md",
    "0002-crates-cli-and-settings" => "docs/decisions/0002-crates-cli-and-settings.md",
    "0003-replies-of-several-parts" => "docs/decisions/0003-replies-of-several-parts.md",
    "0004-a-tokio-runtime-per-data-thread" => "docs/decisions/0004-a-tokio-runtime-per-data-thread.md",
    "0005-flush-before-a-drive-forgets" => "docs/decisions/0005-flush-before-a-drive-forgets.md",
    "0006-patience-under-pressure" => "docs/decisions/0006-patience-under-pressure.md",
}

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        /// What pages link to that isn't Markdown, by its path in the repository.
        pub(super) const FILES: &[Page] =
            &[$(Page { name: $path, text: include_str!(concat!("../../../", $path)) }),*];
    };
}

files! {
    "LICENSE",
    "config/client.yaml",
    "config/minimal.yaml",
    "config/server.yaml",
    "otel/collector.yaml",
}
