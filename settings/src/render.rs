//! Effective configurations and field documentation, as tables, JSON and YAML.

use serde_json::json;

use crate::section::{FieldSpec, Section, Visitor};
use crate::source::Source;

/// One effective value.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective {
    /// Dotted path, `storage.drives[0].media`.
    pub path: String,
    /// The value as text.
    pub value: String,
    /// The value as JSON.
    pub json: serde_json::Value,
    /// Where it came from.
    pub source: Source,
}

struct Collect(Vec<Effective>);

impl Visitor for Collect {
    fn setting(&mut self, effective: Effective) {
        self.0.push(effective);
    }
}

/// Every effective value of a section, in the order of the declaration.
pub fn effective_of<S: Section>(section: &S) -> Vec<Effective> {
    let mut collect = Collect(Vec::new());
    section.visit("", &mut collect);
    collect.0
}

/// A table of three aligned columns: key, value, source.
pub fn effective_table(values: &[Effective]) -> String {
    let width = |text: &str| text.chars().count();
    let key_width = values
        .iter()
        .map(|v| width(&v.path))
        .max()
        .unwrap_or(0)
        .max(3);
    // One long path must not push every source out of sight.
    let value_width = values
        .iter()
        .map(|v| width(&v.value))
        .max()
        .unwrap_or(0)
        .clamp(5, 48);
    let row = |key: &str, value: &str, source: &str| {
        let line = format!("{key:key_width$}  {value:value_width$}  {source}");
        format!("{}\n", line.trim_end())
    };
    let mut table = row("KEY", "VALUE", "FROM");
    for value in values {
        table.push_str(&row(&value.path, &value.value, &value.source.to_string()));
    }
    table
}

/// A JSON object: path → `{value, source, from}`.
pub fn effective_json(values: &[Effective]) -> serde_json::Value {
    let one = |v: &Effective| {
        let entry = json!({
            "value": v.json, "source": v.source.kind(), "from": v.source.to_string(),
        });
        (v.path.clone(), entry)
    };
    serde_json::Value::Object(values.iter().map(one).collect())
}

/// What documentation says of a field, or of a section when it has no type.
#[derive(Debug, Clone)]
pub struct FieldDoc {
    /// Dotted path; `storage.drives[].media` inside a list.
    pub path: String,
    /// The declaration.
    pub spec: FieldSpec,
    /// The type's name; empty for a section.
    pub type_name: String,
    /// The default as YAML writes it; none where there is none.
    pub default: Option<String>,
}

impl FieldDoc {
    pub(crate) fn section(path: &str, spec: &FieldSpec) -> Self {
        Self {
            path: path.to_owned(),
            spec: *spec,
            type_name: String::new(),
            default: None,
        }
    }

    /// Whether it is a section's heading.
    pub fn is_section(&self) -> bool {
        self.type_name.is_empty()
    }

    /// The doc comment as one text; paragraphs end with a blank line.
    pub fn text(&self) -> String {
        let lines: Vec<&str> = self.spec.docs.iter().map(|line| line.trim()).collect();
        lines.join("\n")
    }
}

/// The documentation of every field of `S`, sections before their fields.
pub fn field_docs<S: Section>() -> Vec<FieldDoc> {
    let mut docs = Vec::new();
    S::describe("", &mut docs);
    docs
}
