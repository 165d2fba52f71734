//! Finds durations without a unit, in every block, by the schema that the types make.

use schemars::schema_for;
use serde_json::Value;

use super::Checker;
use crate::config::problem::KeyPath;
use crate::config::shape::Shape;
use crate::config::tree::Node;
use crate::config::units::Time;

impl Checker<'_> {
    /// Warns of each duration that is a bare number: milliseconds here, nanoseconds to a registry.
    pub(super) fn bare_durations(&mut self) {
        let schema = schema_for!(Shape).to_value();
        let mut found = Vec::new();
        find(&schema, &schema, self.tree, &KeyPath::default(), &mut found);
        for (path, time) in found {
            let text = format!(
                "a duration without a unit is taken as milliseconds here, as nanoseconds by a registry; write {time}"
            );
            self.warn(&path, text);
        }
    }
}

/// Goes through the tree and its schema side by side. The tree's depth is bounded, and so is this.
fn find(root: &Value, schema: &Value, node: &Node, path: &KeyPath, found: &mut Vec<(KeyPath, Time)>) {
    if node.skipped {
        return;
    }
    if schema["format"] == "duration" {
        let time = node.text().and_then(|text| Time::parse(text).ok());
        found
            .extend(time.filter(|time| time.unitless && !time.duration.is_zero()).map(|t| (path.clone(), t)));
        return;
    }
    if let Some(name) = schema["$ref"].as_str().and_then(|name| name.strip_prefix("#/$defs/")) {
        find(root, &root["$defs"][name], node, path, found);
    }
    for choice in schema["anyOf"].as_array().into_iter().flatten() {
        find(root, choice, node, path, found);
    }
    for (index, item) in node.items().iter().enumerate() {
        find(root, &schema["items"], item, &path.index(index), found);
    }
    for entry in node.entries() {
        find(root, &schema["properties"][&entry.key], &entry.value, &path.key(&entry.key), found);
    }
}
