use std::{
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Semaphore,
    time::{Sleep, sleep},
};

use super::{BUFFER, Exchange};

/// The headers that [`hyper`] allows.
const MAX_HEADERS: usize = 100;

/// A connection whose request heads must arrive in time, that leaves while it asks nothing if others
/// need its place, and that notices what [`hyper`] hides: a body with two lengths.
pub(super) struct Heads<S> {
    stream: S,
    place: Place,
    header_timeout: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
    /// Whether the client must read before more can be written.
    is_writing: bool,
    exchange: Arc<Exchange>,
    evictions: Arc<Semaphore>,
    evicted: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// Where in the stream of requests the bytes are that come next.
enum Place {
    /// In a head of which this has come.
    Head(Vec<u8>),
    /// Between two requests.
    Between,
    /// In a body of which so many bytes are to come.
    Body(u64),
    /// Behind the last head that matters.
    Beyond,
}

impl<S> Heads<S> {
    pub(super) fn new(
        stream: S,
        header_timeout: Duration,
        exchange: Arc<Exchange>,
        evictions: Arc<Semaphore>,
    ) -> Self {
        Self {
            stream,
            place: Place::Head(Vec::new()),
            header_timeout,
            deadline: None,
            is_writing: false,
            exchange,
            evictions,
            evicted: None,
        }
    }

    /// Takes note of what has arrived.
    fn observe(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match &mut self.place {
                Place::Beyond => return,
                Place::Between => self.place = Place::Head(Vec::new()),
                Place::Body(left) => {
                    let skipped = (bytes.len() as u64).min(*left);
                    *left -= skipped;
                    bytes = &bytes[skipped as usize..];
                    if *left == 0 {
                        self.place = Place::Between;
                    }
                }
                Place::Head(head) => {
                    let before = head.len();
                    // Most come whole, and none is looked through again for every byte of it.
                    let next = if before == 0 {
                        next_place(bytes, &self.exchange)
                    } else {
                        head.extend_from_slice(bytes);
                        let may_end = end_of_lines(head, before);
                        may_end.then(|| next_place(head, &self.exchange)).flatten()
                    };
                    let Some((length, place)) = next else {
                        if before == 0 {
                            head.extend_from_slice(bytes);
                        }
                        if head.len() > BUFFER {
                            self.place = Place::Beyond;
                        }
                        return;
                    };
                    bytes = &bytes[length.saturating_sub(before)..];
                    self.place = place;
                    self.deadline = None;
                }
            }
        }
    }

    /// Ends a connection that takes too long to ask, or whose place another one needs.
    fn poll_leave(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_writing || self.exchange.under_way.load(Ordering::Relaxed) > 0 {
            self.evicted = None;
            return Poll::Pending;
        }
        if let Place::Head(_) = self.place {
            let limit = self.header_timeout;
            let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(limit)));
            if deadline.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        let evictions = &self.evictions;
        let evicted = self.evicted.get_or_insert_with(|| {
            let evictions = evictions.clone();
            Box::pin(async move {
                if let Ok(permit) = evictions.acquire_owned().await {
                    permit.forget();
                }
            })
        });
        ready!(evicted.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
    }
}

/// Whether an empty line ends in what has come since `before`.
fn end_of_lines(head: &[u8], before: usize) -> bool {
    let tail = &head[before.saturating_sub(3)..];
    tail.windows(2).any(|pair| pair == b"\n\n") || tail.windows(3).any(|three| three == b"\n\r\n")
}

/// The length of a head that is whole, and what comes behind it.
fn next_place(head: &[u8], exchange: &Exchange) -> Option<(usize, Place)> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(head) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return None,
        // As for hyper, which refuses it.
        Err(_) => return Some((head.len(), Place::Beyond)),
    };
    let value = |name: &str| {
        let mut headers = request.headers.iter();
        headers.find(|header| header.name.eq_ignore_ascii_case(name))
    };
    let body = value("content-length").map(|header| header.value);
    let place = match (body, value("transfer-encoding")) {
        (body, Some(_)) => {
            if body.is_some() {
                exchange.is_ambiguous.store(true, Ordering::Relaxed);
            }
            Place::Beyond
        }
        (None, None) => Place::Between,
        (Some(body), None) => match str::from_utf8(body).map(|text| text.trim().parse()) {
            Ok(Ok(0)) => Place::Between,
            Ok(Ok(bytes)) => Place::Body(bytes),
            _ => Place::Beyond,
        },
    };
    Some((length, place))
}

impl<S: AsyncRead + Unpin> AsyncRead for Heads<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Pending => self.poll_leave(context),
            Poll::Ready(Ok(())) => {
                self.evicted = None;
                self.observe(&buffer.filled()[before..]);
                Poll::Ready(Ok(()))
            }
            failed => failed,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heads<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.is_writing = written.is_pending();
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.is_writing = written.is_pending();
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
