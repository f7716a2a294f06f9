//! Large answers: what clients have not read of them is bounded, however many there are.

use std::{
    collections::HashMap,
    convert::Infallible,
    hash::{BuildHasher, RandomState},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes, HttpBody, to_bytes},
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use hyper::body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::Problem;

/// From how many bytes on an answer counts, and how many of it a connection takes at once.
pub(super) const LARGE: usize = 64 * 1024;

/// How many bytes of different large answers there may be at one time; one that has more has all.
const ROOM: usize = 64 << 20;

/// What of the room one permit is for.
const UNIT: usize = 1024;

/// Where large answers stand until they are read. Equal ones stand there once.
#[derive(Clone)]
pub(super) struct Room {
    units: usize,
    free: Arc<Semaphore>,
    taken: Arc<Mutex<HashMap<u64, Weak<Large>>>>,
    hasher: RandomState,
}

impl Default for Room {
    fn default() -> Self {
        Self::of(ROOM)
    }
}

impl Room {
    fn of(bytes: usize) -> Self {
        Self {
            units: bytes / UNIT,
            free: Arc::new(Semaphore::new(bytes / UNIT)),
            taken: Arc::default(),
            hasher: RandomState::new(),
        }
    }

    /// `None` where there is no room for these bytes.
    fn take(&self, bytes: Bytes) -> Option<Arc<Large>> {
        let hash = self.hasher.hash_one(&bytes);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(equal) = taken.get(&hash).and_then(Weak::upgrade)
            && equal.bytes == bytes
        {
            return Some(equal);
        }
        let units = bytes.len().div_ceil(UNIT).min(self.units);
        let units = u32::try_from(units).expect("the room has fewer");
        let large = Arc::new(Large {
            bytes,
            _room: self.free.clone().try_acquire_many_owned(units).ok()?,
        });
        taken.retain(|_, large| large.strong_count() > 0);
        taken.insert(hash, Arc::downgrade(&large));
        Some(large)
    }
}

/// An answer for which there is room.
struct Large {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

/// Makes large answers wait in the room for their clients.
pub(super) async fn bound(State(room): State<Room>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let length = response.body().size_hint().exact();
    if length.is_none_or(|length| length < LARGE as u64) {
        return response;
    }
    let (parts, body) = response.into_parts();
    let bytes = match to_bytes(body, usize::MAX).await {
        Ok(bytes) => bytes,
        Err(error) => return Problem::internal(error).into_response(),
    };
    match room.take(bytes) {
        Some(large) => Response::from_parts(parts, Body::new(Slices { large, sent: 0 })),
        None => Problem::no_room().into_response(),
    }
}

/// A large answer, a slice at a time: a connection would copy what it gets into its buffer.
struct Slices {
    large: Arc<Large>,
    sent: usize,
}

impl HttpBody for Slices {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let start = self.sent;
        self.sent = (start + LARGE).min(self.large.bytes.len());
        let slice = self.large.bytes.slice(start..self.sent);
        Poll::Ready((!slice.is_empty()).then(|| Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.sent == self.large.bytes.len()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact((self.large.bytes.len() - self.sent) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(byte: u8) -> Bytes {
        vec![byte; 10 * UNIT].into()
    }

    #[test]
    fn there_is_room_for_so_many_bytes_of_different_answers_and_for_one_that_has_more() {
        let room = Room::of(25 * UNIT);
        let first = room.take(answer(1)).unwrap();
        let second = room.take(answer(2)).unwrap();
        assert!(room.take(answer(3)).is_none());
        assert!(Arc::ptr_eq(&first, &room.take(answer(1)).unwrap()));
        drop(first);
        let third = room.take(answer(3)).unwrap();
        assert!(room.take(answer(1)).is_none());
        drop((second, third));
        assert!(room.take(vec![0; 100 * UNIT].into()).is_some());
    }

    #[tokio::test]
    async fn a_large_answer_comes_whole_in_slices() {
        let bytes: Bytes = (0..=u8::MAX).cycle().take(3 * LARGE + 1).collect();
        let large = Room::default().take(bytes.clone()).unwrap();
        let body = Body::new(Slices { large, sent: 0 });
        assert_eq!(body.size_hint().exact(), Some(bytes.len() as u64));
        assert_eq!(to_bytes(body, usize::MAX).await.unwrap(), bytes);
    }
}
