//! The AG-UI protocol: what its clients are told of a turn.

mod event;

pub(super) use event::Event;
