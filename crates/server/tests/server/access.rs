//! Who may call the server: by which names, and from which pages.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{Method, Request, StatusCode, Version},
};
use yai_agentkit_server::http::{Quota, host::Access};

use crate::{
    owners::called_by,
    support::{Answer, Api, ScriptedAgent},
};

fn access(address: &str, hosts: &str, origins: &str) -> Api {
    let access = Access {
        address: address.parse().unwrap(),
        hosts: hosts.parse().unwrap(),
        origins: origins.parse().unwrap(),
        without_keys: true,
        ..Access::default()
    };
    Api::with_access(ScriptedAgent::default(), access)
}

async fn call(api: &Api, method: Method, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri("/conversations");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    api.request(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn a_name_that_the_server_does_not_have_is_refused_with_the_setting_for_it() {
    let api = access("127.0.0.1", "Agents.example.com,.internal", "");
    for host in [
        "localhost",
        "LOCALHOST:1",
        "localhost.",
        "app.localhost",
        "127.0.0.1:8080",
        "[::1]:8080",
        "agents.example.com:443",
        "a.internal",
    ] {
        let answer = call(&api, Method::GET, &[("host", host)]).await;
        assert_eq!(answer.status, StatusCode::OK, "{host}: {}", answer.body);
    }
    for host in [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "192.168.1.7:8080",
        "evil-internal",
        "xagents.example.com",
    ] {
        let answer = call(&api, Method::GET, &[("host", host)]).await;
        assert_eq!(answer.status, StatusCode::MISDIRECTED_REQUEST, "{host}");
        assert_eq!(answer.problem(), "host-not-allowed");
        let detail = answer.body["detail"].as_str().unwrap();
        assert!(detail.contains("AGENTKIT_ALLOWED_HOSTS"), "{detail}");
    }
    let forwarded = Request::get("http://evil.example/conversations").header("host", "localhost");
    let answer = api.request(forwarded.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.problem(), "host-not-allowed");
}

#[tokio::test]
async fn the_address_that_the_server_listens_on_is_a_name_of_it() {
    for (address, host, is_served) in [
        ("192.168.1.7", "192.168.1.7:8080", true),
        ("192.168.1.7", "192.168.1.8:8080", false),
        ("0.0.0.0", "192.168.1.8:8080", true),
        ("::", "[2001:db8::1]:8080", true),
        ("0.0.0.0", "evil.example", false),
    ] {
        let answer = call(&access(address, "", ""), Method::GET, &[("host", host)]).await;
        let status = match is_served {
            true => StatusCode::OK,
            false => StatusCode::MISDIRECTED_REQUEST,
        };
        assert_eq!(answer.status, status, "{host} at {address}");
    }
    let all = call(
        &access("127.0.0.1", "*", ""),
        Method::GET,
        &[("host", "any.example")],
    )
    .await;
    assert_eq!(all.status, StatusCode::OK);
}

#[tokio::test]
async fn a_request_names_the_server_once() {
    let api = access("127.0.0.1", "", "");
    for hosts in [
        &[][..],
        &[("host", "localhost"), ("host", "localhost")],
        &[("host", "")],
        &[("host", "user@localhost")],
        &[("host", "local host")],
    ] {
        let answer = call(&api, Method::GET, hosts).await;
        assert_eq!(answer.invalid_field(), "host", "{hosts:?}");
    }
    let old = Request::get("/conversations").version(Version::HTTP_10);
    let answer = api.request(old.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn a_page_of_another_may_not_call_unless_the_settings_say_so() {
    let api = access("127.0.0.1", "agents.example.com", "https://app.example.com");
    for origin in [
        "http://localhost:8080",
        "https://agents.example.com",
        "https://app.example.com",
    ] {
        let headers = [("host", "localhost:8080"), ("origin", origin)];
        let answer = call(&api, Method::GET, &headers).await;
        assert_eq!(answer.status, StatusCode::OK, "{origin}");
    }
    for origin in [
        "null",
        "http://localhost:3000",
        "http://evil.example",
        "http://app.example.com",
        "https://app.example.com.evil.example",
    ] {
        let headers = [("host", "localhost:8080"), ("origin", origin)];
        let answer = call(&api, Method::GET, &headers).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{origin}");
        assert_eq!(answer.problem(), "origin-not-allowed");
        let detail = answer.body["detail"].as_str().unwrap();
        assert!(detail.contains("AGENTKIT_CORS_ORIGINS"), "{detail}");
    }
}

#[tokio::test]
async fn a_browser_shows_answers_to_the_pages_of_the_settings_only() {
    let app = "https://app.example.com";
    let preflight = [
        ("host", "localhost"),
        ("origin", app),
        ("access-control-request-method", "PATCH"),
        (
            "access-control-request-headers",
            "idempotency-key,last-event-id,content-type",
        ),
    ];
    let api = access("127.0.0.1", "", app);
    let answer = call(&api, Method::OPTIONS, &preflight).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers["access-control-allow-origin"], app);
    let listed = |name: &str| answer.headers[name].to_str().unwrap().to_lowercase();
    assert!(listed("access-control-allow-methods").contains("patch"));
    for header in ["idempotency-key", "last-event-id", "content-type"] {
        assert!(listed("access-control-allow-headers").contains(header));
    }
    let answer = call(&api, Method::GET, &preflight[..2]).await;
    assert_eq!(answer.headers["access-control-allow-origin"], app);
    // As an error must be to be read.
    let missing = Request::get("/nowhere")
        .header("host", "localhost")
        .header("origin", app);
    let answer = api.request(missing.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.problem(), "not-found");
    assert_eq!(answer.headers["access-control-allow-origin"], app);

    let closed = access("127.0.0.1", "", "");
    let answer = call(&closed, Method::OPTIONS, &preflight).await;
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
    assert_eq!(answer.problem(), "origin-not-allowed");
}

#[tokio::test]
async fn an_owner_has_so_many_requests_a_minute_and_takes_none_from_another() {
    let access = Access {
        quota: Quota {
            requests_per_minute: NonZeroU32::new(3),
            ..Quota::default()
        },
        ..Access::default()
    };
    let api = Api::with_access(ScriptedAgent::default(), access);
    let [ada, bob] = [Some("ada"), Some("bob")].map(|owner| called_by(&api, owner));
    let headers = [("host", "localhost")];
    for _ in 0..3 {
        assert_eq!(
            call(&ada, Method::GET, &headers).await.status,
            StatusCode::OK
        );
    }
    let refused = call(&ada, Method::GET, &headers).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.problem(), "too-many-requests");
    let wait: u32 = refused.headers["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=20).contains(&wait), "{wait}");
    assert_eq!(
        call(&bob, Method::GET, &headers).await.status,
        StatusCode::OK
    );
    // Whether the server is well may always be asked.
    let health = Request::get("/healthz").header("host", "localhost");
    let health = ada.request(health.body(Body::empty()).unwrap()).await;
    assert_eq!(health.status, StatusCode::OK);
}

#[tokio::test]
async fn all_of_a_tenant_have_so_many_requests_a_minute_together() {
    let access = Access {
        tenant_quota: Quota {
            requests_per_minute: NonZeroU32::new(2),
            ..Quota::default()
        },
        ..Access::default()
    };
    let api = Api::with_access(ScriptedAgent::default(), access);
    let headers = [("host", "localhost")];
    let mut answers = Vec::new();
    for owner in [Some("ada"), Some("bob"), None] {
        let caller = called_by(&api, owner);
        answers.push(call(&caller, Method::GET, &headers).await.status.as_u16());
    }
    assert_eq!(answers, [200, 200, 429]);
}

#[tokio::test]
async fn so_many_turns_of_an_owner_and_of_a_tenant_run_at_once() {
    let turns = |most| Quota {
        turns_at_once: NonZeroU32::new(most),
        ..Quota::default()
    };
    let access = Access {
        quota: turns(1),
        tenant_quota: turns(2),
        ..Access::default()
    };
    let api = Api::with_access(ScriptedAgent::hanging_after(0), access);
    let callers = ["ada", "bob", "cleo"].map(|owner| Arc::new(called_by(&api, Some(owner))));
    let chat = async |caller: &Api| {
        let request = Request::post("/conversations").header("host", "localhost");
        let request = request.header("content-type", "application/json");
        let created = caller.request(request.body(Body::from("{}")).unwrap());
        created.await.body["id"].as_str().unwrap().to_owned()
    };
    let ask = |chat: &str| {
        let request = Request::post(format!("/chats/{chat}/messages")).header("host", "localhost");
        let request = request.header("content-type", "application/json");
        request.body(Body::from(r#"{"content": "hi"}"#)).unwrap()
    };
    let running = async |count| {
        while api.storage.inner.turn_store().running(None).await.unwrap() < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let [ada, bob, cleo] = &callers;
    for (count, caller) in [(1, ada), (2, bob)] {
        let (caller, request) = (Arc::clone(caller), ask(&chat(caller).await));
        tokio::spawn(async move { caller.request(request).await });
        running(count).await;
    }
    for (caller, setting) in [
        (ada, "AGENTKIT_TURNS_AT_ONCE"),
        (cleo, "AGENTKIT_TENANT_TURNS_AT_ONCE"),
    ] {
        let refused = caller.request(ask(&chat(caller).await)).await;
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(refused.problem(), "too-many-turns");
        assert_eq!(refused.headers["retry-after"], "1");
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(detail.contains(setting), "{detail}");
    }
    // Nothing was stored of them.
    assert_eq!(api.rows().await.1, 2);
}
