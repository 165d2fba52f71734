//! What each answer means, and what it means when there is none.

use std::time::{Duration, SystemTime};

use hyper::header;
use relay::sinks::{Fault, FaultKind};

use crate::{
    PASSWORD, envelopes,
    server::{Answer, Got, Server, status},
    sink, sink_with,
    support::{
        NO_NAME,
        contract::Driver,
        process,
        proxy::{Direction, Mode, Proxy},
    },
};

/// The first fault that a message to a server meets.
async fn fault_of(handler: impl Fn(&Got) -> Answer + Send + Sync + 'static, more: &str) -> (Fault, usize) {
    let server = Server::start(handler).await;
    let mut driver = Driver::new(sink(&format!("{{url: '{}'{more}}}", server.url())), envelopes(3));
    let fault = driver.step().await.expect_err("a fault");
    (fault, server.requests())
}

pub async fn statuses_are_told_apart() {
    let busy = FaultKind::Busy { retry_after: None };
    let refused = [300, 304, 400, 401, 402, 403, 404, 405, 406, 407, 409, 410, 411, 415, 418, 422, 426, 431];
    let later = [408, 425, 429, 500, 501, 502, 503, 504, 507, 511, 599];
    let kinds = refused.map(|code| (code, FaultKind::Refused)).into_iter();
    let kinds = kinds.chain(later.map(|code| (code, busy)));
    for (code, kind) in kinds {
        let (fault, requests) = fault_of(move |_| status(code), "").await;
        assert_eq!(fault.kind, kind, "{code}: {fault}");
        assert!(fault.text.contains(&code.to_string()), "{fault}");
        assert_eq!(requests, 1, "{code}: tried again by itself, or went on behind a failure");
    }
}

pub async fn says_when_to_come_back() {
    let saying = async |text: String| {
        let handler = move |_: &Got| {
            let mut answer = status(503);
            answer.headers_mut().insert(header::RETRY_AFTER, text.parse().expect("a value"));
            answer
        };
        match fault_of(handler, "").await.0.kind {
            FaultKind::Busy { retry_after } => retry_after,
            kind => panic!("{kind:?}"),
        }
    };
    assert_eq!(saying("7".to_owned()).await, Some(Duration::from_secs(7)));
    let hour = SystemTime::now() + Duration::from_secs(3600);
    let hour = jiff::Timestamp::try_from(hour).expect("a time");
    let date = hour.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let left = saying(date).await.expect("a time");
    assert!((3_500..=3_600).contains(&left.as_secs()), "{left:?}");
    assert_eq!(saying("soon".to_owned()).await, None);
}

pub async fn follows_no_redirect() {
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

pub async fn a_late_answer_is_no_answer() {
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

pub async fn a_cut_answer_is_no_answer() {
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

pub async fn nobody_listens() {
    let [port] = process::free_ports();
    let mut sink = sink(&format!("{{url: 'http://user:{PASSWORD}@127.0.0.1:{port}/x?token={PASSWORD}'}}"));
    let fault = sink.connect().await.expect_err("nobody there");
    assert_eq!(fault.kind, FaultKind::Disconnected);
    assert!(!fault.text.contains(PASSWORD), "{fault}");
    assert!(fault.text.contains(&format!("127.0.0.1:{port}/x")), "{fault}");
}

pub async fn a_name_that_nobody_has() {
    let fault = sink(&format!("{{url: 'http://{NO_NAME}/x'}}")).connect().await.expect_err("no such name");
    assert_eq!(fault.kind, FaultKind::Disconnected, "{fault}");
    assert!(fault.text.contains("lookup"), "{fault}");
}

pub async fn a_header_that_http_does_not_allow_is_refused() {
    let server = Server::start(|_| status(200)).await;
    for (name, value) in [("a b", "c"), ("a", "b\r\nc: d")] {
        let mut all = envelopes(1);
        all[0].headers = vec![(name.into(), value.to_owned())];
        let mut driver = Driver::new(sink(&format!("{{url: '{}'}}", server.url())), all);
        let fault = driver.step().await.expect_err("not allowed");
        assert_eq!(fault.kind, FaultKind::Refused, "{fault}");
        assert_eq!(server.requests(), 0);
    }
}
