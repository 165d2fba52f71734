//! Holds `docs/configuration.md` and `docs/relay.schema.json` in step with the types: their doc
//! comments are the reference. `UPDATE_DOCS=1 cargo test --lib reference` writes both.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::config::shape::Shape;

/// The sections of the page, in reading order.
const BLOCKS: [&str; 6] = ["receiver", "admin", "journal", "quarantine", "sinks", "routes"];

/// Stands before the generated part.
const INTRODUCTION: &str = include_str!("introduction.md");

#[test]
fn the_reference_is_in_step() {
    let schema = schema();
    in_step("docs/configuration.md", &page(&schema));
    let json = serde_json::to_string_pretty(&schema).expect("a schema is JSON") + "\n";
    in_step("docs/relay.schema.json", &json);
}

/// Fails when a file differs from what it should be; writes it when told to.
fn in_step(file: &str, expected: &str) {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, expected).expect(file);
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = found.lines().zip(expected.lines()).position(|(found, expected)| found != expected);
    assert!(
        found == expected,
        "{file} is not in step with the types, first in line {}; run UPDATE_DOCS=1 cargo test --lib reference",
        differs.unwrap_or(found.lines().count().min(expected.lines().count())) + 1
    );
}

fn schema() -> Value {
    serde_json::to_value(schemars::schema_for!(Shape)).expect("a schema is JSON")
}

fn page(schema: &Value) -> String {
    let mut page =
        Page { schema, out: INTRODUCTION.to_owned(), documented: Vec::new(), undocumented: Vec::new() };
    page.out += "\n## At the top\n\n";
    page.table("", schema);
    let keys: Vec<_> = properties(schema).map(|(key, _)| key.as_str()).collect();
    for block in BLOCKS {
        assert!(keys.contains(&block), "{block} is no key");
        let inner = &schema["properties"][block];
        let is_list = page.resolved(inner)["type"] == "array";
        page.section(&format!("{block}{}", if is_list { "[]" } else { "" }), inner, 2);
    }
    assert_eq!(page.undocumented, [] as [String; 0], "these keys have no doc comment");
    page.out.truncate(page.out.trim_end().len());
    page.out + "\n"
}

/// The page as it grows.
struct Page<'a> {
    schema: &'a Value,
    out: String,
    /// Types that have a section, so that one that holds itself has only one.
    documented: Vec<String>,
    /// Keys without a doc comment.
    undocumented: Vec<String>,
}

