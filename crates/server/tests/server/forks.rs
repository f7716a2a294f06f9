//! Time travel: forks of a chat, and what changed between two of its checkpoints.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::{
    crash::Installation,
    process::{Server, agentkit, text},
    support::{Api, ScriptedAgent},
};

/// A chat of two turns with an instruction before them.
struct Chat {
    id: String,
    messages: Vec<Value>,
    /// The newest first.
    history: Vec<Value>,
}

impl Chat {
    async fn of(api: &Api) -> Self {
        let new = json!({"title": "A trip", "metadata": {"customer": 7}});
        let id = api.post("/conversations", new).await.body["id"].clone();
        let id = id.as_str().unwrap().to_owned();
        for (role, content) in [("system", "Be brief."), ("user", "one"), ("user", "two")] {
            let new = json!({"role": role, "content": content});
            let answer = api.post(&format!("/chats/{id}/messages"), new).await;
            assert_eq!(answer.status, StatusCode::OK);
        }
        Self::read(api, id).await
    }

    async fn read(api: &Api, id: String) -> Self {
        let items = async |path: &str| {
            let page = api.get(path).await.body;
            page["items"].as_array().unwrap().clone()
        };
        Self {
            messages: items(&format!("/conversations/{id}/messages")).await,
            history: api.history(&id).await,
            id,
        }
    }

    async fn fork(&self, api: &Api, point: Value) -> Self {
        let fork = api.post(&format!("/chats/{}/fork", self.id), point).await;
        assert_eq!(fork.status, StatusCode::OK, "{}", fork.body);
        Self::read(api, fork.body["id"].as_str().unwrap().to_owned()).await
    }

    /// What is said, and when.
    fn said(&self) -> Vec<[&Value; 3]> {
        let fields = ["role", "content", "created_at"];
        let messages = self.messages.iter();
        messages
            .map(|message| fields.map(|field| &message[field]))
            .collect()
    }

    fn id_of(&self, message: usize) -> &Value {
        &self.messages[message]["id"]
    }
}

#[tokio::test]
async fn a_fork_of_now_has_all_messages_and_the_latest_state() {
    let api = Api::new(ScriptedAgent::default());
    let chat = Chat::of(&api).await;
    let fork = chat.fork(&api, json!({})).await;
    assert_eq!(fork.said(), chat.said());
    let [checkpoint] = &fork.history[..] else {
        panic!("{:?}", fork.history)
    };
    assert_eq!(checkpoint["values"], chat.history[0]["values"]);
    assert_eq!(checkpoint["source"], "fork");

    let conversation = api.get(&format!("/conversations/{}", fork.id)).await.body;
    assert_eq!(conversation["title"], "A trip");
    let expected = json!({
        "customer": 7,
        "forked_from": {
            "conversation_id": chat.id,
            "checkpoint_id": chat.history[0]["checkpoint_id"],
            "message_id": chat.id_of(4),
        },
    });
    assert_eq!(conversation["metadata"], expected);
    let ids = |chat: &Chat| {
        chat.messages
            .iter()
            .map(|message| message["id"].clone())
            .collect()
    };
    let (old, new): (Vec<Value>, Vec<Value>) = (ids(&chat), ids(&fork));
    assert!(new.iter().all(|id| !old.contains(id)));

    let untouched = Chat::read(&api, chat.id.clone()).await;
    assert_eq!(
        (untouched.messages, untouched.history),
        (chat.messages, chat.history)
    );
}

#[tokio::test]
async fn a_fork_after_a_message_knows_nothing_of_what_came_later() {
    let api = Api::new(ScriptedAgent::default());
    let chat = Chat::of(&api).await;
    for message in 0..chat.messages.len() {
        let fork = chat
            .fork(&api, json!({"message_id": chat.id_of(message)}))
            .await;
        assert_eq!(fork.said(), chat.said()[..=message]);
        let values = &fork.history[0]["values"];
        let known = values["messages"].as_array().unwrap();
        assert_eq!(
            known.last().unwrap()["content"],
            chat.messages[message]["content"]
        );
        assert_eq!(values["answering"], Value::Null);
        let facts = values["state"]["facts"].as_object().unwrap().len();
        assert_eq!(facts, if message < 2 { 0 } else { 3 }, "{message}");
    }
}

