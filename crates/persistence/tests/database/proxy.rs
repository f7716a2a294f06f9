use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, ToSocketAddrs},
    sync::watch,
};

/// A network between us and PostgreSQL that fails on demand.
pub(crate) struct Proxy {
    address: SocketAddr,
    server: url::Url,
    lost: Lost,
    frozen: watch::Sender<()>,
    accepted: Arc<AtomicUsize>,
}

/// The answer that is to be lost, once.
type Lost = Arc<Mutex<Option<&'static str>>>;

impl Proxy {
    /// Before the server of `url`, at a free port.
    pub(crate) async fn start(url: &str) -> Self {
        Self::start_at("127.0.0.1:0", url).await
    }

    pub(crate) async fn start_at(address: impl ToSocketAddrs, url: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let proxy = Self {
            address: listener.local_addr().unwrap(),
            server: url.parse().unwrap(),
            lost: Lost::default(),
            frozen: watch::Sender::new(()),
            accepted: Arc::default(),
        };
        let server = format!("127.0.0.1:{}", proxy.server.port().unwrap());
        let (lost, frozen) = (Arc::clone(&proxy.lost), proxy.frozen.clone());
        let accepted = Arc::clone(&proxy.accepted);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::Relaxed);
                let server = TcpStream::connect(&server).await.unwrap();
                tokio::spawn(forward(client, server, lost.clone(), frozen.subscribe()));
            }
        });
        proxy
    }

    /// The server's URL, through here.
    pub(crate) fn url(&self) -> String {
        let mut url = self.server.clone();
        url.set_ip_host(self.address.ip()).unwrap();
        url.set_port(Some(self.address.port())).unwrap();
        url.into()
    }

    /// How many connections there were.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Ends the connection instead of passing on the next answer that holds `text`.
    pub(crate) fn lose_answer(&self, text: &'static str) {
        *self.lost.lock().unwrap() = Some(text);
    }

    /// Whether that answer came.
    pub(crate) fn has_lost_answer(&self) -> bool {
        self.lost.lock().unwrap().is_none()
    }

    /// From now on nothing passes on the connections of now, and nobody is told.
    pub(crate) fn freeze(&self) {
        self.frozen.send_replace(());
    }
}

/// A free port of this machine, at which nobody listens.
pub(crate) async fn unused_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

async fn forward(
    mut client: TcpStream,
    mut server: TcpStream,
    lost: Lost,
    mut frozen: watch::Receiver<()>,
) {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let answers = async {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
            if is_lost(&lost, &buffer[..count]) {
                break;
            }
            if to_client.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
        () = answers => {}
        _ = frozen.changed() => std::future::pending().await,
    }
}

fn is_lost(lost: &Lost, answer: &[u8]) -> bool {
    let mut lost = lost.lock().unwrap();
    let is_lost = lost.is_some_and(|text| {
        let mut places = answer.windows(text.len());
        places.any(|place| place == text.as_bytes())
    });
    if is_lost {
        *lost = None;
    }
    is_lost
}
