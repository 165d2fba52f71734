//! The Kafka sink.

use super::{Context, Naming, Options, Sink};

/// Options of the Kafka sink.
#[derive(Clone, Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaOptions {}

impl Options for KafkaOptions {
    fn problems(&self) -> Vec<(String, String)> {
        Vec::new()
    }
    fn naming(&self) -> Naming {
        Naming::Kafka
    }
    fn target(&self) -> String {
        String::new()
    }
    fn build(&self, _context: Context) -> Box<dyn Sink> {
        unreachable!("written next")
    }
}
