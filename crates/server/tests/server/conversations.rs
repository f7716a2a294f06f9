use axum::{
    Extension,
    http::{Request, StatusCode},
};
use chrono::DateTime;
use serde_json::{Value, json};
use uuid::Uuid;
use yai_agentkit_core::{Conversation, ListQuery, Stores, access::Scope};
use yai_agentkit_server::http::Caller;

use crate::support::{Answer, Api, ScriptedAgent};

fn api() -> Api {
    Api::new(ScriptedAgent::default())
}

fn ids(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_conversation_is_created_read_changed_and_deleted() {
    let api = api();
    let new = json!({"title": "Trip", "metadata": {"customer": 7}});
    let created = api.post("/conversations", new).await;
    assert_eq!(created.status, StatusCode::OK);
    assert_eq!(created.body["title"], "Trip");
    assert_eq!(created.body["metadata"], json!({"customer": 7}));
    let fields: Vec<_> = created.body.as_object().unwrap().keys().collect();
    let expected = [
        "checkpoint_thread_id",
        "created_at",
        "id",
        "metadata",
        "owner",
        "title",
        "updated_at",
    ];
    assert_eq!(fields, expected);
    let id: Uuid = created.body["id"].as_str().unwrap().parse().unwrap();
    let thread: Uuid = created.body["checkpoint_thread_id"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(id, thread);
    for time in ["created_at", "updated_at"] {
        DateTime::parse_from_rfc3339(created.body[time].as_str().unwrap()).unwrap();
    }

    let path = format!("/conversations/{id}");
    assert_eq!(api.get(&path).await.body, created.body);
    let changed = api.patch(&path, json!({"title": "Two trips"})).await;
    assert_eq!(changed.status, StatusCode::OK);
    assert_eq!(changed.body["title"], "Two trips");
    assert_eq!(changed.body["metadata"], json!({"customer": 7}));
    assert!(changed.body["updated_at"].as_str() > created.body["updated_at"].as_str());
    let cleared = api.patch(&path, json!({"metadata": null})).await;
    assert_eq!(cleared.body["title"], "Two trips");
    assert_eq!(cleared.body["metadata"], Value::Null);
    assert_eq!(api.patch(&path, json!({})).await.body, cleared.body);

    let deleted = api.delete(&path).await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT);
    assert_eq!(api.get(&path).await.problem(), "not-found");
}

#[tokio::test]
async fn a_conversation_needs_neither_title_nor_metadata() {
    let created = api().post("/conversations", json!({})).await;
    assert_eq!(created.body["title"], Value::Null);
    assert_eq!(created.body["metadata"], Value::Null);
}

#[tokio::test]
async fn a_page_by_offset_that_bytes_would_cut_is_refused_since_the_next_offset_would_skip_rows() {
    let api = api();
    for _ in 0..6 {
        let large = json!("x".repeat(1 << 20));
        let conversation = Conversation::new(None, Some(large));
        let conversations = api.storage.conversations();
        conversations.add(conversation).await.unwrap();
    }
    let by_cursor = api.get("/conversations?limit=6").await;
    let cursor = by_cursor.body["next_cursor"].as_str().unwrap();
    let fitting = ids(&by_cursor.body).len();
    assert!((1..6).contains(&fitting), "{fitting}");
    let by_offset = api.get("/conversations?limit=6&offset=0").await;
    assert_eq!(by_offset.invalid_field(), "limit");
    let rest = format!("/conversations?limit=6&cursor={cursor}");
    let same = format!("/conversations?limit={}&offset={fitting}", 6 - fitting);
    assert_eq!(
        ids(&api.get(&same).await.body),
        ids(&api.get(&rest).await.body)
    );
}

#[tokio::test]
async fn conversations_are_listed_newest_first_by_cursor_and_by_offset() {
    let api = api();
    let mut all = Vec::new();
    for _ in 0..5 {
        all.insert(0, api.conversation().await);
    }
    let first = api.get("/conversations?limit=2").await;
    assert_eq!(first.status, StatusCode::OK);
    assert_eq!(ids(&first.body), all[..2]);
    let cursor = first.body["next_cursor"].as_str().unwrap();
    let second = api
        .get(&format!("/conversations?limit=3&cursor={cursor}"))
        .await;
    assert_eq!(ids(&second.body), all[2..]);
    assert_eq!(second.body.get("next_cursor"), None);
    let middle = api.get("/conversations?limit=2&offset=1").await;
    assert_eq!(ids(&middle.body), all[1..3]);
    assert_eq!(ids(&api.get("/conversations").await.body), all);
    assert_eq!(ids(&api.get("/conversations?offset=9").await.body), [""; 0]);
}

#[tokio::test]
async fn messages_are_listed_oldest_first_by_cursor() {
    let api = api();
    let id = api.conversation().await;
    for text in ["one", "two"] {
        api.post(&format!("/chats/{id}/messages"), json!({"content": text}))
            .await;
    }
    let path = format!("/conversations/{id}/messages");
    let all = api.get(&path).await;
    assert_eq!(all.status, StatusCode::OK);
    let items = all.body["items"].as_array().unwrap();
    let roles: Vec<_> = items
        .iter()
        .map(|item| item["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant"]);
    assert_eq!(items[0]["content"], "one");
    assert!(
        items
            .iter()
            .all(|item| item["conversation_id"] == id.as_str())
    );

    let first = api.get(&format!("{path}?limit=3")).await;
    let cursor = first.body["next_cursor"].as_str().unwrap();
    let rest = api.get(&format!("{path}?cursor={cursor}")).await;
    assert_eq!([ids(&first.body), ids(&rest.body)].concat(), ids(&all.body));
    assert_eq!(rest.body.get("next_cursor"), None);
    let mut newest_first = ids(&api.get(&format!("{path}?order=desc")).await.body);
    newest_first.reverse();
    assert_eq!(newest_first, ids(&all.body));
}

#[tokio::test]
async fn deleting_a_conversation_leaves_nothing_of_it_and_all_of_others() {
    let api = api();
    let (gone, stays) = (api.conversation().await, api.conversation().await);
    for id in [&gone, &stays] {
        api.post(&format!("/chats/{id}/messages"), json!({"content": "hi"}))
            .await;
    }
    assert_eq!(api.rows().await, (2, 4, 2, 2));
    api.delete(&format!("/conversations/{gone}")).await;
    assert_eq!(api.rows().await, (1, 2, 1, 1));
    let left: Vec<Conversation> = api
        .storage
        .conversations()
        .list(&ListQuery::default())
        .await
        .unwrap()
        .items;
    assert_eq!(left[0].id.to_string(), stays);
}

#[tokio::test]
async fn a_conversation_with_a_running_turn_is_not_deleted() {
    let agent = ScriptedAgent::hanging_after(1);
    let api = Api::new(agent.clone());
    let id = api.conversation().await;
    let path = format!("/chats/{id}/messages");
    let (turn, ()) = tokio::join!(api.post(&path, json!({"content": "hi"})), async {
        while agent.done().is_empty() {
            tokio::task::yield_now().await;
        }
        let refused = api.delete(&format!("/conversations/{id}")).await;
        assert_eq!(
            (refused.status, refused.problem()),
            (StatusCode::CONFLICT, "turn-running")
        );
        agent.permits.add_permits(100);
    });
    assert_eq!(turn.status, StatusCode::OK);
    let deleted = api.delete(&format!("/conversations/{id}")).await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_change_that_is_meant_for_what_was_seen_is_refused_after_another() {
    let api = api();
    let created = api.post("/conversations", json!({"title": "Trip"})).await;
    let path = format!("/conversations/{}", created.body["id"].as_str().unwrap());
    let etag = |answer: &Answer| answer.headers["etag"].to_str().unwrap().to_owned();
    let seen = etag(&created);
    assert_eq!(etag(&api.get(&path).await), seen);
    let patch = async |etag: &str, body: Value| {
        let request = Request::patch(&path)
            .header("content-type", "application/json")
            .header("if-match", etag)
            .body(body.to_string().into());
        api.request(request.unwrap()).await
    };
    let changed = patch(&seen, json!({"title": "Two trips"})).await;
    assert_eq!(changed.status, StatusCode::OK);
    assert_ne!(etag(&changed), seen);
    for change in [json!({"title": "Three trips"}), json!({})] {
        let late = patch(&seen, change).await;
        assert_eq!(late.status, StatusCode::PRECONDITION_FAILED);
        assert_eq!(late.problem(), "changed-meanwhile");
    }
    assert_eq!(api.get(&path).await.body, changed.body);
    for admitted in ["*".to_owned(), format!("\"0\", {}", etag(&changed))] {
        assert_eq!(patch(&admitted, json!({})).await.body, changed.body);
    }
}

#[tokio::test]
async fn the_key_of_a_new_conversation_belongs_to_who_sent_it() {
    let mut api = api();
    let mut first = Vec::new();
    for sender in [None, Some("Ada"), Some("Bob")] {
        let router = api.router.clone();
        let plain = api.router.clone();
        if let Some(sender) = sender {
            api.router = router.layer(Extension(Caller::new(sender, Scope::Write)));
        }
        let post = || api.post_keyed("/conversations", "key", json!({"title": "Trip"}));
        let created = post().await;
        assert_eq!(created.status, StatusCode::OK);
        assert_eq!(post().await.body, created.body);
        first.push(created.body["id"].clone());
        api.router = plain;
    }
    first.dedup();
    assert_eq!(first.len(), 3);
}

#[tokio::test]
async fn a_list_is_of_those_with_a_part_of_a_title_and_fields_of_metadata() {
    let api = Api::new(ScriptedAgent::default());
    for (title, customer) in [("A trip", 7), ("Another Trip", 8), ("A walk", 7)] {
        let new = json!({"title": title, "metadata": {"customer": customer}});
        api.post("/conversations", new).await;
    }
    let titles = async |query: &str| -> Vec<String> {
        let page = api.get(&format!("/conversations?{query}")).await;
        assert_eq!(page.status, StatusCode::OK, "{}", page.body);
        let items = page.body["items"].as_array().unwrap().iter();
        items
            .map(|item| item["title"].as_str().unwrap().to_owned())
            .collect()
    };
    let customer = "metadata=%7B%22customer%22%3A7%7D";
    assert_eq!(titles("title=trip").await, ["Another Trip", "A trip"]);
    assert_eq!(titles(customer).await, ["A walk", "A trip"]);
    assert_eq!(titles(&format!("title=trip&{customer}")).await, ["A trip"]);
    for bad in [
        "title=%00",
        "metadata=7",
        "metadata=%7B%22a%22%3A%5B%5D%7D",
        "metadata=%7B%22a%22%3A%22%5Cu0000%22%7D",
    ] {
        let refused = api.get(&format!("/conversations?{bad}")).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{bad}");
    }
}

#[tokio::test]
async fn conversations_are_searched_by_what_was_said_in_them() {
    let api = api();
    for text in ["A trip to Rome", "去北京旅行", "A trip to Paris"] {
        let said = json!({"messages": [{"role": "user", "content": text}], "title": text});
        api.post("/conversations", said).await;
    }
    let search = async |query: &str| api.get(&format!("/conversations?{query}")).await;
    let titles = async |query: &str| {
        let found = search(query).await.body;
        let items = found["items"].as_array().unwrap().iter();
        let titles = items.map(|item| item["title"].as_str().unwrap().to_owned());
        (titles.collect::<Vec<_>>(), found["next_cursor"].clone())
    };
    let (both, none) = titles("text=TRIP").await;
    assert_eq!(
        (both, none),
        (
            vec!["A trip to Paris".to_owned(), "A trip to Rome".to_owned()],
            Value::Null
        )
    );
    let beijing = "%E5%8C%97%E4%BA%AC";
    assert_eq!(titles(&format!("text={beijing}")).await.0, ["去北京旅行"]);
    let (first, next) = titles("text=a+trip&limit=1").await;
    let next = next.as_str().unwrap();
    let (second, none) = titles(&format!("text=a+trip&limit=1&cursor={next}")).await;
    assert_eq!(
        [first, second].concat(),
        ["A trip to Paris", "A trip to Rome"]
    );
    assert_eq!(none, Value::Null);
    for refused in [
        "text=",
        "text=%3F",
        "text=trip&title=trip",
        "text=trip&offset=1",
        "text=%00",
    ] {
        assert_eq!(
            search(refused).await.problem(),
            "invalid-input",
            "{refused}"
        );
    }
}
