//! The name of a chunk: the BLAKE3 hash of its raw bytes.

use std::fmt;
use std::str::FromStr;

/// The BLAKE3 hash (32 bytes, no key) of a chunk's raw bytes.
///
/// Two chunks with one name are the same chunk. Written as 64 lower-case hex digits, as `b3sum`
/// prints it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId(pub [u8; ChunkId::LEN]);

impl ChunkId {
    /// Bytes of a name.
    pub const LEN: usize = 32;

    /// The name of a chunk with these raw bytes.
    #[must_use]
    pub fn of(raw: &[u8]) -> Self {
        Self(blake3::hash(raw).into())
    }

    /// The name as bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; ChunkId::LEN] {
        &self.0
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkId({self})")
    }
}

/// Why a text is not the name of a chunk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    /// Not as long as a name.
    #[error("a chunk name has 64 hex digits, found {found} bytes")]
    Length {
        /// Bytes of the text.
        found: usize,
    },
    /// Something other than a hex digit.
    #[error("a chunk name has hex digits only, found byte 0x{found:02x} at {position}")]
    Digit {
        /// Where in the text, from 0.
        position: usize,
        /// The byte there.
        found: u8,
    },
}

impl FromStr for ChunkId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let text = text.as_bytes();
        if text.len() != Self::LEN * 2 {
            return Err(ParseIdError::Length { found: text.len() });
        }
        let mut id = [0; Self::LEN];
        for (position, &digit) in text.iter().enumerate() {
            let value = char::from(digit).to_digit(16).ok_or(ParseIdError::Digit {
                position,
                found: digit,
            })?;
            let byte = &mut id[position / 2];
            *byte = *byte << 4 | value as u8;
        }
        Ok(Self(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_and_the_short_vector_of_the_blake3_paper() {
        // [BLAKE3 test_vectors.json], input lengths 0 and 1 (a zero byte).
        assert_eq!(
            ChunkId::of(b"").to_string(),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
        assert_eq!(
            ChunkId::of(&[0]).to_string(),
            "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"
        );
    }

    #[test]
    fn names_survive_text() {
        let id = ChunkId::of(b"a chunk");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
    }

    #[test]
    fn what_is_not_a_name_says_why() {
        assert_eq!(
            "ab".parse::<ChunkId>(),
            Err(ParseIdError::Length { found: 2 })
        );
        let mut text = ChunkId::of(b"").to_string();
        text.replace_range(5..6, "g");
        assert_eq!(
            text.parse::<ChunkId>(),
            Err(ParseIdError::Digit {
                position: 5,
                found: b'g'
            })
        );
        text.replace_range(4..6, "é");
        assert!(text.parse::<ChunkId>().is_err());
    }
}
