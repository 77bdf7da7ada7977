//! The JSON control messages.
//!
//! Fields a reader does not know are ignored; fields that came later have defaults.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::inventory::Inventory;
use crate::recipe::RecipeRoot;

/// The versions of this protocol; the comments are the list of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
#[non_exhaustive]
pub enum WireVersion {
    /// The first: queries, chunk batches with codecs 0 (raw) and 1 (zstd), recipe appends, commits.
    V1 = 1,
}

impl WireVersion {
    /// The oldest this code speaks.
    pub const OLDEST: Self = Self::V1;
    /// The newest this code speaks.
    pub const NEWEST: Self = Self::V1;

    /// Its number.
    #[must_use]
    pub fn number(self) -> u32 {
        self as u32
    }

    /// The version of that number, if this code speaks it.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        (number == Self::V1.number()).then_some(Self::V1)
    }

    /// The newest version both sides speak.
    #[must_use]
    pub fn choose(hello: &Hello) -> Option<Self> {
        let newest = hello.newest.min(Self::NEWEST.number());
        (newest >= hello.oldest)
            .then(|| Self::from_number(newest))
            .flatten()
    }
}

/// The agent's first message: which versions it speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Oldest version the agent speaks.
    pub oldest: u32,
    /// Newest version the agent speaks.
    pub newest: u32,
    /// Name and version of the agent, for logs: `p2v-agent 0.1.0`.
    #[serde(default)]
    pub program: String,
}

impl Hello {
    /// From this code, as `program`.
    #[must_use]
    pub fn new(program: impl Into<String>) -> Self {
        Self {
            oldest: WireVersion::OLDEST.number(),
            newest: WireVersion::NEWEST.number(),
            program: program.into(),
        }
    }
}

/// The answer to [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version to speak from here on.
    pub version: u32,
    /// Name and version of the converter, for logs.
    #[serde(default)]
    pub program: String,
}

/// Most bytes of a machine name.
pub const MAX_NAME_LEN: usize = 200;
/// Most characters of a push key or run id.
pub const MAX_KEY_LEN: usize = 64;
/// Most disks of one machine.
pub const MAX_DISKS: usize = 256;
/// Most unreadable ranges reported for one disk.
pub const MAX_UNREADABLE: usize = 65_536;

/// The name a machine is listed under: 1 to [`MAX_NAME_LEN`] bytes of UTF-8 without control characters.
///
/// It may hold spaces, slashes and `..`: it is a name, and who makes a path of it must escape it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineName(String);

/// What the agent chose to recognise its own earlier work by: a second run with the same key goes on
/// with the first. 1 to [`MAX_KEY_LEN`] characters of `A-Z a-z 0-9 . _ -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PushKey(String);

/// One run of the agent program, chosen anew each time it starts. A run that reconnects takes its
/// own lease back; another run with the same push key takes it over.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(String);

/// Why a text cannot be a machine name, push key or run id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, or nothing but spaces.
    #[error("the {what} is empty")]
    Empty {
        /// Which name.
        what: &'static str,
    },
    /// Too long.
    #[error("the {what} has {found} bytes, expected at most {expected}")]
    TooLong {
        /// Which name.
        what: &'static str,
        /// The most it may have.
        expected: usize,
        /// What it has.
        found: usize,
    },
    /// A character that may not be in it.
    #[error("the {what} has the character {found:?} at byte {position}")]
    Character {
        /// Which name.
        what: &'static str,
        /// Byte position.
        position: usize,
        /// The character.
        found: char,
    },
}

fn check_name(
    what: &'static str,
    text: &str,
    longest: usize,
    allowed: fn(char) -> bool,
) -> Result<(), NameError> {
    if text.trim().is_empty() {
        return Err(NameError::Empty { what });
    }
    if text.len() > longest {
        return Err(NameError::TooLong {
            what,
            expected: longest,
            found: text.len(),
        });
    }
    match text.char_indices().find(|(_, c)| !allowed(*c)) {
        None => Ok(()),
        Some((position, found)) => Err(NameError::Character {
            what,
            position,
            found,
        }),
    }
}

