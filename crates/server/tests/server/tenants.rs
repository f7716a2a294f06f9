//! Several tenants on one server: nobody sees, changes or finds out what is another's.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    http::{HeaderValue, StatusCode, header},
};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use yai_agentkit_engine::{
    TurnEngine,
    agent::Agents,
    test_kit::{FailingStorage, limits},
};
use yai_agentkit_persistence::{Database, DatabaseConfig};
use yai_agentkit_server::http::{self, App, host::Access};

use crate::{
    crash::{Installation, wait_for},
    http::request_with,
    owners::{Belongings, operations},
    process::{PATIENCE, Server, text},
    support::{Api, BODY_LIMIT, ScriptedAgent},
};

/// A role that may log in, and no more; PgBouncer knows it by name.
const ROLE: &str = "agentkit_server";

/// A schema of its own for several tenants, in which no policy is passed by.
async fn installation(url: &str) -> Installation {
    let superuser = std::env::var("AGENTKIT_TEST_POSTGRES_URL");
    let superuser = superuser.expect("AGENTKIT_TEST_POSTGRES_URL is not set: run ./test");
    let schema = format!("tenants_{}", uuid::Uuid::new_v4().simple());
    let mut connection = PgConnection::connect(&superuser).await.unwrap();
    // Another test may be at it.
    let role = format!(
        "DO $$ BEGIN CREATE ROLE {ROLE} LOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
CREATE SCHEMA {schema} AUTHORIZATION {ROLE}"
    );
    let script = sqlx::raw_sql(AssertSqlSafe(role));
    script.execute(&mut connection).await.unwrap();
    let url = std::env::var(url).unwrap_or_else(|_| panic!("{url} is not set: run ./test"));
    let (_, place) = url.split_once('@').unwrap();
    let mut installation = Installation::sqlite();
    installation.variables = vec![
        ("DATABASE_URL", format!("postgresql://{ROLE}@{place}")),
        ("DB_SCHEMA", schema),
        ("DB_TENANTS", "true".to_owned()),
    ];
    installation
}

pub(crate) async fn direct() -> Installation {
    installation("AGENTKIT_TEST_POSTGRES_URL").await
}

fn run(installation: &Installation, arguments: &[&str]) -> String {
    let output = installation.command("0", "1").args(arguments).output();
    let output = output.unwrap();
    let error = text(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    text(&output.stdout)
}

/// A new key of a tenant.
fn key(installation: &Installation, tenant: &str, more: &[&str]) -> String {
    let command = [
        "keys", "create", "all", "--scope", "admin", "--tenant", tenant,
    ];
    run(installation, &[&command[..], more].concat())
        .trim()
        .to_owned()
}

/// A server without a socket, for all tenants of the installation.
async fn router(installation: &Installation) -> (Router, TurnEngine) {
    let of = |name: &str| {
        let mut all = installation.variables.iter();
        all.find(|(known, _)| *known == name).unwrap().1.clone()
    };
    let config = DatabaseConfig::new(of("DATABASE_URL")).unwrap();
    let config = config.schema(of("DB_SCHEMA")).unwrap().tenants(true);
    let database = Database::connect(&config).await.unwrap();
    let agents = Agents::from(Arc::new(ScriptedAgent::default()));
    let agents = agents.with("other", Arc::new(ScriptedAgent::default()));
    let turns = TurnEngine::new(Arc::new(database.of_all_tenants()), agents);
    let turns = turns.with_limits(limits()).with_search(true);
    let app = App {
        turns: Arc::new(turns.on(Arc::new(database.clone()))),
        storage: Arc::new(database),
    };
    (http::router(app, Access::default(), BODY_LIMIT), turns)
}

/// The server, called with a key.
fn called_with(router: &Router, turns: &TurnEngine, key: &str) -> Api {
    let key = HeaderValue::try_from(format!("Bearer {key}")).unwrap();
    let layer = axum::middleware::map_request(move |mut request: axum::extract::Request| {
        let headers = request.headers_mut();
        headers.insert(header::AUTHORIZATION, key.clone());
        headers.insert(header::HOST, HeaderValue::from_static("localhost"));
        async { request }
    });
    Api {
        router: router.clone().layer(layer),
        // It is not where this remembers.
        storage: FailingStorage::default(),
        turns: turns.clone(),
    }
}

/// All that the holder of a key sees of a chat and in lists.
async fn seen(api: &Api, belongings: &Belongings) -> Vec<Value> {
    let mut seen = Vec::new();
    for path in [
        "/conversations",
        "/conversations/{id}",
        "/conversations/{id}/messages",
        "/chats/{id}/turns",
        "/chats/{id}/history",
        "/audit",
    ] {
        let answer = api.get(&belongings.path(path)).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.body);
        seen.push(answer.body);
    }
    let search = api.post("/store/items/search", json!({"namespace_prefix": []}));
    seen.push(search.await.body);
    seen
}

