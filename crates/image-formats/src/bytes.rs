//! Numbers out of byte slices. Reading past the end gives zero: callers have checked the length.

/// The `N` bytes at `at`.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(found) = at.checked_add(N).and_then(|end| bytes.get(at..end)) {
        out.copy_from_slice(found);
    }
    out
}

macro_rules! number {
    ($($name:ident: $type:ty, $from:ident;)*) => {$(
        pub(crate) fn $name(bytes: &[u8], at: usize) -> $type {
            <$type>::$from(array(bytes, at))
        }
    )*};
}
number! {
    be32: u32, from_be_bytes;
    be64: u64, from_be_bytes;
    le16: u16, from_le_bytes;
    le32: u32, from_le_bytes;
    le64: u64, from_le_bytes;
}
