//! `memkv slow`: the slow ops of a server, each taken apart stage by stage.

use anyhow::Context;
use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use memkv_telemetry::slow::SlowOp;
use serde_json::json;

use crate::admin_http::{Admin, Endpoints};
use crate::exit::{Exit, Failure, Outcome};

/// Show slow operations, each taken apart by stage
#[derive(Debug, Args)]
#[command(
    after_help = "An op is slow above a bound of its own (10 ms and 1 ms per MiB) or above 8 times the median of its kind
and size. Keys are never shown, only a hash of them. The slowest ops of all are kept even where none was slow.

Examples:
  memkv slow                               the newest slow ops
  memkv slow --sort slowest --limit 3      the slowest since the start
  memkv slow --json | jq '.[].ops[0]'      for programs"
)]
pub(crate) struct Slow {
    #[command(flatten)]
    endpoints: Endpoints,
    /// Which ones come first
    #[arg(long, value_enum, default_value_t = Sort::Newest)]
    sort: Sort,
    /// How many of each server, 1 or more
    #[arg(long, default_value_t = 10, value_parser = at_least_one())]
    limit: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sort {
    Newest,
    Slowest,
}

impl Sort {
    fn name(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::Slowest => "slowest",
        }
    }
}

/// At most `limit` ops of one server, in the order of `sort`.
///
/// # Errors
/// When the endpoint doesn't answer, or answers something else.
pub(crate) fn fetch(admin: &Admin, sort: Sort, limit: usize) -> Result<Vec<SlowOp>, Failure> {
    let path = format!("/v1/slow?sort={}&limit={limit}", sort.name());
    let body = admin.text(&path)?;
    serde_json::from_str(&body)
        .with_context(|| {
            let url = admin.url();
            format!("{url}{path} did not answer slow ops; is it a memkv of this version?")
        })
        .map_err(|error| Failure::new(Exit::Unreachable, error))
}

impl Slow {
    pub(crate) fn run(self) -> Outcome {
        let mut found = Vec::new();
        for admin in self.endpoints.all()? {
            let ops = fetch(&admin, self.sort, self.limit)?;
            found.push((admin, ops));
        }
        if self.json {
            let servers: Vec<_> = found
                .iter()
                .map(|(admin, ops)| json!({"server": admin.url(), "ops": ops}))
                .collect();
            crate::out::print(&format!("{:#}\n", json!(servers)))?;
            return Ok(Exit::Done);
        }
        for (admin, ops) in &found {
            crate::out::print(&describe(admin.url(), self.sort, ops))?;
        }
        Ok(Exit::Done)
    }
}

fn describe(server: &str, sort: Sort, ops: &[SlowOp]) -> String {
    if ops.is_empty() {
        let what = match sort {
            Sort::Newest => {
                "no op was slow since the start; --sort slowest shows the slowest there was"
            }
            Sort::Slowest => "no op yet",
        };
        return format!("{server}: {what}\n");
    }
    let mut text = format!("{server}\n");
    for op in ops {
        text.push('\n');
        text.push_str(&op.render(48));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_at_all_is_no_limit() {
        #[derive(Debug, clap::Parser)]
        struct Line {
            #[command(flatten)]
            slow: Slow,
        }
        let parse = |limit| <Line as clap::Parser>::try_parse_from(["slow", "--limit", limit]);
        assert!(parse("0").unwrap_err().to_string().contains("1.."));
        assert_eq!(parse("1").unwrap().slow.limit, 1);
    }

    #[test]
    fn a_server_without_slow_ops_says_where_else_to_look() {
        assert!(describe("s", Sort::Newest, &[]).contains("--sort slowest"));
    }
}
