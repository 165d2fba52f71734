//! The webhook sink against a real HTTP server: the contract, and each row of
//! `docs/failures/webhook.md`.

mod support;

use std::{
    collections::{BTreeMap, HashMap},
    process::ExitCode,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, header, service::service_fn};
use hyper_util::rt::TokioIo;
use relay::sinks::{Context, Fault, FaultKind, Message, Options, Sink, format, webhook::WebhookOptions};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use support::{
    contract::{self, Destination, Driver, End, Received, Variant, WRONG_SECRET, messages},
    process::eventually,
    proxy::{Direction, Mode, Proxy},
    suite::{Shared, Suite},
    tls::Tls,
    unique,
};
use tokio::net::TcpListener;

const PASSWORD: &str = "r1ght-secret";
const TOO_LARGE: usize = 100_000;

fn main() -> ExitCode {
    let mut suite = Suite::new();
    for concurrency in [1, 8] {
        contract_of(&mut suite, concurrency);
    }
    suite.test("the_request_is_a_registrys", the_request_is_a_registrys);
    suite.test("a_configured_content_type_wins", a_configured_content_type_wins);
    suite.test("one_lane_keeps_strict_order", one_lane_keeps_strict_order);
    suite.test("lanes_run_beside_each_other_and_keys_do_not", lanes_run_beside_each_other_and_keys_do_not);
    suite.test("envelopes_are_joined", envelopes_are_joined);
    suite.test("a_batch_that_is_rejected_is_taken_apart", a_batch_that_is_rejected_is_taken_apart);
    suite.test("statuses_are_told_apart", statuses_are_told_apart);
    suite.test("says_when_to_come_back", says_when_to_come_back);
    suite.test("follows_no_redirect", follows_no_redirect);
    suite.test("a_late_answer_is_no_answer", a_late_answer_is_no_answer);
    suite.test("a_cut_answer_is_no_answer", a_cut_answer_is_no_answer);
    suite.test("nobody_listens", nobody_listens);
    suite.test("speaks_tls", speaks_tls);
    suite.test("shows_a_client_certificate", shows_a_client_certificate);
    suite.run()
}

fn contract_of(suite: &mut Suite, concurrency: usize) {
    let shared = Shared::new(move || Web::start(concurrency));
    macro_rules! scenarios {
        ($($scenario:ident),*) => {$(
            let web = shared.clone();
            suite.test(&format!("concurrency={concurrency}::{}", stringify!($scenario)), async move || {
                contract::$scenario(&*web.get().await).await;
            });
        )*};
    }
    scenarios!(
        keeps_order,
        confirms_what_is_there,
        rejects_too_large,
        survives_freeze,
        closes_in_mid_batch,
        settle_is_cancel_safe,
        refuses_wrong_credentials,
        refuses_missing
    );
    let web = shared.clone();
    suite.test(&format!("concurrency={concurrency}::survives_restart"), async move || {
        contract::survives_restart(&*web.get().await, End::Stopped).await;
    });
}

/// A request as the server got it.
#[derive(Clone, Debug)]
struct Got {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Bytes,
}

impl Got {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    fn event_ids(&self) -> Vec<String> {
        let json: serde_json::Value = serde_json::from_slice(&self.body).expect("JSON");
        let events = json["events"].as_array().expect("an envelope");
        events.iter().map(|event| event["id"].as_str().expect("an id").to_owned()).collect()
    }
}

type Answer = Response<Full<Bytes>>;
type Handler = dyn Fn(&Got) -> Answer + Send + Sync;

fn status(code: u16) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::from_u16(code).expect("a status");
    answer
}

/// A server that answers as its handler says, and keeps what it answered with 2xx.
struct Server {
    address: String,
    taken: Arc<Mutex<Vec<Got>>>,
    requests: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(handler: impl Fn(&Got) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_with(handler, None).await
    }

