//! A key slot: from a secret to the volume key.

use std::fmt;

use argon2::{Algorithm, Argon2, Params};
use block_io::BlockRead;
use zeroize::Zeroizing;

use crate::LuksError;
use crate::cipher::{IV_SECTOR, sector_cipher};
use crate::hash::Hash;
use crate::split;

/// A derivation of more rounds is no real one: cryptsetup aims at two seconds, which are some ten million.
const MOST_ITERATIONS: u32 = 200_000_000;
/// The most cryptsetup lets Argon2 have, in KiB. // [LUKS2] 3.2.2
const MOST_MEMORY: u32 = 4 << 20;
/// More gibibyte passes than this no real header asks for.
const MOST_MEMORY_PASSES: u64 = 64 << 20;
/// A key of more bytes no cipher has.
const MOST_KEY: u32 = 512;
/// Bytes of key material: 4000 stripes of the longest key, and more.
const MOST_MATERIAL: u64 = 8 << 20;

/// The key that the data is encrypted with. Wiped from memory when dropped.
#[derive(Clone)]
pub struct VolumeKey(pub(crate) Zeroizing<Vec<u8>>);

impl fmt::Debug for VolumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VolumeKey({} bits)", self.0.len() * 8)
    }
}

/// How the key of a slot is made of a secret.
#[derive(Debug)]
pub(crate) enum Derivation {
    Pbkdf2 {
        hash: Hash,
        iterations: u32,
        salt: Vec<u8>,
    },
    Argon2 {
        algorithm: Algorithm,
        passes: u32,
        /// In KiB.
        memory: u32,
        lanes: u32,
        salt: Vec<u8>,
    },
}

/// A slot that holds the volume key, encrypted.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) id: String,
    /// Tried only when all others have failed.
    pub(crate) is_last: bool,
    pub(crate) derivation: Derivation,
    pub(crate) cipher: String,
    pub(crate) mode: String,
    /// Bytes of the key that encrypts the material.
    pub(crate) slot_key: u32,
    /// Where the material lies, in bytes.
    pub(crate) offset: u64,
    /// Bytes of the volume key.
    pub(crate) key: u32,
    pub(crate) stripes: u32,
    pub(crate) split_hash: Hash,
}

/// What a volume key is checked by.
#[derive(Debug)]
pub(crate) struct KeyDigest {
    /// Which slots hold the key it is of.
    pub(crate) slots: Vec<String>,
    pub(crate) hash: Hash,
    pub(crate) iterations: u32,
    pub(crate) salt: Vec<u8>,
    pub(crate) digest: Vec<u8>,
}

impl KeyDigest {
    pub(crate) fn fits(&self, key: &[u8]) -> bool {
        let mut digest = vec![0; self.digest.len()];
        self.hash
            .pbkdf2(key, &self.salt, self.iterations, &mut digest);
        !digest.is_empty() && digest == self.digest
    }

    pub(crate) fn check(&self, at: u64) -> Result<(), LuksError> {
        check_iterations(self.iterations, at, "the key digest")?;
        // Not longer than its hash: PBKDF2 of each further piece would cost as much again.
        if self.digest.is_empty() || self.digest.len() > 64 {
            let found = format!("{} bytes", self.digest.len());
            return Err(LuksError::damaged(
                at,
                "the key digest",
                "1 to 64 bytes",
                found,
            ));
        }
        Ok(())
    }
}

fn check_iterations(iterations: u32, at: u64, of: &str) -> Result<(), LuksError> {
    match iterations {
        1..=MOST_ITERATIONS => Ok(()),
        other => Err(LuksError::damaged(
            at,
            format!("the number of rounds of {of}"),
            format!("1 to {MOST_ITERATIONS}"),
            other,
        )),
    }
}

impl Slot {
    /// Bytes of its material.
    fn material(&self) -> u64 {
        (u64::from(self.key) * u64::from(self.stripes)).next_multiple_of(IV_SECTOR)
    }