async fn on_every_route_what_is_another_tenants_is_as_what_does_not_exist(
    installation: &Installation,
) {
    let keys = [
        key(installation, "acme", &["--owner", "ada"]),
        key(installation, "bob", &[]),
    ];
    let (router, turns) = router(installation).await;
    let [acme, bob] = keys.map(|key| called_with(&router, &turns, &key));
    let belongings = Belongings::of(&acme).await;
    let item = json!({"namespace": ["notes"], "key": "name", "value": {"name": "Ada"}});
    let put = acme
        .send(axum::http::Method::PUT, "/store/items", item.to_string())
        .await;
    assert!(put.status.is_success(), "{}", put.body);
    let before = seen(&acme, &belongings).await;

    let (of_none, operations) = (Belongings::none(), operations(&acme).await);
    for (method, path, operation) in &operations {
        let mut told = Vec::new();
        for named in [&belongings, &of_none] {
            let request = named.request(method, path, operation);
            let answer = tokio::time::timeout(PATIENCE, bob.request(request)).await;
            let answer = answer.unwrap_or_else(|_| panic!("{method} {path} has no end"));
            let ids = [&named.chat, &named.answer, &named.turn, &named.checkpoint];
            let mut body = answer.body;
            for name in ["request_id", "threadId"] {
                body.as_object_mut().map(|body| body.remove(name));
            }
            let body = ids
                .iter()
                .fold(body.to_string(), |body, id| body.replace(*id, "ID"));
            told.push((answer.status, body));
        }
        assert_eq!(told[0], told[1], "{method} {path}");
    }
    assert_eq!(seen(&acme, &belongings).await, before);

    // Nor in what names nothing.
    let chats = bob.get("/conversations").await.body;
    let mut chats = chats["items"].as_array().unwrap().iter();
    assert!(chats.all(|chat| chat["id"] != *belongings.chat));
    let threads = bob.get("/threads").await.body;
    assert!(!threads.to_string().contains(&belongings.chat), "{threads}");
    let items = bob
        .post("/store/items/search", json!({"namespace_prefix": []}))
        .await;
    assert_eq!(items.body["items"], json!([]), "{}", items.body);
    let audit = bob.get("/audit").await.body;
    assert!(!audit.to_string().contains(&belongings.chat), "{audit}");
    // The same requests find what is one's own.
    for (method, path, operation) in &operations {
        let request = belongings.request(method, path, operation);
        let answer = tower::ServiceExt::oneshot(acme.router.clone(), request).await;
        let status = answer.unwrap().status().as_u16();
        assert!(
            ![401, 403, 404, 405].contains(&status),
            "{method} {path}: {status}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_every_route_what_is_another_tenants_is_as_what_does_not_exist_directly() {
    let installation = direct().await;
    on_every_route_what_is_another_tenants_is_as_what_does_not_exist(&installation).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_every_route_what_is_another_tenants_is_as_what_does_not_exist_through_a_pooler() {
    let installation = installation("AGENTKIT_TEST_PGBOUNCER_URL").await;
    on_every_route_what_is_another_tenants_is_as_what_does_not_exist(&installation).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_keys_of_requests_are_a_tenants_own() {
    let installation = direct().await;
    let keys = ["acme", "bob"].map(|tenant| key(&installation, tenant, &[]));
    let (router, turns) = router(&installation).await;
    let both = keys.map(|key| called_with(&router, &turns, &key));
    let said = json!([{"id": "m", "role": "user", "content": "hello"}]);
    let input = json!({"threadId": "main", "runId": "run", "messages": said});
    let mut made = Vec::new();
    for api in &both {
        let run = api.post("/agui", input.clone()).await;
        assert_eq!(run.status, StatusCode::OK, "{}", run.body);
        let chats = api.get("/conversations").await.body;
        let [chat] = &chats["items"].as_array().unwrap()[..] else {
            panic!("{chats}");
        };
        let created = api
            .post_keyed("/conversations", "once", json!({"title": "One"}))
            .await;
        assert_eq!(created.status, StatusCode::OK, "{}", created.body);
        made.extend([chat["id"].clone(), created.body["id"].clone()]);
    }
    assert!(made[0] != made[2] && made[1] != made[3], "{made:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_names_no_tenant_is_refused() {
    let installation = direct().await;
    let acme = key(&installation, "acme", &[]);
    let server = installation.start("0");
    let list = |key: &str| {
        let header = match key {
            "" => String::new(),
            key => format!("authorization: Bearer {key}\r\n"),
        };
        request_with(&server.address, PATIENCE, "GET /conversations", &header, "")
            .unwrap()
            .0
    };
    assert_eq!(list(""), 401);
    let unknown = format!("agk_{}_{}", uuid::Uuid::now_v7().simple(), "0".repeat(64));
    assert_eq!(list(&unknown), 401);
    assert_eq!(list(&acme), 200);
    assert_eq!(server.request("GET /readyz", "").0, 200);
    let id = acme.split('_').nth(1).unwrap();
    run(&installation, &["keys", "revoke", id, "--tenant", "acme"]);
    assert_eq!(list(&acme), 401);
    // A server of one tenant knows no keys of others.
    let bob = key(&installation, "bob", &[]);
    let mut command = installation.command("0", "1");
    let of_acme = Server::spawn(command.env("DB_TENANT", "acme"));
    let header = format!("authorization: Bearer {bob}\r\n");
    let answer = request_with(
        &of_acme.address,
        PATIENCE,
        "GET /conversations",
        &header,
        "",
    );
    assert_eq!(answer.unwrap().0, 401);
}

#[test]
fn what_works_for_one_tenant_asks_which() {
    let mut installation = Installation::sqlite();
    // Nothing answers there: it is refused before.
    let nowhere = "postgresql://nobody@127.0.0.1:1/none".to_owned();
    installation.variables = vec![("DATABASE_URL", nowhere), ("DB_TENANTS", "true".to_owned())];
    for arguments in [
        &["serve", "--without-keys", "true"][..],
        &["chat", "hello"],
        &["conversations"],
        &["keys", "create", "CI"],
        &["erase", "--owner", "ada"],
    ] {
        let mut command = installation.command("0", "1");
        let output = command.args(arguments).output().unwrap();
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(
            error.contains("DB_TENANT: must say"),
            "{arguments:?}: {error}"
        );
    }
}

fn with_key(server: &Server, key: &str, head: &str, body: &Value) -> Option<(u16, Value)> {
    let header = format!("authorization: Bearer {key}\r\n");
    request_with(&server.address, PATIENCE, head, &header, &body.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_does_by_itself_it_does_for_all_tenants() {
    let installation = direct().await;
    let keys = ["acme", "bob"].map(|tenant| key(&installation, tenant, &[]));
    let mut server = installation.start("1500");
    let chats = keys.each_ref().map(|key| {
        let (status, chat) = with_key(&server, key, "POST /conversations", &json!({})).unwrap();
        assert_eq!(status, 200, "{chat}");
        chat["id"].as_str().unwrap().to_owned()
    });
    let history = |server: &Server, one: usize| {
        let path = format!("GET /chats/{}/history", chats[one]);
        let (_, page) = with_key(server, &keys[one], &path, &json!({}))?;
        Some(page["items"].as_array()?.len())
    };
    std::thread::scope(|scope| {
        for (key, chat) in keys.iter().zip(&chats) {
            let address = server.address.clone();
            let head = format!("POST /chats/{chat}/messages");
            let header = format!("authorization: Bearer {key}\r\n");
            scope.spawn(move || {
                let body = json!({"content": "What is 17 * 23?"}).to_string();
                request_with(&address, PATIENCE, &head, &header, &body)
            });
        }
        for one in [0, 1] {
            wait_for(|| history(&server, one).filter(|count| *count >= 2));
        }
        server.process.kill().unwrap();
        server.process.wait().unwrap();
    });
    drop(server);

    // Another takes their turns over, and has what is not kept go.
    let mut command = installation.command("0", "1");
    let policy = [
        ("AGENTKIT_CHECKPOINT_AGE", "1"),
        ("AGENTKIT_CHECKPOINTS_KEPT", "1"),
    ];
    let server = installation.start("0");
    for (key, chat) in keys.iter().zip(&chats) {
        let path = format!("GET /conversations/{chat}/messages");
        wait_for(|| {
            let (_, page) = with_key(&server, key, &path, &json!({}))?;
            let said = page["items"].as_array()?;
            let answer = said.get(1)?["content"].as_str()?.to_owned();
            answer.contains("391").then_some(())
        });
    }
    drop(server);
    std::thread::sleep(Duration::from_millis(1_100));
    let told = command
        .args(["prune", "--dry-run", "--json"])
        .envs(policy)
        .output()
        .unwrap();
    let told = text(&told.stdout);
    let told: Vec<Value> = told
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let tenants: Vec<_> = told.iter().map(|line| line["tenant"].clone()).collect();
    assert_eq!(tenants, ["acme", "bob"]);
    for line in &told {
        assert!(
            line["checkpoints"].as_u64() > Some(0) && line["bytes"].as_u64() > Some(0),
            "{line}"
        );
    }
    let mut command = installation.command("0", "1");
    let server = Server::spawn(command.envs(policy));
    for one in [0, 1] {
        wait_for(|| history(&server, one).filter(|count| *count == 1));
    }
}
