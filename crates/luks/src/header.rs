//! What a volume says of itself without any secret, and trying a secret.

use block_io::BlockRead;

use crate::LuksError;
use crate::format::{
    Fields, LUKS1_BYTES, LUKS2_BYTES, Luks1, Luks2, MAGIC, MAGIC_SECOND, SECOND_OFFSETS, VERSION,
};
use crate::hash::Hash;
use crate::keyslot::{Derivation, KeyDigest, Slot, VolumeKey};
use crate::metadata::{self, Argon, Kdf, Metadata};

/// As many as cryptsetup makes. Each costs seconds to try.
const MOST_SLOTS: usize = 32;

/// Which of the two formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// LUKS1
    One,
    /// LUKS2
    Two,
}

/// Something beside secrets that opens the volume where it was made: `systemd-tpm2`, `clevis`, `systemd-fido2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its type.
    pub kind: String,
}

/// A volume's header.
#[derive(Debug)]
pub struct Header {
    /// The format.
    pub version: Version,
    /// Its UUID, as it is written.
    pub uuid: String,
    /// Its label; version 1 has none.
    pub label: String,
    /// What opens it beside secrets. What is bound to a machine's TPM will not open in another machine.
    pub tokens: Vec<Token>,
    /// What is odd about it, in sentences.
    pub notes: Vec<String>,
    slots: Vec<Slot>,
    digests: Vec<KeyDigest>,
    pub(crate) data: Data,
}

/// Where the encrypted data lies, and how it is encrypted.
#[derive(Debug, Clone)]
pub(crate) struct Data {
    /// In bytes.
    pub(crate) offset: u64,
    /// In bytes; to the end of the disk, where it is not given.
    pub(crate) len: Option<u64>,
    /// Added to the number of a sector.
    pub(crate) iv_tweak: u64,
    pub(crate) cipher: String,
    pub(crate) mode: String,
    pub(crate) sector_size: u32,
}

/// Read the header of the volume `disk`.
///
/// # Errors
/// [`LuksError`]: none there, damaged, not supported, or the disk fails.
pub fn read_header(disk: &dyn BlockRead) -> Result<Header, LuksError> {
    let mut start = vec![0; LUKS2_BYTES.min(disk.size() as usize)];
    disk.read_at(0, &mut start)?;
    let version = Fields(&start).u16(VERSION);
    match (start.starts_with(MAGIC), version) {
        (true, 1) if start.len() >= LUKS1_BYTES => version_1(&start, disk.size()),
        (true, 2) | (false, _) => version_2(disk),
        (true, other) => Err(LuksError::damaged(
            VERSION as u64,
            "the version",
            "1 or 2",
            other,
        )),
    }
}

fn version_1(bytes: &[u8], disk: u64) -> Result<Header, LuksError> {
    let header = Luks1::parse(bytes)?;
    let hash = Hash::named(&header.hash)?;
    if header.payload == 0 {
        return Err(LuksError::unsupported(
            "a LUKS volume whose header is detached",
            "attach the header, or convert the disk as it is",
        ));
    }
    let digest = KeyDigest {
        slots: header
            .slots
            .iter()
            .map(|(number, _)| number.to_string())
            .collect(),
        hash,
        iterations: header.digest_iterations,
        salt: header.digest_salt.to_vec(),
        digest: header.digest.to_vec(),
    };
    digest.check(164)?;
    let mut slots = Vec::new();
    for (number, slot) in &header.slots {
        let slot = Slot {
            id: number.to_string(),
            is_last: false,
            derivation: Derivation::Pbkdf2 {
                hash,
                iterations: slot.iterations,
                salt: slot.salt.to_vec(),
            },
            cipher: header.cipher.clone(),
            mode: header.mode.clone(),
            slot_key: header.key_bytes,
            offset: u64::from(slot.material) * 512,
            key: header.key_bytes,
            stripes: slot.stripes,
            split_hash: hash,
        };
        slot.check(208 + *number as u64 * 48, u64::MAX, disk)?;
        slots.push(slot);
    }
    Ok(Header {
        version: Version::One,
        uuid: header.uuid,
        label: String::new(),
        tokens: Vec::new(),
        notes: Vec::new(),
        slots,
        digests: vec![digest],
        data: Data {
            offset: u64::from(header.payload) * 512,
            len: None,
            iv_tweak: 0,
            cipher: header.cipher,
            mode: header.mode,
            sector_size: 512,
        },
    })
}