    /// Whether what it asks for is what a real slot may ask for. `at`: where on the volume it is written
    /// down; `room`: the bytes set aside for its material; `disk`: the volume's size.
    pub(crate) fn check(&self, at: u64, room: u64, disk: u64) -> Result<(), LuksError> {
        let about = |what: &str| format!("{what} of key slot {}", self.id);
        let damaged = |what: &str, expected: String, found: String| {
            Err(LuksError::damaged(at, about(what), expected, found))
        };
        for (what, bytes) in [("the key", self.key), ("the slot's own key", self.slot_key)] {
            if !(1..=MOST_KEY).contains(&bytes) {
                return damaged(what, format!("1 to {MOST_KEY} bytes"), bytes.to_string());
            }
        }
        let material = self.material();
        if self.stripes == 0 || material > MOST_MATERIAL || material > room {
            let most = format!("1 to {} bytes", MOST_MATERIAL.min(room));
            return damaged("the key material", most, material.to_string());
        }
        if self
            .offset
            .checked_add(material)
            .is_none_or(|end| end > disk)
        {
            let found = format!("{material} bytes at {}", self.offset);
            return damaged("the key material", format!("within {disk} bytes"), found);
        }
        match &self.derivation {
            Derivation::Pbkdf2 { iterations, .. } => {
                check_iterations(*iterations, at, &format!("key slot {}", self.id))
            }
            Derivation::Argon2 {
                passes,
                memory,
                lanes,
                ..
            } => {
                let passes_of_all = u64::from(*passes) * u64::from(*memory);
                let fits = (1..=MOST_MEMORY).contains(memory)
                    && passes_of_all <= MOST_MEMORY_PASSES
                    && (1..=64).contains(lanes)
                    && *passes > 0;
                match fits {
                    true => Ok(()),
                    false => damaged(
                        "the cost",
                        format!(
                            "memory up to {MOST_MEMORY} KiB, with passes up to {MOST_MEMORY_PASSES} KiB in all, 1 to 64 lanes"
                        ),
                        format!("{memory} KiB, {passes} passes, {lanes} lanes"),
                    ),
                }
            }
        }
    }

    /// What `secret` makes of the slot: the volume key, if it is the right secret, else nothing of meaning.
    pub(crate) fn open(&self, disk: &dyn BlockRead, secret: &[u8]) -> Result<VolumeKey, LuksError> {
        let slot_key = self.derive(secret)?;
        let cipher = sector_cipher(&self.cipher, &self.mode, &slot_key)?;
        let mut material = Zeroizing::new(vec![0; self.material() as usize]);
        disk.read_at(self.offset, &mut material)?;
        for (sector, bytes) in (0..).zip(material.chunks_exact_mut(IV_SECTOR as usize)) {
            cipher.decrypt(sector, bytes);
        }
        let used = self.key as usize * self.stripes as usize;
        let stripes = material.get(..used).unwrap_or_default();
        Ok(VolumeKey(split::merge(
            stripes,
            self.key as usize,
            self.split_hash,
        )))
    }

    fn derive(&self, secret: &[u8]) -> Result<Zeroizing<Vec<u8>>, LuksError> {
        let mut key = Zeroizing::new(vec![0; self.slot_key as usize]);
        match &self.derivation {
            Derivation::Pbkdf2 {
                hash,
                iterations,
                salt,
            } => hash.pbkdf2(secret, salt, *iterations, &mut key),
            Derivation::Argon2 {
                algorithm,
                passes,
                memory,
                lanes,
                salt,
            } => {
                let refused = |error: argon2::Error| {
                    let found = format!("{memory} KiB, {passes} passes, {lanes} lanes: {error}");
                    let what = format!("the cost of key slot {}", self.id);
                    LuksError::damaged(0, what, "what Argon2 takes", found)
                };
                let params = Params::new(*memory, *passes, *lanes, None).map_err(refused)?;
                // 0x13 is the version that cryptsetup writes, and the only one.
                Argon2::new(*algorithm, argon2::Version::V0x13, params)
                    .hash_password_into(secret, salt, &mut key)
                    .map_err(refused)?;
            }
        }
        Ok(key)
    }
}
