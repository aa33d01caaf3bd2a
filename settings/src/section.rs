//! The declaration of a configuration, and reading one.

mod field;

use crate::environment::Environment;
use crate::problem::{Problem, Problems, Wrong};
use crate::render::{Effective, FieldDoc};
use crate::source::Source;
use crate::suggest::nearest_of_all;
use crate::yaml::{Document, Entry, Node, Position, Yaml, shorten};

/// A value and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Where it came from.
    pub source: Source,
}

impl<T> Setting<T> {
    /// A value that is built in.
    pub fn built_in(value: T) -> Self {
        Self {
            value,
            source: Source::Default,
        }
    }

    /// Whether nobody set it.
    pub fn is_default(&self) -> bool {
        self.source == Source::Default
    }
}

/// What is declared about a field beside its type and default.
#[derive(Debug, Clone, Copy)]
pub struct FieldSpec {
    /// The key in YAML; its camelCase form is accepted too.
    pub name: &'static str,
    /// The doc comment, line by line.
    pub docs: &'static [&'static str],
    /// When to touch it, in a sentence; empty for what everyone sets.
    pub when: &'static str,
    /// A value for examples, where the default is none.
    pub example: &'static str,
    /// Environment variables that override it, strongest first.
    pub env: &'static [&'static str],
}

/// A value from elsewhere that beats file and environment, such as a flag.
#[derive(Debug, Clone)]
pub struct Override {
    /// Dotted path of the field, such as `storage.mode`.
    pub path: String,
    /// The value as text.
    pub text: String,
    /// Where it came from.
    pub source: Source,
}

/// How to read.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Unknown keys become warnings.
    pub allow_unknown_keys: bool,
    /// Values that beat file and environment.
    pub overrides: Vec<Override>,
}

/// What was read.
#[derive(Debug, Clone)]
pub struct Loaded<S> {
    /// The configuration.
    pub value: S,
    /// Unknown keys that were let through.
    pub warnings: Vec<Problem>,
}

/// Visits each setting of a section, lists element by element.
pub trait Visitor {
    /// One setting: its path, text, JSON and source.
    fn setting(&mut self, effective: Effective);
}

/// A type that [`section!`] declared.
pub trait Section: Sized {
    /// The section's doc comment, line by line.
    const DOCS: &'static [&'static str];
    /// Its keys.
    const KEYS: &'static [&'static str];
    /// Reads each field from `reader`.
    fn read(reader: &mut SectionReader<'_, '_>) -> Self;
    /// Shows each setting to `visitor`.
    fn visit(&self, prefix: &str, visitor: &mut dyn Visitor);
    /// Lists each field's documentation.
    fn describe(prefix: &str, out: &mut Vec<FieldDoc>);
}

/// A rule of one field: what is wrong with a value, if anything.
pub type Check<T> = fn(&T) -> Result<(), Wrong>;

/// A type that a field of a section may have: a [`Setting`], a section, or a list of sections.
pub trait Field: Sized {
    /// What the declaration gives as the default: the value, or `()` for sections.
    type Default;
    /// Reads the field that `spec` declares.
    fn read(
        reader: &mut SectionReader<'_, '_>,
        spec: &FieldSpec,
        default: Self::Default,
        check: Option<Check<Self::Default>>,
    ) -> Self;
    /// Shows it.
    fn visit(&self, path: &str, visitor: &mut dyn Visitor);
    /// Documents it.
    fn describe(path: &str, spec: &FieldSpec, default: Self::Default, out: &mut Vec<FieldDoc>);
}

/// What is gathered while reading.
pub(crate) struct Reading<'a> {
    file: Option<std::sync::Arc<str>>,
    environment: &'a Environment,
    options: &'a LoadOptions,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

/// Reads the fields of one section.
pub struct SectionReader<'r, 'a> {
    reading: &'r mut Reading<'a>,
    prefix: String,
    entries: &'r [Entry],
}

/// Joins a dotted path.
pub(crate) fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}.{name}")
    }
}

/// `max_size` → `maxSize`, the spelling of Helm values.
pub(crate) fn camel(name: &str) -> String {
    let mut upper = false;
    let mut camel = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                camel.push(c.to_ascii_uppercase());
                upper = false;
            }
            c => camel.push(c),
        }
    }
    camel
}

impl Reading<'_> {
    fn source(&self, at: Position) -> Source {
        match &self.file {
            Some(file) => Source::File {
                file: file.clone(),
                line: at.line,
            },
            None => Source::Default,
        }
    }
}

