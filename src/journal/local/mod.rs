//! The journal on a local disk.

use std::time::Duration;

/// The longest that a confirmed delivery goes unrecorded; a crash within it delivers again.
pub const CURSOR_SAVE_INTERVAL: Duration = Duration::from_millis(250);
