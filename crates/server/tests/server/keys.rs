//! Keys: who may call, from the command line to the answer.

use std::{io::Read, path::Path, process::Stdio, time::Instant};

use axum::{
    Extension,
    body::Body,
    http::{Method, Request, StatusCode},
};
use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};
use tempfile::TempDir;
use yai_agentkit_core::{
    Stores,
    access::{ApiKey, Scope},
};
use yai_agentkit_persistence::{Database, DatabaseConfig};
use yai_agentkit_server::http::{Caller, host::Access};

use crate::{
    http::request_with,
    process::{PATIENCE, Server, agentkit, run, text},
    support::{Answer, Api, ScriptedAgent},
};

/// A new key, as the command prints it.
fn create(directory: &Path, arguments: &[&str]) -> Value {
    let command = ["keys", "create", "CI", "--json"];
    let output = run(directory, &[&command[..], arguments].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn get(server: &Server, path: &str, key: &str) -> (u16, Value) {
    send(server, &format!("GET {path}"), key, "")
}

fn send(server: &Server, head: &str, key: &str, body: &str) -> (u16, Value) {
    let authorization = match key {
        "" => String::new(),
        key => format!("authorization: Bearer {key}\r\n"),
    };
    request_with(&server.address, PATIENCE, head, &authorization, body).expect("an answer")
}

fn key(created: &Value) -> &str {
    created["key"].as_str().unwrap()
}

#[test]
fn a_server_that_others_can_reach_does_not_start_without_a_key() {
    let directory = TempDir::new().unwrap();
    let bind = ["--bind", "0.0.0.0:0"];
    let output = run(directory.path(), &bind);
    assert_eq!(output.status.code(), Some(2));
    let error = text(&output.stderr);
    for expected in [
        "error: --bind: ",
        "agentkit keys create",
        "AGENTKIT_WITHOUT_KEYS",
    ] {
        assert!(error.contains(expected), "{error}");
    }
    assert!(output.stdout.is_empty());

    let flag = ["--without-keys", "true"];
    let open = Server::spawn(agentkit(directory.path()).args(bind).args(flag));
    assert_eq!(get(&open, "/conversations", "").0, 200);
    drop(open);

    let created = create(directory.path(), &[]);
    let closed = Server::spawn(agentkit(directory.path()).args(bind));
    assert_eq!(get(&closed, "/conversations", "").0, 401);
    assert_eq!(get(&closed, "/conversations", key(&created)).0, 200);
}

#[test]
fn the_first_key_closes_a_server_on_loopback() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path());
    assert_eq!(get(&server, "/conversations", "").0, 200);
    let created = create(directory.path(), &["--scope", "read"]);
    let since = Instant::now();
    while get(&server, "/conversations", "").0 == 200 {
        assert!(since.elapsed().as_secs() < 60, "it stays open");
    }
    let (status, refused) = get(&server, "/conversations", "");
    assert_eq!(
        (status, &refused["type"]),
        (401, &json!("urn:agentkit:problem:unauthorized"))
    );
    assert!(
        refused["detail"]
            .as_str()
            .unwrap()
            .contains("agentkit keys create")
    );
    for path in ["/healthz", "/readyz", "/openapi.json"] {
        assert_eq!(get(&server, path, "").0, 200, "{path}");
    }
    assert_eq!(get(&server, "/conversations", key(&created)).0, 200);
    let post = send(&server, "POST /conversations", key(&created), "{}");
    assert_eq!(
        (post.0, &post.1["type"]),
        (403, &json!("urn:agentkit:problem:forbidden"))
    );
}

#[test]
fn a_revoked_key_is_refused_at_once_on_every_server() {
    let directory = TempDir::new().unwrap();
    let created = create(directory.path(), &[]);
    let servers = [(); 2].map(|()| Server::start(directory.path()));
    for server in &servers {
        assert_eq!(get(server, "/conversations", key(&created)).0, 200);
    }
    let id = created["id"].as_str().unwrap();
    for _ in 0..2 {
        let revoked = run(directory.path(), &["keys", "revoke", id, "--json"]);
        assert_eq!(revoked.status.code(), Some(0), "{}", text(&revoked.stderr));
        let revoked: Value = serde_json::from_slice(&revoked.stdout).unwrap();
        assert!(revoked["revoked_at"].is_string());
    }
    for server in &servers {
        let (status, refused) = get(server, "/conversations", key(&created));
        assert_eq!(
            (status, &refused["detail"]),
            (401, &json!("the key was revoked"))
        );
    }
    let missing = uuid::Uuid::now_v7().to_string();
    let missing = run(directory.path(), &["keys", "revoke", &missing]);
    assert_eq!(missing.status.code(), Some(1));
}

