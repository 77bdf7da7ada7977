//! Sectors encrypted and decrypted as dm-crypt does it: cipher, mode and initialisation vector by name.

use aes::cipher::consts::U16;
use aes::cipher::{
    Array, BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt,
    BlockSizeUser, InnerIvInit, KeyInit,
};

use crate::LuksError;
use crate::hash::Hash;
use crate::xts::Xts;

/// Initialisation vectors count sectors of 512 bytes, whatever the volume's own sector is.
pub(crate) const IV_SECTOR: u64 = 512;

/// Encrypts and decrypts single sectors. `sector` counts [`IV_SECTOR`]s.
pub(crate) trait SectorCipher: Send + Sync {
    fn encrypt(&self, sector: u64, bytes: &mut [u8]);
    fn decrypt(&self, sector: u64, bytes: &mut [u8]);
}

/// The cipher `name` in `mode` (`aes`, `xts-plain64`) with `key`.
///
/// # Errors
/// `Unsupported`, naming what is not known.
pub(crate) fn sector_cipher(
    name: &str,
    mode: &str,
    key: &[u8],
) -> Result<Box<dyn SectorCipher>, LuksError> {
    let unsupported = || {
        LuksError::unsupported(
            format!(
                "a LUKS volume encrypted with {name}-{mode} and a key of {} bits",
                key.len() * 8
            ),
            "re-encrypt it with `cryptsetup reencrypt --cipher aes-xts-plain64`, or convert it as it is",
        )
    };
    let (chaining, iv) = mode.split_once('-').unwrap_or((mode, "plain"));
    let half = key.len() / 2;
    let single = match chaining {
        "xts" if key.len().is_multiple_of(2) => half,
        "cbc" => key.len(),
        _ => return Err(unsupported()),
    };
    let parts = Parts {
        name,
        chaining,
        iv,
        key,
        single,
    };
    let made = match (name, single) {
        ("aes", 16) => parts.build::<aes::Aes128>(),
        ("aes", 24) => parts.build::<aes::Aes192>(),
        ("aes", 32) => parts.build::<aes::Aes256>(),
        ("serpent", 16 | 24 | 32) => parts.build::<serpent::Serpent>(),
        ("twofish", 16 | 24 | 32) => parts.build::<twofish::Twofish>(),
        _ => None,
    };
    made.ok_or_else(unsupported)
}

/// A block cipher as LUKS volumes use it.
trait Block16:
    BlockCipherEncrypt
    + BlockCipherDecrypt
    + BlockSizeUser<BlockSize = U16>
    + KeyInit
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl Block16 for aes::Aes128 {}
impl Block16 for aes::Aes192 {}
impl Block16 for aes::Aes256 {}
impl Block16 for serpent::Serpent {}
impl Block16 for twofish::Twofish {}

/// A name taken apart.
struct Parts<'a> {
    name: &'a str,
    chaining: &'a str,
    iv: &'a str,
    key: &'a [u8],
    /// Bytes of the key of one cipher; XTS has two.
    single: usize,
}

impl Parts<'_> {
    fn build<C: Block16>(&self) -> Option<Box<dyn SectorCipher>> {
        let (first, second) = self.key.split_at_checked(self.single)?;
        let cipher = C::new_from_slice(first).ok()?;
        let iv = Iv::named(self.iv, self.name, self.key)?;
        Some(match self.chaining {
            "xts" => Box::new(XtsSectors {
                xts: Xts::new(cipher, C::new_from_slice(second).ok()?),
                iv,
            }),
            _ => Box::new(CbcSectors { cipher, iv }),
        })
    }
}

/// How the initialisation vector of a sector is made.
enum Iv {
    /// The number's low 32 bits, little-endian.
    Plain,
    /// All of the number.
    Plain64,
    /// The number, big-endian, at the end.
    Plain64Be,
    /// The number, encrypted with the hash of the key.
    Essiv(BlockFn),
}

