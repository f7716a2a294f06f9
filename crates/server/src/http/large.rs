//! Large answers and bodies: what clients have not read, or not sent to its end, is bounded, however
//! many there are.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    io, iter,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody, to_bytes},
    extract::Request,
    response::{IntoResponse, Response},
};
use hyper::body::{Frame, SizeHint};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::problem::Problem;

/// From how many bytes on an answer counts, and how many of it a connection takes at once.
pub(super) const LARGE: usize = 64 * 1024;

/// How many bytes of different large answers there may be at one time; one that has more has all. Bodies
/// have half of it besides: what those held that were refused is given back by and by.
const ROOM: usize = 64 << 20;

/// What of the room one permit is for.
const UNIT: usize = 1024;

/// How long a client may keep its place in the room, and how many bytes it must read a second to keep
/// it for longer.
const GRACE: Duration = Duration::from_secs(30);
const RATE: usize = 32 * 1024;

/// Where large answers, and large parts of streams, stand until they are read. Equal ones stand there
/// once.
#[derive(Clone)]
pub(super) struct Room {
    units: usize,
    free: Arc<Semaphore>,
    taken: Arc<Mutex<HashMap<u64, Weak<Large>>>>,
    hasher: RandomState,
    bodies: Arc<Semaphore>,
}

impl Default for Room {
    fn default() -> Self {
        Self::of(ROOM)
    }
}

impl Room {
    /// Makes a body that may be large find room as it comes.
    pub(super) fn admit(&self, request: Request) -> Request {
        let length = request.body().size_hint().exact();
        if length.is_some_and(|length| length < LARGE as u64) {
            return request;
        }
        let arriving = |body| Arriving {
            body,
            bytes: 0,
            most: self.units / 2,
            bodies: self.bodies.clone(),
            place: None,
        };
        request.map(|body| Body::new(arriving(body)))
    }

    /// Makes a large answer, and large parts of a stream, wait in the room for their client.
    pub(super) async fn bound(&self, response: Response) -> Response {
        let length = response.body().size_hint().exact();
        if length.is_some_and(|length| length < LARGE as u64) {
            return response;
        }
        let (parts, body) = response.into_parts();
        let waiting = match length {
            None => Waiting::new(self.clone(), body),
            Some(_) => match to_bytes(body, usize::MAX).await {
                Ok(bytes) => {
                    let Some(unread) = self.hold(bytes) else {
                        return Problem::no_room().into_response();
                    };
                    Waiting {
                        unread: Some(unread),
                        ..Waiting::new(self.clone(), Body::empty())
                    }
                }
                Err(error) => return Problem::internal(error).into_response(),
            },
        };
        Response::from_parts(parts, Body::new(waiting))
    }

    fn of(bytes: usize) -> Self {
        Self {
            units: bytes / UNIT,
            free: Arc::new(Semaphore::new(bytes / UNIT)),
            taken: Arc::default(),
            hasher: RandomState::new(),
            bodies: Arc::new(Semaphore::new(bytes / UNIT / 2)),
        }
    }

    /// Room for bytes to wait in until they are read; `None` where there is none.
    fn hold(&self, bytes: Bytes) -> Option<Unread> {
        let pieces = pieces(bytes).into_iter().map(|piece| self.take(piece));
        Some(Unread {
            pieces: pieces.collect::<Option<_>>()?,
            sent: 0,
            since: Instant::now(),
        })
    }

    /// The bytes, which have their place until all that is cut of them is gone; `None` where there is
    /// no room for them.
    pub(super) fn take(&self, bytes: Bytes) -> Option<Bytes> {
        let hash = self.hasher.hash_one(&bytes);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let equal = taken.get(&hash).and_then(Weak::upgrade);
        if let Some(equal) = equal.filter(|equal| equal.bytes == bytes) {
            return Some(Bytes::from_owner(Shared(equal)));
        }
        let units = bytes.len().div_ceil(UNIT).min(self.units);
        let units = u32::try_from(units).expect("the room has fewer");
        let large = Arc::new(Large {
            bytes,
            _room: self.free.clone().try_acquire_many_owned(units).ok()?,
        });
        taken.retain(|_, large| large.strong_count() > 0);
        taken.insert(hash, Arc::downgrade(&large));
        Some(Bytes::from_owner(Shared(large)))
    }
}

/// Large server-sent events each by itself, since clients of one chat have them in common.
fn pieces(bytes: Bytes) -> Vec<Bytes> {
    let mut cuts = vec![0];
    let mut start = 0;
    while start < bytes.len() {
        let mut pairs = bytes[start..].windows(2);
        let end = pairs.position(|pair| pair == b"\n\n");
        let end = end.map_or(bytes.len(), |end| start + end + 2);
        if end - start >= LARGE {
            cuts.extend([start, end]);
        }
        start = end;
    }
    cuts.push(bytes.len());
    cuts.dedup();
    match &*cuts {
        [_, _] => vec![bytes],
        // Not cut out of one, which would be held whole by the last of them.
        _ => cuts
            .windows(2)
            .map(|cut| Bytes::copy_from_slice(&bytes[cut[0]..cut[1]]))
            .collect(),
    }
}

