//! Connection strings, with the meaning that libpq and SQLite give them. What is not heeded is
//! refused by its name; no reason given here repeats a value, which may be a password.

mod files;
mod parameters;
mod postgres;
mod sqlite;
mod syntax;

pub(crate) use postgres::{Host, Place, Postgres, Role, Tls, TlsMode};
pub(crate) use sqlite::{Access, SqliteFile};

/// Reads a variable of the environment.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Why a connection string is refused, to follow the name of its setting.
pub(crate) type Fault = String;

/// What a connection string says, before the environment and the files beside it are looked at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Written {
    /// libpq's parameters.
    Postgres(Vec<(String, String)>),
    Sqlite(SqliteFile),
    /// Gone when it is closed.
    SqliteMemory,
}

const FORMS: &str = "it must be postgresql://USER:PASSWORD@HOST:PORT/DATABASE, libpq's \
                     `host=… dbname=…`, sqlite:FILE or sqlite::memory:";

/// Reads a connection string.
pub(crate) fn read(text: &str) -> Result<Written, Fault> {
    if text.trim().is_empty() {
        return Err(format!("is empty; {FORMS}"));
    }
    if text.contains('\0') {
        return Err("holds a NUL character".to_owned());
    }
    if text == ":memory:" {
        return Ok(Written::SqliteMemory);
    }
    match text.split_once(':') {
        Some(("sqlite", rest)) => return sqlite::read(rest),
        Some((scheme @ ("postgres" | "postgresql"), rest)) => {
            let rest = rest
                .strip_prefix("//")
                .ok_or_else(|| format!("lacks the two slashes after `{scheme}:`; {FORMS}"))?;
            return syntax::uri(rest).map(Written::Postgres);
        }
        // SQLAlchemy's `postgresql+psycopg://`: the same server by another driver.
        Some((scheme, rest)) if scheme.starts_with("postgresql+") && rest.starts_with("//") => {
            return syntax::uri(&rest[2..]).map(Written::Postgres);
        }
        Some((scheme, _)) if scheme.starts_with("sqlite+") => {
            return Err(
                "names a driver of SQLAlchemy, which counts its slashes otherwise; write \
                        sqlite:FILE"
                    .to_owned(),
            );
        }
        Some((_, rest)) if rest.starts_with("//") => {
            return Err(format!("is of another kind of database; {FORMS}"));
        }
        _ => {}
    }
    let names_file = [".db", ".sqlite", ".sqlite3"];
    if names_file.iter().any(|ending| text.ends_with(ending)) && !text.contains('=') {
        return sqlite::plain(text);
    }
    if text.contains('=') {
        return syntax::keywords(text).map(Written::Postgres);
    }
    Err(format!("can't be read; {FORMS}"))
}

/// The connection string without its secrets, for people and logs.
pub(crate) fn display(text: &str) -> String {
    match read(text) {
        Ok(Written::Postgres(written)) => parameters::display(&written),
        Ok(Written::Sqlite(_) | Written::SqliteMemory) => text.to_owned(),
        Err(_) => "(unreadable)".to_owned(),
    }
}

/// Whether it holds a password.
pub(crate) fn has_secret(text: &str) -> bool {
    matches!(read(text), Ok(Written::Postgres(written)) if written
        .iter()
        .any(|(name, value)| parameters::is_secret(name) && !value.is_empty()))
}

#[cfg(test)]
mod tests;
