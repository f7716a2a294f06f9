//! The connections under HTTP: how many, and for how long one may do nothing.

mod head;

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::Request,
    http::{HeaderValue, Response, header},
};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout},
};
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;

use self::head::Heads;
use super::tls::Tls;

/// The bytes that a request's line and headers may have, and that are held of what is sent.
const BUFFER: usize = 64 * 1024;

/// The connections beyond the limit that are told so at one time; further ones wait.
const REFUSALS: usize = 32;

/// How long a connection that must leave may take for it.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

/// How often the log says that no connection is taken.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

const FULL: &str = r#"{"type":"urn:agentkit:problem:too-many-connections","title":"Service Unavailable","status":503,"detail":"as many connections as AGENTKIT_MAX_CONNECTIONS allows are in use, try again"}"#;

/// How many connections there may be, and how long each may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// How many at most. One more closes the one that has asked nothing for the longest time; where
    /// all are at work it is answered with 503. Half the open files of the process are the most.
    pub connections: usize,
    /// How long a request's line and headers may take to arrive.
    pub header_timeout: Duration,
    /// How long a connection may ask nothing after an answer.
    pub idle_timeout: Duration,
    /// How long a client may read nothing of an answer.
    pub write_timeout: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            header_timeout: Duration::from_secs(10),
            // Longer than load balancers keep a connection that they may use again.
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
        }
    }
}

/// Serves `router` on `listener`, by `tls` where there is one, until `stop`, and then what has been asked
/// by that time.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    tls: Option<Tls>,
    stop: impl Future<Output = ()>,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.idle_timeout)
        .max_header_size(BUFFER)
        .max_buf_size(BUFFER);
    let graceful = GracefulShutdown::new();
    let mut door = Door::new(listener, &limits);
    let mut stop = std::pin::pin!(stop);
    loop {
        let (stream, permit) = tokio::select! {
            accepted = door.accept() => accepted,
            () = &mut stop => break,
        };
        let exchange = Arc::new(Exchange::default());
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(limits.write_timeout));
        let mut stream: Box<dyn Stream> = Box::new(Box::pin(stream));
        let (http, watcher, router) = (http.clone(), graceful.watcher(), router.clone());
        let (tls, evictions) = (tls.clone(), door.evictions.clone());
        tokio::spawn(async move {
            if let Some(tls) = tls {
                let accepted = timeout(limits.header_timeout, tls.acceptor().accept(stream));
                stream = match accepted.await {
                    Ok(Ok(accepted)) => Box::new(accepted),
                    Ok(Err(error)) => return tracing::debug!(%error, "no TLS"),
                    Err(_) => return tracing::debug!("no TLS in time"),
                };
            }
            let stream = Heads::new(stream, limits.header_timeout, exchange.clone(), evictions);
            let answer = move |request| answer(router.clone(), exchange.clone(), request);
            let connection = http.serve_connection(TokioIo::new(stream), service_fn(answer));
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(%error, "connection ended");
            }
            drop(permit);
        });
    }
    drop(door);
    graceful.shutdown().await;
}

/// What one reads from and writes to.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// What is known about a connection on both sides of [`hyper`].
#[derive(Debug, Default)]
struct Exchange {
    /// Requests whose answer has not been passed on whole.
    under_way: AtomicUsize,
    /// Whether a body came with two lengths, of which hyper shows one.
    is_ambiguous: AtomicBool,
}

/// Marks a request whose body has both a `content-length` and a `transfer-encoding`.
#[derive(Clone, Copy, Debug)]
pub(super) struct AmbiguousLength;

