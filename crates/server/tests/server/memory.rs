//! AgentKit as an MCP server, with the clients of the protocol's own libraries, in Rust and of npm.

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;
use yai_agentkit_agents::mcp::{McpConfig, McpServer, McpTransport, ToolRules};
use yai_agentkit_engine::agent::{AgentState, Context, ToolCall, ToolOutcome, Tools};

use crate::{
    http::request_with,
    process::{PATIENCE, Server, agentkit, run, text},
};

async fn client(transport: McpTransport) -> Arc<McpServer> {
    let config = McpConfig {
        name: "memory".to_owned(),
        transport,
        timeout: Duration::from_secs(60),
        rules: ToolRules {
            trusts_annotations: true,
            ..ToolRules::default()
        },
    };
    McpServer::start(config).await
}

/// The names of the tools, each with whether it only reads.
fn tools(client: &McpServer) -> Vec<(String, bool)> {
    let specs = Tools::<()>::specs(client).into_iter();
    let mut tools: Vec<_> = specs
        .map(|spec| (spec.name.into_owned(), !spec.traits.needs_approval))
        .collect();
    tools.sort();
    tools
}

async fn call(client: &McpServer, tool: &str, arguments: Value) -> String {
    let call = ToolCall::new("call", format!("memory__{tool}"), arguments);
    let mut state = AgentState::<()>::default();
    let context = Context::detached();
    let outcome = client.run(&context, &call, &mut state, None);
    match outcome.await {
        ToolOutcome::Result(result) => result,
        ToolOutcome::Ask(question) => panic!("{question}"),
    }
}

fn program(directory: &Path, arguments: &[&str]) -> McpTransport {
    let arguments = ["mcp"].iter().chain(arguments);
    let url = format!("sqlite:{}", directory.join("test.db").display());
    McpTransport::Stdio {
        program: env!("CARGO_BIN_EXE_agentkit").to_owned(),
        arguments: arguments.map(|argument| (*argument).to_owned()).collect(),
        variables: vec![("DATABASE_URL".to_owned(), url)],
    }
}

#[tokio::test]
async fn an_agent_of_others_recalls_and_searches_and_remembers_only_where_it_may() {
    let directory = TempDir::new().unwrap();
    let said = agentkit(directory.path())
        .args(["chat", "My boat is called Argo."])
        .output()
        .unwrap();
    assert!(said.status.success(), "{}", text(&said.stderr));

    let reader = client(program(directory.path(), &[])).await;
    let reading = [
        ("memory__recall".to_owned(), true),
        ("memory__search_history".to_owned(), true),
    ];
    assert_eq!(tools(&reader), reading);
    let found = call(&reader, "search_history", json!({"words": "argo BOAT"})).await;
    assert!(found.ends_with("user: My boat is called Argo."), "{found}");
    let nothing = call(&reader, "search_history", json!({"words": "submarine"})).await;
    assert_eq!(nothing, "Error: no message has these words");
    let nothing = call(&reader, "recall", json!({})).await;
    assert_eq!(nothing, "Error: nothing is remembered yet");
    let fact = json!({"name": "Colour", "value": "green"});
    let refused = call(&reader, "remember", fact.clone()).await;
    assert!(refused.starts_with("Error: "), "{refused}");

    let writer = client(program(directory.path(), &["--write"])).await;
    assert_eq!(tools(&writer).len(), 3);
    let done = call(&writer, "remember", fact).await;
    assert_eq!(done, "Remembered: colour = green");
    assert_eq!(
        call(&reader, "recall", json!({"name": "COLOUR"})).await,
        "green"
    );
    assert_eq!(call(&reader, "recall", json!({})).await, "colour: green");
    let refused = call(&reader, "recall", json!({"title": "colour"})).await;
    assert!(
        refused.starts_with("Error: the arguments do not fit"),
        "{refused}"
    );
}