/// Of the two headers of version 2 the newer sound one counts. // [LUKS2] 2.3
fn version_2(disk: &dyn BlockRead) -> Result<Header, LuksError> {
    let first = read_version_2(disk, 0, MAGIC);
    let mut second = Err(LuksError::NotLuks);
    for offset in SECOND_OFFSETS {
        second = match read_version_2(disk, offset, MAGIC_SECOND) {
            Err(LuksError::NotLuks) => continue,
            other => other,
        };
        break;
    }
    let (header, json, mut notes) = match (first, second) {
        (Ok(first), Ok(second)) if second.0.sequence > first.0.sequence => {
            let note = format!(
                "the second header is newer ({} against {}): it is used",
                second.0.sequence, first.0.sequence
            );
            (second.0, second.1, vec![note])
        }
        (Ok(first), Ok(_)) => (first.0, first.1, Vec::new()),
        (Ok(first), Err(error)) => {
            let note = format!("the second header cannot be used ({error}): the first one is");
            (first.0, first.1, vec![note])
        }
        (Err(LuksError::NotLuks), Ok(second)) => {
            let note = "the first header is gone: the second one is used".to_owned();
            (second.0, second.1, vec![note])
        }
        (Err(error), Ok(second)) => {
            let note = format!("the first header cannot be used ({error}): the second one is");
            (second.0, second.1, vec![note])
        }
        (Err(error), Err(_)) => return Err(error),
    };
    let mut header = from_metadata(&header, json, disk.size())?;
    notes.append(&mut header.notes);
    header.notes = notes;
    Ok(header)
}

fn read_version_2(
    disk: &dyn BlockRead,
    offset: u64,
    magic: &[u8; 6],
) -> Result<(Luks2, Metadata), LuksError> {
    let room = disk.size().saturating_sub(offset);
    if room < LUKS2_BYTES as u64 {
        return Err(LuksError::NotLuks);
    }
    let mut bytes = vec![0; LUKS2_BYTES];
    disk.read_at(offset, &mut bytes)?;
    if !bytes.starts_with(magic) || Fields(&bytes).u16(VERSION) != 2 {
        return Err(LuksError::NotLuks);
    }
    let header = Luks2::parse(&bytes);
    if header.offset != offset {
        return Err(LuksError::damaged(
            offset + 256,
            "where the header says it lies",
            offset.to_string(),
            header.offset,
        ));
    }
    if !SECOND_OFFSETS.contains(&header.header_size) || header.header_size > room {
        let most = SECOND_OFFSETS.map(|size| size.to_string()).join(", ");
        return Err(LuksError::damaged(
            offset + 8,
            "the header's size",
            format!("one of {most}, on the disk"),
            header.header_size,
        ));
    }
    bytes.resize(header.header_size as usize, 0);
    disk.read_at(offset, &mut bytes)?;
    if !header.is_sound(&bytes)? {
        return Err(LuksError::damaged(
            offset + 448,
            "the checksum",
            "that of the header",
            "another",
        ));
    }
    let json = bytes.get(LUKS2_BYTES..).unwrap_or_default();
    let end = json
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(json.len());
    let parsed = serde_json::from_slice(json.get(..end).unwrap_or_default());
    let metadata = parsed.map_err(|error| {
        LuksError::damaged(
            offset + LUKS2_BYTES as u64,
            "the metadata",
            "JSON of LUKS2",
            error,
        )
    })?;
    Ok((header, metadata))
}

