//! A saver in Python, in a process of its own: `bench/python/agent_turn.py`.

use serde_json::json;

use super::{Load, Outcome, shape};
use crate::{
    Result,
    database::{Database, Usage},
    python::Script,
};

pub(super) async fn run(saver: &str, database: &Database, load: Load) -> Result<(Outcome, Usage)> {
    let contents: Vec<_> = shape::messages().into_iter().map(|m| m.content).collect();
    let arguments = json!({
        "saver": saver,
        "url": database.url(),
        "threads": load.threads,
        "warm_up": load.warm_up.as_secs_f64(),
        "measured": load.measured.as_secs_f64(),
        "contents": contents,
        "turns": shape::TURNS,
        "task_path": shape::TASK_PATH,
    });
    let mut script = Script::start("agent_turn.py", &arguments).await?;
    script.ready().await?;
    database.settle().await?;
    let before = database.usage(script.id).await?;
    script.go().await?;
    let outcome = script.answer().await?;
    let usage = database.usage(script.id).await? - before;
    script.end().await?;
    Ok((serde_json::from_value(outcome)?, usage))
}
