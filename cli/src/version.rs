//! What `--version` says.

use std::sync::LazyLock;

/// The commit this was built from; `unknown` outside a clone.
pub(crate) const COMMIT: &str = env!("MEMKV_BUILD_COMMIT");

/// What this build can do, and what it can't.
const FEATURES: &str = "tcp, storage direct|file|memory, otlp; without rdma, ebpf";

/// Version and commit in one word, for metrics and spans.
pub(crate) fn short() -> String {
    format!("{}+{COMMIT}", env!("CARGO_PKG_VERSION"))
}

/// The text after the program's name.
pub(crate) fn text() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        format!(
            "{} (commit {COMMIT})\nfeatures: {FEATURES}",
            env!("CARGO_PKG_VERSION")
        )
    });
    &TEXT
}
