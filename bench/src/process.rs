//! What `/proc` tells about processes.

use std::{fs, path::Path};

use crate::Result;

/// A clock tick of `/proc/PID/stat`, the same on every Linux of today.
const TICK: f64 = 0.01;

/// CPU of a process and of the children that it has waited for.
pub(crate) fn cpu_seconds(process: u32) -> Result<f64> {
    let Stat { own, waited, .. } = Stat::read(process)?;
    Ok((own + waited) * TICK)
}

/// The same, and that of its children that run.
pub(crate) fn family_cpu_seconds(parent: u32) -> Result<f64> {
    let mut ticks = 0.0;
    for entry in fs::read_dir("/proc")? {
        let Some(process) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // One that has ended meanwhile is counted with its parent.
        if let Ok(stat) = Stat::read(process)
            && (process == parent || stat.parent == parent)
        {
            ticks += stat.own + stat.waited;
        }
    }
    Ok(ticks * TICK)
}

/// Everything that a process has written, to files and elsewhere.
pub(crate) fn bytes_written(process: u32) -> Result<f64> {
    number(process, "io", "wchar:")
}

/// What a process has had written to disks.
pub(crate) fn bytes_to_disk(process: u32) -> Result<f64> {
    number(process, "io", "write_bytes:")
}

/// Memory in use, in MiB.
pub(crate) fn resident_mebibytes(process: u32) -> Result<f64> {
    Ok(number(process, "status", "VmRSS:")? / 1024.0)
}

/// The most memory that was in use since the last call, in MiB.
pub(crate) fn peak_mebibytes(process: u32) -> Result<f64> {
    let peak = number(process, "status", "VmHWM:")? / 1024.0;
    fs::write(path(process).join("clear_refs"), "5")?;
    Ok(peak)
}

fn number(process: u32, file: &str, name: &str) -> Result<f64> {
    let text = fs::read_to_string(path(process).join(file))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.ok_or_else(|| format!("no {name}"))?.parse()?)
}

fn path(process: u32) -> std::path::PathBuf {
    Path::new("/proc").join(process.to_string())
}

/// The fields of `/proc/PID/stat` that count.
struct Stat {
    parent: u32,
    own: f64,
    waited: f64,
}

impl Stat {
    fn read(process: u32) -> Result<Self> {
        let text = fs::read_to_string(path(process).join("stat"))?;
        // The name, in brackets, may hold anything.
        let (_, fields) = text.rsplit_once(") ").ok_or("no name")?;
        let fields: Vec<_> = fields.split(' ').collect();
        let field = |number: usize| fields.get(number - 3).ok_or("too few fields");
        let ticks = |number: usize| -> Result<f64> { Ok(field(number)?.parse()?) };
        Ok(Self {
            parent: field(4)?.parse()?,
            own: ticks(14)? + ticks(15)?,
            waited: ticks(16)? + ticks(17)?,
        })
    }
}
