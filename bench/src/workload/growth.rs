//! The workload "growth": what an early and a late turn of one conversation of our own agent write.

use serde_json::json;

use crate::{
    Options, Result,
    database::{Database, Kind},
    report::{Report, Table},
    rounds::median,
    server::Server,
};

const QUESTION: &str = "What is 17 * 23?";
/// The turns whose median counts, for turn 10 and turn 1,000.
const EARLY: std::ops::RangeInclusive<usize> = 6..=14;
const LATE: std::ops::RangeInclusive<usize> = 996..=1004;

pub(crate) async fn run(options: &Options, report: &mut Report) -> Result<()> {
    report.write(
        "\n## Growth\n\nBytes of the write-ahead log for one turn of the offline agent, medians of \
         nine turns around it.\n",
    );
    let mut table = Table::new(&["database", "turn 10", "turn 1,000", "ratio"]);
    for kind in [Kind::Postgres, Kind::Sqlite] {
        if !options.takes(kind, "agentkit") {
            continue;
        }
        let database = options.database(kind).await?;
        let (early, late) = measure(&database).await?;
        database.remove().await?;
        #[expect(clippy::cast_precision_loss, reason = "bytes of one turn")]
        let ratio = late as f64 / early as f64;
        report.record(format!("growth/{}", kind.name()), vec![ratio]);
        table.row(vec![
            kind.name().to_owned(),
            early.to_string(),
            late.to_string(),
            format!("{ratio:.2}"),
        ]);
        report.progress(&table);
    }
    report.table(&table);
    Ok(())
}

async fn measure(database: &Database) -> Result<(u64, u64)> {
    let server = Server::start(database.url()).await?;
    let chat = server.post("/conversations", &json!({})).await?;
    let chat = chat["id"].as_str().ok_or("a conversation has an id")?;
    let path = format!("/chats/{chat}/messages");
    let turn = async || {
        let answer = server.post(&path, &json!({"content": QUESTION})).await?;
        match answer["content"].as_str() {
            Some(content) if content.contains("391") => Ok(()),
            _ => Err(format!("a wrong answer: {answer}").into()),
        }
    };
    let (mut early, mut late) = (Vec::new(), Vec::new());
    for number in 1..=*LATE.end() {
        if EARLY.contains(&number) {
            early.push(database.wal_bytes(turn()).await?);
        } else if LATE.contains(&number) {
            late.push(database.wal_bytes(turn()).await?);
        } else {
            turn().await?;
        }
    }
    server.stop().await?;
    Ok((median(early), median(late)))
}