#[test]
fn the_client_of_npm_recalls_and_searches_and_remembers_over_both_transports() {
    let modules = std::env::var("AGENTKIT_TEST_NODE_MODULES");
    let modules = modules.expect("AGENTKIT_TEST_NODE_MODULES is set by ./test");
    let directory = TempDir::new().unwrap();
    let said = run(directory.path(), &["chat", "My boat is called Argo."]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    let mut server = agentkit(directory.path());
    let server = Server::spawn(server.args(["--bind", "127.0.0.1:0", "--mcp-server", "write"]));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mcp/client.cjs");
    let database = format!("sqlite:{}", directory.path().join("test.db").display());
    let url = format!("http://{}/mcp", server.address);
    let client = Command::new("node")
        .args([script, env!("CARGO_BIN_EXE_agentkit"), &database, &url])
        .env("NODE_PATH", modules)
        .output()
        .unwrap();
    assert!(client.status.success(), "{}", text(&client.stderr));
}

#[tokio::test]
async fn over_http_keys_say_whose_memory_it_is_and_who_may_remember() {
    let directory = TempDir::new().unwrap();
    let key = |arguments: &[&str]| {
        let command = ["keys", "create", "CI", "--json"];
        let output = run(directory.path(), &[&command[..], arguments].concat());
        let created: Value = serde_json::from_slice(&output.stdout).unwrap();
        created["key"].as_str().unwrap().to_owned()
    };
    let ada = key(&["--owner", "ada@example.com"]);
    let ada_reads = key(&["--owner", "ada@example.com", "--scope", "read"]);
    let bob = key(&["--owner", "bob"]);
    let authorization = format!("authorization: Bearer {ada}\r\n");
    let serve = |mcp: &str| {
        let mut command = agentkit(directory.path());
        Server::spawn(command.args(["--bind", "127.0.0.1:0", "--mcp-server", mcp]))
    };
    let server = serve("write");
    let by = async |key: Option<&String>| {
        let url = format!("http://{}/mcp", server.address).parse().unwrap();
        let token = key.cloned();
        client(McpTransport::Http { url, token }).await
    };
    for (key, chat) in [(&ada, "ada has a boat"), (&bob, "bob has a boat")] {
        let authorization = format!("authorization: Bearer {key}\r\n");
        let send = |head: &str, body: String| {
            request_with(&server.address, PATIENCE, head, &authorization, &body).unwrap()
        };
        let (_, conversation) = send("POST /conversations", "{}".to_owned());
        let path = format!(
            "POST /chats/{}/messages",
            conversation["id"].as_str().unwrap()
        );
        let (status, _) = send(&path, json!({"content": chat}).to_string());
        assert!(status < 300, "{status}");
    }

    let [ada, reads, bob] = [
        by(Some(&ada)).await,
        by(Some(&ada_reads)).await,
        by(Some(&bob)).await,
    ];
    let found = call(&ada, "search_history", json!({"words": "has a boat"})).await;
    assert!(
        found.contains("ada has a boat") && !found.contains("bob has"),
        "{found}"
    );
    assert_eq!((tools(&ada).len(), tools(&reads).len()), (3, 2));
    let fact = json!({"name": "colour", "value": "green"});
    assert_eq!(
        call(&ada, "remember", fact.clone()).await,
        "Remembered: colour = green"
    );
    assert!(call(&reads, "remember", fact).await.starts_with("Error: "));
    assert_eq!(
        call(&reads, "recall", json!({"name": "colour"})).await,
        "green"
    );
    let nothing = call(&bob, "recall", json!({"name": "colour"})).await;
    assert_eq!(nothing, "Error: nothing is remembered by the name `colour`");
    assert_eq!(tools(&*by(None).await), []);

    drop(server);
    let off = serve("off");
    let answer = request_with(&off.address, PATIENCE, "POST /mcp", &authorization, "{}");
    assert_eq!(answer.unwrap().0, 404);
}
