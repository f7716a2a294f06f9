//! Databases shared with LangGraph: its own savers, the real packages, read what we write and we
//! read what they write.
//!
//! The Python scripts beside this file run LangGraph; `./test` provides it and the database server.

mod database;
mod description;
mod reading;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod support;
mod takeover;
mod writing;
