//! `relay journal`: looks into a journal's folder, read-only and without a relay.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use comfy_table::{Table, presets};
use serde_json::value::RawValue;

use super::{ConfigArg, Failure};
use crate::journal::local::inspect::{self, Damage, SegmentReport};
use crate::journal::{Micros, Offset, Stored};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  relay journal verify                            is everything whole?
  relay journal stat --path /var/lib/relay/journal
  relay journal dump --from 1200 --limit 10       events as JSON Lines

Nothing is changed. While a relay runs on the folder its newest records may be shown as torn.
Exit codes: 0 whole, 1 damaged or unreadable.")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Check every record, and say exactly what is damaged and what is good
    Verify(Common),
    /// Print events as JSON Lines: offset, arrival, and the event as it came
    Dump {
        #[command(flatten)]
        common: Common,
        /// The first offset
        #[arg(long, default_value_t = 1, value_name = "OFFSET")]
        from: Offset,
        /// The offset to stop before
        #[arg(long, value_name = "OFFSET")]
        to: Option<Offset>,
        /// At most this many
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
    },
    /// Print the segments, and where each sink stands
    Stat(Common),
}

#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    config: ConfigArg,
    /// The journal's folder itself, in place of the configuration's
    #[arg(long = "path", value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Common {
    fn folder(&self) -> Result<PathBuf, Failure> {
        match &self.folder {
            Some(folder) => Ok(folder.clone()),
            None => Ok(super::load(&self.config)?.journal.path.join("journal")),
        }
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match &args.action {
        Action::Verify(common) => verify(common),
        Action::Stat(common) => stat(common),
        Action::Dump { common, from, to, limit } => dump(common, *from, *to, *limit),
    }
}

fn walk(
    folder: &Path,
    visit: &mut dyn FnMut(Stored) -> io::Result<()>,
) -> Result<Vec<SegmentReport>, Failure> {
    let reports = inspect::walk(folder, visit);
    let reports = reports.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => Failure::Other(format!("{}: {error}", folder.display())),
    })?;
    if reports.is_empty() {
        return Err(Failure::Other(format!("{} holds no journal", folder.display())));
    }
    Ok(reports)
}

fn verify(common: &Common) -> Result<(), Failure> {
    let reports = walk(&common.folder()?, &mut |_| Ok(()))?;
    let mut out = io::stdout().lock();
    if common.json {
        serde_json::to_writer_pretty(&mut out, &reports).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        for report in &reports {
            tell(&mut out, report)?;
        }
    }
    let damaged = reports.iter().filter(|report| report.is_damaged()).count();
    let records: u64 = reports.iter().map(|report| report.records).sum();
    if damaged > 0 {
        let lost: u64 =
            reports.iter().flat_map(|report| &report.damage).map(|d| d.lost.end - d.lost.start).sum();
        let text = format!(
            "{damaged} of {} segments are damaged: {records} records are good, {lost} are lost",
            reports.len()
        );
        return Err(Failure::Other(text));
    }
    if !common.json {
        writeln!(out, "whole: {records} records in {} segments", reports.len())?;
    }
    Ok(())
}

fn tell(out: &mut impl Write, report: &SegmentReport) -> io::Result<()> {
    let name = report.path.display();
    let offsets = match (report.first, report.last) {
        (Some(first), Some(last)) => format!("offsets {first} to {last}"),
        _ => "empty".to_owned(),
    };
    writeln!(out, "{name}: {} records, {offsets}", report.records)?;
    if !report.header {
        writeln!(out, "  the header is damaged; the records do not need it")?;
    }
    for damage in &report.damage {
        let Damage { bytes, lost } = damage;
        write!(out, "  damaged: bytes {} to {}, ", bytes.start, bytes.end - 1)?;
        if lost.is_empty() {
            writeln!(out, "between records: nothing is lost")?;
        } else {
            writeln!(out, "offsets {} to {} are lost", lost.start, lost.end - 1)?;
        }
    }
    if report.undecodable > 0 {
        writeln!(out, "  {} records hold events that this version cannot read", report.undecodable)?;
    }
    if let Some(at) = report.torn_at {
        writeln!(out, "  torn tail at byte {at}: a crash; nothing in it was acknowledged")?;
    }
    Ok(())
}

fn stat(common: &Common) -> Result<(), Failure> {
    let folder = common.folder()?;
    let reports = walk(&folder, &mut |_| Ok(()))?;
    let cursors = inspect::cursors(&folder)?;
    let mut out = io::stdout().lock();
    if common.json {
        let json = serde_json::json!({"segments": reports, "cursors": cursors.iter().cloned().collect::<std::collections::BTreeMap<_, _>>()});
        writeln!(out, "{json:#}")?;
        return Ok(());
    }
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(["SEGMENT", "BYTES", "RECORDS", "FIRST", "LAST", "OLDEST", "NEWEST"]);
    let number = |offset: Option<Offset>| offset.map_or("-".to_owned(), |offset| offset.to_string());
    for report in &reports {
        let name = report.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        table.add_row([
            name,
            report.bytes.to_string(),
            report.records.to_string(),
            number(report.first),
            number(report.last),
            time(report.oldest),
            time(report.newest),
        ]);
    }
    writeln!(out, "{table}\n")?;
    let head =
        reports.last().and_then(|report| report.last.map(|last| last + 1).or(Some(report.base))).unwrap_or(1);
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["SINK", "CURSOR", "BEHIND"]);
    for (sink, cursor) in cursors {
        table.add_row([sink, cursor.to_string(), head.saturating_sub(cursor).to_string()]);
    }
    writeln!(out, "{table}")?;
    Ok(())
}

fn time(at: Option<Micros>) -> String {
    let at = at.and_then(|at| jiff::Timestamp::from_microsecond(at).ok());
    at.map_or("-".to_owned(), |at| format!("{at:.3}"))
}

/// One line of a dump.
#[derive(serde::Serialize)]
struct Line<'a> {
    offset: Offset,
    arrived: String,
    event: &'a RawValue,
}

fn dump(common: &Common, from: Offset, to: Option<Offset>, limit: Option<u64>) -> Result<(), Failure> {
    let folder = common.folder()?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut left = limit.unwrap_or(u64::MAX);
    let reports = walk(&folder, &mut |stored| {
        if stored.offset < from || to.is_some_and(|to| stored.offset >= to) || left == 0 {
            return Ok(());
        }
        left -= 1;
        let event = crate::event::compact(stored.event.raw());
        let event: &RawValue = serde_json::from_slice(&event).map_err(io::Error::from)?;
        let line = Line { offset: stored.offset, arrived: time(Some(stored.arrived)), event };
        serde_json::to_writer(&mut out, &line).map_err(io::Error::from)?;
        out.write_all(b"\n")
    })?;
    out.flush()?;
    let damaged = reports.iter().filter(|report| report.is_damaged()).count();
    if damaged > 0 {
        return Err(Failure::Other(format!(
            "{damaged} segments are damaged: `relay journal verify` says where"
        )));
    }
    Ok(())
}
