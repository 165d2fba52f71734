//! `${NAME}`, `${NAME:-default}` and `${file:PATH}`, filled in.

use std::io;
use std::path::Path;

use super::problem::{KeyPath, Report};
use super::tree::{Node, Value};

/// The largest file that `${file:…}` takes, in bytes.
pub const FILE_BYTES_MAX: u64 = 64 << 10;

/// What a configuration may ask of the world around it.
pub struct Surroundings<'a> {
    /// An environment variable's value.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// A file's text.
    pub read: &'a dyn Fn(&Path) -> io::Result<String>,
}

/// Fills in every scalar below `node`. Each `${…}` that cannot be is reported, and the scalar
/// skipped; each value that was is hidden from what is reported later.
pub fn fill(node: &mut Node, path: &KeyPath, around: &Surroundings<'_>, report: &mut Report) {
    let place = node.place;
    match &mut node.value {
        Value::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                fill(item, &path.index(index), around, report);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                let path = path.key(&entry.key);
                if entry.key.contains("${") {
                    report.error(
                        Some(entry.place),
                        path.clone(),
                        "`${…}` is filled in in values, not in keys",
                    );
                }
                fill(&mut entry.value, &path, around, report);
            }
        }
        Value::Scalar { text, .. } if text.contains("${") => match expand(text, around) {
            Ok(Filled { text: filled, values }) => {
                for (value, written) in &values {
                    report.hide(value, written);
                }
                let written = std::mem::replace(text, filled);
                // `$${` alone is an escape; there is nothing to hide.
                node.written = (!values.is_empty()).then_some(written);
            }
            Err(wrong) => {
                for text in wrong {
                    report.error(Some(place), path.clone(), text);
                }
                node.skipped = true;
            }
        },
        Value::Scalar { .. } => {}
    }
}

#[derive(Debug, Default, PartialEq)]
struct Filled {
    text: String,
    /// Each value that was filled in, with the `${…}` it came from.
    values: Vec<(String, String)>,
}

/// # Errors
/// A sentence for each `${…}` that cannot be filled in.
fn expand(text: &str, around: &Surroundings<'_>) -> Result<Filled, Vec<String>> {
    let mut filled = Filled::default();
    let mut wrong = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            filled.text.push_str(before);
            filled.text.push_str("${");
            rest = &from[2..];
            continue;
        }
        filled.text.push_str(before);
        let Some(end) = from.find('}') else {
            wrong.push("`${` without its `}`; write `$${` for the characters themselves".to_owned());
            rest = "";
            break;
        };
        match value(&from[2..end], around) {
            Ok(value) => {
                filled.text.push_str(&value);
                filled.values.push((value, from[..=end].to_owned()));
            }
            Err(text) => wrong.push(text),
        }
        rest = &from[end + 1..];
    }
    filled.text.push_str(rest);
    if wrong.is_empty() { Ok(filled) } else { Err(wrong) }
}

/// What stands for the inside of one `${…}`.
fn value(inside: &str, around: &Surroundings<'_>) -> Result<String, String> {
    if let Some(path) = inside.strip_prefix("file:") {
        return file(path, around);
    }
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if name.is_empty() || !is_name || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(format!(
            "`${{{inside}}}` is none of ${{NAME}}, ${{NAME:-default}} and ${{file:PATH}}; write `$${{` for \
             the characters themselves"
        ));
    }
    if default.is_some_and(|default| default.contains("${")) {
        return Err(format!("a `${{…}}` cannot stand in the default of another, here of `{name}`"));
    }
    match ((around.env)(name), default) {
        // As in a shell, `:-` stands in for an empty value too.
        (Some(value), default) if !value.is_empty() || default.is_none() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (_, None) => Err(format!(
            "the environment variable `{name}` is not set; set it, or give a default: ${{{name}:-…}}"
        )),
    }
}

fn file(path: &str, around: &Surroundings<'_>) -> Result<String, String> {
    let text = (around.read)(Path::new(path)).map_err(|error| format!("cannot read `{path}`: {error}"))?;
    // Editors and `echo` end a file with a line feed that is no part of a secret.
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, Vec<String>> {
        let env = |name: &str| match name {
            "A" => Some("one".to_owned()),
            "YAML" => Some("x: [1, *y".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let read = |path: &Path| match path.to_str() {
            Some("/run/secret") => Ok("s3cret\n".to_owned()),
            _ => Err(io::Error::from(io::ErrorKind::NotFound)),
        };
        expand(text, &Surroundings { env: &env, read: &read }).map(|filled| filled.text)
    }

    #[test]
    fn fills_in() {
        let cases = [
            ("${A}", "one"),
            ("a ${A}-${A} z", "a one-one z"),
            ("${B:-two}", "two"),
            ("${EMPTY:-three}", "three"),
            ("[${EMPTY}]", "[]"),
            ("${B:-}", ""),
            ("${file:/run/secret}", "s3cret"),
            ("$${A} $$ $A {action}", "${A} $$ $A {action}"),
            ("$$${A}", "$${A}"),
            ("${YAML}", "x: [1, *y"),
        ];
        for (text, expected) in cases {
            assert_eq!(expanded(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn says_what_it_cannot() {
        let cases = [
            ("${B}", "the environment variable `B` is not set; set it, or give a default: ${B:-…}"),
            ("${file:/no}", "cannot read `/no`: entity not found"),
            ("${A", "`${` without its `}`; write `$${` for the characters themselves"),
            (
                "${a b}",
                "`${a b}` is none of ${NAME}, ${NAME:-default} and ${file:PATH}; write `$${` for the \
                 characters themselves",
            ),
            ("${B:-${A}}", "a `${…}` cannot stand in the default of another, here of `B`"),
        ];
        for (text, expected) in cases {
            assert_eq!(expanded(text), Err(vec![expected.to_owned()]), "{text}");
        }
        assert_eq!(expanded("${B} ${C}").unwrap_err().len(), 2);
    }
}
