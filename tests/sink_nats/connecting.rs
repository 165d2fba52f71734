//! Ways to get in, each with a message that goes through, and wrong ones that are refused; and what it
//! means when nobody is there.

use std::{process::Command, time::Duration};

use relay::sinks::{FaultKind, Options as _};

use crate::{
    PASSWORD, context, options, received, server, sink,
    support::{
        self, NO_NAME,
        contract::{BOUND, Driver, WRONG_SECRET, message, messages},
        nats::{Auth, NKEY_SEED, Nats, Options as Server},
        process::Proc,
        proxy::{Direction, Mode, Proxy},
        suite::Suite,
        unique,
    },
    user,
};

pub fn register(suite: &mut Suite) {
    suite.test("connects::token", async || {
        let nats = server(Auth::Token(PASSWORD.to_owned()), &[]).await;
        gets_in(&nats, &format!("token: {PASSWORD}"), Some(&format!("token: {WRONG_SECRET}"))).await;
    });
    suite.test("connects::user", async || {
        let nats = server(user(), &[]).await;
        let wrong = format!("user: relay, password: {WRONG_SECRET}");
        gets_in(&nats, &format!("user: relay, password: {PASSWORD}"), Some(&wrong)).await;
    });
    suite.test("connects::nkey", async || {
        let nats = server(Auth::NKey, &[]).await;
        gets_in(&nats, &format!("nkey: {NKEY_SEED}"), Some(&format!("nkey: {WRONG_SECRET}"))).await;
    });
    suite.test("connects::credentials", async || {
        let nats = server(Auth::Creds, &[]).await;
        let path = nats.creds();
        gets_in(&nats, &format!("credentials: '{}'", path.display()), Some("credentials: /no/such.creds"))
            .await;
    });
    suite.test("connects::tls", async || {
        let nats = Nats::start(Server { own: true, tls: true, ..Server::default() }).await;
        let ca = nats.tls().ca.display().to_string();
        gets_in(&nats, &format!("tls: {{ca: '{ca}', required: true}}"), None).await;
        // The system's authorities do not know the test's.
        let mut stranger = sink(&format!("{{servers: '{}'}}", nats.url()));
        let fault = stranger.connect().await.expect_err("an unknown authority");
        assert_eq!(fault.kind, FaultKind::Disconnected, "{fault}");
        assert!(fault.text.contains("certificate"), "{fault}");
    });
    suite.test("connects::client_certificate", client_certificate);
    suite.test("connects::files_that_cannot_be_read", files_that_cannot_be_read);
    suite.test("connects::a_name_that_nobody_has", a_name_that_nobody_has);
    suite.test("connects::a_server_that_says_nothing", a_server_that_says_nothing);
    suite.test("connects::to_whichever_server_answers", async || {
        let nats = server(Auth::Nobody, &[]).await;
        let [dead] = support::process::free_ports();
        for servers in
            [format!("127.0.0.1:{dead}, {}", nats.url()), format!("{}, 127.0.0.1:{dead}", nats.url())]
        {
            sink(&format!("{{servers: '{servers}'}}")).connect().await.expect("one is enough");
        }
        let mut nobody = sink(&format!("{{servers: '127.0.0.1:{dead}'}}"));
        let fault = nobody.connect().await.expect_err("nobody there");
        assert_eq!(fault.kind, FaultKind::Disconnected, "{fault}");
    });
    suite.test("connects::a_lost_connection_is_not_repaired", a_lost_connection_is_not_repaired);
}

async fn gets_in(nats: &Nats, good: &str, wrong: Option<&str>) {
    let topic = unique("registry.push");
    let mut subscription = nats.subscribe(&topic).await;
    let mut driver =
        Driver::new(sink(&format!("{{servers: '{}', {good}}}", nats.url())), messages(&topic, 10));
    driver.finish().await;
    assert_eq!(driver.outcome.faults, []);
    subscription.take(10, BOUND).await;
    let Some(wrong) = wrong else { return };
    let mut stranger = sink(&format!("{{servers: '{}', {wrong}}}", nats.url()));
    let fault = stranger.connect().await.expect_err("must be refused");
    assert_eq!(fault.kind, FaultKind::Refused, "{fault}");
    assert!(!fault.text.contains(WRONG_SECRET), "{fault}");
}

