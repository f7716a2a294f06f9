//! The two ways to write libpq's parameters.
//! <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING>

use super::{Fault, parameters};

/// `[USER[:PASSWORD]@][HOST[:PORT][,…]][/DATABASE][?NAME=VALUE[&…]]`, without its scheme.
pub(super) fn uri(text: &str) -> Result<Vec<(String, String)>, Fault> {
    let mut written = Vec::new();
    let mut rest = text;
    // As libpq does, the first `@` before a slash: one in a password must be written %40.
    if let Some(end) = text
        .find(['@', '/'])
        .filter(|end| text[*end..].starts_with('@'))
    {
        let (user, password) = text[..end].split_once(':').unwrap_or((&text[..end], ""));
        push_decoded(&mut written, "user", user)?;
        push_decoded(&mut written, "password", password)?;
        rest = &text[end + 1..];
    }
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    loop {
        let (host, behind) = host(rest)?;
        hosts.push(host);
        let (port, behind) = match behind.strip_prefix(':') {
            Some(behind) => split_before(behind, &['/', '?', ',']),
            None => ("", behind),
        };
        ports.push(port);
        match behind.strip_prefix(',') {
            Some(behind) => rest = behind,
            None => {
                rest = behind;
                break;
            }
        }
    }
    push_decoded(&mut written, "host", &hosts.join(","))?;
    push_decoded(&mut written, "port", &ports.join(","))?;
    if let Some(behind) = rest.strip_prefix('/') {
        let (database, behind) = split_before(behind, &['?']);
        push_decoded(&mut written, "dbname", database)?;
        rest = behind;
    }
    if let Some(query) = rest.strip_prefix('?').filter(|query| !query.is_empty()) {
        for pair in query.split('&') {
            query_pair(pair, &mut written)?;
        }
    }
    Ok(written)
}

fn query_pair(pair: &str, written: &mut Vec<(String, String)>) -> Result<(), Fault> {
    let Some((name, value)) = pair.split_once('=') else {
        return Err("has a parameter without `=` behind its `?`".to_owned());
    };
    let name = decoded(name)?;
    if value.contains('=') {
        return Err(format!(
            "has a second `=` in the parameter {}",
            shown(&name)
        ));
    }
    let value = decoded(value)?;
    match (&*name, &*value) {
        ("ssl", "true") => set(written, "sslmode", "require".to_owned()),
        _ => {
            check_name(&name)?;
            set(written, &name, value);
        }
    }
    Ok(())
}

/// The host that `text` begins with, and what comes behind it.
fn host(text: &str) -> Result<(&str, &str), Fault> {
    let Some(bracketed) = text.strip_prefix('[') else {
        return Ok(split_before(text, &[':', '/', '?', ',']));
    };
    let Some((host, behind)) = bracketed.split_once(']') else {
        return Err("has a `[` without its `]`".to_owned());
    };
    if host.is_empty() {
        return Err("has no address between `[` and `]`".to_owned());
    }
    match behind.chars().next() {
        None | Some(':' | '/' | '?' | ',') => Ok((host, behind)),
        Some(_) => Err("has something behind the `]` of a host other than its port".to_owned()),
    }
}

fn split_before<'a>(text: &'a str, ends: &[char]) -> (&'a str, &'a str) {
    text.split_at(text.find(ends).unwrap_or(text.len()))
}

fn push_decoded(written: &mut Vec<(String, String)>, name: &str, text: &str) -> Result<(), Fault> {
    // Commas alone are hosts without names, which libpq keeps.
    if !text.is_empty() {
        set(written, name, decoded(text)?);
    }
    Ok(())
}

/// What comes later counts.
fn set(written: &mut Vec<(String, String)>, name: &str, value: String) {
    match written.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => *old = value,
        None => written.push((name.to_owned(), value)),
    }
}

/// Decodes `%41`; a `+` stays one.
fn decoded(text: &str) -> Result<String, Fault> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = behind
            .get(..2)
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(0) => return Err("holds %00".to_owned()),
            Some(byte) => bytes.push(byte),
            None => {
                return Err("has a `%` that is not followed by two hexadecimal digits".to_owned());
            }
        }
        rest = &behind[2..];
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 where it is percent-encoded".to_owned())
}

/// `NAME = VALUE …`, where a value may stand in single quotes and a backslash keeps what follows it.
pub(super) fn keywords(text: &str) -> Result<Vec<(String, String)>, Fault> {
    let mut written = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let (name, behind) =
            rest.split_at(rest.find(|c| c == '=' || is_space(c)).unwrap_or(rest.len()));
        let behind = behind.trim_start_matches(is_space);
        let Some(behind) = behind.strip_prefix('=') else {
            // Not the word itself: it may be the rest of a password with a space in it.
            return Err("has a word without `=`".to_owned());
        };
        check_name(name)?;
        let (value, behind) = keyword_value(behind.trim_start_matches(is_space))
            .ok_or_else(|| format!("lacks the closing quote of {name}"))?;
        set(&mut written, name, value);
        rest = behind.trim_start_matches(is_space);
    }
    Ok(written)
}

/// The value that `text` begins with, and what comes behind it.
fn keyword_value(text: &str) -> Option<(String, &str)> {
    let quoted = text.strip_prefix('\'');
    let mut value = String::new();
    let mut characters = quoted.unwrap_or(text).chars();
    loop {
        let behind = characters.as_str();
        match characters.next() {
            Some('\\') => value.extend(characters.next()),
            Some('\'') if quoted.is_some() => return Some((value, characters.as_str())),
            Some(c) if quoted.is_none() && is_space(c) => return Some((value, behind)),
            Some(c) => value.push(c),
            None if quoted.is_some() => return None,
            None => return Some((value, "")),
        }
    }
}

/// C's `isspace`.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

pub(super) fn check_name(name: &str) -> Result<(), Fault> {
    if parameters::is_known(name) {
        return Ok(());
    }
    let meant = parameters::nearest(name);
    let meant = meant.map(|known| format!("; did you mean {known}?"));
    let shown = shown(name);
    Err(format!(
        "has the parameter {shown}, which libpq does not know{}",
        meant.unwrap_or_default()
    ))
}

/// A name for people: what looks like no name may be part of a password.
fn shown(name: &str) -> String {
    let looks_like_name = name.len() <= 40
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if looks_like_name && !name.is_empty() {
        name.to_owned()
    } else {
        "(not a name)".to_owned()
    }
}
