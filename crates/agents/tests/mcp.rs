//! Tools by MCP, against the protocol's own server for tests, `@modelcontextprotocol/server-everything`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use serde_json::{Value as Json, json};
use tokio::net::{TcpListener, TcpStream};
use yai_agentkit_agents::mcp::{McpConfig, McpServer, McpTransport, ToolRules};
use yai_agentkit_core::{Conversation, Message, Role, Stores, Turn, memory::MemoryStorage};
use yai_agentkit_engine::{
    TurnEngine, TurnOutcome,
    agent::{Agent, AgentError, AgentState, Context, Step, ToolCall, ToolTraits, Toolbox, Tools},
};

/// Calls the tool that it is told to, and answers with the result.
struct Caller(Toolbox<()>);

#[async_trait]
impl Agent for Caller {
    type State = ();

    async fn step(&self, _: &Context, state: &mut AgentState<()>) -> Result<Step, AgentError> {
        let last = state.messages.last().unwrap();
        if last.role == Role::Tool {
            return Ok(Step::Answer(last.content.clone()));
        }
        let (name, arguments) = last.content.split_once(' ').unwrap();
        let id = format!("call_{}", state.messages.total());
        let mut call = ToolCall::new(id, name, serde_json::from_str(arguments).unwrap());
        // What a model, or a program, says of the tool of another does not count.
        call.traits = Some(ToolTraits {
            needs_approval: name.ends_with("echo"),
            is_repeatable: true,
            ..ToolTraits::default()
        });
        self.0.note_traits(&mut call);
        Ok(Step::calls([call]))
    }

    fn tools(&self) -> &dyn Tools<()> {
        &self.0
    }
}

struct Chat {
    server: Arc<McpServer>,
    engine: TurnEngine,
    conversation: Conversation,
}

impl Chat {
    async fn with(transport: McpTransport, rules: ToolRules) -> Self {
        let config = McpConfig {
            name: "every".to_owned(),
            transport,
            timeout: Duration::from_secs(60),
            rules,
        };
        let server = McpServer::start(config).await;
        let storage = MemoryStorage::default();
        let conversation = Conversation::titled("test");
        let conversation = storage.conversations().add(conversation).await.unwrap();
        let agent = Caller(Toolbox::new([]).with(server.clone()));
        Self {
            engine: TurnEngine::new(Arc::new(storage), Arc::new(agent)),
            server,
            conversation,
        }
    }

    async fn send(&self, tool: &str, arguments: Json) -> TurnOutcome {
        let text = format!("every__{tool} {arguments}");
        let message = Message::new(self.conversation.id, Role::User, text);
        self.engine.send(message).await.unwrap()
    }

    /// The result of the tool.
    async fn call(&self, tool: &str, arguments: Json) -> String {
        let outcome = self.send(tool, arguments).await;
        outcome.answer().expect("an answer").content
    }

    async fn reply(&self, turn: &Turn, answer: &str) -> String {
        let interrupt = turn.interrupt.as_ref().expect("a question").id;
        let conversation = self.conversation.id;
        let resumed = self
            .engine
            .resume(conversation, turn.id, interrupt, answer.to_owned());
        let outcome = resumed.await.unwrap().outcome().await.unwrap();
        outcome.answer().expect("an answer").content
    }

    fn specs(&self) -> Vec<yai_agentkit_engine::agent::ToolSpec> {
        Tools::<()>::specs(&*self.server)
    }
}

fn everything() -> PathBuf {
    let modules = env::var("AGENTKIT_TEST_NODE_MODULES");
    let modules = modules.expect("AGENTKIT_TEST_NODE_MODULES is set by ./test");
    Path::new(&modules).join("@modelcontextprotocol/server-everything/dist/index.js")
}

/// The server as a program, which leaves a line with its id in the file.
fn stdio(ids: &Path) -> McpTransport {
    let script = format!(
        "echo $$ >> '{}'; exec node '{}' stdio",
        ids.display(),
        everything().display()
    );
    McpTransport::Stdio {
        program: "sh".to_owned(),
        arguments: vec!["-c".to_owned(), script],
        variables: vec![("GREETING".to_owned(), "hello".to_owned())],
    }
}

fn started(ids: &Path) -> Vec<String> {
    let lines = fs::read_to_string(ids).unwrap();
    lines.lines().map(str::to_owned).collect()
}

fn trusting() -> ToolRules {
    ToolRules {
        trusts_annotations: true,
        ..ToolRules::default()
    }
}

