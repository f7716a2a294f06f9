use std::{io, path::Path};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::{JoinHandle, JoinSet},
    time::{Duration, timeout},
};

use crate::{
    connection::files::ProcessDirectory,
    conninfo::{Host, Tls},
};

/// PostgreSQL's codes for a connection that could not be made, and one that was refused.
const UNREACHABLE: &str = "08001";
const REFUSED: &str = "08004";

/// For whoever is told why there is no connection.
const TIME_TO_LISTEN: Duration = Duration::from_secs(5);

/// Part of the name of its socket, which counts for nothing else.
const PORT: u16 = 1;

/// A socket of this process alone, at which sqlx finds a server without TLS. Each connection goes on
/// to the real one by TLS of ours: sqlx takes no stream that was made elsewhere.
pub(crate) struct Relay {
    directory: ProcessDirectory,
    task: JoinHandle<()>,
}

impl Relay {
    #[cfg(unix)]
    pub(crate) fn start(host: Host, tls: Tls) -> io::Result<Self> {
        let directory = ProcessDirectory::make()?;
        let socket = directory.path().join(format!(".s.PGSQL.{PORT}"));
        let listener = tokio::net::UnixListener::bind(socket)?;
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                match listener.accept().await {
                    Ok((client, _)) => {
                        let (host, tls) = (host.clone(), tls.clone());
                        connections.spawn(async move { pass(client, &host, &tls).await });
                    }
                    // Out of descriptors, say.
                    Err(error) => {
                        tracing::warn!(%error, "no connection to PostgreSQL");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { directory, task })
    }

    #[cfg(not(unix))]
    pub(crate) fn start(_: Host, _: Tls) -> io::Result<Self> {
        let reason = "this sslmode needs a Unix socket, which this system has not";
        Err(io::Error::new(io::ErrorKind::Unsupported, reason))
    }

    /// Where it listens.
    pub(crate) fn place(&self) -> (&Path, u16) {
        (self.directory.path(), PORT)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a relay has told sqlx in PostgreSQL's words.
pub(crate) fn unwrapped(error: sqlx::Error) -> sqlx::Error {
    match &error {
        sqlx::Error::Database(told) => match told.code().as_deref() {
            Some(REFUSED) => super::refusal(told.message().to_owned()),
            Some(UNREACHABLE) => io::Error::other(told.message().to_owned()).into(),
            _ => error,
        },
        _ => error,
    }
}

#[cfg(unix)]
async fn pass(mut client: tokio::net::UnixStream, host: &Host, tls: &Tls) {
    match super::connect(host, tls).await {
        Ok(mut server) => {
            // Either end tells the other by closing; sqlx says what was lost by it.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        }
        Err(error) => {
            let _ = timeout(TIME_TO_LISTEN, explain(&mut client, &error)).await;
        }
    }
}

/// Answers as a server that refuses, and waits until that was read.
#[cfg(unix)]
async fn explain(client: &mut tokio::net::UnixStream, error: &sqlx::Error) -> io::Result<()> {
    let (code, reason) = match error {
        sqlx::Error::Tls(reason) => (REFUSED, reason.to_string()),
        other => (UNREACHABLE, other.to_string()),
    };
    let mut message = Vec::new();
    for (field, text) in [('S', "FATAL"), ('V', "FATAL"), ('C', code), ('M', &*reason)] {
        message.push(field as u8);
        message.extend(text.replace('\0', "").as_bytes());
        message.push(0);
    }
    message.push(0);
    let length = u32::try_from(message.len() + 4).unwrap_or(u32::MAX);
    client.write_u8(b'E').await?;
    client.write_u32(length).await?;
    client.write_all(&message).await?;
    client.shutdown().await?;
    tokio::io::copy(&mut client.take(1 << 16), &mut tokio::io::sink()).await?;
    Ok(())
}
