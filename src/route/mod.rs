//! Which sinks get an event, and under which topic and key.

mod index;
mod matcher;
mod table;
mod template;

pub use matcher::{Conditions, Matcher, PatternError};
pub use table::{Filter, Route, Table, Target, TargetId};
pub(crate) use template::nearest;
pub use template::{Placeholder, Template, TemplateError};
