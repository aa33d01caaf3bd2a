//! Documentation from declarations: a YAML file that holds every key, and Markdown tables.

use crate::render::{FieldDoc, field_docs};
use crate::section::Section;

/// Columns that comments are wrapped to.
const WIDTH: usize = 100;

/// A YAML file with every key of `S`, its default, what it is and when to touch it. Keys without a
/// default are commented out.
///
/// `header` comes first, as a comment.
pub fn example_yaml<S: Section>(header: &str) -> String {
    let mut yaml = String::new();
    comment(&mut yaml, 0, header);
    let fields = field_docs::<S>();
    for field in &fields {
        let depth = field.path.matches('.').count();
        let in_list = field.path.contains("[].");
        // Items of a list stand two columns deeper, behind their dash.
        let indent = 2 * depth + if in_list { 2 } else { 0 };
        if depth == 0 {
            yaml.push('\n');
        }
        let first_of_item = in_list && is_first_of_item(&field.path, &fields);
        // The comment of an item's first key stands above its dash.
        let margin = if first_of_item { indent - 2 } else { indent };
        comment(&mut yaml, margin, &field.text());
        if !field.spec.when.is_empty() {
            comment(
                &mut yaml,
                margin,
                &format!("When to touch it: {}", field.spec.when),
            );
        }
        if !field.spec.env.is_empty() {
            comment(
                &mut yaml,
                margin,
                &format!("Variable: {}", field.spec.env.join(", ")),
            );
        }
        let name = field.spec.name;
        let margin = " ".repeat(margin);
        let line = match (&field.default, field.is_section()) {
            (_, true) => format!("{margin}{name}:"),
            (Some(default), _) => format!("{margin}{name}: {default}"),
            (None, _) if first_of_item => {
                format!("{margin}- {name}: {}", field.spec.example)
            }
            (None, _) => format!("{margin}# {name}: {}", field.spec.example)
                .trim_end()
                .to_owned(),
        };
        yaml.push_str(&line);
        yaml.push('\n');
    }
    yaml
}

/// Whether `path` is the first field of its list's items.
fn is_first_of_item(path: &str, fields: &[FieldDoc]) -> bool {
    let list = path.rsplit_once('.').map_or("", |(list, _)| list);
    let mut items = fields.iter().filter(|field| {
        field
            .path
            .strip_prefix(list)
            .is_some_and(|rest| rest.starts_with('.'))
    });
    items.next().is_some_and(|first| first.path == path)
}

/// Markdown: a heading and a table per section of `S`, at heading level `level`.
pub fn markdown<S: Section>(level: usize) -> String {
    let mut text = String::new();
    let mut open = None;
    for field in field_docs::<S>() {
        if field.is_section() {
            let heading = "#".repeat(level);
            text.push_str(&format!(
                "\n{heading} `{}`\n\n{}\n",
                field.path,
                prose(&field)
            ));
            open = None;
            continue;
        }
        let section = field
            .path
            .rsplit_once('.')
            .map_or("", |(section, _)| section)
            .to_owned();
        if open.as_ref() != Some(&section) {
            text.push_str(
                "\n| Key | Type | Default | Variable | What it is |\n|---|---|---|---|---|\n",
            );
            open = Some(section);
        }
        let code = |text: &str| {
            if text.is_empty() {
                String::new()
            } else {
                format!("`{text}`")
            }
        };
        let escape = |text: &str| text.replace('|', "\\|");
        let variables: Vec<_> = field.spec.env.iter().map(|name| code(name)).collect();
        let when = match field.spec.when {
            "" => String::new(),
            when => format!(" *When to touch it:* {when}"),
        };
        text.push_str(&format!(
            "| `{}` | {} | {} | {} | {}{} |\n",
            field.path,
            escape(&field.type_name),
            code(&escape(field.default.as_deref().unwrap_or(""))),
            variables.join(" "),
            escape(&prose(&field)),
            escape(&when),
        ));
    }
    text
}

/// Replaces what stands between `<!-- begin NAME -->` and `<!-- end NAME -->` in a text; `None`
/// when it has no such place.
pub fn fill(text: &str, name: &str, content: &str) -> Option<String> {
    let (begin, end) = (
        format!("<!-- begin {name} -->\n"),
        format!("<!-- end {name} -->"),
    );
    let start = text.find(&begin)? + begin.len();
    let stop = start + text[start..].find(&end)?;
    Some(format!("{}{}\n{}", &text[..start], content, &text[stop..]))
}

fn prose(field: &FieldDoc) -> String {
    field.text().replace('\n', " ")
}

fn comment(out: &mut String, indent: usize, text: &str) {
    for paragraph in text.split("\n\n") {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            let length = indent + 2 + line.chars().count() + 1 + word.chars().count();
            if !line.is_empty() && length > WIDTH {
                out.push_str(&format!("{}# {line}\n", " ".repeat(indent)));
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        if !line.is_empty() {
            out.push_str(&format!("{}# {line}\n", " ".repeat(indent)));
        }
    }
}
