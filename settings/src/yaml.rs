//! YAML as a tree with positions, bounded whatever the text holds.
//!
//! A configuration needs mappings, sequences and scalars; anchors and aliases work, but every
//! repetition counts towards [`NODES_MAX`], so an alias bomb ends early. Tags, complex keys and
//! several documents are refused.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};

/// Bytes of the largest file that is read.
pub const BYTES_MAX: usize = 1 << 20;
/// The deepest nesting.
pub const DEPTH_MAX: usize = 32;
/// The most nodes, repetitions by alias included.
pub const NODES_MAX: usize = 100_000;

/// A place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// 1-based.
    pub line: u32,
    /// 1-based, in characters.
    pub column: u32,
}

/// One value and where it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Where it starts.
    pub at: Position,
    /// What it is.
    pub value: Yaml,
}

/// A YAML value; scalars stay text, because the field decides what they mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Yaml {
    /// Nothing, `~` or `null`.
    Null,
    /// Any other scalar.
    Scalar(String),
    /// A list.
    Sequence(Vec<Node>),
    /// Keys in the order written; no two are equal.
    Mapping(Vec<Entry>),
}

/// One key of a mapping and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub at: Position,
    /// Its value.
    pub value: Node,
}

impl Node {
    /// How messages quote it: a scalar's text (its first 80 characters), else what it is.
    pub fn shown(&self) -> String {
        match &self.value {
            Yaml::Scalar(text) => shorten(text),
            _ => self.kind().to_owned(),
        }
    }

    /// What it is, for where its text could be a secret in the wrong place.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Yaml::Null => "empty",
            Yaml::Scalar(_) => "a single value",
            Yaml::Sequence(_) => "a list",
            Yaml::Mapping(_) => "a mapping",
        }
    }

    fn count(&self) -> usize {
        1 + match &self.value {
            Yaml::Null | Yaml::Scalar(_) => 0,
            Yaml::Sequence(items) => items.iter().map(Node::count).sum(),
            Yaml::Mapping(entries) => entries.iter().map(|entry| entry.value.count()).sum(),
        }
    }

    fn depth(&self) -> usize {
        1 + match &self.value {
            Yaml::Null | Yaml::Scalar(_) => 0,
            Yaml::Sequence(items) => items.iter().map(Node::depth).max().unwrap_or(0),
            Yaml::Mapping(entries) => entries.iter().map(|e| e.value.depth()).max().unwrap_or(0),
        }
    }
}

/// Text for a message: quoted where white space or emptiness would mislead, cut after 80
/// characters.
pub(crate) fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if text.chars().nth(80).is_some() {
        short.push('…');
    }
    let odd = short.is_empty() || short.starts_with(' ') || short.ends_with(' ');
    if odd { format!("\"{short}\"") } else { short }
}

/// Why a text isn't usable YAML, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct YamlError {
    /// Where, when it is a place rather than the whole file.
    pub at: Option<Position>,
    /// What, and what to do about it.
    pub what: String,
}

impl fmt::Display for YamlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some(at) => write!(f, "{}:{}: {}", at.line, at.column, self.what),
            None => write!(f, " {}", self.what),
        }
    }
}

/// A parsed file.
#[derive(Debug, Clone)]
pub struct Document {
    pub(crate) file: Arc<str>,
    pub(crate) root: Node,
}

impl Document {
    /// Parses `bytes`, which messages will call `file`. An empty file is an empty mapping.
    ///
    /// # Errors
    /// Every way in which the text isn't YAML of our kind; several only for duplicate keys.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, crate::Problems> {
        match parse(bytes) {
            Ok(root) => Ok(Self {
                file: file.into(),
                root,
            }),
            Err(errors) => {
                let problem = |error| crate::Problem::Yaml {
                    file: file.to_owned(),
                    error,
                };
                Err(crate::Problems(errors.into_iter().map(problem).collect()))
            }
        }
    }

    /// The name it was given.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Its top value.
    pub fn root(&self) -> &Node {
        &self.root
    }
}

fn parse(bytes: &[u8]) -> Result<Node, Vec<YamlError>> {
    let whole = |what: String| vec![YamlError { at: None, what }];
    if bytes.len() > BYTES_MAX {
        return Err(whole(format!(
            "the file has {} bytes, but must have at most {BYTES_MAX}; is it a configuration file?",
            bytes.len()
        )));
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(whole("the file is UTF-16; save it as UTF-8".to_owned()));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()]
            .iter()
            .filter(|b| **b == b'\n')
            .count();
        whole(format!("line {line} isn't UTF-8; save the file as UTF-8"))
    })?;
    // A byte-order mark is legal; some editors add one.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder::new(text);
    let root = builder
        .document()
        .map_err(|error| vec![builder.explain(error)])?;
    if builder.duplicates.is_empty() {
        Ok(root)
    } else {
        Err(builder.duplicates)
    }
}

struct Builder<'a> {
    text: &'a str,
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    duplicates: Vec<YamlError>,
}

fn position(span: Span) -> Position {
    let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Position {
        line: small(span.start.line()).max(1),
        column: small(span.start.col() + 1),
    }
}

fn at(at: Position, what: impl Into<String>) -> YamlError {
    YamlError {
        at: Some(at),
        what: what.into(),
    }
}