fn key_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

macro_rules! checked_text {
    ($type:ident, $what:literal, $longest:expr, $allowed:expr) => {
        impl $type {
            /// Check `text` and take it.
            ///
            /// # Errors
            /// [`NameError`] saying what is wrong with it.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                check_name($what, &text, $longest, $allowed)?;
                Ok(Self(text))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_text!(MachineName, "machine name", MAX_NAME_LEN, |c: char| !c
    .is_control());
checked_text!(PushKey, "push key", MAX_KEY_LEN, key_character);
checked_text!(RunId, "run id", MAX_KEY_LEN, key_character);

/// Begin or resume the push of one machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpenPush {
    /// The name to list the machine under.
    pub machine: MachineName,
    /// What earlier work is recognised by.
    pub push_key: PushKey,
    /// Which run of the agent this is.
    pub run: RunId,
    /// What the machine says of itself.
    pub inventory: Inventory,
    /// The disks to be sent. Requests name a disk by its place in this list.
    pub disks: Vec<PushDisk>,
}

/// One disk to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushDisk {
    /// What to call it: `sda`. Unique in one push.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Bytes of a logical sector.
    pub sector_size: u32,
    /// How many bytes the agent expects to read, for the receiver's progress display.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_bytes: Option<u64>,
}

/// A push is open, and the lease on the machine's name held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Names the push in every further request. Another one after every opening.
    pub push: u64,
    /// What is already kept, disk by disk.
    pub disks: Vec<DiskProgress>,
    /// What the receiver takes.
    pub limits: Limits,
    /// This very run had finished the push; only the answer was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Finished>,
}

/// What is durable of one disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskProgress {
    /// Recipe entries that survive a crash, with all their chunks.
    pub durable_entries: u64,
    /// The byte behind the last durable entry.
    #[serde(default)]
    pub durable_end: u64,
    /// The root, once the disk is committed: nothing is left to be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<RecipeRoot>,
}

/// What a receiver takes in one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Most bytes of a chunk batch, framing included.
    pub max_batch_bytes: u32,
    /// Most ids in a query.
    pub max_query_ids: u32,
    /// Most entries in a recipe append.
    pub max_append_entries: u32,
    /// Seconds of silence after which the lease on the machine's name may go to another agent.
    pub lease_seconds: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_batch_bytes: 16 << 20,
            max_query_ids: 16_384,
            max_append_entries: 65_536,
            lease_seconds: 60,
        }
    }
}

/// Chunks have arrived and were verified. They are durable once a recipe entry that names them is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunksTaken {
    /// Chunks in the batch.
    pub received: u32,
    /// Those that were not there before.
    pub new: u32,
}

/// Recipe entries were appended, and are durable together with all their chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appended {
    /// Durable entries of this disk, counted from its beginning.
    pub durable_entries: u64,
}

/// A range of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByteRange {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// All of a disk has been sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitDisk {
    /// Entries of the whole recipe.
    pub entries: u64,
    /// Their root.
    pub root: RecipeRoot,
    /// What could not be read on the source and is zeroes here, by the user's choice.
    #[serde(default)]
    pub unreadable: Vec<ByteRange>,
}

/// A disk is complete: the receiver computed the same root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskCommitted {
    /// The root as computed by the receiver.
    pub root: RecipeRoot,
}

/// All disks are committed: make the machine visible.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finish {
    /// What the agent wants to be remembered with the machine, for its user.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// The machine is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// The name it is listed under.
    pub machine: MachineName,
    /// What the receiver calls this state of the machine.
    #[serde(default)]
    pub snapshot: String,
}

/// Still there, nothing to send just now; or gone for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sign {
    /// Keeps the lease.
    Alive,
    /// Gives the lease up at once: the agent ends without finishing.
    Leaving,
}

/// The answer to a [`Sign`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignSeen {
    /// Seconds until the lease ends if nothing more is heard.
    pub lease_seconds: u32,
}