/// The client would connect again by itself and send what is still in its queue, in front of what the
/// worker sends again; here its end is final.
async fn a_lost_connection_is_not_repaired() {
    let nats = server(Auth::Nobody, &[]).await;
    let proxy = Proxy::start(nats.address()).await;
    let topic = unique("registry.push");
    let mut subscription = nats.subscribe(&topic).await;
    let mut sink = sink(&format!("{{servers: '{}'}}", proxy.address()));
    sink.connect().await.expect("connect");
    let accepted = proxy.accepted();
    proxy.set(Direction::ToServer, Mode::Swallow);
    sink.send(&messages(&topic, 100)).await.expect("into the socket");
    proxy.cut();
    let fault = sink.settle().await.expect_err("the connection is cut");
    assert_eq!(fault.kind, FaultKind::Disconnected, "{fault}");
    proxy.pass();
    let not_connected = sink.send(&messages(&topic, 1)).await.expect_err("until connect is called");
    assert_eq!(not_connected.kind, FaultKind::Disconnected);
    sink.connect().await.expect("connect again");
    assert_eq!(proxy.accepted(), accepted + 1, "connections that nobody asked for");
    sink.send(&messages(&topic, 3)).await.expect("send");
    let mut settled = 0;
    while settled < 3 {
        settled += sink.settle().await.expect("settle").count;
    }
    let ids: Vec<_> = subscription.take(3, BOUND).await.iter().map(|m| received(m).id).collect();
    assert_eq!(ids, [0, 1, 2].map(|index| message(&topic, index).id));
}

/// A server that asks for a client's certificate, which the tests' own client has not.
async fn client_certificate() {
    let (tls, folder) = (support::tls::Tls::new(), support::Folder::new("nats-mtls"));
    let [port] = support::process::free_ports();
    let conf = format!(
        "listen: \"127.0.0.1:{port}\"\ntls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: true }}\n",
        tls.cert.display(),
        tls.key.display(),
        tls.ca.display()
    );
    let mut command = Command::new(support::tool("RELAY_TEST_NATS_SERVER", "nats-server"));
    command.arg("-c").arg(folder.write("nats.conf", conf));
    let mut server = Proc::spawn("nats", command, &folder.join("log"));

    let ca = format!("ca: '{}', required: true", tls.ca.display());
    let (cert, key) = (tls.client_cert.display(), tls.client_key.display());
    let good = format!("{{servers: '127.0.0.1:{port}', tls: {{{ca}, cert: '{cert}', key: '{key}'}}}}");
    server.ready("to connect", BOUND, async || sink(&good).connect().await.ok()).await;
    let mut driver = Driver::new(sink(&good), messages("registry.push", 10));
    driver.finish().await;
    assert!(driver.outcome.rejected.is_empty());
    let mut stranger = sink(&format!("{{servers: '127.0.0.1:{port}', tls: {{{ca}}}}}"));
    let fault = stranger.connect().await.expect_err("no client certificate");
    assert_eq!(fault.kind, FaultKind::Disconnected, "{fault}");
}

async fn files_that_cannot_be_read() {
    let nats = server(Auth::Nobody, &[]).await;
    let folder = support::Folder::new("unread");
    let none = folder.join("none").display().to_string();
    let text = folder.write("text", "no more than text").display().to_string();
    for options in [
        format!("credentials: '{none}'"),
        format!("credentials: '{text}'"),
        format!("tls: {{ca: '{none}', required: true}}"),
        format!("tls: {{cert: '{none}', key: '{none}', required: true}}"),
        format!("tls: {{cert: '{text}', key: '{text}', required: true}}"),
    ] {
        let fault = sink(&format!("{{servers: '{}', {options}}}", nats.url())).connect().await;
        let fault = fault.expect_err(&options);
        assert_eq!(fault.kind, FaultKind::Refused, "{options}: {fault}");
    }
}

async fn a_name_that_nobody_has() {
    let fault = sink(&format!("{{servers: '{NO_NAME}:4222'}}")).connect().await.expect_err("no such name");
    assert_eq!(fault.kind, FaultKind::Disconnected, "{fault}");
    assert!(fault.text.contains("lookup"), "{fault}");
}

/// Somebody takes the connection, and no greeting comes.
async fn a_server_that_says_nothing() {
    let nats = server(Auth::Nobody, &[]).await;
    let proxy = Proxy::start(nats.address()).await;
    proxy.set(Direction::ToClient, Mode::Stall);
    let yaml = format!("{{servers: '{}'}}", proxy.address());
    let mut sink = options(&yaml).build(context(Duration::from_millis(500)));
    let fault = sink.connect().await.expect_err("no greeting");
    assert_eq!(fault.kind, FaultKind::Disconnected, "{fault}");
    assert!(proxy.accepted() > 0);
    proxy.pass();
    crate::sink(&yaml).connect().await.expect("it speaks again");
}