#[tokio::test]
async fn a_fork_after_a_checkpoint_has_the_messages_that_it_knew() {
    let api = Api::new(ScriptedAgent::default());
    let chat = Chat::of(&api).await;
    // Oldest first: the instruction, then of each turn the question, four steps and the answer.
    let known = [1, 2, 2, 2, 2, 2, 3, 4, 4, 4, 4, 4, 5];
    assert_eq!(chat.history.len(), known.len());
    for (checkpoint, known) in chat.history.iter().rev().zip(known) {
        let id = &checkpoint["checkpoint_id"];
        let fork = chat.fork(&api, json!({"checkpoint_id": id})).await;
        assert_eq!(fork.said(), chat.said()[..known]);
        let mut values = checkpoint["values"].clone();
        values["answering"] = Value::Null;
        assert_eq!(fork.history[0]["values"], values);
        let both = json!({"checkpoint_id": id, "message_id": chat.id_of(known - 1)});
        chat.fork(&api, both).await;
    }
}

#[tokio::test]
async fn a_fork_goes_its_own_way_and_can_be_forked() {
    let api = Api::new(ScriptedAgent::default());
    let chat = Chat::of(&api).await;
    let fork = chat.fork(&api, json!({"message_id": chat.id_of(2)})).await;
    let answer = api
        .post(
            &format!("/chats/{}/messages", fork.id),
            json!({"content": "three"}),
        )
        .await;
    assert_eq!(answer.status, StatusCode::OK);
    let fork = Chat::read(&api, fork.id).await;
    assert_eq!(fork.messages.len(), 5);
    let again = fork.fork(&api, json!({"message_id": fork.id_of(2)})).await;
    assert_eq!(again.said(), fork.said()[..3]);
    // What the fork only copied has no checkpoint of its own there.
    let path = format!("/chats/{}/fork", fork.id);
    let refused = api.post(&path, json!({"message_id": fork.id_of(1)})).await;
    assert_eq!(
        (refused.status, refused.problem()),
        (StatusCode::NOT_FOUND, "not-found")
    );
}

#[tokio::test]
async fn a_fork_of_an_empty_chat_is_empty() {
    let api = Api::new(ScriptedAgent::default());
    let id = api.conversation().await;
    let chat = Chat::read(&api, id).await;
    let fork = chat.fork(&api, json!({})).await;
    assert!(fork.messages.is_empty() && fork.history.is_empty());
}

#[tokio::test]
async fn what_a_fork_names_must_exist_in_its_chat_and_agree() {
    let api = Api::new(ScriptedAgent::default());
    let (chat, other) = (Chat::of(&api).await, Chat::of(&api).await);
    let before = api.rows().await;
    let path = format!("/chats/{}/fork", chat.id);
    let nothing = "00000000-0000-7000-8000-000000000000";
    for unknown in [
        json!({"checkpoint_id": "nothing"}),
        json!({"checkpoint_id": other.history[0]["checkpoint_id"]}),
        json!({"message_id": nothing}),
        json!({"message_id": other.id_of(0)}),
        json!({"checkpoint_id": chat.history[0]["checkpoint_id"], "message_id": nothing}),
    ] {
        let refused = api.post(&path, unknown).await;
        assert_eq!(
            (refused.status, refused.problem()),
            (StatusCode::NOT_FOUND, "not-found")
        );
    }
    let disagree = json!({
        "checkpoint_id": chat.history[0]["checkpoint_id"],
        "message_id": chat.id_of(1),
    });
    assert_eq!(
        api.post(&path, disagree).await.invalid_field(),
        "message_id"
    );
    let unknown_field = api.post(&path, json!({"checkpoint": "x"})).await;
    assert_eq!(unknown_field.invalid_field(), "checkpoint");
    let gone = api.post(&format!("/chats/{nothing}/fork"), json!({})).await;
    assert_eq!(gone.problem(), "not-found");
    assert_eq!(api.rows().await, before);
}

#[tokio::test]
async fn a_fork_that_the_storage_refuses_leaves_nothing() {
    let api = Api::new(ScriptedAgent::default());
    let chat = Chat::of(&api).await;
    let before = api.rows().await;
    api.storage
        .watch
        .fails
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let refused = api
        .post(&format!("/chats/{}/fork", chat.id), json!({}))
        .await;
    assert_eq!(refused.problem(), "storage-unavailable");
    assert_eq!(api.rows().await, before);
}

