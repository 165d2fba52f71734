//! The Webhook sink.

use super::{Context, Naming, Options, Sink};

/// Options of the Webhook sink.
#[derive(Clone, Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookOptions {}

impl Options for WebhookOptions {
    fn problems(&self) -> Vec<(String, String)> {
        Vec::new()
    }
    fn naming(&self) -> Naming {
        Naming::Plain
    }
    fn target(&self) -> String {
        String::new()
    }
    fn build(&self, _context: Context) -> Box<dyn Sink> {
        unreachable!("written next")
    }
}