/// Bytes for which there is room.
struct Large {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

struct Shared(Arc<Large>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

/// A body on its way. From some size on each part of it needs a place as it comes: what its client only
/// says that it will send takes none from others.
struct Arriving {
    body: Body,
    bytes: usize,
    /// Units of the room: one body that holds more has all.
    most: usize,
    bodies: Arc<Semaphore>,
    place: Option<OwnedSemaphorePermit>,
}

impl Arriving {
    /// Room for as many bytes more.
    fn take(&mut self, bytes: usize) -> Result<(), axum::Error> {
        self.bytes += bytes;
        if self.bytes < LARGE {
            return Ok(());
        }
        // The allocator needs about a quarter more, the connection reads into a part of its own.
        let held = self.bytes + self.bytes / 4 + LARGE;
        let held = held.div_ceil(UNIT).min(self.most);
        let had = self
            .place
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        let units = u32::try_from(held - had).unwrap_or(u32::MAX);
        let more = self.bodies.clone().try_acquire_many_owned(units);
        let more = more.map_err(|_| axum::Error::new(NoRoom))?;
        match &mut self.place {
            Some(place) => place.merge(more),
            None => self.place = Some(more),
        }
        Ok(())
    }
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            self.take(frame.data_ref().map_or(0, Bytes::len))?;
        }
        // A part is cut out of what the connection reads into, and would hold that whole, twice as
        // much as it has itself.
        let apart = |data: Bytes| Bytes::copy_from_slice(&data);
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(apart))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("too many large bodies are on their way")]
struct NoRoom;

/// Whether a body could not be read since there was no room for it.
pub(super) fn found_no_room(error: &(dyn std::error::Error + 'static)) -> bool {
    iter::successors(Some(error), |error| error.source()).any(|error| error.is::<NoRoom>())
}

/// What its client has not read: a large part, and what comes behind it.
struct Waiting {
    room: Room,
    unread: Option<Unread>,
    rest: Body,
}

impl Waiting {
    fn new(room: Room, rest: Body) -> Self {
        let unread = None;
        Self { room, unread, rest }
    }
}

impl HttpBody for Waiting {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        loop {
            if let Some(unread) = &mut self.unread {
                let slice = unread.slice()?;
                if unread.pieces.is_empty() {
                    self.unread = None;
                }
                return Poll::Ready(Some(Ok(Frame::data(slice))));
            }
            let frame = ready!(Pin::new(&mut self.rest).poll_frame(context));
            let is_large =
                |frame: &Frame<Bytes>| frame.data_ref().is_some_and(|data| data.len() >= LARGE);
            let bytes = match frame {
                Some(Ok(frame)) if is_large(&frame) => frame.into_data().unwrap_or_default(),
                frame => return Poll::Ready(frame),
            };
            // Who reads a stream comes back for what follows the last that was read.
            let no_room = || io::Error::other("too many large answers have not been read");
            let unread = self.room.hold(bytes).ok_or_else(no_room);
            self.unread = Some(unread.map_err(axum::Error::new)?);
        }
    }

    fn is_end_stream(&self) -> bool {
        self.unread.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let unread = self.unread.as_ref();
        let unread = unread.map_or(0, Unread::left);
        match self.rest.size_hint().exact() {
            Some(rest) => SizeHint::with_exact(unread + rest),
            None => SizeHint::default(),
        }
    }
}

/// A large part, of which a connection gets a slice at a time: it would hold all that it gets.
struct Unread {
    pieces: VecDeque<Bytes>,
    sent: usize,
    since: Instant,
}

impl Unread {
    /// The next slice, which a client asks for that has read those before; fails where it has taken too
    /// long for them.
    fn slice(&mut self) -> Result<Bytes, axum::Error> {
        let allowed = GRACE + Duration::from_secs((self.sent / RATE) as u64);
        if self.since.elapsed() > allowed {
            return Err(axum::Error::new(io::Error::from(io::ErrorKind::TimedOut)));
        }
        let Some(piece) = self.pieces.front_mut() else {
            return Ok(Bytes::new());
        };
        let slice = piece.split_to(LARGE.min(piece.len()));
        if piece.is_empty() {
            self.pieces.pop_front();
        }
        self.sent += slice.len();
        Ok(slice)
    }

