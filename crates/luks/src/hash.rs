//! Hashes by the names LUKS gives them.

use pbkdf2::pbkdf2_hmac;
use sha2::Digest;

use crate::LuksError;

/// A hash that a header may name. // [LUKS1] 4.4.1, [LUKS2] 3.2.5
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
    Ripemd160,
    Whirlpool,
}

/// Give `$work` the type of the hash.
macro_rules! with_hash {
    ($hash:expr, $work:ident $(, $arg:expr)*) => {
        match $hash {
            Hash::Sha1 => $work::<sha1::Sha1>($($arg),*),
            Hash::Sha224 => $work::<sha2::Sha224>($($arg),*),
            Hash::Sha256 => $work::<sha2::Sha256>($($arg),*),
            Hash::Sha384 => $work::<sha2::Sha384>($($arg),*),
            Hash::Sha512 => $work::<sha2::Sha512>($($arg),*),
            Hash::Ripemd160 => $work::<ripemd::Ripemd160>($($arg),*),
            Hash::Whirlpool => $work::<whirlpool::Whirlpool>($($arg),*),
        }
    };
}

fn digest_of<D: Digest>(parts: &[&[u8]]) -> Vec<u8> {
    let mut digest = D::new();
    for part in parts {
        digest.update(part);
    }
    digest.finalize().to_vec()
}

impl Hash {
    pub(crate) fn named(name: &str) -> Result<Self, LuksError> {
        Ok(match name.to_ascii_lowercase().as_str() {
            "sha1" => Hash::Sha1,
            "sha224" => Hash::Sha224,
            "sha256" => Hash::Sha256,
            "sha384" => Hash::Sha384,
            "sha512" => Hash::Sha512,
            "ripemd160" | "rmd160" => Hash::Ripemd160,
            "whirlpool" => Hash::Whirlpool,
            _ => {
                return Err(LuksError::unsupported(
                    format!("a LUKS volume with the hash {name:?}"),
                    "change its key slots with `cryptsetup luksConvertKey --hash sha256`, or convert it as it is",
                ));
            }
        })
    }

    /// The digest of `parts`, one after another.
    pub(crate) fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        with_hash!(self, digest_of, parts)
    }

    /// PBKDF2 with HMAC of this hash, filling `key`. // RFC 8018, 5.2
    pub(crate) fn pbkdf2(self, secret: &[u8], salt: &[u8], iterations: u32, key: &mut [u8]) {
        with_hash!(self, pbkdf2_hmac, secret, salt, iterations, key);
    }
}
