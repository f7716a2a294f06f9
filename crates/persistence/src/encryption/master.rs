//! Master keys, which encrypt the keys of the data.

use std::{fmt, path::PathBuf, process::Stdio, time::Duration};

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use yai_agentkit_core::{Error, Result, error::BoxError};
use zeroize::Zeroizing;

use super::{
    EncryptionError, SETTING,
    cipher::{DataKey, KEY_BYTES},
};

/// How long a command may take that tells the key.
const PATIENCE: Duration = Duration::from_secs(60);

/// The key that encrypts the keys of the data: a file, or a service that keeps it.
#[async_trait]
pub trait MasterKey: Send + Sync {
    /// Encrypts a key of 32 bytes, which belongs to `context` alone.
    async fn wrap(&self, context: &str, key: &[u8]) -> Result<Vec<u8>, BoxError>;

    /// Decrypts what [`wrap`](Self::wrap) has made of a key of the same `context`.
    async fn unwrap(&self, context: &str, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, BoxError>;
}

/// Master keys that the process holds: the first encrypts, all of them decrypt.
pub struct LocalKeys(Vec<DataKey>);

impl LocalKeys {
    /// Of a text with a key a line: 32 bytes in base64, or 64 hexadecimal digits. Empty lines, and
    /// those that begin with `#`, say nothing.
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().map(str::trim);
        let keys = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let keys = keys.map(|line| {
            let key = bytes(line).and_then(|bytes| DataKey::new(0, &bytes));
            key.ok_or_else(|| {
                let reason = "names a key that is not 32 bytes in base64 or hexadecimal digits";
                Error::configuration(SETTING, reason)
            })
        });
        let keys = keys.collect::<Result<Vec<_>>>()?;
        if keys.is_empty() {
            return Err(Error::configuration(SETTING, "names no key"));
        }
        Ok(Self(keys))
    }
}

fn bytes(line: &str) -> Option<Zeroizing<Vec<u8>>> {
    if line.len() != 2 * KEY_BYTES {
        return BASE64.decode(line).map(Zeroizing::new).ok();
    }
    let digit = |place: usize| line.get(2 * place..2 * place + 2);
    let byte = |place| u8::from_str_radix(digit(place)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..KEY_BYTES).map(byte).collect();
    bytes.map(Zeroizing::new)
}

#[async_trait]
impl MasterKey for LocalKeys {
    async fn wrap(&self, context: &str, key: &[u8]) -> Result<Vec<u8>, BoxError> {
        Ok(self.0[0].seal(&[context], key))
    }

    async fn unwrap(&self, context: &str, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, BoxError> {
        let (_, sealed) = wrapped
            .split_first_chunk::<4>()
            .ok_or(EncryptionError::Refused)?;
        let mut opened = self.0.iter().map(|key| key.open(&[context], sealed));
        let opened = opened.find_map(Result::ok);
        Ok(Zeroizing::new(opened.ok_or(EncryptionError::Refused)?))
    }
}

/// Where the master key of the settings is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum KeySource {
    File(PathBuf),
    Variable(String),
    Command(String),
    /// What may be a key itself, and is not shown.
    Unknown,
}

/// Without what may be secret.
impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File(_) => "file",
            Self::Variable(_) => "env",
            Self::Command(_) => "command",
            Self::Unknown => "unknown",
        })
    }
}

impl KeySource {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (kind, what) = text.split_once(':').unwrap_or_default();
        Some(match kind {
            "file" if !what.is_empty() => Self::File(what.into()),
            "env" if !what.is_empty() => Self::Variable(what.to_owned()),
            "command" if !what.is_empty() => Self::Command(what.to_owned()),
            _ => Self::Unknown,
        })
    }

    /// The keys that are there now.
    pub(crate) async fn read(self) -> Result<LocalKeys> {
        let read = tokio::task::spawn_blocking(move || self.text());
        let failed = |reason: String| Error::configuration(SETTING, reason);
        let text = match tokio::time::timeout(PATIENCE, read).await {
            Ok(Ok(text)) => text.map_err(failed)?,
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(failed("the command has not ended in time".to_owned())),
        };
        LocalKeys::parse(&text)
    }

    fn text(self) -> Result<Zeroizing<String>, String> {
        let text = match self {
            Self::File(path) => std::fs::read_to_string(&path)
                .map_err(|error| format!("{} can't be read: {error}", path.display()))?,
            Self::Variable(name) => std::env::var(&name)
                .map_err(|_| format!("the variable {name} is not set, or no text"))?,
            Self::Command(command) => output(&command)?,
            Self::Unknown => {
                let allowed = "must be `file:PATH`, `env:VARIABLE` or `command:COMMAND`";
                return Err(allowed.to_owned());
            }
        };
        Ok(Zeroizing::new(text))
    }
}

fn output(command: &str) -> Result<String, String> {
    let (shell, flag) = if cfg!(windows) {
        ("cmd", "/C")
    } else {
        ("sh", "-c")
    };
    let mut process = std::process::Command::new(shell);
    process.args([flag, command]).stdin(Stdio::null());
    // What it complains of is for the operator.
    let output = process.stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("the command can't be run: {error}"))?;
    if !output.status.success() {
        return Err(format!("the command has failed: {}", output.status));
    }
    String::from_utf8(output.stdout).map_err(|_| "the command has printed no text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    const TWO: &str = "0202020202020202020202020202020202020202020202020202020202020202";

    async fn read(source: &str) -> Result<LocalKeys> {
        KeySource::parse(source).expect(source).read().await
    }

    #[tokio::test]
    async fn a_key_that_was_replaced_still_unwraps() {
        let old = LocalKeys::parse(ONE).unwrap();
        let wrapped = old.wrap("acme 1", &[7; 32]).await.unwrap();
        let new = LocalKeys::parse(&format!("# new\n{TWO}\n\n{ONE}\n")).unwrap();
        assert_eq!(**new.unwrap("acme 1", &wrapped).await.unwrap(), [7; 32]);
        assert!(new.unwrap("acme 2", &wrapped).await.is_err());
        let rewrapped = new.wrap("acme 1", &[7; 32]).await.unwrap();
        assert!(old.unwrap("acme 1", &rewrapped).await.is_err());
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_key_comes_from_a_file_a_variable_or_a_command() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        std::fs::write(&file, ONE).unwrap();
        assert!(read(&format!("file:{}", file.display())).await.is_ok());
        assert!(read(&format!("command:echo {TWO}")).await.is_ok());
        for (source, reason) in [
            ("file:/nowhere/key", "/nowhere/key can't be read"),
            (
                "env:AGENTKIT_NO_SUCH_KEY",
                "AGENTKIT_NO_SUCH_KEY is not set",
            ),
            ("env:PATH", "names a key that is not 32 bytes"),
            ("command:exit 3", "the command has failed"),
            ("command:true", "names no key"),
            ("command:echo AAAA", "is not 32 bytes"),
        ] {
            let error = read(source).await.err().expect(source).to_string();
            let is_named = error.starts_with("DB_ENCRYPTION_KEY") && error.contains(reason);
            assert!(is_named, "{error}");
        }
        for source in ["", "file:", ONE, TWO, "https://keys"] {
            let error = read(source).await.err().expect(source);
            let error = format!("{error} {error:?} {:?}", KeySource::parse(source));
            assert!(error.contains("must be `file:PATH`"), "{error}");
            assert!(!error.contains(ONE) && !error.contains(TWO), "{error}");
        }
    }
}
