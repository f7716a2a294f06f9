//! The files beside a connection string: services and passwords.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{Environment, Fault};

/// A file in the home directory of the user.
pub(super) fn in_home(name: &str, environment: Environment<'_>) -> Option<PathBuf> {
    let home = environment("HOME").filter(|home| !home.is_empty());
    home.map(|home| Path::new(&home).join(name))
}

/// The parameters of a service.
/// <https://www.postgresql.org/docs/current/libpq-pgservice.html>
pub(super) fn service(
    service: &str,
    file: Option<String>,
    environment: Environment<'_>,
) -> Result<Vec<(String, String)>, Fault> {
    let of_user = match file {
        Some(file) => Some((PathBuf::from(file), true)),
        None => in_home(".pg_service.conf", environment).map(|file| (file, false)),
    };
    let system = environment("PGSYSCONFDIR").unwrap_or_else(|| "/etc/postgresql-common".to_owned());
    let system = (Path::new(&system).join("pg_service.conf"), false);
    for (path, must_exist) in of_user.into_iter().chain([system]) {
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => continue,
            Err(error) => {
                return Err(format!(
                    "names a service, but {} can't be read: {error}",
                    path.display()
                ));
            }
        };
        let found = in_service_file(&text, service);
        let found = found.map_err(|line| {
            format!(
                "names a service of {}, whose line {line} is no `name=value`",
                path.display()
            )
        })?;
        if let Some(found) = found {
            return Ok(found);
        }
    }
    Err(format!(
        "names the service `{service}`, which no service file defines"
    ))
}

/// Fails with the number of a line that can't be read.
fn in_service_file(text: &str, service: &str) -> Result<Option<Vec<(String, String)>>, usize> {
    let mut found: Option<Vec<(String, String)>> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            if name.strip_suffix(']') == Some(service) {
                found = Some(Vec::new());
            }
        } else if let Some(found) = &mut found {
            let (name, value) = line.split_once('=').ok_or(number + 1)?;
            if name == "service" || name == "servicefile" {
                return Err(number + 1);
            }
            found.push((name.to_owned(), value.to_owned()));
        }
    }
    Ok(found)
}

/// The password of the first line of a password file that fits `place`: host, port, database, user.
/// <https://www.postgresql.org/docs/current/libpq-pgpass.html>
pub(super) fn password(file: &Path, place: [&str; 4]) -> Option<String> {
    if !is_private(file) {
        return None;
    }
    let text = fs::read_to_string(file).ok()?;
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .find_map(|line| {
            let fields = fields(line);
            let (fields, password) = (fields.get(..4)?, fields.get(4)?);
            let fits =
                |(field, wanted): (&String, &str)| field == "*" || unescaped(field) == wanted;
            fields
                .iter()
                .zip(place)
                .all(fits)
                .then(|| unescaped(password))
        })
        .filter(|password| !password.is_empty())
}

/// Splits at colons without a backslash before them.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        let last = fields.len() - 1;
        match c {
            ':' if last < 4 => fields.push(String::new()),
            // The password ends the line or at a further colon.
            ':' => break,
            '\\' => {
                fields[last].push('\\');
                fields[last].extend(characters.next());
            }
            c => fields[last].push(c),
        }
    }
    fields
}

fn unescaped(field: &str) -> String {
    let mut text = String::new();
    let mut characters = field.chars();
    while let Some(c) = characters.next() {
        text.extend(if c == '\\' {
            characters.next()
        } else {
            Some(c)
        });
    }
    text
}

/// As libpq has it, a password file that others may read is none.
#[cfg(unix)]
fn is_private(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;

    let Ok(metadata) = fs::metadata(file) else {
        return false;
    };
    let is_private = metadata.permissions().mode() & 0o077 == 0;
    if metadata.is_file() && !is_private {
        let file = file.display();
        tracing::warn!(%file, "password file ignored, since others than its owner may use it: chmod 0600");
    }
    metadata.is_file() && is_private
}

#[cfg(not(unix))]
fn is_private(file: &Path) -> bool {
    file.is_file()
}
