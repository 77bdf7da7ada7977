//! Decompression of units whose size is known, one decoder per thread.

use std::cell::RefCell;

use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder, Operation};

/// Larger windows than 8 MiB a decoder refuses: units have at most 2 MiB, and a frame that asks for
/// more only wants the memory.
const ZSTD_WINDOW_LOG: u32 = 23;

thread_local! {
    static ZLIB: RefCell<libdeflater::Decompressor> = RefCell::new(libdeflater::Decompressor::new());
    static ZSTD: RefCell<Option<Decoder<'static>>> = const { RefCell::new(None) };
    static DEFLATE: RefCell<Option<Decompress>> = const { RefCell::new(None) };
}

/// Inflate the zstd frame at the start of `packed` into all of `plain`; what follows it is padding.
pub(crate) fn unzstd(packed: &[u8], plain: &mut [u8]) -> Result<(), String> {
    ZSTD.with_borrow_mut(|slot| {
        let decoder = match slot {
            Some(decoder) => decoder,
            None => {
                let mut decoder = Decoder::new().map_err(|error| error.to_string())?;
                decoder
                    .set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG))
                    .map_err(|error| error.to_string())?;
                slot.insert(decoder)
            }
        };
        decoder.reinit().map_err(|error| error.to_string())?;
        let (mut read, mut written) = (0, 0);
        while written < plain.len() {
            let status = decoder
                .run_on_buffers(&packed[read..], &mut plain[written..])
                .map_err(|error| error.to_string())?;
            read += status.bytes_read;
            written += status.bytes_written;
            let stuck = status.bytes_read == 0 && status.bytes_written == 0;
            if written < plain.len() && (stuck || status.remaining == 0) {
                return Err(format!("it gives {written} bytes"));
            }
        }
        Ok(())
    })
}

/// Inflate the raw deflate stream at the start of `packed` into all of `plain`.
pub(crate) fn undeflate(packed: &[u8], plain: &mut [u8]) -> Result<(), String> {
    DEFLATE.with_borrow_mut(|slot| {
        let decoder = slot.get_or_insert_with(|| Decompress::new(false));
        inflate(decoder, false, packed, plain)
    })
}

/// Inflate the zlib stream at the start of `packed` into `plain`, its checksum verified; gives its
/// length.
pub(crate) fn unzlib(packed: &[u8], plain: &mut [u8]) -> Result<usize, String> {
    ZLIB.with_borrow_mut(|decoder| {
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