#[tokio::test]
async fn the_tools_of_a_program_are_called_and_told_of_with_their_traits() {
    let directory = tempfile::tempdir().unwrap();
    let ids = directory.path().join("ids");
    let chat = Chat::with(stdio(&ids), trusting()).await;
    assert_eq!(
        chat.call("echo", json!({"message": "hi"})).await,
        "Echo: hi"
    );
    let sum = chat.call("get-sum", json!({"a": 17, "b": 23})).await;
    assert_eq!(sum, "The sum of 17 and 23 is 40.");
    let image = chat.call("get-tiny-image", json!({})).await;
    assert!(image.contains("[image image/png, "), "{image}");
    let refused = chat.call("get-sum", json!({"a": "x"})).await;
    assert!(refused.starts_with("Error: "), "{refused}");
    let long = chat
        .call("echo", json!({"message": "x".repeat(100_000)}))
        .await;
    assert_eq!(long.chars().count(), (1 << 16) + 1);

    let environment = chat.call("get-env", json!({})).await;
    assert!(
        environment.contains("\"GREETING\": \"hello\""),
        "{environment}"
    );
    assert!(environment.contains("PATH") && env::var_os("CARGO_MANIFEST_DIR").is_some());
    assert!(!environment.contains("CARGO_MANIFEST_DIR"), "{environment}");

    let specs = chat.specs();
    let traits = |name: &str| {
        let spec = specs
            .iter()
            .find(|spec| spec.name == format!("every__{name}"));
        let traits = spec.expect("the tool").traits;
        (traits.is_repeatable, traits.needs_approval)
    };
    assert_eq!(traits("echo"), (true, false));
    assert_eq!(traits("toggle-subscriber-updates"), (false, false));
    assert_eq!(started(&ids).len(), 1);
}

#[tokio::test]
async fn who_runs_a_server_says_which_of_its_tools_there_are_and_which_need_approval() {
    let directory = tempfile::tempdir().unwrap();
    let rules = ToolRules {
        only: Some(vec!["echo".to_owned(), "get-sum".to_owned()]),
        repeatable: vec!["get-sum".to_owned()],
        no_approval: vec!["get-sum".to_owned()],
        ..ToolRules::default()
    };
    let chat = Chat::with(stdio(&directory.path().join("ids")), rules).await;
    let specs = chat.specs();
    let told = specs.iter().map(|spec| {
        let traits = spec.traits;
        (&*spec.name, traits.is_repeatable, traits.needs_approval)
    });
    let told: Vec<_> = told.collect();
    let expected = [
        ("every__echo", false, true),
        ("every__get-sum", true, false),
    ];
    assert_eq!(told, expected);
    let TurnOutcome::Waiting(turn) = chat.send("echo", json!({"message": "hi"})).await else {
        panic!("nobody has approved");
    };
    let edited = r#"{"approved": true, "arguments": {"message": "hello"}}"#;
    let result = chat.reply(&turn, edited).await;
    assert!(result.ends_with("Echo: hello"), "{result}");
}

/// Kills the server half a second into a call of five.
async fn killed_in_a_call(rules: ToolRules) -> (String, usize, Chat, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let ids = directory.path().join("ids");
    let chat = Chat::with(stdio(&ids), rules).await;
    let first = started(&ids).remove(0);
    let call = chat.call("trigger-long-running-operation", json!({"duration": 5}));
    let kill = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let killed = Command::new("kill").args(["-9", &first]).status().unwrap();
        assert!(killed.success());
    };
    let (result, ()) = tokio::join!(call, kill);
    let count = started(&ids).len();
    (result, count, chat, directory)
}

#[tokio::test]
async fn a_call_that_may_run_again_is_made_again_when_the_server_is_killed_in_it() {
    let (result, started, ..) = killed_in_a_call(trusting()).await;
    assert!(
        result.starts_with("Long running operation completed"),
        "{result}"
    );
    assert_eq!(started, 2);
}

#[tokio::test]
async fn another_call_in_which_the_server_is_killed_has_that_as_its_result_and_the_chat_goes_on() {
    let rules = ToolRules {
        no_approval: vec!["*".to_owned()],
        ..ToolRules::default()
    };
    let (result, started, chat, _directory) = killed_in_a_call(rules).await;
    let unknown = "Error: the connection broke; whether the tool has taken effect is not known";
    assert_eq!((result.as_str(), started), (unknown, 1));
    assert_eq!(
        chat.call("echo", json!({"message": "hi"})).await,
        "Echo: hi"
    );
}

/// A program that ends with the test.
struct Program(Child);

impl Program {
    async fn start(port: u16) -> Self {
        let mut command = Command::new("node");
        command.arg(everything()).arg("streamableHttp");
        command.env("PORT", port.to_string());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let program = Self(command.spawn().unwrap());
        for _ in 0..600 {
            if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return program;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the server does not listen");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test]
async fn a_server_over_http_may_be_away_killed_and_started_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let url = format!("http://127.0.0.1:{port}/mcp").parse().unwrap();
    let chat = Chat::with(McpTransport::Http { url, token: None }, trusting()).await;
    assert!(chat.specs().is_empty());

    let mut program = Program::start(port).await;
    let call = ToolCall::new("call", "every__echo", json!({}));
    assert!(Tools::<()>::traits(&*chat.server, &call).needs_approval);
    let TurnOutcome::Waiting(turn) = chat.send("echo", json!({"message": "1"})).await else {
        panic!("nothing is known of the tool");
    };
    assert_eq!(chat.reply(&turn, "approve").await, "Echo: 1");
    assert_eq!(chat.call("echo", json!({"message": "2"})).await, "Echo: 2");

    let call = chat.call("trigger-long-running-operation", json!({"duration": 3}));
    let restart = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        drop(program.0.kill());
        drop(program.0.wait());
        program = Program::start(port).await;
    };
    let (result, ()) = tokio::join!(call, restart);
    assert!(
        result.starts_with("Long running operation completed"),
        "{result}"
    );

    drop(program);
    let result = chat.call("echo", json!({"message": "3"})).await;
    assert!(result.starts_with("Error: can't connect to it"), "{result}");
}
