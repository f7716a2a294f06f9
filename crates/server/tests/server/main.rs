//! The server from outside: turns, HTTP, settings, and the binary.

mod binary;
mod chats;
mod conversations;
mod crash;
mod durable;
mod problems;
mod process;
mod servers;
mod settings;
mod support;
mod turns;
