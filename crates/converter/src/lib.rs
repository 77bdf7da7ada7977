//! Receives, converts, emits, describes and boot-checks machines.
#![forbid(unsafe_code)]