    async fn start_with(
        handler: impl Fn(&Got) -> Answer + Send + Sync + 'static,
        tls: Option<tokio_rustls::TlsAcceptor>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("an address").to_string();
        let (taken, requests) = (Arc::<Mutex<Vec<Got>>>::default(), Arc::<AtomicUsize>::default());
        let handler: Arc<Handler> = Arc::new(handler);
        let (kept, counted) = (Arc::clone(&taken), Arc::clone(&requests));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (handler, kept, counted) =
                    (Arc::clone(&handler), Arc::clone(&kept), Arc::clone(&counted));
                let tls = tls.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        answer(request, Arc::clone(&handler), Arc::clone(&kept), Arc::clone(&counted))
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    match tls {
                        None => drop(http.serve_connection(TokioIo::new(stream), service).await),
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                drop(http.serve_connection(TokioIo::new(stream), service).await);
                            }
                        }
                    }
                });
            }
        });
        Self { address, taken, requests, task }
    }

    fn url(&self) -> String {
        format!("http://{}/events", self.address)
    }

    fn taken(&self) -> Vec<Got> {
        self.taken.lock().expect("no panic").clone()
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    request: Request<Incoming>,
    handler: Arc<Handler>,
    taken: Arc<Mutex<Vec<Got>>>,
    requests: Arc<AtomicUsize>,
) -> Result<Answer, hyper::Error> {
    let (head, body) = request.into_parts();
    let headers = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    let got = Got {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        headers: headers.collect(),
        body: body.collect().await?.to_bytes(),
    };
    requests.fetch_add(1, Ordering::Relaxed);
    let answer = handler(&got);
    if answer.status().is_success() {
        taken.lock().expect("no panic").push(got);
    }
    Ok(answer)
}

fn sink_with(yaml: &str, timeout: Duration) -> Box<dyn Sink> {
    let options: WebhookOptions = serde_yaml::from_str(yaml).expect(yaml);
    assert_eq!(options.problems(), [], "{yaml}");
    options.build(Context { name: "hook".to_owned(), timeout, literal_topics: Vec::new() })
}

fn sink(yaml: &str) -> Box<dyn Sink> {
    sink_with(yaml, Duration::from_secs(5))
}

/// Messages in the format that webhooks have by default.
fn envelopes(count: usize) -> Vec<Message> {
    let mut all = messages("registry.push", count);
    for message in &mut all {
        message.body = format::envelope(std::slice::from_ref(&message.body));
        message.content_type = format::ENVELOPE_MEDIA_TYPE;
    }
    all
}

/// The contract's destination: a server that wants a password, and a proxy before it.
struct Web {
    server: Server,
    proxy: Proxy,
    concurrency: usize,
}

impl Web {
    async fn start(concurrency: usize) -> Self {
        let server = Server::start(|got| {
            if got.header("authorization") != Some("Basic cmVsYXk6cjFnaHQtc2VjcmV0") {
                return status(401);
            }
            if got.path.starts_with("/missing") {
                return status(404);
            }
            status(if got.body.len() >= TOO_LARGE { 413 } else { 202 })
        })
        .await;
        let proxy = Proxy::start(&server.address).await;
        Self { server, proxy, concurrency }
    }
}

impl Destination for Web {
    async fn topic(&self) -> String {
        unique("push")
    }

    fn sink(&self, topic: &str, variant: Variant) -> Box<dyn Sink> {
        let password = if variant == Variant::WrongCredentials { WRONG_SECRET } else { PASSWORD };
        let path = if variant == Variant::Missing { format!("missing/{topic}") } else { topic.to_owned() };
        let address = self.proxy.address();
        sink(&format!(
            "{{url: 'http://relay:{password}@{address}/{path}?token={password}', concurrency: {}}}",
            self.concurrency
        ))
    }

    async fn consume(&self, topic: &str, count: usize, bound: Duration) -> Vec<Received> {
        let path = format!("/{topic}");
        let here = || self.server.taken().into_iter().filter(|got| got.path == path).collect::<Vec<_>>();
        let what = format!("{count} requests to {topic}");
        let got = eventually(&what, bound, async || Some(here()).filter(|got| got.len() >= count)).await;
        let received = |got: Got| Received {
            topic: topic.to_owned(),
            key: None,
            // The contract's ids have a `#`, which is fit for a header.
            id: got.header("relay-id").expect("an id").to_owned(),
            headers: got.headers,
            body: got.body.to_vec(),
        };
        got.into_iter().map(received).collect()
    }

    async fn stop(&self) {
        self.proxy.down();
    }

    async fn kill(&self) {
        self.proxy.down();
    }

