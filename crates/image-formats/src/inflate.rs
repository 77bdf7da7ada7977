//! Decompression of units whose size is known, one decoder per thread.

use std::cell::{Cell, RefCell};

use flate2::{Decompress, FlushDecompress, Status};
use zstd::zstd_safe;

thread_local! {
    static LIBDEFLATE: RefCell<libdeflater::Decompressor> = RefCell::new(libdeflater::Decompressor::new());
    static ZSTD: RefCell<Option<zstd_safe::DCtx<'static>>> = const { RefCell::new(None) };
    static DEFLATE: RefCell<Option<Decompress>> = const { RefCell::new(None) };
    static PACKED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Larger buffers than this are not kept for the next unit.
const KEPT: usize = 4 << 20;

/// Give `work` a buffer of `len` bytes for compressed bytes: this thread's, so that a reader makes one
/// for all units and not one for each. What is in it is of no meaning.
pub(crate) fn with_buffer<R>(len: usize, work: impl FnOnce(&mut [u8]) -> R) -> R {
    // Taken out, not borrowed: what `work` reads may inflate units of its own.
    let mut buffer = PACKED.take();
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    let result = work(buffer.get_mut(..len).unwrap_or_default());
    if buffer.len() <= KEPT {
        PACKED.set(buffer);
    }
    result
}

/// Inflate the zstd frame at the start of `packed` into all of `plain`; what follows it is padding.
///
/// In one call and not as a stream: the frame goes straight to where it is wanted, no window of it is
/// kept, whatever size it asks for, and a frame that holds more than `plain` is an error.
pub(crate) fn unzstd(packed: &[u8], plain: &mut [u8]) -> Result<(), String> {
    let failed = |code| zstd_safe::get_error_name(code).to_owned();
    let len = zstd_safe::find_frame_compressed_size(packed).map_err(failed)?;
    let frame = packed.get(..len).unwrap_or(packed);
    ZSTD.with_borrow_mut(|slot| {
        let decoder = match slot {
            Some(decoder) => decoder,
            None => slot.insert(zstd_safe::DCtx::try_create().ok_or("no memory")?),
        };
        let written = decoder.decompress(plain, frame).map_err(failed)?;
        match written == plain.len() {
            true => Ok(()),
            false => Err(format!("it gives {written} bytes")),
        }
    })
}

/// Inflate the raw deflate stream at the start of `packed` into all of `plain`.
pub(crate) fn undeflate(packed: &[u8], plain: &mut [u8]) -> Result<(), String> {
    let whole = LIBDEFLATE.with_borrow_mut(|decoder| decoder.deflate_decompress(packed, plain));
    if whole.is_ok_and(|len| len == plain.len()) {
        return Ok(());
    }
    // Twice as slow, and takes what QEMU takes: see below. It also says what is wrong.
    DEFLATE.with_borrow_mut(|slot| {
        let decoder = slot.get_or_insert_with(|| Decompress::new(false));
        inflate(decoder, false, packed, plain)
    })
}

/// Inflate the zlib stream at the start of `packed` into `plain`, its checksum verified; gives its
/// length.
pub(crate) fn unzlib(packed: &[u8], plain: &mut [u8]) -> Result<usize, String> {
    LIBDEFLATE.with_borrow_mut(|decoder| {
        decoder
            .zlib_decompress(packed, plain)
            .map_err(|error| error.to_string())
    })
}

fn inflate(
    decoder: &mut Decompress,
    zlib: bool,
    packed: &[u8],
    plain: &mut [u8],
) -> Result<(), String> {
    decoder.reset(zlib);
    let status = decoder
        .decompress(packed, plain, FlushDecompress::Finish)
        .map_err(|error| error.to_string())?;
    let written = decoder.total_out();
    let full = written == plain.len() as u64;
    match status {
        Status::StreamEnd if full => Ok(()),
        // Raw deflate as QEMU takes it: a full cluster is enough, with or without the end mark.
        Status::Ok | Status::BufError if full && !zlib => Ok(()),
        _ => Err(format!("it gives {written} bytes, or more")),
    }
}
