//! `relay emit` against a real receiver.

use clap::Parser;
use indicatif::ProgressBar;
use relay::cli::emit::{EmitArgs, Report, emit};
use relay::config::Secret;

use crate::rig::Rig;
use crate::tls::Certificates;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: EmitArgs,
}

fn arguments(to: &str, more: &[&str]) -> EmitArgs {
    Command::try_parse_from([&["emit", "--to", to], more].concat()).expect("good arguments").args
}

async fn run(to: &str, more: &[&str]) -> Report {
    emit(&arguments(to, more), &ProgressBar::hidden()).await.expect("a usable target")
}

fn url(rig: &Rig) -> String {
    format!("http://{}/events", rig.addr)
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_sent_arrives() {
    let rig = Rig::start();
    let report = run(&url(&rig), &["--count", "25"]).await;
    assert!(report.all_accepted(25), "{report}");
    assert_eq!((report.requests, report.counts.accepted), (25, 25));
    // One sender: the journal has them in order.
    let events = rig.events().await;
    let times: Vec<_> = events.iter().map(|stored| stored.event.timestamp()).collect();
    assert!(times.is_sorted(), "{times:?}");

    let report =
        run(&url(&rig), &["--count", "103", "--batch", "10", "--concurrency", "4", "--keep-alive"]).await;
    assert!(report.all_accepted(103), "{report}");
    assert_eq!((report.requests, report.counts.accepted), (11, 103));
    assert_eq!(rig.events().await.len(), 128);
    assert!(rig.quarantined().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_and_malformed_bodies_are_counted() {
    let rig = Rig::start();
    let report =
        run(&url(&rig), &["--count", "300", "--seed", "1", "--duplicates", "20", "--keep-alive"]).await;
    assert!(report.all_accepted(300), "{report}");
    assert!(report.counts.duplicates > 20, "{report}");
    assert_eq!(report.counts.accepted + report.counts.duplicates, 300);
    let report = run(&url(&rig), &["--count", "50", "--malformed", "100", "--keep-alive"]).await;
    assert!(report.all_accepted(50), "a quarantined body is accepted: {report}");
    assert_eq!((report.counts.quarantined, report.counts.accepted), (50, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_kept() {
    let rig = Rig::start();
    let report = run(&url(&rig), &["--count", "50", "--rate", "200", "--concurrency", "4"]).await;
    assert!(report.all_accepted(50), "{report}");
    assert!(report.took.as_secs_f64() >= 49.0 / 200.0, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_shows() {
    let rig = Rig::with(|config| {
        config.tokens = vec![Secret::new("t")];
        config.users = vec![("u".to_owned(), Secret::new("p"))];
    });
    let count = ["--count", "3"];
    assert!(run(&url(&rig), &[&count[..], &["--token", "t"]].concat()).await.all_accepted(3));
    assert!(run(&url(&rig), &[&count[..], &["--user", "u:p"]].concat()).await.all_accepted(3));
    let report = run(&url(&rig), &[&count[..], &["--token", "wrong"]].concat()).await;
    assert!(!report.all_accepted(3));
    assert_eq!(report.statuses.get(&401), Some(&3), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn gives_up_where_nobody_listens() {
    // Bound, so that nobody else gets the port, but not listening.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let to = format!("http://{}/events", socket.local_addr().expect("an address"));
    let report = run(&to, &["--count", "100000"]).await;
    assert!(report.gave_up && !report.all_accepted(100_000), "{report}");
    assert!(report.requests < 1000, "{report}");
    assert!(report.failures.keys().all(|what| what.starts_with("cannot connect")), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls() {
    let certificates = Certificates::make();
    let rig = Rig::with(|config| config.tls = Some(certificates.config(false)));
    let to = format!("https://localhost:{}/events", rig.addr.port());
    let ca = certificates.path("ca.pem");
    let ca = ca.to_str().expect("a path");
    let report = run(&to, &["--count", "5", "--ca", ca]).await;
    assert!(report.all_accepted(5), "{report}");
}

#[tokio::test]
async fn unusable_targets_are_named() {
    for (to, more, named) in [
        ("relay:8080", &[][..], "--to"),
        ("ftp://relay/events", &[][..], "neither http:// nor https://"),
        ("/events", &[][..], "names no host"),
        ("https://localhost/", &[][..], "--ca"),
        ("https://localhost/", &["--ca", "/nowhere/ca.pem"][..], "/nowhere/ca.pem"),
        ("http://localhost/", &["--token", "a\nb"][..], "--token"),
    ] {
        let error = emit(&arguments(to, more), &ProgressBar::hidden()).await.expect_err(to).to_string();
        assert!(error.contains(named), "{error}");
        assert!(!error.contains("a\nb"));
    }
}
