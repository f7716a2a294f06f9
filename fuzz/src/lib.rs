//! What comes from outside as bytes or text is read without a panic, and what was read can be
//! written again.
//!
//! Each target is a function of bytes. The test `targets` gives it its corpus and random changes of
//! that; libFuzzer, which watches the code, runs it for as long as one likes, see CONTRIBUTING.md.

mod connection_strings;
mod cursors_and_events;
mod requests;
mod values;

pub use connection_strings::connection_strings;
pub use cursors_and_events::cursors_and_events;
pub use requests::requests;
pub use values::values;
