//! Callers, and what their turns cost.

use std::time::{Duration, Instant};

use futures::future::try_join_all;

use super::contender::{Running, size_of_files};
use crate::{Result, process, rounds::median};

/// Of so many callers for some time.
pub(super) struct Load {
    turns: f64,
    seconds: f64,
    /// In milliseconds, of a caller's turn.
    p50: f64,
    used: Used,
}

/// What the servers have used.
struct Used {
    cpu: f64,
    written: f64,
    kept: f64,
}

impl Load {
    pub(super) fn turns_per_second(&self) -> f64 {
        self.turns / self.seconds
    }

    pub(super) fn p50(&self) -> f64 {
        self.p50
    }

    /// Milliseconds a turn.
    pub(super) fn cpu(&self) -> f64 {
        self.used.cpu * 1e3 / self.turns
    }

    /// Bytes a turn.
    pub(super) fn written(&self) -> f64 {
        self.used.written / self.turns
    }

    /// Bytes a turn.
    pub(super) fn kept(&self) -> f64 {
        self.used.kept / self.turns
    }
}

impl Running {
    pub(super) async fn load(&self, callers: usize, seconds: f64) -> Result<Load> {
        let chats = try_join_all((0..callers).map(|_| self.new_chat())).await?;
        let before = self.used().await?;
        let begun = Instant::now();
        let end = Duration::from_secs_f64(seconds);
        let talk = async |chat: String| -> Result<Vec<f64>> {
            let mut times = Vec::new();
            while begun.elapsed() < end {
                let asked = Instant::now();
                self.ask(&chat).await?;
                times.push(asked.elapsed().as_secs_f64() * 1e3);
            }
            Ok(times)
        };
        let times = try_join_all(chats.into_iter().map(talk)).await?.concat();
        let seconds = begun.elapsed().as_secs_f64();
        let after = self.used().await?;
        #[expect(clippy::cast_precision_loss, reason = "a number of turns")]
        let turns = times.len() as f64;
        Ok(Load {
            turns,
            seconds,
            p50: median(times),
            used: Used {
                cpu: after.cpu - before.cpu,
                written: after.written - before.written,
                kept: after.kept - before.kept,
            },
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "less than a petabyte")]
    async fn used(&self) -> Result<Used> {
        let mut used = Used {
            cpu: 0.0,
            written: 0.0,
            kept: 0.0,
        };
        for process in self.process_ids() {
            used.cpu += process::cpu_seconds(process)?;
            used.written += process::bytes_to_disk(process)?;
        }
        match &self.database {
            Some(database) => {
                used.kept = database.size().await? as f64;
                // Of a client that is none: that of the servers is counted.
                let own = database.usage(std::process::id()).await?;
                if let Some(seconds) = own.server_seconds {
                    used.cpu += seconds;
                    used.written = own.bytes;
                }
            }
            None => used.kept = size_of_files(self.files.path())? as f64,
        }
        Ok(used)
    }
}
