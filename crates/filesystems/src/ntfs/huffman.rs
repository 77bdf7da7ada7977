//! Canonical Huffman codes of up to 16 bits, as XPRESS and LZX have them. No I/O.

/// Bits looked up in one step.
const FAST: u32 = 10;

/// A code, ready for reading.
pub(super) struct Code {
    /// By the next bits: symbol and length; length 0 for longer codes.
    fast: Vec<(u16, u8)>,
    /// First code of each length, left-aligned to 16 bits, and the place of its symbol.
    first: [(u32, usize); 18],
    symbols: Vec<u16>,
}

impl Code {
    /// The code in which symbol n has `lengths[n]` bits, none of more than 16.
    pub(super) fn new(lengths: &[u8]) -> Result<Self, String> {
        let mut count = [0_usize; 17];
        for len in lengths {
            if let Some(count) = count.get_mut(usize::from(*len)) {
                *count += 1;
            }
        }
        let mut first = [(0_u32, 0_usize); 18];
        let (mut code, mut place) = (0_u32, 0);
        for (len, count) in count.iter().enumerate().skip(1) {
            if let Some(first) = first.get_mut(len) {
                *first = (code, place);
            }
            code += (*count as u32) << (16 - len);
            place += count;
        }
        if code > 1 << 16 {
            return Err("a Huffman code that is too full".to_owned());
        }
        first[17] = (code, place);
        let mut symbols = Vec::with_capacity(place);
        let mut fast = vec![(0, 0); 1 << FAST];
        let mut next = 0_usize;
        for len in 1..=16_u8 {
            for (symbol, _) in lengths.iter().enumerate().filter(|(_, l)| **l == len) {
                symbols.push(symbol as u16);
                if u32::from(len) <= FAST {
                    let end = next + (1 << (FAST - u32::from(len)));
                    if let Some(places) = fast.get_mut(next..end) {
                        places.fill((symbol as u16, len));
                    }
                    next = end;
                }
            }
        }
        Ok(Self {
            fast,
            first,
            symbols,
        })
    }

    /// The symbol that begins `bits`, the next 16 of the stream, and its length.
    pub(super) fn decode(&self, bits: u16) -> Result<(u16, u8), String> {
        let bits = u32::from(bits);
        if let Some((symbol, len @ 1..)) = self.fast.get((bits >> (16 - FAST)) as usize) {
            return Ok((*symbol, *len));
        }
        for len in 1..=16_usize {
            let (code, place) = self.first.get(len).copied().unwrap_or_default();
            let (end, end_place) = self.first.get(len + 1).copied().unwrap_or_default();
            if bits < end && end_place > place {
                let index = place + ((bits - code) >> (16 - len)) as usize;
                return match self.symbols.get(index) {
                    Some(symbol) => Ok((*symbol, len as u8)),
                    None => Err("a Huffman code without a symbol".to_owned()),
                };
            }
        }
        Err("a Huffman code without a symbol".to_owned())
    }
}
