//! How soon `agentkit serve` is ready, and what it needs when nothing happens.

use std::{path::Path, time::Duration};

use crate::{Result, database::Database, median, server::Server};

const STARTS: usize = 10;
const IDLE: Duration = Duration::from_secs(2);

pub(crate) async fn run() -> Result<()> {
    let database = Database::sqlite().await?;
    Server::start(database.url()).await?.stop().await?; // makes the file
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let server = Server::start(database.url()).await?;
        times.push(server.ready_after);
        server.stop().await?;
    }
    let server = Server::start(database.url()).await?;
    tokio::time::sleep(IDLE).await;
    let memory = resident_kibibytes(server.id)?;
    server.stop().await?;
    database.remove().await?;

    let slowest = times.iter().max().copied().unwrap_or_default();
    println!("\n## `agentkit serve` on an existing SQLite file\n");
    println!(
        "| start to ready, median of {STARTS} | slowest | resident memory, idle for {IDLE:?} |"
    );
    println!("| ---: | ---: | ---: |");
    println!(
        "| {:.1} ms | {:.1} ms | {:.1} MiB |",
        median(times).as_secs_f64() * 1e3,
        slowest.as_secs_f64() * 1e3,
        memory / 1024.0,
    );
    Ok(())
}

fn resident_kibibytes(process: u32) -> Result<f64> {
    let status = Path::new("/proc").join(process.to_string()).join("status");
    let status = std::fs::read_to_string(status)?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.ok_or("no VmRSS")?.parse()?)
}
