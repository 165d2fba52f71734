//! `relay check`.

use std::io::Write as _;
use std::time::{Duration, Instant};

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use futures_util::future::join_all;

use super::{ConfigArg, Failure};
use crate::config::{Config, Loaded, SinkConfig};
use crate::sinks::Options;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  relay check
  relay check -c /etc/relay/relay.yml --connect

Every mistake is printed at its line and column. Exits with 78 when there is one, with 1
when a sink cannot be reached. --connect also declares the topics, exchanges or streams that
a sink is configured to create; it sends nothing.")]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArg,

    /// Connect to each sink's destination too
    #[arg(long)]
    connect: bool,
}

pub(super) async fn run(args: &Args) -> Result<(), Failure> {
    let Loaded { config, warnings } = super::load_with_warnings(&args.config)?;
    for warning in &warnings {
        eprintln!("warning: {warning}");
    }
    let mut out = std::io::stdout().lock();
    write!(out, "{}\n{}\n", sinks(&config), routes(&config))?;
    writeln!(out, "{} is right.", args.config.path.display())?;
    if !args.connect {
        return Ok(());
    }
    writeln!(out)?;
    let reports = join_all((0..config.sinks.len()).map(|index| connect(&config, index))).await;
    for report in &reports {
        writeln!(out, "{}", report.line)?;
    }
    match reports.iter().filter(|report| report.failed).count() {
        0 => Ok(()),
        1 => Err(Failure::Other("one sink cannot be reached".to_owned())),
        failed => Err(Failure::Other(format!("{failed} sinks cannot be reached"))),
    }
}

fn sinks(config: &Config) -> String {
    let mut table = table(["SINK", "KIND", "GOES TO", "FORMAT", "IGNORES"]);
    for sink in &config.sinks {
        let target = sink.options.options().map_or_else(|| stream_target(config), Options::target);
        let ignored: Vec<_> = sink.ignore_actions.iter().chain(&sink.ignore_mediatypes).cloned().collect();
        table.add_row([
            sink.name.clone(),
            sink.options.key().to_owned(),
            if sink.disabled { "(disabled)".to_owned() } else { target },
            sink.format.as_str().to_owned(),
            if ignored.is_empty() { "-".to_owned() } else { ignored.join(", ") },
        ]);
    }
    table.trim_fmt() + "\n"
}

fn stream_target(config: &Config) -> String {
    config.admin.as_ref().map_or_else(String::new, |admin| format!("{}/stream", admin.listen))
}

/// The routing table: a line for each destination of each route.
fn routes(config: &Config) -> String {
    let mut table = table(["ROUTE", "TAKES", "SINK", "TOPIC", "KEY"]);
    for (index, route) in config.table.routes().iter().enumerate() {
        let takes = if route.otherwise { "what no other does".to_owned() } else { route.matcher.to_string() };
        for (nth, target) in config.table.targets_of(index).iter().enumerate() {
            let first = |text: &str| if nth == 0 { text.to_owned() } else { String::new() };
            table.add_row([
                first(&route.name),
                first(&takes),
                config.sinks[target.sink].name.clone(),
                target.topic.as_str().to_owned(),
                target.key.as_str().to_owned(),
            ]);
        }
    }
    table.trim_fmt() + "\n"
}

fn table<const COLUMNS: usize>(header: [&str; COLUMNS]) -> Table {
    let mut table = Table::new();
    // Long lines stay lines, for `grep` and `awk`.
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    table
}

/// How a sink's connection went.
struct Report {
    line: String,
    failed: bool,
}

/// One attempt, within the sink's own timeout.
async fn connect(config: &Config, index: usize) -> Report {
    let SinkConfig { name, timeout, options, disabled, .. } = &config.sinks[index];
    let Some(options) = options.options().filter(|_| !disabled) else {
        let why = if *disabled { "disabled" } else { "part of this relay" };
        return Report { line: format!("{name}: nothing to connect to, it is {why}"), failed: false };
    };
    let mut sink = options.build(config.context(index));
    let begun = Instant::now();
    let connected = tokio::time::timeout(*timeout, sink.connect()).await;
    let took = begun.elapsed().as_millis();
    // What hangs at connecting may hang at closing too; the process ends soon enough without.
    let _ = tokio::time::timeout(Duration::from_secs(1), sink.close()).await;
    let target = options.target();
    match connected {
        Ok(Ok(())) => Report { line: format!("{name}: connected to {target} in {took} ms"), failed: false },
        Ok(Err(fault)) => Report { line: format!("{name}: FAILED: {fault}"), failed: true },
        Err(_) => {
            let line = format!("{name}: FAILED: no answer from {target} within {took} ms");
            Report { line, failed: true }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Surroundings, parse};

    fn config(text: &str) -> Config {
        let around = Surroundings { env: &|_| None, read: &|_| Err(std::io::ErrorKind::NotFound.into()) };
        parse(text, "relay.yml", &around).expect("a configuration").config
    }

    #[test]
    fn prints_where_everything_goes() {
        let config = config(
            "sinks:\n\
             - {name: live, stream: }\n\
             - {name: out, stdout: , ignore: {actions: [pull]}, format: envelope}\n\
             - {name: off, stdout: , disabled: true}\n\
             routes:\n\
             - {name: pushes, match: {actions: [push], not: {tags: [tmp]}}, to: [live, {sink: out, topic: t}]}\n\
             - {name: rest, otherwise: true, to: [live]}\n",
        );
        insta::assert_snapshot!(format!("{}\n{}", sinks(&config), routes(&config)));
    }
}
