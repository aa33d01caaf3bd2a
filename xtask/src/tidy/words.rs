//! Words that have no place in the tree: paths of somebody's machine, and talk of how the work was
//! organised instead of what the code does.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::sh;

/// Pieces are joined here, or this table would be full of faults itself.
const FORBIDDEN: &[(&str, &str)] = &[
    (concat!("/wo", "rk/"), "a path of one machine"),
    (concat!("/ro", "ot/"), "a path of one machine"),
    (concat!("/ho", "me/"), "a path of one machine; write $HOME"),
    (concat!("/tm", "p/brief"), "a path of one machine"),
    (concat!("arti", "factory"), "the name of a registry host"),
    (concat!("todo", "!("), "unfinished code"),
    (concat!("unimplemented", "!("), "unfinished code"),
    (concat!("FIX", "ME"), "unfinished code"),
];

/// What stands before a number when a comment talks about a ticket.
const NUMBERED: &str = concat!("iss", "ue ");

/// One fault per line of prose.
pub(crate) fn check(files: &[PathBuf]) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for path in files {
        // Binary files (fuzz corpora, golden frames) hold no prose.
        let Ok(text) = fs::read_to_string(sh::root().join(path)) else {
            continue;
        };
        faults.extend(text_faults(path, &text));
    }
    Ok(faults)
}

fn text_faults(path: &Path, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (line_idx, line) in text.lines().enumerate() {
        let mut fault = |word: &str, why: &str| {
            faults.push(format!(
                "{}:{}: `{word}` is {why}",
                path.display(),
                line_idx + 1
            ));
        };
        for (word, why) in FORBIDDEN {
            if line.contains(word) {
                fault(word, why);
            }
        }
        let after = line.split_once(NUMBERED).map_or("", |(_, after)| after);
        if after
            .trim_start_matches('#')
            .starts_with(|c: char| c.is_ascii_digit())
        {
            fault(NUMBERED.trim(), "talk about how the work was organised");
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_paths_placeholders_and_talk_of_tickets_are_faults() {
        let check = |text: &str, count| {
            let faults = text_faults(Path::new("a"), text);
            assert_eq!(faults.len(), count, "{text}: {faults:?}");
        };
        check("data goes to ./data and /var/lib/memkv", 0);
        check("an issue with 3 drives", 0);
        check(concat!("see iss", "ue #12"), 1);
        check(concat!("see iss", "ue 3"), 1);
        check(concat!("fn a() { todo", "!() }"), 1);
        check(concat!("/ro", "ot/x and /ho", "me/me/y"), 2);
    }
}
