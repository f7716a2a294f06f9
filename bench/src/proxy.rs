//! Stands between a server and its database, and counts round trips and bytes.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::Result;

/// A round trip begins when the client sends something after the server has answered.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    round_trips: Arc<AtomicU64>,
    bytes_read: Arc<AtomicU64>,
}

impl Proxy {
    pub(crate) async fn start(database: String) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let proxy = Self {
            address: listener.local_addr()?,
            round_trips: Arc::default(),
            bytes_read: Arc::default(),
        };
        let round_trips = Arc::clone(&proxy.round_trips);
        let bytes_read = Arc::clone(&proxy.bytes_read);
        tokio::spawn(async move {
            // A connection that fails shows at its client.
            while let Ok((client, _)) = listener.accept().await {
                if let Ok(server) = TcpStream::connect(&database).await {
                    // Else a long answer waits for an acknowledgement, 40 ms.
                    if client
                        .set_nodelay(true)
                        .and(server.set_nodelay(true))
                        .is_err()
                    {
                        continue;
                    }
                    forward(
                        client,
                        server,
                        Arc::clone(&round_trips),
                        Arc::clone(&bytes_read),
                    );
                }
            }
        });
        Ok(proxy)
    }

    pub(crate) fn round_trips(&self) -> u64 {
        self.round_trips.load(SeqCst)
    }

    /// What the database has sent.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read.load(SeqCst)
    }
}

fn forward(
    client: TcpStream,
    server: TcpStream,
    round_trips: Arc<AtomicU64>,
    bytes_read: Arc<AtomicU64>,
) {
    let is_answered = Arc::new(AtomicBool::new(true));
    let answered = Arc::clone(&is_answered);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::spawn(copy(from_client, to_server, move |_| {
        if is_answered.swap(false, SeqCst) {
            round_trips.fetch_add(1, SeqCst);
        }
    }));
    tokio::spawn(copy(from_server, to_client, move |bytes| {
        bytes_read.fetch_add(bytes as u64, SeqCst);
        answered.store(true, SeqCst);
    }));
}

async fn copy(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    seen: impl Fn(usize),
) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        seen(length);
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_sent_before_the_answer_is_one_round_trip() -> Result<()> {
        let database = TcpListener::bind("127.0.0.1:0").await?;
        let proxy = Proxy::start(database.local_addr()?.to_string()).await?;
        let mut client = TcpStream::connect(proxy.address).await?;
        let (mut server, _) = database.accept().await?;
        let mut byte = [0];
        for _ in 0..3 {
            for _ in 0..2 {
                client.write_all(b"q").await?;
                server.read_exact(&mut byte).await?;
            }
            server.write_all(b"a").await?;
            client.read_exact(&mut byte).await?;
        }
        assert_eq!(proxy.round_trips(), 3);
        Ok(())
    }
}
