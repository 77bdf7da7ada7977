//! What travels between agent and converter: messages, batch framing, resume rules.
//!
//! Bytes in, bytes out: nothing here opens a socket, starts a thread, reads a clock or rolls a die.
//! Time and randomness are handed in, so that both sides run unchanged in a deterministic simulation.
//! The byte tables are in `docs/stream-protocol.md`; a test of this crate compares them with the
//! constants here.
//!
//! - [`ConnectString`]: what the user copies from the converter to the source machine.
//! - [`message`]: the JSON control messages; [`inventory`]: what a machine says of itself.
//! - [`mod@format`]: the binary bodies (query, answer, chunk batch, recipe append) and their bounds.
//! - [`route`]: which request goes to which path.
//! - [`client`]: the agent's side of a push; [`server`]: the converter's.
#![forbid(unsafe_code)]

pub mod client;
pub mod connect;
pub mod format;
pub mod inventory;
pub mod message;
pub mod recipe;
pub mod route;
pub mod server;

pub use client::Millis;
pub use connect::{ConnectError, ConnectString, Fingerprint, Token};
pub use format::FrameError;
pub use inventory::Inventory;
pub use message::{ErrorBody, ErrorCode, MachineName, PushKey, WireVersion};
pub use recipe::{RecipeEntry, RecipeRoot, RootHasher};
pub use route::{Method, Request, Response, Route, RouteError};