async fn answer(
    router: Router,
    exchange: Arc<Exchange>,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let under_way = UnderWay::new(exchange);
    let mut request = request.map(Body::new);
    if under_way.0.is_ambiguous.load(Ordering::Relaxed) {
        request.extensions_mut().insert(AmbiguousLength);
    }
    // What follows a body without a length is not looked at any more.
    let is_last = request.headers().contains_key(header::TRANSFER_ENCODING);
    let mut response = router.oneshot(request).await?;
    if is_last {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    Ok(response.map(|body| Answer {
        body,
        _under_way: under_way,
    }))
}

/// Counts a request for as long as it exists.
struct UnderWay(Arc<Exchange>);

impl UnderWay {
    fn new(exchange: Arc<Exchange>) -> Self {
        exchange.under_way.fetch_add(1, Ordering::Relaxed);
        Self(exchange)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer.
struct Answer {
    body: Body,
    _under_way: UnderWay,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Lets connections in as long as there is room.
struct Door {
    listener: TcpListener,
    room: Arc<Semaphore>,
    /// Each permit closes one connection that asks nothing, the longest first.
    evictions: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    write_timeout: Duration,
    complained: Option<Instant>,
}

impl Door {
    fn new(listener: TcpListener, limits: &ConnectionLimits) -> Self {
        let connections = within_open_files(limits.connections);
        Self {
            listener,
            room: Arc::new(Semaphore::new(connections)),
            evictions: Arc::new(Semaphore::new(0)),
            refusals: Arc::new(Semaphore::new(REFUSALS)),
            write_timeout: limits.write_timeout,
            complained: None,
        }
    }

    async fn accept(&mut self) -> (TcpStream, OwnedSemaphorePermit) {
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                // Of that connection.
                Err(error) if is_of_client(&error) => continue,
                Err(error) => {
                    self.complain(&format!("connections can't be accepted: {error}"));
                    sleep(LEAVE_WITHIN).await;
                    continue;
                }
            };
            if let Some(permit) = self.permit().await {
                set_options(&stream, self.write_timeout);
                return (stream, permit);
            }
            self.complain("all connections are in use; further ones are answered with 503");
            let refusal = self.refusals.clone().acquire_owned().await;
            tokio::spawn(async move {
                refuse(stream).await;
                drop(refusal);
            });
        }
    }

    /// Room for one more connection, if need be by closing one that asks nothing.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = self.room.clone().try_acquire_owned() {
            return Some(permit);
        }
        self.evictions.add_permits(1);
        // A permit that nobody waited for would close a connection that comes later.
        if self.evictions.forget_permits(1) == 1 {
            return None;
        }
        let permit = timeout(LEAVE_WITHIN, self.room.clone().acquire_owned()).await;
        permit.ok()?.ok()
    }

    fn complain(&mut self, message: &str) {
        let is_news = |at: Instant| at.elapsed() > COMPLAIN_EVERY;
        if self.complained.is_none_or(is_news) {
            self.complained = Some(Instant::now());
            tracing::warn!("{message}");
        }
    }
}

fn is_of_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

/// Answers a connection for which there is no room, whatever it asks.
async fn refuse(mut stream: TcpStream) {
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
         retry-after: 1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{FULL}",
        FULL.len()
    );
    let exchange = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        // A request that is left unread would reset the connection before the answer is read.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    if let Ok(Err(error)) = timeout(LEAVE_WITHIN, exchange).await {
        tracing::debug!(%error, "connection refused");
    }
}

fn set_options(stream: &TcpStream, write_timeout: Duration) {
    // Small answers must not wait for more to send; without the option they only come later.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY not set");
    }
    // A client whose network is gone acknowledges nothing, but its window takes heartbeats for long.
    #[cfg(target_os = "linux")]
    {
        let milliseconds = u32::try_from(write_timeout.as_millis()).unwrap_or(u32::MAX);
        if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream, milliseconds) {
            tracing::debug!(%error, "TCP_USER_TIMEOUT not set");
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = write_timeout;
}

/// As many of the connections as half the open files allow; the others are for the database, for
/// models and for tools. The soft limit is raised as far as that takes.
#[cfg(unix)]
fn within_open_files(connections: usize) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = 2 * connections as u64;
    let Some(current) = limit.current.filter(|current| *current < wanted) else {
        return connections;
    };
    let raised = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    let new = Rlimit {
        current: Some(raised),
        maximum: limit.maximum,
    };
    let files = setrlimit(Resource::Nofile, new).map_or(current, |()| raised);
    let allowed = usize::try_from(files / 2).unwrap_or(connections);
    if allowed < connections {
        tracing::info!(
            files,
            connections = allowed,
            "the limit of open files limits the connections"
        );
    }
    allowed.clamp(1, connections)
}

#[cfg(not(unix))]
fn within_open_files(connections: usize) -> usize {
    connections
}