#[tokio::test]
async fn a_diff_makes_one_state_out_of_the_other() {
    let api = Api::new(ScriptedAgent::default());
    let chat = Chat::of(&api).await;
    let ends = [&chat.history[0], chat.history.last().unwrap()];
    for [from, to] in [ends, [ends[1], ends[0]], [ends[0], ends[0]]] {
        let (from_id, to_id) = (&from["checkpoint_id"], &to["checkpoint_id"]);
        let path = format!(
            "/chats/{}/diff?from={}&to={}",
            chat.id,
            from_id.as_str().unwrap(),
            to_id.as_str().unwrap()
        );
        let answer = api.get(&path).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(
            answer.headers["content-type"],
            "application/json-patch+json"
        );
        let patch: json_patch::Patch = serde_json::from_value(answer.body).unwrap();
        assert_eq!(patch.is_empty(), from_id == to_id);
        let mut values = from["values"].clone();
        json_patch::patch(&mut values, &patch).unwrap();
        assert_eq!(values, to["values"]);
    }
}

#[tokio::test]
async fn a_diff_needs_two_checkpoints_of_its_chat() {
    let api = Api::new(ScriptedAgent::default());
    let (chat, other) = (Chat::of(&api).await, Chat::of(&api).await);
    let id = |chat: &Chat| {
        chat.history[0]["checkpoint_id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let path = format!("/chats/{}/diff", chat.id);
    let foreign = format!("{path}?from={}&to={}", id(&chat), id(&other));
    let refused = api.get(&foreign).await;
    assert_eq!(
        (refused.status, refused.problem()),
        (StatusCode::NOT_FOUND, "not-found")
    );
    let half = api.get(&format!("{path}?from={}", id(&chat))).await;
    assert_eq!(half.status, StatusCode::BAD_REQUEST);
}

#[test]
fn forks_and_diffs_of_the_binary_on_sqlite() {
    forks_and_diffs_of_the_binary(&Installation::sqlite());
}

#[test]
fn forks_and_diffs_of_the_binary_on_postgres() {
    forks_and_diffs_of_the_binary(&Installation::postgres());
}

fn forks_and_diffs_of_the_binary(installation: &Installation) {
    let server = installation.start("0");
    let ask = |chat: &str, question: &str| -> String {
        let body = json!({ "content": question }).to_string();
        let (status, answer) = server.request(&format!("POST /chats/{chat}/messages"), &body);
        assert_eq!(status, 200, "{answer}");
        answer["content"].as_str().unwrap().to_owned()
    };
    let new = server
        .request("POST /conversations", r#"{"title":"Names"}"#)
        .1;
    let chat = new["id"].as_str().unwrap();
    ask(chat, "My name is Ada.");
    ask(chat, "My name is Grace.");
    let items = |path: &str| items(&server, path);
    let messages = items(&format!("/conversations/{chat}/messages"));
    let history = server.history(chat);

    let point = json!({"message_id": messages[1]["id"]}).to_string();
    let (status, fork) = server.request(&format!("POST /chats/{chat}/fork"), &point);
    assert_eq!((status, &fork["title"]), (200, &json!("Names")), "{fork}");
    let fork = fork["id"].as_str().unwrap();
    assert_eq!(items(&format!("/conversations/{fork}/messages")).len(), 2);
    assert!(ask(fork, "What is my name?").contains("Ada"));
    assert!(ask(chat, "What is my name?").contains("Grace"));

    let range = (
        &history[0]["checkpoint_id"],
        &history[history.len() - 1]["checkpoint_id"],
    );
    let (to, from) = (range.0.as_str().unwrap(), range.1.as_str().unwrap());
    let (status, patch) =
        server.request(&format!("GET /chats/{chat}/diff?from={from}&to={to}"), "");
    assert_eq!(status, 200);
    let mut values = history[history.len() - 1]["values"].clone();
    let parsed: json_patch::Patch = serde_json::from_value(patch.clone()).unwrap();
    json_patch::patch(&mut values, &parsed).unwrap();
    assert_eq!(values, history[0]["values"]);

    let run = |arguments: &[&str]| -> String {
        let mut command = agentkit(installation.directory.path());
        command.envs(installation.variables.clone());
        let output = command.args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let thread = new["checkpoint_thread_id"].as_str().unwrap();
    let printed = run(&["diff", thread, from, to, "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), patch);
    let lines = run(&["diff", thread, from, to]);
    assert_eq!(lines.lines().count(), patch.as_array().unwrap().len());
    let forked = run(&[
        "fork",
        chat,
        "--message",
        messages[1]["id"].as_str().unwrap(),
    ]);
    assert!(ask(forked.trim(), "What is my name?").contains("Ada"));
}

fn items(server: &Server, path: &str) -> Vec<Value> {
    let page = server.request(&format!("GET {path}"), "").1;
    page["items"].as_array().unwrap().clone()
}