impl<'a> Builder<'a> {
    fn new(text: &'a str) -> Self {
        let parser = Parser::new_from_str(text);
        Self {
            text,
            parser,
            anchors: HashMap::new(),
            nodes: 0,
            duplicates: Vec::new(),
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Position), YamlError> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, position(span))),
            Some(Err(error)) => {
                let marker = error.marker();
                let place = position(Span::empty(*marker));
                Err(at(place, format!("not YAML: {}", error.info())))
            }
            None => Ok((Event::StreamEnd, Position { line: 1, column: 1 })),
        }
    }

    fn document(&mut self) -> Result<Node, YamlError> {
        let empty = || Node {
            at: Position { line: 1, column: 1 },
            value: Yaml::Mapping(Vec::new()),
        };
        let mut root = None;
        loop {
            let (event, place) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
                Event::StreamEnd => return Ok(root.unwrap_or_else(empty)),
                Event::DocumentStart(_) if root.is_some() => {
                    let what = "a second document starts here; put everything in one";
                    return Err(at(place, what));
                }
                Event::DocumentStart(_) => {
                    let (event, place) = self.next()?;
                    root = Some(self.node(event, place, 0)?);
                }
                _ => return Err(at(place, "not YAML: content outside a document")),
            }
        }
    }

    /// Builds the node that `event` opens. Recursion is bounded by [`DEPTH_MAX`].
    fn node(&mut self, event: Event<'a>, place: Position, depth: usize) -> Result<Node, YamlError> {
        self.spend(1, place)?;
        if depth >= DEPTH_MAX {
            return Err(at(place, format!("nested deeper than {DEPTH_MAX} levels")));
        }
        let (anchor, tagged) = match &event {
            Event::Scalar(_, _, anchor, tag) => (*anchor, tag.is_some()),
            Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag) => {
                (*anchor, tag.is_some())
            }
            _ => (0, false),
        };
        if tagged {
            return Err(at(place, "a YAML tag (!…) has no meaning here; remove it"));
        }
        let value = match event {
            Event::Scalar(text, style, ..) => scalar(text.into_owned(), style),
            Event::SequenceStart(..) => self.sequence(depth)?,
            Event::MappingStart(..) => self.mapping(depth)?,
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id).cloned() else {
                    return Err(at(
                        place,
                        "an alias (*) to an anchor that isn't complete here",
                    ));
                };
                self.spend(node.count(), place)?;
                if depth + node.depth() > DEPTH_MAX {
                    return Err(at(place, format!("nested deeper than {DEPTH_MAX} levels")));
                }
                node.value
            }
            _ => return Err(at(place, "not YAML: a value is missing here")),
        };
        let node = Node { at: place, value };
        if anchor != 0 {
            // The copy counts as well: a text of anchors inside anchors would otherwise hold its
            // square.
            self.spend(node.count(), place)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn sequence(&mut self, depth: usize) -> Result<Yaml, YamlError> {
        let mut items = Vec::new();
        loop {
            let (event, place) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Yaml::Sequence(items));
            }
            items.push(self.node(event, place, depth + 1)?);
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Yaml, YamlError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen: HashMap<String, Position> = HashMap::new();
        loop {
            let (event, place) = self.next()?;
            let key = match event {
                Event::MappingEnd => return Ok(Yaml::Mapping(entries)),
                Event::Scalar(text, ..) => text.into_owned(),
                _ => return Err(at(place, "a key must be a plain word")),
            };
            let (event, value_place) = self.next()?;
            let value = self.node(event, value_place, depth + 1)?;
            if let Some(first) = seen.get(&key) {
                let what = format!(
                    "the key {} is already set in line {}; keep one of them",
                    shorten(&key),
                    first.line
                );
                self.duplicates.push(at(place, what));
                continue;
            }
            seen.insert(key.clone(), place);
            entries.push(Entry {
                key,
                at: place,
                value,
            });
        }
    }

    fn spend(&mut self, nodes: usize, place: Position) -> Result<(), YamlError> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes <= NODES_MAX {
            return Ok(());
        }
        let what = format!("more than {NODES_MAX} values, repetitions by alias (*) included");
        Err(at(place, what))
    }

    /// Says of a syntax error that it comes from a tab, which is the usual reason and never
    /// visible.
    fn explain(&self, error: YamlError) -> YamlError {
        let Some(place) = error.at else { return error };
        let indented = |line: &str| {
            let blank = line.len() - line.trim_start_matches([' ', '\t']).len();
            line[..blank].find('\t').map(|offset| offset + 1)
        };
        // The parser may notice one line late, or one early when it looks ahead.
        let lines = self.text.lines().enumerate().take(place.line as usize + 1);
        let tab = lines
            .filter_map(|(idx, line)| Some((idx + 1, indented(line)?)))
            .last();
        match tab {
            Some((line, column)) if line + 1 >= place.line as usize => {
                let place = Position {
                    line: line as u32,
                    column: column as u32,
                };
                at(place, "a tab indents this line; YAML allows only blanks")
            }
            _ => error,
        }
    }
}

fn scalar(text: String, style: ScalarStyle) -> Yaml {
    let null = matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL");
    if null && style == ScalarStyle::Plain {
        Yaml::Null
    } else {
        Yaml::Scalar(text)
    }
}

#[cfg(test)]
mod tests;
