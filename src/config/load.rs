//! From a file to a checked configuration.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::Config;
use super::check::check;
use super::fill::{FILE_BYTES_MAX, Surroundings, fill};
use super::problem::{KeyPath, Problem, Report};
use super::read::read;
use super::shape::Shape;
use super::tree::{Entry, Node, TEXT_BYTES_MAX, Value};
use crate::route::Conditions;

/// A configuration that can run.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// What is legal and probably not meant.
    pub warnings: Vec<Problem>,
}

/// Reads and checks the configuration at `path`. `env` gives an environment variable's value;
/// `${file:…}` is read from the file system.
///
/// # Errors
/// Everything that is wrong with it, in the file's order.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Vec<Problem>> {
    let name = path.display().to_string();
    let text = read_text(path, TEXT_BYTES_MAX as u64).map_err(|error| {
        let text = format!("cannot be read: {error}; name another with -c");
        vec![Problem { file: name.clone(), place: None, path: KeyPath::default(), text }]
    })?;
    parse(&text, &name, &Surroundings { env, read: &|path| read_text(path, FILE_BYTES_MAX) })
}

/// Checks a configuration's text; `name` is what its problems call the file.
///
/// # Errors
/// Everything that is wrong with it, in the text's order.
pub fn parse(text: &str, name: &str, around: &Surroundings<'_>) -> Result<Loaded, Vec<Problem>> {
    let mut report = Report::default();
    let config = parse_into(text, around, &mut report);
    let (errors, warnings) = report.finish(name);
    match config {
        Some(config) if errors.is_empty() => Ok(Loaded { config, warnings }),
        _ => Err(errors),
    }
}

/// Reads a route's `match` alone, as a command or a request gives it.
///
/// # Errors
/// Everything that is wrong with it; the text is called `match`.
pub fn conditions(text: &str) -> Result<Conditions, Vec<Problem>> {
    let mut report = Report::default();
    let conditions = Node::parse(text, &mut report).and_then(|mut tree| read(&mut tree, &mut report));
    let (errors, _) = report.finish("match");
    match conditions {
        Some(conditions) if errors.is_empty() => Ok(conditions),
        _ => Err(errors),
    }
}

fn parse_into(text: &str, around: &Surroundings<'_>, report: &mut Report) -> Option<Config> {
    let mut tree = Node::parse(text, report)?;
    fill(&mut tree, &KeyPath::default(), around, report);
    for sink in sinks_of(&mut tree) {
        move_url(sink);
    }
    let shape: Shape = read(&mut tree, report)?;
    check(shape, &tree, around, report)
}

fn sinks_of(tree: &mut Node) -> &mut [Node] {
    let Value::Map(entries) = &mut tree.value else { return &mut [] };
    let sinks = entries.iter_mut().find(|entry| entry.key == "sinks");
    match sinks.map(|entry| &mut entry.value.value) {
        Some(Value::List(items)) => items,
        _ => &mut [],
    }
}

/// A registry's endpoint has its `url` beside its `name`: that is a webhook's.
fn move_url(sink: &mut Node) {
    let Value::Map(entries) = &mut sink.value else { return };
    let is_other = |entry: &Entry| super::check::KINDS.contains(&entry.key.as_str());
    if entries.iter().any(is_other) {
        return;
    }
    let Some(at) = entries.iter().position(|entry| entry.key == "url") else { return };
    let url = entries.remove(at);
    let place = url.place;
    entries.push(Entry { key: "webhook".to_owned(), place, value: Node::new(place, Value::Map(vec![url])) });
}

/// A file's text, of `bytes_max` bytes at most.
fn read_text(path: &Path, bytes_max: u64) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?.take(bytes_max + 1).read_to_string(&mut text)?;
    if read as u64 > bytes_max {
        let text = format!("larger than {} KiB, the most that is read", bytes_max >> 10);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(text)
}