    async fn start_again(&self) {
        self.proxy.pass();
    }

    fn freeze(&self) {
        self.proxy.set(Direction::Both, Mode::Stall);
    }

    fn thaw(&self) {
        self.proxy.pass();
    }

    fn too_large_bytes(&self) -> usize {
        TOO_LARGE
    }

    fn load(&self) -> usize {
        500
    }
}

async fn the_request_is_a_registrys() {
    let server = Server::start(|_| status(200)).await;
    let mut message = envelopes(1).remove(0);
    message.headers = vec![("Authorization".into(), "Bearer t".to_owned())];
    message.id = "id with ümlaut\n".to_owned();
    let body = message.body.clone();
    let mut driver = Driver::new(sink(&format!("{{url: '{}'}}", server.url())), vec![message]);
    driver.finish().await;
    let got = server.taken().remove(0);
    assert_eq!((got.method.as_str(), got.path.as_str()), ("POST", "/events"));
    assert_eq!(got.body, body);
    assert_eq!(got.header("content-type"), Some("application/vnd.docker.distribution.events.v1+json"));
    assert_eq!(got.header("content-length"), Some(body.len().to_string().as_str()));
    assert_eq!(got.header("authorization"), Some("Bearer t"));
    assert_eq!(got.header("relay-id"), Some("id%20with%20%C3%BCmlaut%0A"));
    assert!(got.header("user-agent").is_some_and(|agent| agent.starts_with("relay/")));
}

async fn a_configured_content_type_wins() {
    let server = Server::start(|_| status(200)).await;
    let mut all = envelopes(1);
    all[0]
        .headers
        .push(("content-type".into(), "application/vnd.docker.distribution.events.v2+json".to_owned()));
    Driver::new(sink(&format!("{{url: '{}'}}", server.url())), all).finish().await;
    let types: Vec<_> =
        server.taken().remove(0).headers.into_iter().filter(|(name, _)| name == "content-type").collect();
    assert_eq!(types.len(), 1);
    assert_eq!(types[0].1, "application/vnd.docker.distribution.events.v2+json");
}

async fn one_lane_keeps_strict_order() {
    let server = Server::start(|_| status(200)).await;
    let sent = envelopes(300);
    Driver::new(sink(&format!("{{url: '{}'}}", server.url())), sent.clone()).finish().await;
    let ids: Vec<_> = server.taken().iter().flat_map(Got::event_ids).collect();
    assert_eq!(ids, sent.iter().map(|message| message.id.clone()).collect::<Vec<_>>());
}

async fn lanes_run_beside_each_other_and_keys_do_not() {
    // By key: how many are being answered, and whether it was ever more than one; by all, the most.
    #[derive(Default)]
    struct Seen {
        open: HashMap<String, usize>,
        most: usize,
        most_of_a_key: usize,
    }
    let seen = Arc::<Mutex<Seen>>::default();
    let counted = Arc::clone(&seen);
    // Blocks while it answers, so that requests meet; each on a thread of the runtime.
    let server = Server::start(move |got| {
        let json: serde_json::Value = serde_json::from_slice(&got.body).expect("JSON");
        let key = json["events"][0]["target"]["repository"].to_string();
        let mut seen = counted.lock().expect("no panic");
        *seen.open.entry(key.clone()).or_default() += 1;
        seen.most = seen.most.max(seen.open.values().sum());
        seen.most_of_a_key = seen.most_of_a_key.max(seen.open[&key]);
        drop(seen);
        tokio::task::block_in_place(|| std::thread::sleep(Duration::from_millis(2)));
        *counted.lock().expect("no panic").open.entry(key).or_default() -= 1;
        status(200)
    })
    .await;
    Driver::new(sink(&format!("{{url: '{}', concurrency: 8}}", server.url())), envelopes(200)).finish().await;
    let seen = seen.lock().expect("no panic");
    assert!(seen.most > 1, "never two at once");
    assert_eq!(seen.most_of_a_key, 1, "two of one key at once");
}

