//! LZNT1, which compresses files of NTFS in units of 16 clusters. No I/O.

use crate::bytes::{le16, u8_at};

/// What a chunk becomes when it is uncompressed.
const CHUNK: usize = 4096;

/// Fill `out` from `compressed`; what is not told reads as zeroes. // [MS-XCA] 2.5
pub(super) fn decompress(compressed: &[u8], out: &mut [u8]) -> Result<(), String> {
    out.fill(0);
    let mut at = 0;
    for (index, chunk) in out.chunks_mut(CHUNK).enumerate() {
        // 12 bits of length, 3 bits of signature, 1 bit that says it is compressed. 0 ends the unit.
        let header = le16(compressed, at);
        if header == 0 || at + 2 > compressed.len() {
            return Ok(());
        }
        let len = usize::from(header & 0xFFF) + 1;
        let Some(body) = compressed.get(at + 2..at + 2 + len) else {
            return Err(format!(
                "LZNT1: chunk {index}: expected at most {} bytes, found {len}",
                compressed.len() - at - 2
            ));
        };
        if header & 0x7000 != 0x3000 {
            return Err(format!(
                "LZNT1: chunk {index}: signature: expected 3, found {}",
                header >> 12 & 7
            ));
        }
        if header & 0x8000 == 0 {
            let len = body.len().min(chunk.len());
            crate::bytes::put(chunk, 0, crate::bytes::slice(body, 0, len));
        } else {
            expand(body, chunk).map_err(|why| format!("LZNT1: chunk {index}: {why}"))?;
        }
        at += 2 + len;
    }
    Ok(())
}

fn expand(body: &[u8], chunk: &mut [u8]) -> Result<(), String> {
    let (mut at, mut done) = (0, 0);
    while at < body.len() {
        let flags = u8_at(body, at);
        at += 1;
        for bit in 0..8 {
            if at >= body.len() {
                break;
            }
            if done >= chunk.len() {
                return Err("expected its end, found more".to_owned());
            }
            if flags >> bit & 1 == 0 {
                crate::bytes::put(chunk, done, &[u8_at(body, at)]);
                done += 1;
                at += 1;
                continue;
            }
            // The further into the chunk, the more bits are for the distance.
            let mut length_bits = 12_u32;
            while length_bits > 4 && (1_usize << (16 - length_bits)) < done {
                length_bits -= 1;
            }
            let token = le16(body, at);
            let distance = usize::from(token >> length_bits) + 1;
            let length = usize::from(token & ((1 << length_bits) - 1)) + 3;
            if distance > done || at + 2 > body.len() {
                return Err(format!(
                    "expected {done} bytes back at most, found {distance}"
                ));
            }
            super::xpress::repeat(chunk, done, distance, length);
            done = (done + length).min(chunk.len());
            at += 2;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_specification_is_expanded() {
        // [MS-XCA] 3.3: the text and the bytes it becomes.
        let text = b"F# F# G A A G F# E D D E F# F# E E F# F# G A A G F# E D D E F# E D D E E F# D E F# G F# D E F# G F# E D E A F# F# G A A G F# E D D E F# E D D\0";
        let compressed = [
            0x38, 0xb0, 0x88, 0x46, 0x23, 0x20, 0x00, 0x20, 0x47, 0x20, 0x41, 0x00, 0x10, 0xa2,
            0x47, 0x01, 0xa0, 0x45, 0x20, 0x44, 0x00, 0x08, 0x45, 0x01, 0x50, 0x79, 0x00, 0xc0,
            0x45, 0x20, 0x05, 0x24, 0x13, 0x88, 0x05, 0xb4, 0x02, 0x4a, 0x44, 0xef, 0x03, 0x58,
            0x02, 0x8c, 0x09, 0x16, 0x01, 0x48, 0x45, 0x00, 0xbe, 0x00, 0x9e, 0x00, 0x04, 0x01,
            0x18, 0x90, 0x00,
        ];
        let mut out = vec![0; text.len()];
        decompress(&compressed, &mut out).unwrap();
        assert_eq!(out, text);
    }
}
