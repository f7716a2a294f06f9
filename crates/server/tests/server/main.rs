//! The server from outside: turns, HTTP, settings, and the binary.

mod binary;
mod chats;
mod conversations;
mod problems;
mod settings;
mod support;
mod turns;
