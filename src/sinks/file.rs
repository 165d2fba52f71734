//! The File sink.

use super::{Context, Naming, Options, Sink};

/// Options of the File sink.
#[derive(Clone, Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileOptions {}

impl Options for FileOptions {
    fn problems(&self) -> Vec<(String, String)> {
        Vec::new()
    }
    fn naming(&self) -> Naming {
        Naming::Path
    }
    fn target(&self) -> String {
        String::new()
    }
    fn build(&self, _context: Context) -> Box<dyn Sink> {
        unreachable!("written next")
    }
}
