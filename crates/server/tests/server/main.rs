//! The server from outside: turns, HTTP, settings, and the binary.

mod binary;
mod chats;
mod conversations;
mod crash;
mod durable;
mod event_stream;
mod forks;
mod problems;
mod process;
mod servers;
mod settings;
mod streams;
mod support;
mod turns;
