//! How each kind of field is read, shown and documented: a setting, a section, a list of sections.

use super::{Check, Field, FieldSpec, Section, SectionReader, Setting, Visitor, join};
use crate::problem::Wrong;
use crate::render::{Effective, FieldDoc};
use crate::source::Source;
use crate::value::Value;
use crate::yaml::{Yaml, shorten};

impl<T: Value> Field for Setting<T> {
    type Default = T;

    fn read(
        reader: &mut SectionReader<'_, '_>,
        spec: &FieldSpec,
        default: T,
        check: Option<Check<T>>,
    ) -> Self {
        let path = join(&reader.prefix, spec.name);
        let entry = reader.entry(spec);
        let options = reader.reading.options;
        let environment = reader.reading.environment;
        let flag = options
            .overrides
            .iter()
            .rev()
            .find(|flag| flag.path == path);
        let env = spec
            .env
            .iter()
            .find_map(|name| Some((*name, environment.get(name)?)));
        let (result, shown, source) = match (flag, env, entry) {
            (Some(flag), ..) => (
                T::from_text(&flag.text),
                shorten(&flag.text),
                flag.source.clone(),
            ),
            (None, Some((name, text)), _) => (T::from_text(text), shorten(text), Source::Env(name)),
            (None, None, Some(entry)) => {
                let source = reader.reading.source(entry.value.at);
                (T::from_node(&entry.value), entry.value.shown(), source)
            }
            (None, None, None) => return Self::built_in(default),
        };
        let shown = if T::SECRET {
            "(not shown)".to_owned()
        } else {
            shown
        };
        let checked = result.and_then(|value| match check {
            Some(check) => check(&value).map(|()| value),
            None => Ok(value),
        });
        match checked {
            Ok(value) => Self { value, source },
            Err(wrong) => {
                reader.refuse(path, shown, wrong, source);
                Self::built_in(default)
            }
        }
    }

    fn visit(&self, path: &str, visitor: &mut dyn Visitor) {
        visitor.setting(Effective {
            path: path.to_owned(),
            value: self.value.show(),
            json: self.value.to_json(),
            source: self.source.clone(),
        });
    }

    fn describe(path: &str, spec: &FieldSpec, default: T, out: &mut Vec<FieldDoc>) {
        out.push(FieldDoc {
            path: path.to_owned(),
            spec: *spec,
            type_name: T::type_name(),
            default: Some(default.to_yaml()).filter(|text| text != "~"),
        });
    }
}

impl<S: Section> Field for S {
    type Default = ();

    fn read(
        reader: &mut SectionReader<'_, '_>,
        spec: &FieldSpec,
        (): (),
        _: Option<Check<()>>,
    ) -> Self {
        let entry = reader.entry(spec);
        let path = join(&reader.prefix, spec.name);
        reader.subsection(path, entry.map(|entry| &entry.value))
    }

    fn visit(&self, path: &str, visitor: &mut dyn Visitor) {
        Section::visit(self, path, visitor);
    }

    fn describe(path: &str, spec: &FieldSpec, (): (), out: &mut Vec<FieldDoc>) {
        out.push(FieldDoc::section(path, spec));
        S::describe(path, out);
    }
}

impl<S: Section> Field for Vec<S> {
    type Default = ();

    fn read(
        reader: &mut SectionReader<'_, '_>,
        spec: &FieldSpec,
        (): (),
        _: Option<Check<()>>,
    ) -> Self {
        let path = join(&reader.prefix, spec.name);
        let Some(entry) = reader.entry(spec) else {
            return Vec::new();
        };
        match &entry.value.value {
            Yaml::Sequence(items) => {
                let one = |(idx, node)| reader.subsection(format!("{path}[{idx}]"), Some(node));
                items.iter().enumerate().map(one).collect()
            }
            Yaml::Null => Vec::new(),
            Yaml::Scalar(_) | Yaml::Mapping(_) => {
                let wrong = Wrong::new("a list", format!("write `- {}: …` per item", S::KEYS[0]));
                let source = reader.reading.source(entry.value.at);
                reader.refuse(path, entry.value.shown(), wrong, source);
                Vec::new()
            }
        }
    }

    fn visit(&self, path: &str, visitor: &mut dyn Visitor) {
        for (idx, item) in self.iter().enumerate() {
            Section::visit(item, &format!("{path}[{idx}]"), visitor);
        }
    }

    fn describe(path: &str, spec: &FieldSpec, (): (), out: &mut Vec<FieldDoc>) {
        out.push(FieldDoc::section(path, spec));
        S::describe(&format!("{path}[]"), out);
    }
}