    fn left(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body_util::BodyExt;

    use super::*;

    fn answer(byte: u8) -> Bytes {
        vec![byte; 10 * UNIT].into()
    }

    #[test]
    fn there_is_room_for_so_many_bytes_of_different_answers_and_for_one_that_has_more() {
        let room = Room::of(25 * UNIT);
        let mut first = room.take(answer(1)).unwrap();
        let second = room.take(answer(2)).unwrap();
        assert!(room.take(answer(3)).is_none());
        assert_eq!(first.as_ptr(), room.take(answer(1)).unwrap().as_ptr());
        let last = first.split_off(9 * UNIT);
        drop(first);
        assert!(room.take(answer(3)).is_none(), "a slice is left");
        drop(last);
        let third = room.take(answer(3)).unwrap();
        assert!(room.take(answer(1)).is_none());
        drop((second, third));
        assert!(room.take(vec![0; 100 * UNIT].into()).is_some());
    }

    fn streamed(parts: Vec<Bytes>) -> Body {
        Body::from_stream(stream::iter(parts.into_iter().map(io::Result::Ok)))
    }

    #[tokio::test]
    async fn a_large_answer_and_a_stream_come_whole_in_slices() {
        let bytes: Bytes = (0..=u8::MAX).cycle().take(3 * LARGE + 1).collect();
        let room = Room::default();
        let whole = Waiting {
            unread: room.hold(bytes.clone()),
            ..Waiting::new(room.clone(), Body::empty())
        };
        assert_eq!(whole.size_hint().exact(), Some(bytes.len() as u64));
        assert_eq!(whole.collect().await.unwrap().to_bytes(), bytes);
        let parts = vec![answer(1), bytes.clone(), answer(2)];
        let mut stream = Waiting::new(room.clone(), streamed(parts.clone()));
        let mut sent = Vec::new();
        while let Some(frame) = stream.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            assert!(data.len() <= LARGE);
            sent.extend(data);
        }
        assert_eq!(sent, parts.concat());
        assert_eq!(room.free.available_permits(), room.units);
    }

    #[tokio::test]
    async fn streams_share_the_room_and_one_that_finds_none_ends() {
        let room = Room::of(3 * LARGE);
        let stream = |byte| {
            let part = Bytes::from(vec![byte; 2 * LARGE]);
            Waiting::new(room.clone(), streamed(vec![part]))
        };
        let [mut first, mut equal, mut other] = [1, 1, 2].map(stream);
        assert!(first.frame().await.unwrap().is_ok());
        assert!(equal.frame().await.unwrap().is_ok());
        assert!(other.frame().await.unwrap().is_err());
        drop((first, equal));
        assert!(stream(2).frame().await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_body_that_is_larger_than_the_room_has_all_of_it() {
        let room = Room::of(8 * LARGE);
        let arriving = |parts: usize| {
            let body = streamed(vec![Bytes::from(vec![0; LARGE]); parts]);
            room.admit(Request::new(body)).into_body()
        };
        let whole = arriving(9).collect().await.unwrap().to_bytes();
        assert_eq!(whole.len(), 9 * LARGE);
        let mut first = arriving(2);
        assert!(first.frame().await.unwrap().is_ok());
        let refused = arriving(9).collect().await.unwrap_err();
        assert!(found_no_room(&refused));
        drop(first);
        assert!(arriving(9).collect().await.is_ok());
    }

    #[test]
    fn large_events_are_shared_by_those_who_are_told_others_too() {
        let event = |byte: &str, length| format!("data: {}\n\n", byte.repeat(length));
        let large = event("a", LARGE);
        let room = Room::of(2 * LARGE);
        let held = ["b", "c", "d"].map(|own| {
            let own = event(own, 10);
            let bytes = Bytes::from(format!("{own}{own}{large}{own}"));
            let held = room.hold(bytes.clone()).unwrap();
            assert_eq!(Vec::from(held.pieces.clone()).concat(), bytes);
            held
        });
        assert!(held.iter().all(|held| held.pieces.len() == 3));
        assert!(room.hold(event("e", LARGE).into()).is_none());
        drop(held);
        assert!(room.hold(event("e", LARGE).into()).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_a_byte_now_and_then_does_not_keep_its_place() {
        let room = Room::default();
        let bytes = Bytes::from(vec![0; 100 * LARGE]);
        let mut steady = room.hold(bytes.clone()).unwrap();
        let mut slow = room.hold(bytes).unwrap();
        for _ in 0..15 {
            tokio::time::advance(Duration::from_secs(2)).await;
            assert!(steady.slice().is_ok());
        }
        assert!(slow.slice().is_ok());
        for _ in 0..15 {
            tokio::time::advance(Duration::from_secs(2)).await;
            assert!(steady.slice().is_ok());
        }
        assert!(slow.slice().is_err());
    }
}
