//! The workload "durable turn": a message over HTTP, four steps of 400 bytes, each durable before the
//! next, the answer. Against engines of durable execution.

mod contender;
mod load;
mod recovery;

use crate::{
    Options, Result, WARM_UP,
    report::{Report, Table},
    rounds::{self, median},
};
use contender::{CONTENDERS, Running};
use load::Load;

/// At which the bytes are counted, and the CPU is.
const BUSY: usize = 64;

const GUARANTEES: &str = "
| | when a step counts | of one chat | after `kill -9` |
| --- | --- | --- | --- |
| AgentKit | committed, with fsync | one turn at a time over all servers, every write fenced by an epoch | \
the interrupted step runs again; a tool that can't be repeated does not, a person is asked |
| DBOS | committed, with fsync, on the same PostgreSQL | turns run side by side; two processes that run \
one workflow both write | the interrupted step runs again |
| Restate | in the log of one server, RocksDB's, as it comes | one turn at a time | the interrupted \
step runs again |
";

pub(crate) async fn run(options: &Options, report: &mut Report) -> Result<()> {
    report.write(&format!(
        "\n## A durable turn\n\nA message of 400 bytes over HTTP, four steps that say 400 bytes each, \
         durable before the next begins, the answer. Turns/s by callers, each with a chat of its own; \
         CPU is that of all processes but the callers', at {BUSY}; bytes are of the log and of the \
         tables (of a server without PostgreSQL, what it has had written to the disk, and its files). \
         `kill -9` of all processes but PostgreSQL, which are started again at once; the time is from \
         there to the beginning of the next step.\n{GUARANTEES}"
    ));
    let mut running = Vec::new();
    for contender in CONTENDERS {
        if options.takes(contender.kind(), contender.name()) {
            running.push(Running::start(options, contender).await?);
        }
    }
    let columns = ["", "CPU, ms", "written", "kept", "p50 of one, ms"].map(str::to_owned);
    let mut columns = columns.to_vec();
    columns.extend(options.threads.iter().map(|callers| format!("{callers}")));
    columns.push("kill to going on, s".to_owned());
    let columns: Vec<_> = columns.iter().map(String::as_str).collect();
    let mut table = Table::new(&columns);
    let mut rates = vec![Vec::new(); running.len()];
    let mut costs = vec![" | | ".to_owned(); running.len()];
    let mut alone = vec![String::new(); running.len()];
    for callers in &options.threads {
        for server in &running {
            server.load(*callers, WARM_UP.as_secs_f64()).await?;
        }
        let key = |server: &Running| format!("durable-turn/{}/{callers}", server.key());
        let measured = rounds::measure(
            &running,
            |server| options.rounds_of(&key(server)),
            async |server, _| server.load(*callers, options.seconds).await,
        );
        for (number, loads) in measured.await?.into_iter().enumerate() {
            let of = |figure: fn(&Load) -> f64| loads.iter().map(figure).collect::<Vec<_>>();
            rates[number].push(format!("{:.0}", median(of(Load::turns_per_second))));
            report.record(key(&running[number]), of(Load::turns_per_second));
            if *callers == BUSY {
                let cost = [Load::cpu, Load::written, Load::kept].map(|figure| median(of(figure)));
                costs[number] = format!("{:.2} | {:.0} | {:.0}", cost[0], cost[1], cost[2]);
                let key = |what| format!("durable-turn/{}/{what}", running[number].key());
                report.record(key("cpu"), of(Load::cpu));
                report.record(key("written"), of(Load::written));
                report.record(key("kept"), of(Load::kept));
            }
            if *callers == 1 {
                alone[number] = format!("{:.1}", median(of(Load::p50)));
                report.record(format!("{}/p50", key(&running[number])), of(Load::p50));
            }
        }
    }
    for (number, server) in running.into_iter().enumerate() {
        let (name, contender) = (server.name(), server.contender);
        server.stop().await?;
        let recovered = recovery::measure(options, contender).await?;
        report.record(
            format!("durable-turn/{}/kill", contender.key()),
            vec![recovered],
        );
        let mut row = vec![name, costs[number].clone(), alone[number].clone()];
        row.append(&mut rates[number]);
        row.push(format!("{recovered:.2}"));
        table.row(row);
        report.progress(&table);
    }
    report.table(&table);
    Ok(())
}
