//! docs/wire.md against the code: the page is read here, and what it says must make the golden bytes. So neither can change
//! without the other: a field that is added, renamed, moved or resized, a value that gets another meaning, a formula.

mod fields;
mod formulas;
mod replies;
mod values;

use std::path::Path;

/// The page, with each run of white space inside a paragraph as one blank; lines of tables and code keep their ends.
fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/wire.md");
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The page without its line ends.
fn prose() -> String {
    page().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The page says exactly this, wherever its lines end.
#[track_caller]
fn says(what: &str) {
    assert!(prose().contains(what), "docs/wire.md doesn't say: {what}");
}

/// The text between a heading and the next one.
#[track_caller]
fn section(heading: &str) -> String {
    let page = page();
    let (_, rest) = page
        .split_once(&format!("{heading}\n"))
        .unwrap_or_else(|| panic!("docs/wire.md has no {heading}"));
    rest.split("\n#").next().unwrap_or(rest).to_owned()
}

/// What follows `label` in `text`, up to the end of its paragraph or bullet, in one line.
#[track_caller]
fn passage(text: &str, label: &str) -> String {
    let (_, rest) = text
        .split_once(label)
        .unwrap_or_else(|| panic!("no {label} in docs/wire.md:\n{text}"));
    let ends = ["\n\n", "\n- "].iter().filter_map(|end| rest.find(end));
    let rest = &rest[..ends.min().unwrap_or(rest.len())];
    rest.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The rows of the first table behind `label`, without its head.
#[track_caller]
fn table(label: &str) -> Vec<Vec<String>> {
    let page = page();
    let (_, rest) = page
        .split_once(label)
        .unwrap_or_else(|| panic!("docs/wire.md has no {label}"));
    let lines = rest.lines().skip_while(|line| !line.starts_with('|'));
    let rows = lines.take_while(|line| line.starts_with('|')).skip(2);
    let cells = |line: &str| {
        let line = line.trim_matches('|');
        line.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    rows.map(cells).collect()
}

/// Text without what stands in brackets.
fn without_brackets(text: &str) -> String {
    let mut depth = 0;
    let keep = |c: &char| {
        let inside = depth > 0;
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        !inside && *c != '('
    };
    text.chars().filter(keep).collect()
}

/// The first sentence: up to a full stop that ends a word.
fn sentence(text: &str) -> &str {
    text.split_once(". ")
        .map_or(text.trim_end_matches('.'), |(first, _)| first)
}

/// A field of a message as the page lists it: its name, and its length where that is fixed.
type Field = (String, Option<usize>);

/// The fields that a sentence lists: `name length, name length, …`. What repeats begins with `then per NAME [length]:`.
fn listed(text: &str) -> Vec<Field> {
    let text = without_brackets(text);
    let pieces = sentence(&text).split([',', ':', ';']);
    let field = |piece: &str| match piece.rsplit_once(' ') {
        Some((name, bytes)) if bytes.parse::<usize>().is_ok() => {
            (name.trim().to_owned(), bytes.parse().ok())
        }
        _ => (piece.to_owned(), None),
    };
    pieces.map(|piece| field(piece.trim())).collect()
}

/// The values that a list gives: `1 name, 2 name, …`, whatever stands around or between them.
fn numbered(text: &str) -> Vec<(u64, String)> {
    let pieces = text.split([',', ':', ';', '.']);
    let value = |piece: &str| {
        let (number, name) = piece.trim().split_once(' ')?;
        Some((number.parse().ok()?, name.trim().to_owned()))
    };
    pieces.filter_map(value).collect()
}

/// What stands in the brackets that follow `label`.
#[track_caller]
fn in_brackets(text: &str, label: &str) -> String {
    let rest = passage(text, &format!("{label} ("));
    rest.split(')').next().unwrap_or("").to_owned()
}
