use std::io::{Write, stdout};

use yai_agentkit_core::{
    CheckpointQuery, CheckpointSelector, Error, Namespace, Storage, Stores, ThreadId,
    checkpoint::Values, error::BoxError,
};
use yai_agentkit_persistence::Database;

use crate::{
    inspect::{self, CheckpointSummary, CheckpointView, Whole},
    settings::Settings,
};

#[derive(Debug, clap::Args)]
pub(super) struct HistoryArguments {
    /// The thread, or its conversation
    thread: String,
    /// Only this graph within the thread; '' is the root graph [default: all]
    #[arg(long)]
    namespace: Option<String>,
    /// How many at most
    #[arg(long, default_value_t = 20)]
    limit: u64,
    /// Print one JSON object a line, without the values: `show` has those
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ShowArguments {
    /// The thread, or its conversation
    thread: String,
    /// The checkpoint [default: the latest]
    checkpoint: Option<String>,
    /// The graph within the thread [default: the root graph]
    #[arg(long, default_value = "", hide_default_value = true)]
    namespace: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct DiffArguments {
    /// The thread, or its conversation
    thread: String,
    /// The checkpoint to start from
    from: String,
    /// The checkpoint to arrive at
    to: String,
    /// The graph within the thread [default: the root graph]
    #[arg(long, default_value = "", hide_default_value = true)]
    namespace: String,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
}

pub(super) async fn history(
    settings: Settings,
    arguments: HistoryArguments,
) -> Result<(), BoxError> {
    let database = open(settings).await?;
    let thread = thread_of(&database, arguments.thread).await?;
    let query = CheckpointQuery {
        namespace: arguments.namespace.map(Namespace::from),
        limit: Some(arguments.limit),
        values: Values::Nothing,
        ..CheckpointQuery::of(thread.clone())
    };
    let checkpointer = database.checkpointer();
    let tuples = checkpointer.list(&query).await?;
    if tuples.is_empty() {
        let any = CheckpointSelector {
            values: Values::Nothing,
            ..CheckpointSelector::latest(thread.clone())
        };
        let found = checkpointer.get(&any).await?;
        found.ok_or_else(|| Error::not_found("a checkpoint of thread", thread))?;
    }
    let mut out = stdout().lock();
    for view in tuples.into_iter().map(CheckpointSummary::from) {
        if arguments.json {
            writeln!(out, "{}", serde_json::to_string(&view)?)?;
        } else {
            writeln!(out, "{}", summary(&view))?;
        }
    }
    database.close().await;
    Ok(())
}

pub(super) async fn show(settings: Settings, arguments: ShowArguments) -> Result<(), BoxError> {
    let database = open(settings).await?;
    let selector = CheckpointSelector {
        namespace: arguments.namespace.into(),
        checkpoint_id: arguments.checkpoint.map(Into::into),
        ..CheckpointSelector::latest(thread_of(&database, arguments.thread).await?)
    };
    let whole = Whole::read(&*database.checkpointer(), &selector).await?;
    let whole = whole.ok_or_else(|| match selector.checkpoint_id {
        Some(id) => Error::not_found("checkpoint", id),
        None => Error::not_found("a checkpoint of thread", selector.thread_id),
    })?;
    let view = CheckpointView::from(whole);
    let mut out = stdout().lock();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string(&view)?)?;
    } else {
        writeln!(out, "{}", summary(&view.summary))?;
        for (channel, value) in &view.values {
            writeln!(out, "\n{channel}:\n{value:#}")?;
        }
        for write in &view.pending_writes {
            let (task, channel, value) = (&write.task_id, &write.channel, &write.value);
            writeln!(out, "\npending write of {task} to {channel}:\n{value:#}")?;
        }
    }
    database.close().await;
    Ok(())
}

pub(super) async fn diff(settings: Settings, arguments: DiffArguments) -> Result<(), BoxError> {
    let database = open(settings).await?;
    let place = CheckpointSelector {
        namespace: arguments.namespace.into(),
        ..CheckpointSelector::latest(thread_of(&database, arguments.thread).await?)
    };
    let (from, to) = (arguments.from.into(), arguments.to.into());
    let [from, to] = inspect::pair(&*database.checkpointer(), &place, [from, to]).await?;
    let patch = inspect::diff(from, to);
    let mut out = stdout().lock();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string(&patch)?)?;
    } else {
        for operation in patch.0 {
            writeln!(out, "{}", serde_json::to_string(&operation)?)?;
        }
    }
    database.close().await;
    Ok(())
}

/// A checkpoint in one line.
fn summary(view: &CheckpointSummary) -> String {
    let step = view
        .step
        .map_or_else(|| "?".to_owned(), |step| step.to_string());
    let source = view.source.as_deref().unwrap_or("?");
    let namespace = match view.checkpoint_ns.as_str() {
        "" => String::new(),
        namespace => format!("  in {namespace}"),
    };
    let (id, created_at) = (&view.checkpoint_id, &view.created_at);
    format!("{id}  {created_at}  step {step}  {source}{namespace}")
}

/// The thread with this id, or of the conversation with this id.
async fn thread_of(database: &Database, id: String) -> Result<ThreadId, Error> {
    let thread = match id.parse() {
        Ok(conversation) => database.thread_of(conversation).await?,
        Err(_) => None,
    };
    Ok(thread.unwrap_or_else(|| id.into()))
}

/// Who only looks neither makes a database nor migrates it.
pub(super) async fn open(settings: Settings) -> Result<Database, Error> {
    Database::connect(&settings.database.generate_schemas(false)).await
}