fn from_metadata(header: &Luks2, metadata: Metadata, disk: u64) -> Result<Header, LuksError> {
    // Where in the JSON a value stands is not known any more: errors name its beginning.
    let at = header.offset + LUKS2_BYTES as u64;
    if let Some(requirement) = metadata.config.requirements.mandatory.first() {
        return Err(LuksError::unsupported(
            format!("a LUKS volume that requires {requirement:?}"),
            "if a re-encryption is under way, finish it with `cryptsetup reencrypt --resume-only`; \
             else convert it as it is",
        ));
    }
    if metadata.keyslots.len() > MOST_SLOTS || metadata.digests.len() > MOST_SLOTS {
        let found = metadata.keyslots.len().max(metadata.digests.len());
        let most = format!("at most {MOST_SLOTS}");
        return Err(LuksError::damaged(
            at,
            "the number of key slots",
            most,
            found,
        ));
    }
    let (segment, data) = the_segment(&metadata, at)?;
    let mut slots = Vec::new();
    let mut notes = Vec::new();
    for (id, slot) in &metadata.keyslots {
        match slot_of(id, slot) {
            Ok(Some(made)) => {
                made.check(at, slot.area.size, disk)?;
                slots.push(made);
            }
            Ok(None) => {}
            Err(error) => notes.push(format!("key slot {id} is not used: {error}")),
        }
    }
    slots.sort_by_key(|slot| slot.is_last);
    let mut digests = Vec::new();
    for digest in metadata.digests.values() {
        if digest.kind == "pbkdf2" && digest.segments.contains(&segment) {
            let digest = KeyDigest {
                slots: digest.keyslots.clone(),
                hash: Hash::named(&digest.hash)?,
                iterations: digest.iterations,
                salt: digest.salt.clone(),
                digest: digest.digest.clone(),
            };
            digest.check(at)?;
            digests.push(digest);
        }
    }
    let tokens = metadata.tokens.into_values();
    Ok(Header {
        version: Version::Two,
        uuid: header.uuid.clone(),
        label: header.label.clone(),
        tokens: tokens.map(|token| Token { kind: token.kind }).collect(),
        notes,
        slots,
        digests,
        data,
    })
}

/// The one segment that a volume has, unless it is being re-encrypted.
fn the_segment(metadata: &Metadata, at: u64) -> Result<(String, Data), LuksError> {
    // "backup-…" segments are of a re-encryption, and not the volume's data. // [LUKS2] 3.3
    let mut segments = metadata
        .segments
        .iter()
        .filter(|(_, segment)| !segment.flags.iter().any(|flag| flag.starts_with("backup-")));
    let (Some((id, segment)), None) = (segments.next(), segments.next()) else {
        let found = format!("{}", metadata.segments.len());
        return Err(LuksError::damaged(at, "the number of segments", "1", found));
    };
    if segment.kind != "crypt" || segment.integrity.is_some() {
        let what = match &segment.integrity {
            Some(_) => "integrity protection (dm-integrity)".to_owned(),
            None => format!("a segment of the type {:?}", segment.kind),
        };
        return Err(LuksError::unsupported(
            format!("a LUKS volume with {what}"),
            "copy what is in it on the source machine, or convert it as it is",
        ));
    }
    let len = match segment.size.as_str() {
        "dynamic" => None,
        size => Some(size.parse().map_err(|_| {
            LuksError::damaged(at, "the segment's size", "\"dynamic\" or bytes", size)
        })?),
    };
    let sector_size = segment.sector_size.unwrap_or(512);
    if ![512, 1024, 2048, 4096].contains(&sector_size) {
        return Err(LuksError::damaged(
            at,
            "the sector size",
            "512 to 4096",
            sector_size,
        ));
    }
    let encryption = segment.encryption.as_deref().unwrap_or_default();
    let (cipher, mode) = taken_apart(encryption);
    let data = Data {
        offset: segment.offset,
        len,
        iv_tweak: segment.iv_tweak,
        cipher,
        mode,
        sector_size,
    };
    Ok((id.clone(), data))
}

