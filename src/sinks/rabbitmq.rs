//! The RabbitMq sink.

use super::{Context, Naming, Options, Sink};

/// Options of the RabbitMq sink.
#[derive(Clone, Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RabbitMqOptions {}

impl Options for RabbitMqOptions {
    fn problems(&self) -> Vec<(String, String)> {
        Vec::new()
    }
    fn naming(&self) -> Naming {
        Naming::Amqp
    }
    fn target(&self) -> String {
        String::new()
    }
    fn build(&self, _context: Context) -> Box<dyn Sink> {
        unreachable!("written next")
    }
}
