//! The anti-forensic splitter: a key spread over so many stripes that destroying one destroys it.

use zeroize::Zeroizing;

use crate::hash::Hash;

/// Join `material`, `stripes` times `key_len` bytes, into the key. // [LUKS1] 2.4, AFmerge
pub(crate) fn merge(material: &[u8], key_len: usize, hash: Hash) -> Zeroizing<Vec<u8>> {
    let mut key = Zeroizing::new(vec![0; key_len]);
    let mut stripes = material.chunks_exact(key_len).peekable();
    while let Some(stripe) = stripes.next() {
        for (byte, mixed) in key.iter_mut().zip(stripe) {
            *byte ^= mixed;
        }
        // The last stripe is not diffused.
        if stripes.peek().is_some() {
            diffuse(&mut key, hash);
        }
    }
    key
}

/// Replace each piece of the hash's length by the hash of its number and itself. // [LUKS1] 2.4, H1
fn diffuse(key: &mut [u8], hash: Hash) {
    let len = hash.digest(&[]).len();
    for (number, piece) in (0u32..).zip(key.chunks_mut(len)) {
        let digest = Zeroizing::new(hash.digest(&[&number.to_be_bytes(), piece]));
        for (byte, hashed) in piece.iter_mut().zip(digest.iter()) {
            *byte = *hashed;
        }
    }
}
