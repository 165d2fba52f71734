//! The Nats sink.

use super::{Context, Naming, Options, Sink};

/// Options of the Nats sink.
#[derive(Clone, Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NatsOptions {}

impl Options for NatsOptions {
    fn problems(&self) -> Vec<(String, String)> {
        Vec::new()
    }
    fn naming(&self) -> Naming {
        Naming::Nats
    }
    fn target(&self) -> String {
        String::new()
    }
    fn build(&self, _context: Context) -> Box<dyn Sink> {
        unreachable!("written next")
    }
}
