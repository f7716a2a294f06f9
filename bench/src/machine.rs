//! What the figures were measured on.

use std::{fs, process::Command};

use crate::{Options, Result, database::Kind, server};

/// Machine and versions as a list in Markdown.
pub(crate) async fn description(options: &Options) -> Result<String> {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':'));
        value.map_or("unknown".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let profile = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    let mut description = format!(
        "- {}, {cores} cores, memory {}\n- {} {}\n- {}, {profile} build, {}",
        field("/proc/cpuinfo", "model name"),
        field("/proc/meminfo", "MemTotal"),
        std::env::consts::OS,
        kernel.trim(),
        version(server::binary().unwrap_or_default().as_os_str()),
        version("rustc".as_ref()),
    );
    for kind in [Kind::Sqlite, Kind::Postgres] {
        if !options.has(kind) {
            description += &format!("\n- no {}: bench/run starts one", kind.name());
            continue;
        }
        let database = options.database(kind).await?;
        description += &format!("\n- {}", database.name);
        database.remove().await?;
    }
    Ok(description)
}

fn version(program: &std::ffi::OsStr) -> String {
    let output = Command::new(program).arg("--version").output();
    output.map_or("unknown".to_owned(), |output| {
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    })
}
