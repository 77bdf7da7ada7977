//! What formats with a table of blocks share when they are written: the table, which leaves memory as
//! the pass leaves it, and the units that go into blocks.

use super::{EncodedChunk, OutputError, PartFile, PlacedBytes, Placement, Stored};

/// Entries kept in memory at once, and written at once.
const PIECE: u64 = 16 << 10;

/// A table with an entry of `N` bytes for every block, at a place in the file that is known from the
/// start. The pass goes through the disk in ascending order, so one piece of the table is open at a
/// time: memory does not grow with the disk.
#[derive(Debug)]
pub(crate) struct BlockTable<const N: usize> {
    offset: u64,
    entries: u64,
    empty: [u8; N],
    open: Option<(u64, Vec<u8>)>,
    /// Pieces that are in the file, or on their way there.
    left: Vec<bool>,
}

impl<const N: usize> BlockTable<N> {
    /// A table of `entries` entries at byte `offset` of the file, each `empty` until it is set.
    pub(crate) fn new(offset: u64, entries: u64, empty: [u8; N]) -> Self {
        Self {
            offset,
            entries,
            empty,
            open: None,
            left: vec![false; entries.div_ceil(PIECE) as usize],
        }
    }

    /// The entry of block `index`, if it was set and is still in memory: the last one set always is.
    pub(crate) fn get(&self, index: u64) -> Option<[u8; N]> {
        let (piece, bytes) = self.open.as_ref()?;
        if *piece != index / PIECE {
            return None;
        }
        let at = (index % PIECE) as usize * N;
        let mut entry = [0; N];
        entry.copy_from_slice(bytes.get(at..at + N)?);
        (entry != self.empty).then_some(entry)
    }

    /// Set the entry of block `index`, not below any set before.
    pub(crate) fn set(&mut self, index: u64, entry: [u8; N], placements: &mut Vec<Placement>) {
        let piece = index / PIECE;
        if self.open.as_ref().is_some_and(|(open, _)| *open != piece) {
            placements.extend(self.leave());
        }
        let len = self.piece_len(piece);
        let empty = self.empty;
        let (_, bytes) = self
            .open
            .get_or_insert_with(|| (piece, empty.repeat(len as usize)));
        let at = (index % PIECE) as usize * N;
        if let Some(slot) = bytes.get_mut(at..at + N) {
            slot.copy_from_slice(&entry);
        }
    }

    /// Write what of the table is not in the file yet. Pieces of zeroes stay holes.
    pub(crate) fn finish(&mut self, file: &PartFile) -> Result<(), OutputError> {
        if let Some(placement) = self.leave() {
            placement.write_made(file)?;
        }
        if self.empty == [0; N] {
            return Ok(());
        }
        let empty = self.empty.repeat(PIECE as usize);
        for piece in 0..self.left.len() as u64 {
            if !self.left[piece as usize] {
                let len = self.piece_len(piece) as usize * N;
                file.write_at(self.offset_of(piece), &empty[..len])?;
            }
        }
        Ok(())
    }

    fn leave(&mut self) -> Option<Placement> {
        let (piece, bytes) = self.open.take()?;
        self.left[piece as usize] = true;
        Some(Placement {
            file: 0,
            offset: self.offset_of(piece),
            bytes: PlacedBytes::Made(bytes),
        })
    }

    fn offset_of(&self, piece: u64) -> u64 {
        self.offset + piece * PIECE * N as u64
    }

    /// Entries of a piece: the last one has fewer.
    fn piece_len(&self, piece: u64) -> u64 {
        PIECE.min(self.entries - piece * PIECE)
    }
}

/// Place every unit of `chunk` that is not zero into its block of `block_size` bytes; `place_of` says
/// where in the file the block of that index lies, and makes it if need be.
pub(crate) fn place_in_blocks(
    chunk: &EncodedChunk<'_>,
    unit: u64,
    block_size: u64,
    placements: &mut Vec<Placement>,
    mut place_of: impl FnMut(u64, &mut Vec<Placement>) -> Result<u64, OutputError>,
) -> Result<(), OutputError> {
    for (index, stored) in chunk.units.iter().enumerate() {
        if *stored == Stored::Zero {
            continue;
        }
        let within = index * unit as usize;
        let offset = chunk.start + within as u64;
        let place = place_of(offset / block_size, placements)?;
        placements.push(Placement {
            file: 0,
            offset: place + offset % block_size,
            bytes: PlacedBytes::Plain(within..within + unit as usize),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_leave_as_the_pass_leaves_them_and_the_rest_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = PartFile::create(&dir.path().join("table"), false).unwrap();
        let entries = 3 * PIECE + 5;
        let mut table = BlockTable::new(8, entries, [0xff; 4]);
        let mut placements = Vec::new();
        for (index, entry) in [(1, 7u32), (2, 8), (3 * PIECE + 4, 9)] {
            assert_eq!(table.get(index), None);
            table.set(index, entry.to_le_bytes(), &mut placements);
            assert_eq!(table.get(index), Some(entry.to_le_bytes()));
        }
        assert_eq!(placements.len(), 1, "one piece was left");
        for placement in placements {
            placement.write_made(&file).unwrap();
        }
        table.finish(&file).unwrap();
        let bytes = std::fs::read(dir.path().join("table.part")).unwrap();
        assert_eq!(bytes.len() as u64, 8 + entries * 4);
        let read: Vec<u32> = bytes[8..]
            .chunks_exact(4)
            .map(|entry| u32::from_le_bytes(entry.try_into().unwrap()))
            .collect();
        for (index, entry) in read.iter().enumerate() {
            let expected = match index as u64 {
                1 => 7,
                2 => 8,
                at if at == 3 * PIECE + 4 => 9,
                _ => u32::MAX,
            };
            assert_eq!(*entry, expected, "{index}");
        }
    }
}
