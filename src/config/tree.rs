//! A YAML text as a tree in which every key and value knows its line and column.
//!
//! This stands between the text and serde so that errors can say where, `${…}` is filled in after
//! the YAML is read (what it brings is never taken for YAML), and a configuration can be read on
//! after a first error.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

use super::problem::{KeyPath, Place, Report, Step};

/// The largest file that is read, in bytes.
pub const TEXT_BYTES_MAX: usize = 1 << 20;
/// The most nodes a tree may have, copies made by aliases included.
const NODES_MAX: usize = 50_000;
/// How deep a tree may nest.
const DEPTH_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub place: Place,
    pub value: Value,
    /// The scalar as it was written, where `${…}` in it have been filled in.
    pub written: Option<String>,
    /// Found wrong: passed over from now on.
    pub skipped: bool,
    /// Not written at all: stands for a key that is missing, which was reported.
    pub stand_in: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `plain`: without quotes, so that it may be a number, a boolean or null.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub key: String,
    pub place: Place,
    pub value: Node,
}

impl Node {
    pub fn new(place: Place, value: Value) -> Self {
        Self { place, value, written: None, skipped: false, stand_in: false }
    }

    /// Reads a text of one YAML document. An empty text is an empty map.
    ///
    /// Duplicate keys are reported and the first one kept; what is no YAML at all is reported and
    /// gives `None`.
    pub fn parse(text: &str, report: &mut Report) -> Option<Self> {
        if text.len() > TEXT_BYTES_MAX {
            let text = format!("the file is larger than {} KiB, the most that is read", TEXT_BYTES_MAX >> 10);
            report.error(None, KeyPath::default(), text);
            return None;
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut builder =
            Builder { text, parser: Parser::new_from_str(text), anchors: HashMap::new(), nodes: 0, report };
        match builder.document() {
            Ok(root) => Some(root),
            Err(Refused { place, path, text }) => {
                report.error(Some(place), path, text);
                None
            }
        }
    }

    /// Whether this is an empty value, `~` or `null`. What was filled in never is.
    pub fn is_null(&self) -> bool {
        match &self.value {
            Value::Scalar { text, plain: true } if self.written.is_none() => {
                matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL")
            }
            _ => false,
        }
    }

    /// The text of a scalar.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The entries of a map; none of anything else.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; none of anything else.
    pub fn items(&self) -> &[Node] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// What stands at `path`, skipped or not.
    pub fn at(&self, path: &KeyPath) -> Option<&Node> {
        path.0.iter().try_fold(self, |node, step| node.step(step))
    }

    /// Where `path` stands; as far as it exists, else where the last part of it that does.
    pub fn place_of(&self, path: &KeyPath) -> Place {
        let mut node = self;
        for step in &path.0 {
            match node.step(step) {
                Some(next) => node = next,
                None => break,
            }
        }
        node.place
    }

    fn step(&self, step: &Step) -> Option<&Node> {
        match step {
            Step::Key(key) => self.get(key),
            Step::Index(index) => self.items().get(*index),
        }
    }

    pub fn at_mut(&mut self, path: &[Step]) -> Option<&mut Node> {
        let Some((step, rest)) = path.split_first() else { return Some(self) };
        let next = match (step, &mut self.value) {
            (Step::Key(key), Value::Map(entries)) => {
                entries.iter_mut().find(|entry| entry.key == *key).map(|entry| &mut entry.value)
            }
            (Step::Index(index), Value::List(items)) => items.get_mut(*index),
            _ => None,
        };
        next?.at_mut(rest)
    }

    /// Has an empty text stand for a missing key, so that the rest of the map can be read.
    pub fn stand_in_for(&mut self, key: &str) {
        let place = self.place;
        if let Value::Map(entries) = &mut self.value {
            let empty = Value::Scalar { text: String::new(), plain: false };
            let value = Self { stand_in: true, ..Self::new(place, empty) };
            entries.push(Entry { key: key.to_owned(), place, value });
        }
    }

    /// How many nodes there are, this one included, and how deep they nest.
    fn extent(&self) -> (usize, usize) {
        let add = |(count, depth): (usize, usize), node: &Node| {
            let (more, deep) = node.extent();
            (count + more, depth.max(deep + 1))
        };
        match &self.value {
            Value::Scalar { .. } => (1, 1),
            Value::List(items) => items.iter().fold((1, 1), add),
            Value::Map(entries) => entries.iter().map(|entry| &entry.value).fold((1, 1), add),
        }
    }
}

/// Why a text cannot be read on.
struct Refused {
    place: Place,
    path: KeyPath,
    text: String,
}

struct Builder<'a> {
    text: &'a str,
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    report: &'a mut Report,
}

