//! The shipped configuration and the examples: they load, and they leave nothing out.

use std::path::{Path, PathBuf};

use super::*;
use crate::config::shape::Shape;

fn shipped(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn load_shipped(file: &str) -> Loaded {
    let around = Surroundings { env: &|_| None, read: &read_file };
    parse(&shipped(file), file, &around).unwrap_or_else(|errors| panic!("{:#?}", lines(&errors)))
}

#[test]
fn the_shipped_configuration_needs_no_broker() {
    let Loaded { config, warnings } = load_shipped("relay.yml");
    let kinds: Vec<_> = config.sinks.iter().map(|sink| sink.options.key()).collect();
    assert_eq!(kinds, ["file", "stream"]);
    assert_eq!(config.sinks[0].topic.as_str(), "registry.{action}.jsonl");
    assert_eq!(config.journal.path, Path::new("./relay-data"));
    // That everybody can send is said; nothing else is doubtful.
    assert_eq!(warnings.len(), 1, "{:#?}", lines(&warnings));
}

#[test]
fn examples_load_without_a_doubt() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let files: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("examples").map(|entry| entry.expect("an entry").path()).collect();
    let yaml: Vec<_> = files.iter().filter(|path| path.extension().is_some_and(|ext| ext == "yml")).collect();
    assert!(yaml.len() >= 6, "{yaml:?}");
    for path in yaml {
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        let Loaded { warnings, .. } = load_shipped(&format!("examples/{name}"));
        assert!(warnings.is_empty(), "{:#?}", lines(&warnings));
    }
}

/// Every key of a sink's block stands in its example, if only as a comment.
#[test]
fn examples_leave_no_option_out() {
    let schema = serde_json::to_value(schemars::schema_for!(Shape)).expect("a schema is JSON");
    for kind in ["kafka", "rabbitmq", "nats", "webhook", "file"] {
        let example = shipped(&format!("examples/{kind}.yml"));
        let mut keys = Vec::new();
        collect_keys(&schema, &schema["$defs"]["Sink"]["properties"][kind], &mut keys);
        assert!(!keys.is_empty());
        let missing: Vec<_> = keys.iter().filter(|key| !example.contains(&format!("{key}:"))).collect();
        assert!(missing.is_empty(), "examples/{kind}.yml does not show {missing:?}");
    }
    let all = shipped("examples/all.yml");
    for block in ["Receiver", "Tls", "Admin", "Journal", "Quarantine", "DeadLetters", "Ignore", "Route"] {
        for key in schema["$defs"][block]["properties"].as_object().expect(block).keys() {
            assert!(all.contains(&format!("{key}:")), "examples/all.yml does not show {block}'s {key}");
        }
    }
}

fn collect_keys(schema: &serde_json::Value, node: &serde_json::Value, keys: &mut Vec<String>) {
    let choices = node["anyOf"].as_array().into_iter().flatten();
    for choice in std::iter::once(node).chain(choices) {
        if let Some(name) = choice["$ref"].as_str() {
            collect_keys(schema, &schema["$defs"][name.trim_start_matches("#/$defs/")], keys);
        }
    }
    for (key, inner) in node["properties"].as_object().into_iter().flatten() {
        keys.push(key.clone());
        collect_keys(schema, inner, keys);
    }
}