async fn envelopes_are_joined() {
    let server = Server::start(|_| status(200)).await;
    let sent = envelopes(230);
    let yaml = format!("{{url: '{}', batch: 100}}", server.url());
    let mut driver = Driver::new(sink(&yaml), sent.clone());
    driver.finish().await;
    let taken = server.taken();
    assert!(taken.len() < 10, "{} requests", taken.len());
    assert!(taken.iter().all(|got| got.event_ids().len() <= 100));
    let ids: Vec<_> = taken.iter().flat_map(Got::event_ids).collect();
    assert_eq!(ids, sent.iter().map(|message| message.id.clone()).collect::<Vec<_>>());
    let joined = taken.iter().find(|got| got.event_ids().len() > 1).expect("a batch");
    assert_eq!(joined.header("relay-id"), None);
}

async fn a_batch_that_is_rejected_is_taken_apart() {
    let server = Server::start(|got| {
        let bad = got.event_ids().iter().any(|id| id.ends_with("#17"));
        status(if bad { 422 } else { 200 })
    })
    .await;
    let sent = envelopes(60);
    let yaml = format!("{{url: '{}', batch: 20, reject: [422]}}", server.url());
    let mut driver = Driver::new(sink(&yaml), sent.clone());
    driver.finish().await;
    assert_eq!(driver.outcome.faults, []);
    let rejected: Vec<_> =
        driver.outcome.rejected.iter().map(|(message, why)| (message.offset, why.code)).collect();
    assert_eq!(rejected, [(18, "rejected")]);
    let ids: Vec<_> = server.taken().iter().flat_map(Got::event_ids).collect();
    let expected: Vec<_> =
        sent.iter().map(|message| message.id.clone()).filter(|id| !id.ends_with("#17")).collect();
    assert_eq!(ids, expected);
}

/// The first fault that a message to a server meets.
async fn fault_of(handler: impl Fn(&Got) -> Answer + Send + Sync + 'static, more: &str) -> (Fault, usize) {
    let server = Server::start(handler).await;
    let mut driver = Driver::new(sink(&format!("{{url: '{}'{more}}}", server.url())), envelopes(3));
    let fault = driver.step().await.expect_err("a fault");
    (fault, server.requests())
}

async fn statuses_are_told_apart() {
    let busy = FaultKind::Busy { retry_after: None };
    let kinds: BTreeMap<u16, FaultKind> = [
        (400, FaultKind::Refused),
        (401, FaultKind::Refused),
        (403, FaultKind::Refused),
        (404, FaultKind::Refused),
        (408, busy),
        (422, FaultKind::Refused),
        (429, busy),
        (500, busy),
        (502, busy),
        (503, busy),
    ]
    .into();
    for (code, kind) in kinds {
        let (fault, requests) = fault_of(move |_| status(code), "").await;
        assert_eq!(fault.kind, kind, "{code}: {fault}");
        assert!(fault.text.contains(&code.to_string()), "{fault}");
        assert_eq!(requests, 1, "{code}: tried again by itself, or went on behind a failure");
    }
}

async fn says_when_to_come_back() {
    let handler = |_: &Got| {
        let mut answer = status(503);
        answer.headers_mut().insert(header::RETRY_AFTER, "7".parse().expect("a value"));
        answer
    };
    let (fault, _) = fault_of(handler, "").await;
    assert_eq!(fault.kind, FaultKind::Busy { retry_after: Some(Duration::from_secs(7)) });
}

async fn follows_no_redirect() {
    for code in [301, 302, 303, 307, 308] {
        let elsewhere = Server::start(|_| status(200)).await;
        let location = elsewhere.url();
        let handler = move |_: &Got| {
            let mut answer = status(code);
            answer.headers_mut().insert(header::LOCATION, location.parse().expect("a value"));
            answer
        };
        let (fault, _) = fault_of(handler, "").await;
        assert_eq!(fault.kind, FaultKind::Refused, "{fault}");
        assert_eq!(elsewhere.requests(), 0);
    }
}

async fn a_late_answer_is_no_answer() {
    let server = Server::start(|_| status(200)).await;
    let proxy = Proxy::start(&server.address).await;
    proxy.set(Direction::ToClient, Mode::Swallow);
    let yaml = format!("{{url: 'http://{}/events'}}", proxy.address());
    let mut driver = Driver::new(sink_with(&yaml, Duration::from_millis(200)), envelopes(1));
    let fault = driver.step().await.expect_err("no answer");
    assert_eq!(fault.kind, FaultKind::Disconnected);
    assert!(fault.text.contains("no answer in time"), "{fault}");
    // It was taken all the same: the second copy says the same id.
    proxy.pass();
    driver.faulted(fault).await;
    driver.finish().await;
    let ids: Vec<_> = server.taken().iter().map(|got| got.header("relay-id").map(str::to_owned)).collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], ids[1]);
}

