//! The server from outside: HTTP, settings, and the binary.

mod access;
mod agui;
mod binary;
mod chats;
mod connections;
mod conversations;
mod crash;
mod delta_channels;
mod event_stream;
mod faults;
mod forks;
mod histories;
mod http;
mod keys;
mod mcp;
mod owners;
mod problems;
mod process;
mod remote;
mod retention;
mod servers;
mod settings;
mod slow_readers;
mod streams;
mod support;
mod unreadable;
