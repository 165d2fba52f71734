//! Who may, and what makes no sense.

use crate::rig::{cli, cli_ok, post, push, send, webhook};
use crate::support::http_sink::HttpSink;
use crate::support::relay::Relay;

pub async fn operations_are_guarded_and_strict() {
    let destination = HttpSink::start().await;
    let relay = Relay::start(&format!(
        "admin: {{ listen: \"@ADMIN@\", tokens: [sesame] }}\nsinks:\n{}- {{ name: live, stream: {{}} }}\n",
        webhook("hook", &destination, "")
    ))
    .await;
    for (method, path) in [
        ("GET", "/api/v1/dead-letters"),
        ("POST", "/api/v1/dead-letters/discard?all=true"),
        ("POST", "/api/v1/replays?sink=hook&from=1"),
        ("DELETE", "/api/v1/replays/1"),
        ("GET", "/api/v1/quarantine"),
        ("POST", "/api/v1/quarantine/discard?all=true"),
        ("GET", "/api/v1/gaps"),
    ] {
        assert_eq!(send(&relay, method, path).await.status, 401, "{method} {path}");
    }
    let ask = async |method: &str, path: &str, headers: &[(&str, &str)]| {
        let url = format!("http://{}{path}", relay.admin());
        let mut request = relay.http().request(method.parse().expect("a method"), url).bearer_auth("sesame");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.expect("an answer");
        let kind =
            response.headers().get("content-type").and_then(|value| value.to_str().ok()).map(str::to_owned);
        (response.status().as_u16(), kind.unwrap_or_default())
    };
    let problem = "application/problem+json";
    for (method, path, status) in [
        ("GET", "/api/v1/dead-letters/hook/9", 404),
        ("GET", "/api/v1/dead-letters?sink=nobody", 404),
        ("GET", "/api/v1/dead-letters?sink=live", 400),
        ("GET", "/api/v1/dead-letters?older_than=soon", 400),
        ("GET", "/api/v1/dead-letters?limit=100000", 400),
        ("POST", "/api/v1/dead-letters/replay", 400),
        ("POST", "/api/v1/dead-letters/replay?id=1", 400),
        ("POST", "/api/v1/replays?sink=hook", 400),
        ("POST", "/api/v1/replays?sink=hook&from=yesterday", 400),
        ("POST", "/api/v1/replays?sink=hook&from=1", 400),
        ("POST", "/api/v1/replays?sink=live&from=beginning&match=%5B", 400),
        ("GET", "/api/v1/replays/7", 404),
        ("DELETE", "/api/v1/replays/7", 404),
        ("GET", "/api/v1/quarantine/7", 404),
        ("GET", "/api/v1/quarantine/7/body", 404),
        ("GET", "/api/v1/gaps?sink=nobody", 404),
        ("PUT", "/api/v1/replays", 405),
    ] {
        assert_eq!(ask(method, path, &[]).await, (status, problem.to_owned()), "{method} {path}");
    }
    post(&relay, &[push("e-1", "app")]).await;
    assert_eq!(ask("POST", "/api/v1/replays?sink=live&from=1", &[]).await.0, 409, "nothing delivers to it");
    let evil = [("origin", "https://evil.example")];
    assert_eq!(ask("POST", "/api/v1/dead-letters/discard?all=true", &evil).await.0, 403);
    assert_eq!(ask("POST", "/api/v1/dead-letters/discard?all=true", &[]).await.0, 200);
    let output = cli(&relay, &["dead-letters", "list"]).await;
    assert!(String::from_utf8_lossy(&output.stderr).contains("--token"), "{output:?}");
    cli_ok(&relay, &["dead-letters", "list", "--token", "sesame"]).await;
}
