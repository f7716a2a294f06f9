//! How soon `agentkit serve` is ready, and what it needs when nothing happens.

use std::time::Duration;

use crate::{
    Result,
    database::Database,
    process,
    report::{Report, Table},
    rounds::median,
    server::Server,
};

const STARTS: usize = 10;
const IDLE: Duration = Duration::from_secs(2);

pub(crate) async fn run(report: &mut Report) -> Result<()> {
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
    let memory = process::resident_mebibytes(server.id)?;
    server.stop().await?;
    database.remove().await?;

    let slowest = times.iter().max().copied().unwrap_or_default();
    report.write("\n## `agentkit serve` on an existing SQLite file\n");
    let mut table = Table::new(&[
        &format!("start to ready, median of {STARTS}"),
        "slowest",
        &format!("resident memory, idle for {IDLE:?}"),
    ]);
    table.row(vec![
        format!("{:.1} ms", median(times).as_secs_f64() * 1e3),
        format!("{:.1} ms", slowest.as_secs_f64() * 1e3),
        format!("{memory:.1} MiB"),
    ]);
    report.table(&table);
    Ok(())
}