fn place(span: Span) -> Place {
    Place { line: span.start.line().max(1), column: span.start.col() + 1 }
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Place), Refused> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, place(span))),
            Some(Err(error)) => Err(self.not_yaml(&error)),
            None => Ok((Event::StreamEnd, Place { line: 1, column: 1 })),
        }
    }

    fn not_yaml(&self, error: &ScanError) -> Refused {
        let place = Place { line: error.marker().line().max(1), column: error.marker().col() + 1 };
        let line = self.text.lines().nth(place.line - 1).unwrap_or_default();
        let hint = if line.contains("${") && line.contains(['[', '{']) {
            "; within `[…]` and `{…}` a text with `${…}` must stand in quotes"
        } else {
            ""
        };
        let text = format!("this is not YAML: {}{hint}", error.info());
        Refused { place, path: KeyPath::default(), text }
    }

    fn document(&mut self) -> Result<Node, Refused> {
        let mut root = None;
        loop {
            let (event, place) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::Nothing | Event::DocumentEnd => {}
                Event::DocumentStart(_) if root.is_some() => {
                    let text = "a second document begins here; a configuration is one document: \
                                take the `---` out"
                        .to_owned();
                    return Err(Refused { place, path: KeyPath::default(), text });
                }
                Event::DocumentStart(_) => {}
                event => root = Some(self.node(event, place, &mut KeyPath::default())?),
            }
        }
        let empty = || Node::new(Place { line: 1, column: 1 }, Value::Map(Vec::new()));
        Ok(root.filter(|root| !root.is_null()).unwrap_or_else(empty))
    }

    fn node(&mut self, event: Event<'a>, place: Place, path: &mut KeyPath) -> Result<Node, Refused> {
        self.count(1, path.0.len(), place, path)?;
        let (node, anchor) = match event {
            Event::Alias(anchor) => return self.alias(anchor, place, path),
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && !self.is_string(tag.as_deref(), place, path)?;
                (Node::new(place, Value::Scalar { text: text.into_owned(), plain }), anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.is_string(tag.as_deref(), place, path)?;
                (Node::new(place, self.list(path)?), anchor)
            }
            Event::MappingStart(anchor, tag) => {
                self.is_string(tag.as_deref(), place, path)?;
                (Node::new(place, self.map(path)?), anchor)
            }
            _ => {
                let text = "this is not YAML: a value was expected".to_owned();
                return Err(Refused { place, path: path.clone(), text });
            }
        };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, path: &mut KeyPath) -> Result<Value, Refused> {
        let mut items = Vec::new();
        loop {
            let (event, place) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Value::List(items));
            }
            path.0.push(Step::Index(items.len()));
            items.push(self.node(event, place, path)?);
            path.0.pop();
        }
    }

    fn map(&mut self, path: &mut KeyPath) -> Result<Value, Refused> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut merged: Vec<Node> = Vec::new();
        loop {
            let (event, key_place) = self.next()?;
            let key = match event {
                Event::MappingEnd => break,
                Event::Scalar(text, ..) => text.into_owned(),
                _ => {
                    let text = "a key must be a word, not a list or a map".to_owned();
                    return Err(Refused { place: key_place, path: path.clone(), text });
                }
            };
            path.0.push(Step::Key(key.clone()));
            let (event, place) = self.next()?;
            let value = self.node(event, place, path)?;
            if let Some(first) = entries.iter().find(|entry| entry.key == key) {
                let text = format!("this key was already given in line {}; keep one", first.place.line);
                self.report.error(Some(key_place), path.clone(), text);
            } else if key == "<<" {
                merged.push(value);
            } else {
                entries.push(Entry { key, place: key_place, value });
            }
            path.0.pop();
        }
        for node in merged {
            self.merge(node, &mut entries, path)?;
        }
        Ok(Value::Map(entries))
    }

    /// `<<: *defaults`: what the other map has and this one has not.
    fn merge(&mut self, from: Node, into: &mut Vec<Entry>, path: &KeyPath) -> Result<(), Refused> {
        match from.value {
            Value::Map(entries) => {
                for entry in entries {
                    if !into.iter().any(|own| own.key == entry.key) {
                        into.push(entry);
                    }
                }
                Ok(())
            }
            Value::List(items) => items.into_iter().try_for_each(|item| self.merge(item, into, path)),
            Value::Scalar { .. } => {
                let text = "`<<` takes a map, like `<<: *name`".to_owned();
                Err(Refused { place: from.place, path: path.clone(), text })
            }
        }
    }

    fn alias(&mut self, anchor: usize, place: Place, path: &KeyPath) -> Result<Node, Refused> {
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            let text = "this alias stands within what it stands for".to_owned();
            return Err(Refused { place, path: path.clone(), text });
        };
        let (nodes, depth) = node.extent();
        self.count(nodes, path.0.len() + depth, place, path)?;
        Ok(node)
    }

    fn count(&mut self, nodes: usize, depth: usize, place: Place, path: &KeyPath) -> Result<(), Refused> {
        self.nodes += nodes;
        let text = if self.nodes > NODES_MAX {
            format!("more than {NODES_MAX} values, aliases included")
        } else if depth > DEPTH_MAX {
            format!("nested deeper than {DEPTH_MAX} levels")
        } else {
            return Ok(());
        };
        // A path of sixty steps tells nobody anything.
        let path = if depth > DEPTH_MAX { KeyPath::default() } else { path.clone() };
        Err(Refused { place, path, text })
    }

    /// Whether a tag says `!!str`. Other tags would change what a value means, so they are refused.
    fn is_string(&self, tag: Option<&Tag>, place: Place, path: &KeyPath) -> Result<bool, Refused> {
        match tag {
            None => Ok(false),
            Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => Ok(true),
            Some(tag) => {
                let text = format!("the tag `{tag}` is not supported; take it out");
                Err(Refused { place, path: path.clone(), text })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Result<Node, Vec<String>> {
        let mut report = Report::default();
        let node = Node::parse(text, &mut report);
        let (errors, _) = report.finish("f");
        if errors.is_empty() {
            Ok(node.expect("a tree"))
        } else {
            Err(errors.iter().map(|e| e.to_string()).collect())
        }
    }

    #[test]
    fn knows_every_place() {
        let root = tree("a: 1\nb:\n  - c: x\n    d: [é, 'y']\n").expect("YAML");
        let place = |path: &str| {
            let Place { line, column } = root.place_of(&KeyPath::parse(path));
            (line, column)
        };
        assert_eq!(place("a"), (1, 4));
        assert_eq!(place("b[0].d[1]"), (4, 12));
        assert_eq!(place("b[0].missing"), (3, 5));
        assert_eq!(root.at(&KeyPath::parse("b[0].c")).and_then(Node::text), Some("x"));
    }

    #[test]
    fn aliases_and_merges() {
        let root = tree("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: *a\n").expect("YAML");
        let text = |path: &str| root.at(&KeyPath::parse(path)).and_then(Node::text).map(str::to_owned);
        assert_eq!(text("b.x").as_deref(), Some("1"));
        assert_eq!(text("b.y").as_deref(), Some("3"));
        assert_eq!(text("c.y").as_deref(), Some("2"));
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        let laughs = (1..9).fold("a0: &a0 [x, x, x, x, x, x, x, x]\n".to_owned(), |text, n| {
            let m = n - 1;
            text + &format!("a{n}: &a{n} [*a{m}, *a{m}, *a{m}, *a{m}, *a{m}, *a{m}, *a{m}, *a{m}]\n")
        });
        let deep = "[".repeat(100) + &"]".repeat(100);
        let cases = [
            ("a: 1\na: 2\nb: {c: 1, c: 2}", "f:2:1: a: this key was already given in line 1; keep one"),
            ("a: 1\n---\nb: 1", "f:2:1: a second document begins here"),
            ("a: [1\n", "this is not YAML"),
            ("[a]: 1", "a key must be a word"),
            ("a: !x 1", "f:1:4: a: the tag `!x` is not supported"),
            ("a: &a [*a]", "f:1:8: a[0]: this alias stands within what it stands for"),
            (&laughs, "more than 50000 values"),
            (&deep, "nested deeper than 64 levels"),
        ];
        for (text, expected) in cases {
            let errors = tree(text).expect_err(text);
            assert!(errors[0].contains(expected), "{errors:?}");
        }
        assert_eq!(tree("a: 1\na: 2\nb: {c: 1, c: 2}").unwrap_err().len(), 2);
        assert!(tree("").expect("empty").entries().is_empty());
    }
}
