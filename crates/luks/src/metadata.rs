//! The JSON of version 2. // [LUKS2] 3

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};

/// All of it. What is not needed to open the volume is not looked at.
#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) keyslots: BTreeMap<String, Keyslot>,
    #[serde(default)]
    pub(crate) tokens: BTreeMap<String, TokenObject>,
    pub(crate) segments: BTreeMap<String, Segment>,
    pub(crate) digests: BTreeMap<String, Digest>,
    pub(crate) config: Config,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Keyslot {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Bytes of the key it holds.
    pub(crate) key_size: u32,
    pub(crate) priority: Option<u8>,
    pub(crate) area: Area,
    pub(crate) kdf: Option<Kdf>,
    pub(crate) af: Option<Splitter>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Area {
    #[serde(deserialize_with = "number")]
    pub(crate) offset: u64,
    #[serde(deserialize_with = "number")]
    pub(crate) size: u64,
    pub(crate) encryption: Option<String>,
    pub(crate) key_size: Option<u32>,
}

/// How the key of a key slot is made of a secret. // [LUKS2] 3.2.2
#[derive(Debug, Deserialize)]
#[serde(tag = "type")]
pub(crate) enum Kdf {
    #[serde(rename = "pbkdf2")]
    Pbkdf2 {
        hash: String,
        iterations: u32,
        #[serde(deserialize_with = "base64")]
        salt: Vec<u8>,
    },
    #[serde(rename = "argon2i")]
    Argon2i(Argon),
    #[serde(rename = "argon2id")]
    Argon2id(Argon),
}

#[derive(Debug, Deserialize)]
pub(crate) struct Argon {
    /// Passes.
    pub(crate) time: u32,
    /// In KiB.
    pub(crate) memory: u32,
    /// Lanes.
    pub(crate) cpus: u32,
    #[serde(deserialize_with = "base64")]
    pub(crate) salt: Vec<u8>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Splitter {
    pub(crate) stripes: u32,
    pub(crate) hash: String,
}

/// Something that may open a key slot by other means than a secret. // [LUKS2] 3.5
#[derive(Debug, Deserialize)]
pub(crate) struct TokenObject {
    #[serde(rename = "type")]
    pub(crate) kind: String,
}

/// A part of the volume's data. // [LUKS2] 3.3
#[derive(Debug, Deserialize)]
pub(crate) struct Segment {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(deserialize_with = "number")]
    pub(crate) offset: u64,
    /// Bytes, or `dynamic`: to the end.
    pub(crate) size: String,
    #[serde(default, deserialize_with = "number")]
    pub(crate) iv_tweak: u64,
    pub(crate) encryption: Option<String>,
    pub(crate) sector_size: Option<u32>,
    pub(crate) integrity: Option<serde_json::Value>,
    #[serde(default)]
    pub(crate) flags: Vec<String>,
}

/// What a key is checked by. // [LUKS2] 3.4
#[derive(Debug, Deserialize)]
pub(crate) struct Digest {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) keyslots: Vec<String>,
    pub(crate) segments: Vec<String>,
    #[serde(deserialize_with = "base64")]
    pub(crate) salt: Vec<u8>,
    #[serde(deserialize_with = "base64")]
    pub(crate) digest: Vec<u8>,
    pub(crate) hash: String,
    pub(crate) iterations: u32,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Config {
    #[serde(default)]
    pub(crate) requirements: Requirements,
}

/// What a reader must know to touch the volume. // [LUKS2] 3.6
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Requirements {
    #[serde(default)]
    pub(crate) mandatory: Vec<String>,
}

/// Numbers of 64 bits are strings: JSON's own would lose bits. // [LUKS2] 3.1
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let text = String::deserialize(from)?;
    text.parse()
        .map_err(|_| serde::de::Error::custom(format!("{text:?} is not a number of 64 bits")))
}

fn base64<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(from)?;
    STANDARD.decode(&text).map_err(serde::de::Error::custom)
}
