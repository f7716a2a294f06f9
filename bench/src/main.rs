//! Measures the `agentkit` binary from outside, as its users meet it, and prints tables in Markdown:
//!
//! ```sh
//! cargo run --release -p bench                                # on SQLite
//! cargo run --release -p bench postgresql://me@localhost/me   # on this server's PostgreSQL as well
//! ```
//!
//! Each workload is a module of [`workload`]. They make databases of their own and remove them.

mod database;
mod machine;
mod proxy;
mod server;
mod workload;

use database::Database;

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

#[tokio::main]
async fn main() -> Result<()> {
    server::build()?;
    let mut databases = vec![Database::sqlite().await?];
    if let Some(url) = std::env::args().nth(1) {
        databases.push(Database::postgres(&url).await?);
    }
    println!("{}", machine::description());
    for database in &databases {
        println!("- {}", database.name);
    }
    let measured = run(&databases).await;
    for database in databases {
        database.remove().await?;
    }
    measured
}

async fn run(databases: &[Database]) -> Result<()> {
    workload::turn::run(databases).await?;
    workload::start::run().await
}

/// The value in the middle.
fn median<T: Ord + Copy>(mut values: Vec<T>) -> T {
    values.sort_unstable();
    values[values.len() / 2]
}