impl Iv {
    /// As dm-crypt names them. // Linux, Documentation/admin-guide/device-mapper/dm-crypt.rst
    fn named(name: &str, cipher: &str, key: &[u8]) -> Option<Self> {
        match name.split_once(':') {
            None if name == "plain" => Some(Iv::Plain),
            None if name == "plain64" => Some(Iv::Plain64),
            None if name == "plain64be" => Some(Iv::Plain64Be),
            Some(("essiv", hash)) => {
                let salt = essiv_salt(hash, key)?;
                // The data's own cipher, with a key of the hash's length.
                let encrypt = match (cipher, salt.len()) {
                    ("aes", 16) => essiv::<aes::Aes128>(&salt),
                    ("aes", 24) => essiv::<aes::Aes192>(&salt),
                    ("aes", 32) => essiv::<aes::Aes256>(&salt),
                    ("serpent", _) => essiv::<serpent::Serpent>(&salt),
                    ("twofish", _) => essiv::<twofish::Twofish>(&salt),
                    _ => None,
                }?;
                Some(Iv::Essiv(encrypt))
            }
            _ => None,
        }
    }

    fn of(&self, sector: u64) -> Array<u8, U16> {
        let mut iv = [0; 16];
        match self {
            Iv::Plain => iv[..4].copy_from_slice(&(sector as u32).to_le_bytes()),
            Iv::Plain64 => iv[..8].copy_from_slice(&sector.to_le_bytes()),
            Iv::Plain64Be => iv[8..].copy_from_slice(&sector.to_be_bytes()),
            Iv::Essiv(encrypt) => {
                iv[..8].copy_from_slice(&sector.to_le_bytes());
                iv = encrypt(iv);
            }
        }
        iv.into()
    }
}

/// The hash of the key. The kernel also knows Whirlpool cut to 256 bits, which suits AES.
fn essiv_salt(hash: &str, key: &[u8]) -> Option<Vec<u8>> {
    match hash {
        "wp256" => {
            let mut salt = Hash::Whirlpool.digest(&[key]);
            salt.truncate(32);
            Some(salt)
        }
        other => Some(Hash::named(other).ok()?.digest(&[key])),
    }
}

type BlockFn = Box<dyn Fn([u8; 16]) -> [u8; 16] + Send + Sync>;

fn essiv<C: Block16>(salt: &[u8]) -> Option<BlockFn> {
    let cipher = C::new_from_slice(salt).ok()?;
    Some(Box::new(move |number| {
        let mut block = number.into();
        cipher.encrypt_block(&mut block);
        block.into()
    }))
}

struct XtsSectors<C> {
    xts: Xts<C>,
    iv: Iv,
}

impl<C: Block16> SectorCipher for XtsSectors<C> {
    fn encrypt(&self, sector: u64, bytes: &mut [u8]) {
        self.xts.encrypt(bytes, self.iv.of(sector));
    }

    fn decrypt(&self, sector: u64, bytes: &mut [u8]) {
        self.xts.decrypt(bytes, self.iv.of(sector));
    }
}

struct CbcSectors<C> {
    cipher: C,
    iv: Iv,
}

impl<C: Block16> SectorCipher for CbcSectors<C> {
    fn encrypt(&self, sector: u64, bytes: &mut [u8]) {
        let iv = self.iv.of(sector);
        let mut mode = cbc::Encryptor::inner_iv_init(self.cipher.clone(), &iv);
        let (blocks, _) = Array::slice_as_chunks_mut(bytes);
        mode.encrypt_blocks(blocks);
    }

    fn decrypt(&self, sector: u64, bytes: &mut [u8]) {
        let iv = self.iv.of(sector);
        let mut mode = cbc::Decryptor::inner_iv_init(self.cipher.clone(), &iv);
        let (blocks, _) = Array::slice_as_chunks_mut(bytes);
        mode.decrypt_blocks(blocks);
    }
}
