//! The server from outside: turns, HTTP, settings, and the binary.

mod binary;
mod chats;
mod conversations;
mod crash;
mod event_stream;
mod forks;
mod problems;
mod process;
mod settings;
mod streams;
mod support;
mod turns;
