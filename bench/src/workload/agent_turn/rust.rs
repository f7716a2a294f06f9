//! Our Rust API, in this process.

use std::{mem, sync::Arc, time::Instant};

use futures::future::try_join_all;
use yai_agentkit_core::{
    ChannelValue, CheckpointSelector, CheckpointTuple, Checkpointer, PutOptions, Stores,
};
use yai_agentkit_persistence::DatabaseConfig;

use super::{
    Load, Outcome, Percentiles,
    shape::{self, MESSAGES, Message, Progress, STEPS, TURNS},
};
use crate::{
    Result,
    database::{Database, Usage},
};

pub(super) async fn run(database: &Database, load: Load) -> Result<(Outcome, Usage)> {
    let config = DatabaseConfig::new(database.url())?;
    let storage = yai_agentkit_persistence::Database::connect(&config).await?;
    database.settle().await?;
    let messages: Arc<[Message]> = shape::messages().into();
    let before = database.usage(std::process::id()).await?;
    let from = Instant::now() + load.warm_up;
    let clients = (0..load.threads).map(|number| {
        let client = Client {
            checkpointer: storage.checkpointer(),
            messages: Arc::clone(&messages),
            first_step: 1 + number % STEPS,
            from,
            until: from + load.measured,
            done: Done::default(),
        };
        tokio::spawn(client.run())
    });
    let mut all = Done::default();
    for done in try_join_all(clients).await? {
        all.add(done?);
    }
    let usage = database.usage(std::process::id()).await? - before;
    storage.close().await;
    #[expect(clippy::cast_precision_loss, reason = "a count far below 2^53")]
    let outcome = Outcome {
        steps_per_second: all.measured_steps as f64 / load.measured.as_secs_f64(),
        steps: all.steps,
        get: Percentiles::of(all.get),
        put: Percentiles::of(all.put),
        put_writes: Percentiles::of(all.put_writes),
    };
    Ok((outcome, usage))
}

struct Client {
    checkpointer: Arc<dyn Checkpointer>,
    messages: Arc<[Message]>,
    /// Of the next turn.
    first_step: usize,
    from: Instant,
    until: Instant,
    done: Done,
}

/// Times in microseconds, of what ended after the warm-up.
#[derive(Default)]
struct Done {
    steps: u64,
    measured_steps: u64,
    get: Vec<u32>,
    put: Vec<u32>,
    put_writes: Vec<u32>,
}

impl Client {
    async fn run(mut self) -> Result<Done> {
        loop {
            let mut thread = Progress::begin();
            for turn in 0..TURNS {
                self.load(&thread, turn > 0).await?;
                for step in mem::replace(&mut self.first_step, 1)..=STEPS {
                    self.step(&mut thread, step).await?;
                    if Instant::now() >= self.until {
                        return Ok(self.done);
                    }
                }
            }
        }
    }

    async fn load(&mut self, thread: &Progress, exists: bool) -> Result<()> {
        let selector = CheckpointSelector::latest(thread.thread.clone());
        let begun = Instant::now();
        let found = self.checkpointer.get(&selector).await?;
        if let Some(time) = self.time_since(begun)? {
            self.done.get.push(time);
        }
        match found {
            Some(found) if exists && is_whole(&found) => Ok(()),
            None if !exists => Ok(()),
            found => Err(format!("the wrong checkpoint: {found:?}").into()),
        }
    }

    async fn step(&mut self, thread: &mut Progress, step: usize) -> Result<()> {
        let (checkpoint, writes) = thread.next(&self.messages[..step])?;
        let begun = Instant::now();
        self.checkpointer
            .put(checkpoint, PutOptions::default())
            .await?;
        let put = self.time_since(begun)?;
        let begun = Instant::now();
        self.checkpointer.put_writes(writes, None).await?;
        let put_writes = self.time_since(begun)?;
        self.done.steps += 1;
        self.done.put.extend(put);
        if let Some(time) = put_writes
            && Instant::now() < self.until
        {
            self.done.put_writes.push(time);
            self.done.measured_steps += 1;
        }
        Ok(())
    }

    fn time_since(&self, begun: Instant) -> Result<Option<u32>> {
        let now = Instant::now();
        let time = u32::try_from((now - begun).as_micros())?;
        Ok((now >= self.from).then_some(time))
    }
}

impl Done {
    fn add(&mut self, other: Self) {
        self.steps += other.steps;
        self.measured_steps += other.measured_steps;
        self.get.extend(other.get);
        self.put.extend(other.put);
        self.put_writes.extend(other.put_writes);
    }
}

/// Whether the last checkpoint of a turn has come back.
fn is_whole(found: &CheckpointTuple) -> bool {
    let messages = match found.checkpoint.channel_values.get(MESSAGES) {
        Some(ChannelValue::Stored(messages)) => messages.bytes().len(),
        _ => 0,
    };
    messages > STEPS * shape::MESSAGE && found.pending_writes.len() == 2
}
