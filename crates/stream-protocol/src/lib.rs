//! What travels between agent and converter: messages, batch framing, resume rules.
#![forbid(unsafe_code)]