#[tokio::test]
async fn a_key_is_refused_once_it_has_expired() {
    let directory = TempDir::new().unwrap();
    let created = create(directory.path(), &["--expires-in", "1"]);
    let server = Server::start(directory.path());
    assert_eq!(get(&server, "/conversations", key(&created)).0, 200);
    let url = format!("sqlite:{}", directory.path().join("test.db").display());
    let database = Database::connect(&DatabaseConfig::new(url).unwrap())
        .await
        .unwrap();
    let expire = |key: &mut ApiKey| {
        key.expires_at = Some(Utc::now() - TimeDelta::milliseconds(1));
        Ok(())
    };
    let id = created["id"].as_str().unwrap().parse().unwrap();
    database.api_keys().update(&id, &expire).await.unwrap();
    database.close().await;
    let (status, refused) = get(&server, "/conversations", key(&created));
    assert_eq!(
        (status, &refused["detail"]),
        (401, &json!("the key has expired"))
    );
}

#[test]
fn a_key_of_an_owner_has_its_conversations() {
    let directory = TempDir::new().unwrap();
    let [ada, bob] = ["ada", "bob"].map(|owner| create(directory.path(), &["--owner", owner]));
    let server = Server::start(directory.path());
    let (_, chat) = send(&server, "POST /conversations", key(&ada), "{}");
    assert_eq!(chat["owner"], "ada");
    let path = format!("/conversations/{}", chat["id"].as_str().unwrap());
    assert_eq!(get(&server, &path, key(&ada)).0, 200);
    assert_eq!(get(&server, &path, key(&bob)).0, 404);
}

#[test]
fn a_key_is_shown_once_and_listed_without_it() {
    let directory = TempDir::new().unwrap();
    let plain = run(
        directory.path(),
        &["keys", "create", "laptop", "--scope", "admin"],
    );
    let shown = text(&plain.stdout);
    let form = regex::Regex::new(r"^agk_[0-9a-f]{32}_[0-9a-f]{64}\n$").unwrap();
    assert!(form.is_match(&shown), "{shown}");
    assert!(text(&plain.stderr).contains("laptop"));
    let created = create(directory.path(), &["--owner", "ada", "--expires-in", "90"]);

    let listed = text(&run(directory.path(), &["keys", "list", "--json"]).stdout);
    let lines: Vec<Value> = listed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let [newest, oldest] = &lines[..] else {
        panic!("{listed}");
    };
    let mut expected = created.clone();
    expected.as_object_mut().unwrap().remove("key");
    assert_eq!(*newest, expected);
    assert_eq!(
        (&oldest["name"], &oldest["scope"]),
        (&json!("laptop"), &json!("admin"))
    );
    let people = text(&run(directory.path(), &["keys", "list"]).stdout);
    assert!(
        people.contains("laptop") && people.contains("for ada"),
        "{people}"
    );

    // Neither in what is printed later, nor in the file.
    let mut stored = listed.into_bytes();
    for name in ["test.db", "test.db-wal"] {
        stored.extend(std::fs::read(directory.path().join(name)).unwrap_or_default());
    }
    for text in [shown.trim(), key(&created)] {
        let (_, secret) = text.rsplit_once('_').unwrap();
        for part in [text.as_bytes(), secret.as_bytes()] {
            assert!(!stored.windows(part.len()).any(|window| window == part));
        }
    }
}

#[test]
fn a_key_is_in_no_log() {
    let directory = TempDir::new().unwrap();
    let created = create(directory.path(), &[]);
    let mut command = agentkit(directory.path());
    command
        .args(["--bind", "127.0.0.1:0"])
        .env("RUST_LOG", "trace");
    let mut server = Server::spawn(command.stderr(Stdio::piped()));
    let mut stderr = server.process.stderr.take().unwrap();
    let log = std::thread::spawn(move || {
        let mut log = Vec::new();
        stderr.read_to_end(&mut log).unwrap();
        String::from_utf8_lossy(&log).into_owned()
    });
    let wrong = key(&created).replace('0', "1");
    assert_eq!(get(&server, "/conversations", key(&created)).0, 200);
    assert_eq!(get(&server, "/conversations", &wrong).0, 401);
    assert_eq!(get(&server, "/conversations", "secret of another").0, 401);
    drop(server);
    let log = log.join().unwrap();
    let (_, secret) = key(&created).rsplit_once('_').unwrap();
    assert!(!log.contains(secret) && !log.contains(&wrong) && !log.contains("secret of another"));
    // Of the caller it has what names the key.
    assert!(log.contains(created["id"].as_str().unwrap()), "{log}");
}

