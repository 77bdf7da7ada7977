//! Hashes of names, for hash trees. // [ext4 disk layout] Hash Tree Directories

/// How names are hashed: the number in the tree's root, with signedness made explicit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HashKind {
    /// 0 legacy, 1 half MD4, 2 TEA.
    version: u8,
    unsigned: bool,
}

/// Largest hash; the next one means the end of the directory.
const LAST: u32 = 0xFFFF_FFFC;

impl HashKind {
    /// From the root's `version`; 3 to 5 are the unsigned kinds. `None` for kinds we do not know (6
    /// is SipHash, of encrypted and case-folded directories).
    pub(crate) fn new(version: u8, unsigned: bool) -> Option<Self> {
        match version {
            0..=2 => Some(Self { version, unsigned }),
            3..=5 => Some(Self {
                version: version - 3,
                unsigned: true,
            }),
            _ => None,
        }
    }

    /// The major hash of `name`, its lowest bit clear.
    pub(crate) fn hash(self, name: &[u8], seed: [u32; 4]) -> u32 {
        let seed = if seed == [0; 4] {
            [0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476]
        } else {
            seed
        };
        let hash = match self.version {
            0 => self.legacy(name),
            1 => {
                let mut state = seed;
                for chunk in chunks(name, 32) {
                    half_md4(&mut state, self.words::<8>(chunk));
                }
                state[1]
            }
            _ => {
                let mut state = seed;
                for chunk in chunks(name, 16) {
                    tea(&mut state, self.words::<4>(chunk));
                }
                state[0]
            }
        };
        (hash & !1).min(LAST)
    }

    fn value(self, byte: u8) -> u32 {
        if self.unsigned {
            u32::from(byte)
        } else {
            byte as i8 as u32
        }
    }

    fn legacy(self, name: &[u8]) -> u32 {
        let (mut before, mut now) = (0x37AB_E8F9_u32, 0x12A3_FE2D_u32);
        for byte in name {
            let mixed = before.wrapping_add(now ^ self.value(*byte).wrapping_mul(7_152_373));
            let next = if mixed & 0x8000_0000 != 0 {
                mixed.wrapping_sub(0x7FFF_FFFF)
            } else {
                mixed
            };
            (before, now) = (now, next);
        }
        now << 1
    }

    /// The first bytes of `chunk` as words, padded with its length.
    fn words<const N: usize>(self, chunk: &[u8]) -> [u32; N] {
        let len = chunk.len() as u32;
        let pad = len | len << 8;
        let pad = pad | pad << 16;
        let mut words = [pad; N];
        for (word, bytes) in words.iter_mut().zip(chunk.chunks(4)) {
            *word = bytes
                .iter()
                .fold(pad, |w, b| self.value(*b).wrapping_add(w << 8));
        }
        words
    }
}

/// The pieces a name is hashed in: the padding of each counts all bytes that are left.
fn chunks(name: &[u8], size: usize) -> impl Iterator<Item = &[u8]> {
    (0..name.len())
        .step_by(size)
        .map(move |at| name.get(at..).unwrap_or_default())
}

fn tea(state: &mut [u32; 4], input: [u32; 4]) {
    let [a, b, c, d] = input;
    let (mut x, mut y) = (state[0], state[1]);
    let mut sum = 0_u32;
    for _ in 0..16 {
        sum = sum.wrapping_add(0x9E37_79B9);
        let mix = |v: u32, k: u32, l: u32| {
            (v << 4).wrapping_add(k) ^ v.wrapping_add(sum) ^ (v >> 5).wrapping_add(l)
        };
        x = x.wrapping_add(mix(y, a, b));
        y = y.wrapping_add(mix(x, c, d));
    }
    state[0] = state[0].wrapping_add(x);
    state[1] = state[1].wrapping_add(y);
}

/// The reduced MD4: three rounds of eight steps. // RFC 1320 for the functions and constants
fn half_md4(state: &mut [u32; 4], input: [u32; 8]) {
    type Mix = fn(u32, u32, u32) -> u32;
    let choose: Mix = |x, y, z| z ^ (x & (y ^ z));
    let majority: Mix = |x, y, z| (x & y).wrapping_add((x ^ y) & z);
    let parity: Mix = |x, y, z| x ^ y ^ z;
    let rounds: [(Mix, u32, [usize; 8], [u32; 4]); 3] = [
        (choose, 0, [0, 1, 2, 3, 4, 5, 6, 7], [3, 7, 11, 19]),
        (
            majority,
            0x5A82_7999,
            [1, 3, 5, 7, 0, 2, 4, 6],
            [3, 5, 9, 13],
        ),
        (
            parity,
            0x6ED9_EBA1,
            [3, 7, 2, 6, 1, 5, 0, 4],
            [3, 9, 11, 15],
        ),
    ];
    let [mut a, mut b, mut c, mut d] = *state;
    for (mix, constant, order, shifts) in rounds {
        for (step, word) in order.into_iter().enumerate() {
            let sum = a
                .wrapping_add(mix(b, c, d))
                .wrapping_add(input[word])
                .wrapping_add(constant)
                .rotate_left(shifts[step % 4]);
            (a, b, c, d) = (d, sum, b, c);
        }
    }
    for (word, add) in state.iter_mut().zip([a, b, c, d]) {
        *word = word.wrapping_add(add);
    }
}
