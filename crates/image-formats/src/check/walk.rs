//! Walks a table of equal entries, piece by piece.

use block_io::BlockRead;

/// Bytes read at once.
const PIECE: u64 = 64 << 10;

/// Hand every one of `entries` entries of `N` bytes, which lie from `offset` of `disk` on, to `look`:
/// its number, its place, and itself.
pub(crate) fn walk_entries<const N: usize>(
    disk: &dyn BlockRead,
    offset: u64,
    entries: u64,
    mut look: impl FnMut(u64, u64, [u8; N]),
) -> block_io::Result<()> {
    let at_once = PIECE / N as u64;
    let mut first = 0;
    while first < entries {
        let count = at_once.min(entries - first);
        let start = offset + first * N as u64;
        let mut piece = vec![0; count as usize * N];
        disk.read_at(start, &mut piece)?;
        for (index, entry) in (first..).zip(piece.as_chunks::<N>().0) {
            look(index, offset + index * N as u64, *entry);
        }
        first += count;
    }
    Ok(())
}