async fn a_cut_answer_is_no_answer() {
    let server = Server::start(|_| status(200)).await;
    let proxy = Proxy::start(&server.address).await;
    let yaml = format!("{{url: 'http://{}/events'}}", proxy.address());
    let mut driver = Driver::new(sink(&yaml), envelopes(50));
    driver.connect().await.expect("connect");
    proxy.cut_after(10_000);
    driver.finish().await;
    assert!(!driver.outcome.faults.is_empty());
    let faults = &driver.outcome.faults;
    assert!(faults.iter().all(|fault| fault.kind == FaultKind::Disconnected), "{faults:?}");
    let mut ids: Vec<_> = server.taken().iter().flat_map(Got::event_ids).collect();
    ids.dedup();
    assert_eq!(ids.len(), 50);
}

async fn nobody_listens() {
    let [port] = support::process::free_ports();
    let mut sink = sink(&format!("{{url: 'http://user:{PASSWORD}@127.0.0.1:{port}/x?token={PASSWORD}'}}"));
    let fault = sink.connect().await.expect_err("nobody there");
    assert_eq!(fault.kind, FaultKind::Disconnected);
    assert!(!fault.text.contains(PASSWORD), "{fault}");
    assert!(fault.text.contains(&format!("127.0.0.1:{port}/x")), "{fault}");
}

fn acceptor(tls: &Tls, wants_client: bool) -> tokio_rustls::TlsAcceptor {
    let certs =
        CertificateDer::pem_file_iter(&tls.cert).expect("certificates").map(|cert| cert.expect("one"));
    let key = PrivateKeyDer::from_pem_file(&tls.key).expect("a key");
    let builder = rustls::ServerConfig::builder();
    let builder = if wants_client {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&tls.ca).expect("the authority")).expect("a root");
        let verifier =
            rustls::server::WebPkiClientVerifier::builder(Arc::new(roots)).build().expect("a verifier");
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    Arc::new(builder.with_single_cert(certs.collect(), key).expect("a server's configuration")).into()
}

async fn speaks_tls() {
    let tls = Tls::new();
    let server = Server::start_with(|_| status(200), Some(acceptor(&tls, false))).await;
    let url = server.url().replace("http:", "https:");
    let yaml = format!("{{url: '{url}', tls: {{ca: '{}'}}}}", tls.ca.display());
    Driver::new(sink(&yaml), envelopes(10)).finish().await;
    assert_eq!(server.taken().len(), 10);
    // The system's authorities do not know the test's.
    let mut stranger = Driver::new(sink(&format!("{{url: '{url}'}}")), envelopes(1));
    let fault = stranger.step().await.expect_err("an unknown authority");
    assert_eq!(fault.kind, FaultKind::Disconnected, "{fault}");
    assert_eq!(server.taken().len(), 10);
    let mut unread = sink(&format!("{{url: '{url}', tls: {{ca: /no/such.pem}}}}"));
    assert_eq!(unread.connect().await.expect_err("no file").kind, FaultKind::Refused);
}

async fn shows_a_client_certificate() {
    let tls = Tls::new();
    let server = Server::start_with(|_| status(200), Some(acceptor(&tls, true))).await;
    let url = server.url().replace("http:", "https:");
    let (ca, cert, key) = (tls.ca.display(), tls.client_cert.display(), tls.client_key.display());
    let yaml = format!("{{url: '{url}', tls: {{ca: '{ca}', cert: '{cert}', key: '{key}'}}}}");
    Driver::new(sink(&yaml), envelopes(10)).finish().await;
    assert_eq!(server.taken().len(), 10);
    let mut stranger = Driver::new(sink(&format!("{{url: '{url}', tls: {{ca: '{ca}'}}}}")), envelopes(1));
    stranger.step().await.expect_err("no certificate");
    assert_eq!(server.taken().len(), 10);
}