impl<'r> SectionReader<'r, '_> {
    fn entry(&mut self, spec: &FieldSpec) -> Option<&'r Entry> {
        let camel = camel(spec.name);
        let mut found: Option<&'r Entry> = None;
        for entry in self.entries {
            if entry.key != spec.name && entry.key != camel {
                continue;
            }
            if let Some(first) = found {
                self.reading.problems.push(Problem::Twice {
                    field: join(&self.prefix, spec.name),
                    first: first.key.clone(),
                    second: entry.key.clone(),
                    source_: self.reading.source(entry.at),
                });
            } else {
                found = Some(entry);
            }
        }
        found
    }

    fn refuse(&mut self, field: String, value: String, wrong: Wrong, source: Source) {
        let (field, value, source_) = match wrong.item {
            Some((idx, at, shown)) => {
                let value = shown.as_deref().map_or_else(|| value, shorten);
                (
                    format!("{field}[{idx}]"),
                    value,
                    at.map_or(source, |at| self.reading.source(at)),
                )
            }
            None => (field, value, source),
        };
        let Wrong {
            must_be, remedy, ..
        } = wrong;
        self.reading.problems.push(Problem::Invalid {
            field,
            value,
            must_be,
            remedy,
            source_,
        });
    }

    /// Reads a section from `node`: its fields, then its unknown keys.
    fn subsection<S: Section>(&mut self, path: String, node: Option<&'r Node>) -> S {
        let entries: &[Entry] = match node.map(|node| &node.value) {
            Some(Yaml::Mapping(entries)) => entries,
            None | Some(Yaml::Null) => &[],
            Some(_) => {
                let node = node.expect("matched above");
                let keys = format!("a section with the keys {}", S::KEYS.join(", "));
                let wrong = Wrong::new(keys, "");
                let source = self.reading.source(node.at);
                let field = if path.is_empty() {
                    "the file".to_owned()
                } else {
                    path.clone()
                };
                self.refuse(field, node.kind().to_owned(), wrong, source);
                &[]
            }
        };
        let mut inner = SectionReader {
            reading: &mut *self.reading,
            prefix: path,
            entries,
        };
        let section = S::read(&mut inner);
        inner.unknown::<S>();
        section
    }

    fn unknown<S: Section>(&mut self) {
        for entry in self.entries {
            let known = |name: &&str| entry.key == *name || entry.key == camel(name);
            if S::KEYS.iter().any(known) {
                continue;
            }
            let nearest = nearest_of_all(&entry.key, S::KEYS.iter().copied());
            let (nearest, likely) = nearest.unwrap_or_default();
            let problem = Problem::UnknownKey {
                key: shorten(&entry.key),
                section: self.prefix.clone(),
                nearest: nearest.to_owned(),
                likely,
                known: S::KEYS.to_vec(),
                source_: self.reading.source(entry.at),
            };
            if self.reading.options.allow_unknown_keys {
                self.reading.warnings.push(problem);
            } else {
                self.reading.problems.push(problem);
            }
        }
    }
}

/// Reads a configuration: defaults, then `document`, then `environment`, then the options'
/// overrides.
///
/// # Errors
/// Every problem there is.
pub fn load<S: Section>(
    document: Option<&Document>,
    environment: &Environment,
    options: &LoadOptions,
) -> Result<Loaded<S>, Problems> {
    let (loaded, problems) = load_all(document, environment, options);
    if problems.is_empty() {
        Ok(loaded)
    } else {
        Err(Problems(problems))
    }
}

/// As [`load`], but gives what could be read beside the problems, so that rules over several fields
/// can be checked in the same round. A field with a problem has its default.
pub fn load_all<S: Section>(
    document: Option<&Document>,
    environment: &Environment,
    options: &LoadOptions,
) -> (Loaded<S>, Vec<Problem>) {
    let mut reading = Reading {
        file: document.map(|document| document.file.clone()),
        environment,
        options,
        problems: Vec::new(),
        warnings: Vec::new(),
    };
    let root = document.map(|document| &document.root);
    let mut top = SectionReader {
        reading: &mut reading,
        prefix: String::new(),
        entries: &[],
    };
    let value = top.subsection::<S>(String::new(), root);
    let Reading {
        problems, warnings, ..
    } = reading;
    (Loaded { value, warnings }, problems)
}

/// Declares a section: a struct whose fields know their key, default, variables, rule and
/// documentation.
///
/// ```text
/// /// Documentation of the section.
/// pub struct Name {
///     /// Documentation of the field.
///     field: Type = default, env ["NAME", …], check rule, when "…", example "…";
/// }
/// ```
/// `Type` is `Setting<T>` with a default, or a section or a list of sections with `()`. The parts
/// after the default are optional, in this order: `env`, environment variables, strongest first;
/// `check`, a function from `&T` to `Result<(), Wrong>`; `when`, a sentence on when to touch it;
/// `example`, a YAML value for the documentation.
#[macro_export]
macro_rules! section {
    (
        $(#[doc = $section_doc:literal])*
        $vis:vis struct $name:ident {
            $(
                $(#[doc = $doc:literal])*
                $field:ident : $ty:ty = $default:expr
                $(, env [$($env:literal),+])?
                $(, check $check:expr)?
                $(, when $when:literal)?
                $(, example $example:literal)?
                ;
            )*
        }
    ) => {
        $(#[doc = $section_doc])*
        #[derive(Debug, Clone)]
        $vis struct $name {
            $( $(#[doc = $doc])* pub $field: $ty, )*
        }

        impl $name {
            $(
                #[allow(non_upper_case_globals, reason = "named after the field")]
                const $field: $crate::FieldSpec = $crate::FieldSpec {
                    name: stringify!($field),
                    docs: &[$($doc),*],
                    when: concat!("" $(, $when)?),
                    example: concat!("" $(, $example)?),
                    env: &[$($($env),+)?],
                };
            )*
        }

        impl $crate::Section for $name {
            const DOCS: &'static [&'static str] = &[$($section_doc),*];
            const KEYS: &'static [&'static str] = &[$(stringify!($field)),*];

            fn read(reader: &mut $crate::SectionReader<'_, '_>) -> Self {
                Self {
                    $(
                        $field: <$ty as $crate::Field>::read(
                            reader,
                            &Self::$field,
                            $default,
                            $crate::section!(@check $($check)?),
                        ),
                    )*
                }
            }

            fn visit(&self, prefix: &str, visitor: &mut dyn $crate::Visitor) {
                $(
                    let path = $crate::__join(prefix, stringify!($field));
                    <$ty as $crate::Field>::visit(&self.$field, &path, visitor);
                )*
            }

            fn describe(prefix: &str, out: &mut Vec<$crate::FieldDoc>) {
                $(
                    let path = $crate::__join(prefix, stringify!($field));
                    <$ty as $crate::Field>::describe(&path, &Self::$field, $default, out);
                )*
            }
        }
    };
    (@check) => { None };
    (@check $check:expr) => { Some($check) };
}

#[cfg(test)]
mod tests;