/// A server that all can reach.
fn reached() -> Api {
    let access = Access {
        address: [0, 0, 0, 0].into(),
        ..Access::default()
    };
    Api::with_access(ScriptedAgent::default(), access)
}

async fn call(api: &Api, method: &str, path: &str, authorization: &str) -> Answer {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost");
    if !authorization.is_empty() {
        request = request.header("authorization", authorization);
    }
    api.request(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn every_route_asks_for_a_key_but_those_that_tell_nothing_of_anybody() {
    let api = reached();
    let document = call(&api, "GET", "/openapi.json", "").await.body;
    assert_eq!(document["security"], json!([{"key": []}]));
    assert_eq!(
        document["components"]["securitySchemes"]["key"]["scheme"],
        "bearer"
    );
    let mut closed = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let answer = call(&api, &method.to_uppercase(), path, "").await;
            if let "/healthz" | "/readyz" = path.as_str() {
                assert_eq!(answer.status, StatusCode::OK, "{method} {path}");
                assert_eq!(operation["security"], json!([]));
                continue;
            }
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path}");
            assert_eq!(answer.problem(), "unauthorized");
            assert_eq!(
                answer.headers["www-authenticate"],
                r#"Bearer realm="agentkit""#
            );
            let responses = &operation["responses"];
            assert!(responses["401"].is_object() && responses["403"].is_object());
            closed += 1;
        }
    }
    assert!(closed >= 19, "{closed}");
    assert_eq!(
        call(&api, "GET", "/nowhere", "").await.status,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(call(&api, "GET", "/docs/", "").await.status, StatusCode::OK);
}

#[tokio::test]
async fn what_is_no_key_of_this_server_is_refused() {
    let api = reached();
    let unknown = format!("Bearer agk_{}_{}", "0".repeat(32), "0".repeat(64));
    for authorization in ["Bearer ", "Bearer agk_", "bearer secret", &unknown] {
        let answer = call(&api, "GET", "/conversations", authorization).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{authorization}");
        let challenge = answer.headers["www-authenticate"].to_str().unwrap();
        assert!(
            challenge.ends_with(r#"error="invalid_token""#),
            "{challenge}"
        );
        assert_eq!(answer.body["detail"], "the key is none of this server");
    }
    for authorization in ["Basic YWRhOmFkYQ==", &unknown["Bearer ".len()..]] {
        let answer = call(&api, "GET", "/conversations", authorization).await;
        assert_eq!(answer.problem(), "unauthorized");
    }
}

#[tokio::test]
async fn a_scope_is_asked_of_what_a_request_does() {
    let api = Api::new(ScriptedAgent::default());
    let chat = api.conversation().await;
    let path = format!("/conversations/{chat}");
    let reads = [
        (Method::GET, "/conversations", "{}"),
        (Method::GET, path.as_str(), "{}"),
        (
            Method::POST,
            "/agui/connect",
            r#"{"threadId": "t", "runId": "r"}"#,
        ),
    ];
    let writes = [
        (Method::POST, "/conversations", "{}"),
        (Method::POST, "/agui", "{}"),
        (Method::PATCH, path.as_str(), "{}"),
        (Method::DELETE, path.as_str(), ""),
    ];
    for scope in Scope::ALL {
        let router = api
            .router
            .clone()
            .layer(Extension(Caller::new("caller", scope)));
        let called = Api {
            router,
            storage: api.storage.clone(),
            turns: api.turns.clone(),
        };
        for (method, path, body) in reads.clone() {
            let answer = called.send(method, path, body).await;
            assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.body);
        }
        if scope > Scope::Read {
            continue;
        }
        for (method, path, body) in writes.clone() {
            let answer = called.send(method, path, body).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}");
            assert_eq!(answer.problem(), "forbidden");
            let challenge = answer.headers["www-authenticate"].to_str().unwrap();
            assert!(challenge.ends_with(r#"error="insufficient_scope", scope="write""#));
        }
    }
}
