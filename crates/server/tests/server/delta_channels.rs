//! What LangGraph keeps as changes only: people see what the graph sees.

use std::process::Command;

use serde_json::{Map, Value, json};

use crate::{
    crash::{Installation, new_chat},
    process::{agentkit, text},
};

const CHANNELS: [&str; 4] = ["messages", "files", "log", "steps"];

#[test]
fn the_state_of_a_graph_with_delta_channels_shows_as_the_graph_reads_it() {
    let installation = Installation::postgres();
    let server = installation.start("0");
    let chat = new_chat(&server);
    let (_, conversation) = server.request(&format!("GET /conversations/{chat}"), "");
    let thread = conversation["checkpoint_thread_id"].as_str().unwrap();
    let states = states_of_a_graph(&installation, thread);
    assert!(states.len() >= 12, "only {} checkpoints", states.len());

    let path = format!("/chats/{chat}");
    let read = |path: &str| {
        let (status, body) = server.request(&format!("GET {path}"), "");
        assert_eq!(status, 200, "{body}");
        body
    };
    let mut without_a_value = 0;
    for (id, expected) in &states {
        let shown = read(&format!("{path}/history/{id}"));
        assert_eq!(values(&shown["values"]), values(expected), "{id}");
        let counters = &shown["metadata"]["counters_since_delta_snapshot"];
        without_a_value += counters.as_object().map_or(0, Map::len);
    }
    assert!(without_a_value > 12, "{without_a_value}");

    let latest = read(&format!("{path}/state"));
    let id = latest["checkpoint_id"].as_str().unwrap();
    assert_eq!(values(&latest["values"]), values(&states[id]));
    let run = |arguments: &[&str]| -> Value {
        let mut command = agentkit(installation.directory.path());
        command.envs(installation.variables.clone());
        let output = command.args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    assert_eq!(run(&["show", thread, "--json"]), latest);
    let (first, old) = states.iter().next().unwrap();
    let patch = run(&["diff", thread, first, id, "--json"]);
    assert_eq!(read(&format!("{path}/diff?from={first}&to={id}")), patch);
    let mut patched = read(&format!("{path}/history/{first}"));
    assert_eq!(values(&patched["values"]), values(old));
    let patch: json_patch::Patch = serde_json::from_value(patch).unwrap();
    json_patch::patch(&mut patched["values"], &patch).unwrap();
    assert_eq!(values(&patched["values"]), values(&states[id]));
}

/// What the graph reads, by checkpoint.
fn states_of_a_graph(installation: &Installation, thread: &str) -> Map<String, Value> {
    let variable = |name: &str| {
        let mut variables = installation.variables.iter();
        variables
            .find(|(known, _)| *known == name)
            .unwrap()
            .1
            .clone()
    };
    let (url, schema) = (variable("DATABASE_URL"), variable("DB_SCHEMA"));
    let python = std::env::var("AGENTKIT_TEST_PYTHON");
    let output = Command::new(python.expect("AGENTKIT_TEST_PYTHON is set by ./test"))
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/server/delta_channels.py"
        ))
        .arg(format!("{url}?options=-csearch_path%3D{schema}"))
        .arg(thread)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The channels of the state that hold something: LangGraph reads others as empty, we not at all.
fn values(state: &Value) -> Value {
    let nothing = [Value::Null, json!([]), json!({})];
    let value = |channel: &&str| (channel.to_string(), state[channel].clone());
    let values = CHANNELS.iter().map(value);
    Value::Object(
        values
            .filter(|(_, value)| !nothing.contains(value))
            .collect(),
    )
}
