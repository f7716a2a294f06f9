//! The workload "graph": LangGraph itself on each saver, `bench/python/graph.py`. And what our saver
//! keeps in memory.

use serde_json::{Value, json};

use crate::{
    Options, Result, WARM_UP,
    database::Kind,
    python::Script,
    report::{Report, Table, grouped},
    rounds::{self, median},
};

const AT_ONCE: [usize; 2] = [1, 16];
const OPERATIONS: [usize; 2] = [10_000, 100_000];

/// Name, database, and the name that `harness.py` gives the saver. The first is in memory.
const SAVERS: &[(&str, Kind, &str)] = &[
    ("InMemorySaver", Kind::Sqlite, "memory"),
    ("AgentkitSaver", Kind::Postgres, "agentkit"),
    (
        "AsyncPostgresSaver, one connection",
        Kind::Postgres,
        "postgres",
    ),
    (
        "AsyncPostgresSaver, pool of 20",
        Kind::Postgres,
        "postgres-pool",
    ),
    ("AgentkitSaver", Kind::Sqlite, "agentkit"),
    ("AsyncSqliteSaver", Kind::Sqlite, "sqlite"),
];

pub(crate) async fn run(options: &Options, report: &mut Report) -> Result<()> {
    report.write(
        "\n## Graph\n\nInvocations/s of a LangGraph graph of five trivial nodes, durability=\"sync\".\n",
    );
    let mut table = Table::new(&["saver", "database", "alone", "16 at once"]);
    let savers: Vec<_> = SAVERS
        .iter()
        .filter(|(name, kind, _)| options.takes(*kind, name))
        .collect();
    let mut rows: Vec<_> = savers
        .iter()
        .map(|(name, kind, saver)| vec![(*name).to_owned(), database(*kind, saver).to_owned()])
        .collect();
    for threads in AT_ONCE {
        let key = |(name, kind, saver): &(&str, Kind, &str)| {
            format!("graph/{}/{name}/{threads}", database(*kind, saver))
        };
        let measured = rounds::measure(
            &savers,
            |saver| options.rounds_of(&key(saver)),
            async |(_, kind, saver), _| invocations(options, *kind, saver, threads).await,
        );
        for ((saver, row), rates) in savers.iter().zip(&mut rows).zip(measured.await?) {
            row.push(format!("{:.0}", median(rates.clone())));
            report.record(key(saver), rates);
        }
    }
    for row in rows {
        table.row(row);
        report.progress(&table);
    }
    report.table(&table);
    if options.takes(Kind::Postgres, "AgentkitSaver") {
        memory(options, report).await?;
    }
    Ok(())
}

fn database(kind: Kind, saver: &str) -> &'static str {
    match saver {
        "memory" => "none",
        _ => kind.name(),
    }
}

async fn invocations(options: &Options, kind: Kind, saver: &str, threads: usize) -> Result<f64> {
    let arguments = json!({
        "saver": saver,
        "threads": threads,
        "warm_up": WARM_UP.as_secs_f64(),
        "measured": options.seconds,
    });
    let answer = answer(options, kind, "graph.py", arguments).await?;
    let rate = answer["invocations_per_second"].as_f64();
    Ok(rate.ok_or("no rate")?)
}

async fn memory(options: &Options, report: &mut Report) -> Result<()> {
    let arguments = json!({"operations": OPERATIONS});
    let answer = answer(options, Kind::Postgres, "memory.py", arguments).await?;
    let mut found = OPERATIONS
        .iter()
        .map(|count| answer[count.to_string()].as_f64());
    let [Some(Some(few)), Some(Some(many))] = [found.next(), found.next()] else {
        return Err(format!("no figures: {answer}").into());
    };
    report.write(&format!(
        "A process with AgentkitSaver on PostgreSQL takes {few:.1} MiB after {} operations and \
         {many:.1} MiB after {}.\n",
        grouped(OPERATIONS[0]),
        grouped(OPERATIONS[1]),
    ));
    report.record("graph/memory growth".to_owned(), vec![many - few]);
    Ok(())
}

/// What a script says, on a database of its own.
async fn answer(
    options: &Options,
    kind: Kind,
    script: &str,
    mut arguments: Value,
) -> Result<Value> {
    let database = options.database(kind).await?;
    arguments["url"] = database.url().into();
    let mut script = Script::start(script, &arguments).await?;
    script.ready().await?;
    database.settle().await?;
    script.go().await?;
    let answer = script.answer().await?;
    script.end().await?;
    database.remove().await?;
    Ok(answer)
}
