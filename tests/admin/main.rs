//! The admin listener, over HTTP, on a real journal.

mod harness;
mod stream;

use relay::delivery::BreakerState;
use relay::telemetry::Metrics;

use harness::{Relay, Setup};

#[tokio::test]
async fn lives_and_is_ready_until_it_stops() {
    let relay = Relay::start(Setup::default()).await;
    assert_eq!(relay.get("/healthz").await.json()["status"], "ok");
    assert_eq!(relay.get("/readyz").await.json()["status"], "ready");

    // Not even for a sink that has failed for long.
    relay.bus.failed("connection refused", 1, BreakerState::Open, 7, false);
    assert_eq!(relay.get("/readyz").await.status, 200);

    relay.stopping.send_replace(true);
    assert_eq!(relay.get("/readyz").await.problem(503), "the relay is stopping");
    assert_eq!(relay.get("/healthz").await.status, 200);
    relay.stop().await;
}

#[tokio::test]
async fn is_not_ready_while_the_journal_is_full() {
    let setup = Setup { journal_bytes_max: 32 << 10, segment_bytes: 8 << 10, ..Setup::default() };
    let relay = Relay::start(setup).await;
    use relay::journal::Journal as _;
    relay.journal.save_cursor("bus", 1);
    let event = format!(r#"{{"action":"push","pad":"{}"}}"#, "x".repeat(2000));
    let event = relay::event::Event::parse(event.into()).expect("an event");
    while relay.journal.append(vec![event.clone()], 1).await.is_ok() {}
    let detail = relay.get("/readyz").await.problem(503);
    assert_eq!(detail, "the journal is full; its space is held by the backlog of sink `bus`");
    let status = relay.get("/api/v1/status").await.json();
    assert_eq!((&status["ready"], &status["reason"]), (&false.into(), &detail.into()));
    assert_eq!(status["journal"]["held_by"], "bus");
    let metrics = relay.get("/metrics").await;
    assert!(metrics.text().contains("\nrelay_ready 0\n"), "{}", metrics.text());
}

#[tokio::test]
async fn status_shows_every_part() {
    let relay = Relay::start(Setup::default()).await;
    relay.append(r#"{"action":"push"}"#).await;
    relay.metrics.events_received.inc();
    relay.bus.oldest.store(1, std::sync::atomic::Ordering::Relaxed);
    relay.bus.position.store(1, std::sync::atomic::Ordering::Relaxed);
    relay.bus.failed("connection refused", 61_000_000, BreakerState::Open, 7, false);
    let answer = relay.get("/api/v1/status").await;
    assert_eq!(answer.headers["content-type"], "application/json");
    let status = answer.json();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["ready"], true);
    assert_eq!(status["receiver"]["listen"], "127.0.0.1:8080");
    assert_eq!(status["receiver"]["received"], 1);
    assert_eq!((&status["journal"]["first"], &status["journal"]["next"]), (&1.into(), &2.into()));
    let bus = &status["sinks"][0];
    assert_eq!(
        (&bus["name"], &bus["breaker"], &bus["lag_events"]),
        (&"bus".into(), &"open".into(), &1.into())
    );
    assert_eq!(bus["last_error"]["text"], "connection refused");
    assert!(bus["lag_seconds"].as_f64().is_some_and(|lag| lag > 1e9), "{bus}");
    // The command reads it back with the same type.
    serde_json::from_value::<relay::admin::Status>(status).expect("a status");
}

#[tokio::test]
async fn metrics_are_open_metrics() {
    let relay = Relay::start(Setup::default()).await;
    let label = relay::telemetry::CodeLabel { sink: "bus".into(), code: "too_large".into() };
    relay.metrics.sink_dead_lettered.get_or_create(&label).inc_by(2);
    relay.bus.failed("x", 1, BreakerState::HalfOpen, 1, true);
    let answer = relay.get("/metrics").await;
    assert_eq!(answer.headers["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    check_open_metrics(answer.text());
    for line in [
        "relay_sink_breaker{sink=\"bus\"} 1",
        "relay_sink_connected{sink=\"bus\"} 1",
        "relay_sink_dead_lettered_total{sink=\"bus\",code=\"too_large\"} 2",
        "relay_journal_head 1",
        "relay_ready 1",
    ] {
        assert!(answer.text().lines().any(|found| found == line), "{line} is not in\n{}", answer.text());
    }
}

/// What OpenMetrics 1.0 asks of a text: each sample below its family's TYPE, with the suffix of its
/// type, families once and unmixed, and `# EOF` at the end.
fn check_open_metrics(text: &str) {
    let body = text.strip_suffix("# EOF\n").expect("an end");
    let (mut family, mut kind, mut seen) = (String::new(), String::new(), std::collections::HashSet::new());
    for line in body.lines() {
        if let Some(described) = line.strip_prefix("# TYPE ") {
            let (name, of) = described.split_once(' ').expect("a name and a type");
            (family, kind) = (name.to_owned(), of.to_owned());
        } else if let Some(described) = line.strip_prefix("# HELP ") {
            let (name, help) = described.split_once(' ').expect("a name and a text");
            assert!(!help.is_empty() && seen.insert(name.to_owned()), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a series and a value");
            let name = series.split('{').next().expect("a name");
            let suffix = name.strip_prefix(&family).unwrap_or_else(|| panic!("{line} is not of {family}"));
            let allowed: &[&str] = match kind.as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                "info" => &["_info"],
                "histogram" => &["_bucket", "_sum", "_count"],
                other => panic!("an unexpected type {other}"),
            };
            assert!(allowed.contains(&suffix), "{line} is not a {kind}");
            value.parse::<f64>().unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}

#[tokio::test]
async fn tokens_guard_all_but_probes() {
    let relay = Relay::start(Setup { tokens: &["first", "second"], ..Setup::default() }).await;
    for open in ["/", "/healthz", "/readyz"] {
        assert_eq!(relay.get(open).await.status, 200, "{open}");
    }
    for guarded in ["/metrics", "/api/v1/status", "/stream"] {
        let answer = relay.get(guarded).await;
        assert!(answer.problem(401).contains("Authorization: Bearer"), "{guarded}");
        assert!(answer.headers.contains_key("www-authenticate"));
        let wrong = relay.get_with(guarded, &[("authorization", "Bearer third")]).await;
        assert_eq!(wrong.status, 401);
    }
    let right = relay.get_with("/metrics", &[("authorization", "Bearer second")]).await;
    assert_eq!(right.status, 200);
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_too() {
    let relay = Relay::start(Setup::default()).await;
    relay.get("/nothing").await.problem(404);
    relay.get("/healthz/more").await.problem(404);
}

#[tokio::test]
async fn the_page_is_whole_and_lets_nothing_else_in() {
    let relay = Relay::start(Setup::default()).await;
    let page = relay.get("/").await;
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    assert!(
        page.headers["content-security-policy"].to_str().expect("text").starts_with("default-src 'self'")
    );
    // Whatever it refers to is there.
    let quoted = page.text().split('"').skip(1).step_by(2);
    let references =
        quoted.filter(|text| text.contains('/') || text.starts_with("page.") || *text == "metrics");
    let mut seen = 0;
    for reference in references.filter(|text| !text.contains(' ')) {
        assert_eq!(relay.get(&format!("/{reference}")).await.status, 200, "{reference}");
        seen += 1;
    }
    assert!(seen >= 4, "{seen}");
}

/// `docs/metrics.md` says what there is; `UPDATE_DOCS=1 cargo test` writes it anew.
#[test]
fn the_reference_of_metrics_is_up_to_date() {
    let mut page = String::from(
        "# Metrics\n\n\
         `GET /metrics` on the admin listener, as OpenMetrics text. Written by `UPDATE_DOCS=1 cargo test --test admin`\n\
         from `src/telemetry.rs`; a test holds it in step.\n\n\
         | name | type | labels | |\n|---|---|---|---|\n",
    );
    for metric in Metrics::new().reference() {
        let labels = metric.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        page += &format!("| `{}` | {} | {labels} | {} |\n", metric.name, metric.kind, metric.help);
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).expect("docs/ can be written");
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == page, "docs/metrics.md is behind: UPDATE_DOCS=1 cargo test --test admin");
}
