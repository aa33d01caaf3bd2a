//! Dead links between Markdown files: a missing file or a missing heading. The web isn't asked.

use std::collections::HashMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

use crate::sh;

/// One fault per line of prose.
pub(crate) fn check(files: &[PathBuf]) -> Result<Vec<String>> {
    let mut texts = HashMap::new();
    for path in files.iter().filter(|path| is_markdown(path)) {
        let text = fs::read_to_string(sh::root().join(path))
            .with_context(|| format!("read {}", path.display()))?;
        texts.insert(path.clone(), text);
    }
    let exists = |path: &Path| sh::root().join(path).exists();
    let mut faults: Vec<String> = texts
        .iter()
        .flat_map(|(path, text)| dead_links(path, text, &texts, &exists))
        .collect();
    faults.sort();
    Ok(faults)
}

fn is_markdown(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "md")
}

fn dead_links(
    path: &Path,
    text: &str,
    texts: &HashMap<PathBuf, String>,
    exists: &dyn Fn(&Path) -> bool,
) -> Vec<String> {
    let mut faults = Vec::new();
    for (line_idx, line) in prose_lines(text) {
        for target in targets(line) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let aim = if file.is_empty() {
                path.to_owned()
            } else {
                join(path, file)
            };
            let place = format!("{}:{}", path.display(), line_idx + 1);
            if !exists(&aim) {
                faults.push(format!("{place}: link to {target}: no such file"));
            } else if let Some(aimed) = texts.get(&aim).filter(|_| !anchor.is_empty())
                && !anchors(aimed).iter().any(|known| known == anchor)
            {
                faults.push(format!("{place}: link to {target}: no such heading"));
            }
        }
    }
    faults
}

/// The lines outside fenced code.
fn prose_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    text.lines().enumerate().filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// The targets of `[text](target)` and `[name]: target`.
fn targets(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = line;
    while let Some((_, after)) = rest.split_once("](") {
        let Some((target, tail)) = after.split_once(')') else {
            break;
        };
        found.push(target.split_whitespace().next().unwrap_or(""));
        rest = tail;
    }
    if let Some(definition) = line.strip_prefix('[')
        && let Some((_, target)) = definition.split_once("]: ")
    {
        found.push(target.trim());
    }
    found
}

/// The anchors that a forge gives to headings: lower case, blanks to hyphens, no punctuation.
fn anchors(text: &str) -> Vec<String> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut found = Vec::new();
    for (_, line) in prose_lines(text) {
        let title = line.trim_start_matches('#');
        if title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let slug: String = title
            .trim()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| {
                if c == ' ' {
                    '-'
                } else {
                    c.to_ascii_lowercase()
                }
            })
            .collect();
        let count = seen.entry(slug.clone()).or_default();
        found.push(if *count == 0 {
            slug
        } else {
            format!("{slug}-{count}")
        });
        *count += 1;
    }
    found
}

fn join(from: &Path, target: &str) -> PathBuf {
    let mut path = match target.strip_prefix('/') {
        Some(_) => PathBuf::new(),
        None => from.parent().unwrap_or(Path::new("")).to_owned(),
    };
    for part in Path::new(target).components() {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            Component::Normal(part) => path.push(part),
            _ => {}
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_dead_when_its_file_or_heading_is_missing() {
        let other =
            "# Title\n## What's `new` here\n## Twice\n## Twice\n```\n# not a heading\n```\n";
        let check = |text: &str, expected: &[&str]| {
            let path = PathBuf::from("docs/a.md");
            let texts = HashMap::from([
                (path.clone(), text.to_owned()),
                (PathBuf::from("b.md"), other.to_owned()),
            ]);
            let exists = |aim: &Path| texts.contains_key(aim) || aim == Path::new("docs/picture");
            assert_eq!(dead_links(&path, text, &texts, &exists), expected);
        };
        check(
            "[b](../b.md) [b](/b.md#title) ![p](picture) [w](https://x.org/y)",
            &[],
        );
        check("[b](../b.md#whats-new-here) [b](../b.md#twice-1)", &[]);
        check("# Here\n[a](#here)", &[]);
        check("```\n[b](nowhere.md)\n```", &[]);
        check(
            "see [b](c.md)",
            &["docs/a.md:1: link to c.md: no such file"],
        );
        check("\n[b]: c.md", &["docs/a.md:2: link to c.md: no such file"]);
        let heading = "docs/a.md:1: link to ../b.md#not-a-heading: no such heading";
        check("[b](../b.md#not-a-heading)", &[heading]);
    }
}
