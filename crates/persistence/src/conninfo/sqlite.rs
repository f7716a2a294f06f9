use std::{borrow::Cow, path::PathBuf};

use super::{Fault, Written};

/// A file of SQLite, and how it is opened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SqliteFile {
    pub(crate) path: PathBuf,
    pub(crate) access: Access,
}

/// What is done with a file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Access {
    /// It is made where it is missing.
    Create,
    Write,
    Read,
}

/// What follows `sqlite:`: a path, percent-encoded, maybe behind two slashes, and `?mode=…`.
pub(super) fn read(text: &str) -> Result<Written, Fault> {
    let text = text.strip_prefix("//").unwrap_or(text);
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let mut access = Access::Create;
    let mut in_memory = false;
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match (&*name, &*value) {
            ("mode", "rwc") => access = Access::Create,
            ("mode", "rw") => access = Access::Write,
            ("mode", "ro") => access = Access::Read,
            ("mode", "memory") => in_memory = true,
            ("mode", _) => return Err("has a mode other than ro, rw, rwc and memory".to_owned()),
            ("cache", "private") => {}
            ("cache", _) => return Err("has a cache other than private".to_owned()),
            (name, _) => return Err(format!("has the parameter `{name}`, which is not heeded")),
        }
    }
    let path = percent_decoded(path);
    match &*path {
        _ if in_memory => Ok(Written::SqliteMemory),
        ":memory:" => Ok(Written::SqliteMemory),
        "" => Err("names no SQLite file".to_owned()),
        path => Ok(Written::Sqlite(SqliteFile {
            path: path.into(),
            access,
        })),
    }
}

/// A path and nothing else.
pub(super) fn plain(path: &str) -> Result<Written, Fault> {
    if path.starts_with("file:") {
        return Err("is a URI of SQLite's own; write sqlite:FILE".to_owned());
    }
    Ok(Written::Sqlite(SqliteFile {
        path: path.into(),
        access: Access::Create,
    }))
}

fn percent_decoded(path: &str) -> Cow<'_, str> {
    sqlx_core::percent_encoding::percent_decode_str(path).decode_utf8_lossy()
}
