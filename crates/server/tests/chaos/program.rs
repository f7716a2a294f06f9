//! The remote agent of a run: a program in Python, which is started again whenever it dies.

use std::{
    env,
    net::TcpListener,
    path::Path,
    process::{Child, Command},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use yai_agentkit_agents::{
    Url,
    mcp::{McpConfig, McpServer, McpTransport, ToolRules},
    remote::{RemoteAgent, RemoteConfig},
};

use crate::{agent::LEDGER, plan::MCP};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chaos/programs.py");

fn python() -> String {
    env::var("AGENTKIT_TEST_PYTHON").expect("AGENTKIT_TEST_PYTHON is set by ./test")
}

/// The program, until it is dropped.
pub(crate) struct Program {
    pub(crate) port: u16,
    state: Arc<Mutex<Option<Child>>>,
    /// How often it was started.
    pub(crate) starts: Arc<AtomicUsize>,
}

impl Program {
    pub(crate) fn start(ledger: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = port.local_addr().expect("its address").port();
        let spawn = {
            let ledger = ledger.to_owned();
            move || {
                let mut program = Command::new(python());
                let program = program.args([SCRIPT, "agent", &port.to_string()]);
                program.env(LEDGER, &ledger).spawn().expect("to start it")
            }
        };
        let state = Arc::new(Mutex::new(Some(spawn())));
        let starts = Arc::new(AtomicUsize::new(1));
        let program = Self {
            port,
            state: Arc::clone(&state),
            starts: Arc::clone(&starts),
        };
        thread::spawn(move || {
            while let Some(process) = &mut *state.lock().unwrap() {
                if process.try_wait().unwrap().is_some() {
                    *process = spawn();
                    starts.fetch_add(1, Relaxed);
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        program
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(mut process) = self.state.lock().unwrap().take() {
            drop(process.kill());
            drop(process.wait());
        }
    }
}

/// What asks the program behind this port, with the tools of an MCP server that dies too.
pub(crate) async fn agent(port: u16, ledger: &Path) -> RemoteAgent {
    let url = format!("http://127.0.0.1:{port}/");
    let config = RemoteConfig {
        // However often it dies.
        patience: Duration::from_secs(100),
        ..RemoteConfig::new(Url::parse(&url).expect("a URL"))
    };
    let variable = (LEDGER.to_owned(), ledger.display().to_string());
    let rules = ToolRules {
        repeatable: vec!["safe".to_owned()],
        needs_approval: vec!["approved".to_owned()],
        no_approval: vec!["*".to_owned()],
        ..ToolRules::default()
    };
    let server = McpServer::start(McpConfig {
        name: MCP.to_owned(),
        transport: McpTransport::Stdio {
            program: python(),
            arguments: [SCRIPT, "mcp"].map(str::to_owned).into(),
            variables: vec![variable],
        },
        timeout: Duration::from_secs(60),
        rules,
    });
    let agent = RemoteAgent::new(config).expect("an agent");
    agent.with_tools(server.await)
}