/// What a refusal is about, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// No token, a wrong one, or one that was revoked.
    Unauthorised,
    /// No common version of the protocol.
    VersionUnmatched,
    /// No such path or method.
    NoSuchRoute,
    /// The message is not what it should be.
    BadMessage,
    /// The binary body is not what it should be.
    BadFrame,
    /// A chunk is not what it says.
    BadChunk,
    /// More than the receiver takes.
    TooLarge,
    /// Another agent is pushing this machine.
    MachineBusy,
    /// The push is not known (any more): open it again.
    PushUnknown,
    /// A later run of the agent took the push over.
    PushSuperseded,
    /// The push has no such disk, or the disks differ from those first named.
    DiskMismatch,
    /// The recipe has other entries at these places.
    RecipeConflict,
    /// The append begins behind the end of the recipe.
    RecipeGap,
    /// The recipe names a chunk that is not there.
    ChunkMissing,
    /// Count or root of the recipe differ from what arrived.
    RootMismatch,
    /// Not all disks are committed.
    NotComplete,
    /// No space left where the converter keeps its store.
    StoreFull,
    /// Too much at once, or shutting down: later.
    Unavailable,
    /// The receiver failed.
    Internal,
    /// A code this version does not know.
    #[serde(other)]
    Unknown,
}

impl ErrorCode {
    /// The HTTP status it travels with.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Unauthorised => 401,
            Self::NoSuchRoute | Self::PushUnknown => 404,
            Self::BadMessage | Self::BadFrame | Self::VersionUnmatched => 400,
            Self::TooLarge => 413,
            Self::BadChunk => 422,
            Self::MachineBusy
            | Self::PushSuperseded
            | Self::DiskMismatch
            | Self::RecipeConflict
            | Self::RecipeGap
            | Self::ChunkMissing
            | Self::RootMismatch
            | Self::NotComplete => 409,
            Self::StoreFull => 507,
            Self::Unavailable => 503,
            Self::Internal | Self::Unknown => 500,
        }
    }

    /// Whether the same request may succeed later without anything being done by the agent.
    #[must_use]
    pub fn is_passing(self) -> bool {
        matches!(self, Self::StoreFull | Self::Unavailable | Self::Internal)
    }
}

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// For programs.
    pub code: ErrorCode,
    /// What went wrong, for people.
    pub message: String,
    /// What to do about it, for people.
    #[serde(default)]
    pub advice: String,
}

impl ErrorBody {
    /// With nothing to be done about it.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            advice: String::new(),
        }
    }

    /// With what to do about it.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = advice.into();
        self
    }
}

impl fmt::Display for ErrorBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if !self.advice.is_empty() {
            write!(f, " ({})", self.advice)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_chosen_from_both_ranges() {
        let range = |oldest, newest| Hello {
            oldest,
            newest,
            program: String::new(),
        };
        assert_eq!(WireVersion::choose(&range(1, 1)), Some(WireVersion::V1));
        assert_eq!(WireVersion::choose(&range(0, 9)), Some(WireVersion::V1));
        assert_eq!(WireVersion::choose(&range(2, 9)), None);
        assert_eq!(WireVersion::choose(&range(0, 0)), None);
        assert_eq!(WireVersion::choose(&range(3, 1)), None);
    }

    #[test]
    fn odd_machine_names_are_names_and_control_characters_are_not() {
        assert!(MachineName::new("../../etc/passwd").is_ok());
        assert!(MachineName::new("web 01 (büro)").is_ok());
        let error = MachineName::new("web\n01").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the machine name has the character '\\n' at byte 3"
        );
        assert!(MachineName::new("  ").is_err());
        assert!(MachineName::new("x".repeat(201)).is_err());
        assert!(serde_json::from_str::<MachineName>(r#""a\u0000b""#).is_err());
        assert!(PushKey::new("../x").is_err());
    }

    #[test]
    fn an_error_of_a_newer_converter_is_still_an_error() {
        let body: ErrorBody =
            serde_json::from_str(r#"{"code":"moon_phase","message":"no"}"#).unwrap();
        assert_eq!(body.code, ErrorCode::Unknown);
        assert!(!body.code.is_passing());
    }
}
