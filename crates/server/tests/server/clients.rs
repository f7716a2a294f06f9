//! Clients in Node.js that others have written, with the scenarios that they run against a server.

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    thread,
};

use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::{
    crash::Installation,
    process::{Server, agentkit, text},
    support::{Api, ScriptedAgent},
};

/// A client, whose scenarios are in `client.cjs` of a directory.
pub(crate) struct Client {
    directory: &'static str,
    /// What names its packages.
    modules: &'static str,
}

/// The client of the AG-UI protocol.
pub(crate) static AGUI: Client = Client {
    directory: "agui",
    modules: "AGENTKIT_TEST_NODE_MODULES",
};

/// CopilotKit, front end and runtime.
pub(crate) static COPILOTKIT: Client = Client {
    directory: "copilotkit",
    modules: "AGENTKIT_TEST_COPILOTKIT_MODULES",
};

impl Client {
    fn spawn(&self, scenario: &str, servers: &[&str]) -> Child {
        let modules = env::var(self.modules);
        let modules = modules.unwrap_or_else(|_| panic!("{} is not set: run ./test", self.modules));
        let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
        Command::new("node")
            .args([&format!("{tests}/{}/client.cjs", self.directory), scenario])
            .args(servers.iter().map(|server| format!("http://{server}")))
            .env("NODE_PATH", modules)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Against a server of the offline agent, whose steps take so many milliseconds.
    pub(crate) fn passes_offline(&self, scenario: &str, step_delay: &str) {
        let directory = TempDir::new().unwrap();
        let mut command = agentkit(directory.path());
        command.args(["--bind", "127.0.0.1:0"]);
        let server = Server::spawn(command.env("AGENTKIT_STEP_DELAY", step_delay));
        passes(self.spawn(scenario, &[&server.address]));
    }

    /// Against a server of the scripted agent.
    pub(crate) async fn passes_scripted(&'static self, scenario: &'static str) {
        let api = Api::new(ScriptedAgent::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serving = tokio::spawn(async move { axum::serve(listener, api.router).await });
        tokio::task::spawn_blocking(move || passes(self.spawn(scenario, &[&address])))
            .await
            .unwrap();
        serving.abort();
    }

    /// Against two servers, of which the first is killed when the client says so.
    pub(crate) fn survives_a_kill(
        &self,
        installation: &Installation,
        scenario: &str,
        step_delay: &str,
    ) {
        let mut first = installation.start_with(step_delay, "1");
        let second = installation.start_with("50", "1");
        let mut client = self.spawn(scenario, &[&first.address, &second.address]);
        let mut output = BufReader::new(client.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        if line == "running\n" {
            first.process.kill().unwrap();
            first.process.wait().unwrap();
        }
        // Whatever else it says.
        let rest = thread::spawn(move || output.lines().count());
        passes(client);
        rest.join().unwrap();
    }
}

fn passes(client: Child) {
    let output = client.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}