impl<'a> Page<'a> {
    /// What a reference, an optional value or a list's item is.
    fn resolved(&self, node: &'a Value) -> &'a Value {
        if let Some(name) = reference(node) {
            return &self.schema["$defs"][name];
        }
        let any_of = node["anyOf"].as_array().map(Vec::as_slice).unwrap_or_default();
        match any_of.iter().find(|choice| reference(choice).is_some()) {
            Some(choice) => self.resolved(choice),
            None => node,
        }
    }

    /// The map of keys in a node, or in its list's items, and the type's name.
    fn block(&self, node: &'a Value) -> Option<(&'a Value, Option<&'a str>)> {
        let resolved = self.resolved(node);
        if resolved["type"] == "array" {
            return self.block(&resolved["items"]);
        }
        // Of what is either a word or a map, the map.
        let any_of = resolved["anyOf"].as_array().map(Vec::as_slice).unwrap_or_default();
        if let Some(choice) = any_of.iter().find(|choice| reference(choice).is_some()) {
            return self.block(choice);
        }
        let any_of = node["anyOf"].as_array().map(Vec::as_slice).unwrap_or_default();
        let name = reference(node).or_else(|| any_of.iter().find_map(reference));
        resolved["properties"].is_object().then_some((resolved, name))
    }

    /// A heading, what the block is, its table, then its inner blocks.
    fn section(&mut self, path: &str, node: &'a Value, level: usize) {
        let Some((block, name)) = self.block(node) else { return };
        let inner_of_itself = name.is_some_and(|name| self.documented.iter().any(|known| known == name));
        if inner_of_itself {
            return;
        }
        self.documented.extend(name.map(str::to_owned));
        let _ = write!(self.out, "\n{} `{path}`\n\n", "#".repeat(level.min(4)));
        if let Some(text) = block["description"].as_str() {
            let _ = write!(self.out, "{}\n\n", text.split_whitespace().collect::<Vec<_>>().join(" "));
        }
        self.table(path, block);
        for (key, inner) in properties(block) {
            let list = if self.resolved(inner)["type"] == "array" { "[]" } else { "" };
            self.section(&format!("{path}.{key}{list}"), inner, level + 1);
        }
        if let Some(name) = name {
            self.documented.retain(|known| known != name);
        }
    }

    /// A row for each key; those that are required first.
    fn table(&mut self, path: &str, block: &'a Value) {
        self.out += "| Key | Type | Default | Meaning |\n|---|---|---|---|\n";
        if properties(block).next().is_none() {
            self.out
                .truncate(self.out.len() - "| Key | Type | Default | Meaning |\n|---|---|---|---|\n".len());
            self.out += "No keys.\n";
        }
        let required =
            |key: &str| block["required"].as_array().is_some_and(|keys| keys.iter().any(|k| k == key));
        for wanted in [true, false] {
            for (key, node) in properties(block).filter(|(key, _)| required(key) == wanted) {
                let default = if wanted { "*required*".to_owned() } else { default(node) };
                let description =
                    node["description"].as_str().or(self.resolved(node)["description"].as_str());
                let meaning = description.unwrap_or_default();
                if meaning.is_empty() {
                    self.undocumented.push(format!("{path}.{key}"));
                }
                let meaning = meaning.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
                let _ = writeln!(self.out, "| `{key}` | {} | {default} | {meaning} |", self.type_of(node));
            }
        }
    }

    /// A type in words.
    fn type_of(&self, node: &'a Value) -> String {
        if let Some(format) = node["format"].as_str().filter(|format| !format.contains("int")) {
            return match format {
                "password" => "secret".to_owned(),
                "float" | "double" => "number".to_owned(),
                other => other.to_owned(),
            };
        }
        let node = self.resolved(node);
        if let Some(words) = words(node) {
            return words;
        }
        let any_of = node["anyOf"].as_array().map(Vec::as_slice).unwrap_or_default();
        if !any_of.is_empty() {
            let mut types: Vec<_> =
                any_of.iter().filter(|choice| choice["type"] != "null").map(|c| self.type_of(c)).collect();
            types.dedup();
            return types.join(" or ");
        }
        let one = |kind: &str| match kind {
            "string" => "text".to_owned(),
            "integer" => "number".to_owned(),
            "boolean" => "`true` or `false`".to_owned(),
            "array" => format!("list of {}", plural(&self.type_of(&node["items"]))),
            "object" if node["additionalProperties"].is_object() => {
                format!("map to {}", self.type_of(&node["additionalProperties"]))
            }
            "object" => "block".to_owned(),
            other => other.to_owned(),
        };
        match &node["type"] {
            Value::String(kind) if node["format"].is_string() && kind == "string" => self.type_of(node),
            Value::String(kind) => one(kind),
            Value::Array(kinds) => {
                let kinds = kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null");
                kinds.map(one).collect::<Vec<_>>().join(" or ")
            }
            _ => "any".to_owned(),
        }
    }
}

fn plural(word: &str) -> String {
    if let Some((one, other)) = word.split_once(" or ") {
        return format!("{} or {}", plural(one), plural(other));
    }
    match word {
        "text" | "number" | "block" | "secret" | "duration" | "size" => format!("{word}s"),
        other => other.to_owned(),
    }
}

/// The words of an enumeration, whichever way the schema writes it.
fn words(node: &Value) -> Option<String> {
    let mut words = Vec::new();
    let variants = node["oneOf"].as_array().map(Vec::as_slice).unwrap_or_default();
    for choice in std::iter::once(node).chain(variants) {
        words.extend(choice["enum"].as_array().into_iter().flatten());
        words.extend(choice.get("const"));
    }
    let words: Vec<_> =
        words.into_iter().filter(|word| !word.is_null()).map(|word| format!("`{}`", plain(word))).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

fn default(node: &Value) -> String {
    match &node["default"] {
        Value::Null => "–".to_owned(),
        Value::Object(map) if map.is_empty() => "–".to_owned(),
        Value::Array(list) if list.is_empty() => "none".to_owned(),
        // The keys of a block say their own.
        Value::Object(_) => "–".to_owned(),
        other => format!("`{}`", plain(other)),
    }
}

/// A value as YAML writes it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "\"\"".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn reference(node: &Value) -> Option<&str> {
    node["$ref"].as_str()?.strip_prefix("#/$defs/")
}

fn properties(block: &Value) -> impl Iterator<Item = (&String, &Value)> {
    block["properties"].as_object().into_iter().flat_map(Map::iter)
}