/// `aes-xts-plain64`: the cipher, and all else.
fn taken_apart(encryption: &str) -> (String, String) {
    let (cipher, mode) = encryption.split_once('-').unwrap_or((encryption, ""));
    (cipher.to_owned(), mode.to_owned())
}

/// The slot, if it holds a key.
fn slot_of(id: &str, slot: &metadata::Keyslot) -> Result<Option<Slot>, LuksError> {
    // "reencrypt" slots hold no key.
    let (Some(kdf), Some(af), "luks2") = (&slot.kdf, &slot.af, slot.kind.as_str()) else {
        return Ok(None);
    };
    let argon = |algorithm, argon: &Argon| Derivation::Argon2 {
        algorithm,
        passes: argon.time,
        memory: argon.memory,
        lanes: argon.cpus,
        salt: argon.salt.clone(),
    };
    let derivation = match kdf {
        Kdf::Pbkdf2 {
            hash,
            iterations,
            salt,
        } => Derivation::Pbkdf2 {
            hash: Hash::named(hash)?,
            iterations: *iterations,
            salt: salt.clone(),
        },
        Kdf::Argon2i(costs) => argon(argon2::Algorithm::Argon2i, costs),
        Kdf::Argon2id(costs) => argon(argon2::Algorithm::Argon2id, costs),
    };
    let (cipher, mode) = taken_apart(slot.area.encryption.as_deref().unwrap_or_default());
    Ok(Some(Slot {
        id: id.to_owned(),
        is_last: slot.priority == Some(0),
        derivation,
        cipher,
        mode,
        slot_key: slot.area.key_size.unwrap_or(0),
        offset: slot.area.offset,
        key: slot.key_size,
        stripes: af.stripes,
        split_hash: Hash::named(&af.hash)?,
    }))
}

impl Header {
    /// The cipher, as cryptsetup names it: `aes-xts-plain64`.
    #[must_use]
    pub fn encryption(&self) -> String {
        format!("{}-{}", self.data.cipher, self.data.mode)
    }

    /// How many key slots a secret can open.
    #[must_use]
    pub fn key_slots(&self) -> usize {
        self.slots.len()
    }

    /// The volume key that `secret` opens: a passphrase without its line's end, or a key file's bytes.
    ///
    /// Takes as long as the slots were made to take, and as much memory: for Argon2 up to 4 GiB.
    ///
    /// # Errors
    /// `WrongSecret` when no slot opens; the others as [`read_header`].
    pub fn unlock(&self, disk: &dyn BlockRead, secret: &[u8]) -> Result<VolumeKey, LuksError> {
        let mut refused = None;
        for slot in &self.slots {
            let key = match slot.open(disk, secret) {
                Ok(key) => key,
                // Another slot may be of another kind.
                Err(error @ LuksError::Unsupported { .. }) => {
                    refused = Some(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let mut of_slot = self
                .digests
                .iter()
                .filter(|digest| digest.slots.contains(&slot.id));
            if of_slot.any(|digest| digest.fits(&key.0)) {
                return Ok(key);
            }
        }
        Err(refused.unwrap_or_else(|| LuksError::WrongSecret {
            uuid: self.uuid.clone(),
            tried: self.slots.len(),
            hint: self.hint(),
        }))
    }

    fn hint(&self) -> String {
        let kinds: Vec<&str> = self
            .tokens
            .iter()
            .map(|token| token.kind.as_str())
            .collect();
        match kinds.is_empty() {
            true => String::new(),
            false => format!(
                "; on its own machine it also opens by {}: add a passphrase there with `cryptsetup luksAddKey`",
                kinds.join(", ")
            ),
        }
    }
}
