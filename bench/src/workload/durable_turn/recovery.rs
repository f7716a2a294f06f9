//! How soon a turn goes on whose server was killed.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::contender::{Contender, Running};
use crate::{Options, Result, rounds::median};

/// Milliseconds of a step, the third of which is interrupted.
const STEP: u64 = 400;
const PATIENCE: Duration = Duration::from_secs(60);

/// Seconds, the median of some kills.
pub(super) async fn measure(options: &Options, contender: Contender) -> Result<f64> {
    let mut seconds = Vec::new();
    for _ in 0..options.rounds {
        seconds.push(measure_once(options, contender).await?);
    }
    Ok(median(seconds))
}

async fn measure_once(options: &Options, contender: Contender) -> Result<f64> {
    let directory = tempfile::tempdir()?;
    let ledger = directory.path().join("ledger");
    let environment = [
        ("BENCH_STEP_DELAY", STEP.to_string()),
        ("BENCH_LEDGER", ledger.display().to_string()),
    ];
    let mut running = Running::start_with(options, contender, &environment).await?;
    let chat = running.new_chat().await?;
    {
        let asking = running.ask(&chat);
        tokio::select! {
            answered = asking => return Err(format!("answered before the kill: {answered:?}").into()),
            begun = steps(&ledger, 3) => drop(begun?),
        }
    }
    running.kill().await?;
    let killed = SystemTime::now().duration_since(UNIX_EPOCH)?;
    running.start_processes(&environment).await?;
    let next = steps(&ledger, 4).await?;
    running.stop().await?;
    Ok(next.saturating_sub(killed).as_secs_f64())
}

/// When, since 1970, so many steps have begun.
async fn steps(ledger: &Path, count: usize) -> Result<Duration> {
    let found = async {
        loop {
            let lines = fs::read_to_string(ledger).unwrap_or_default();
            if let Some(line) = lines.lines().nth(count - 1) {
                let time = line.split(' ').next().unwrap_or_default().parse();
                return Ok(Duration::from_micros(time?));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await?
}
