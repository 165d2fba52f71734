//! How times and tables are printed.

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};

use crate::journal::Micros;

/// A time in seconds: `2026-11-24T10:00:00Z`.
pub(super) fn time(at: Micros) -> String {
    jiff::Timestamp::from_microsecond(at).map_or_else(|_| "?".to_owned(), |time| format!("{time:.0}"))
}

/// A table without lines, whose rows stay one line each, for `grep` and `awk`.
pub(super) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    table
}

/// Texts of others in a table's cell: one line, and not too long.
pub(super) fn cell(text: &str) -> String {
    const CHARACTERS_MAX: usize = 80;
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let mut out: String = text.chars().take(CHARACTERS_MAX).map(clean).collect();
    if text.chars().nth(CHARACTERS_MAX).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stay_one_line() {
        assert_eq!(cell("a\nb\u{1b}[31m"), "a b [31m");
        assert_eq!(cell(&"x".repeat(200)).chars().count(), 81);
    }
}
