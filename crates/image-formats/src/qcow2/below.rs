//! The image below a new qcow2 file: what it holds already is not written again.

use std::fmt;
use std::path::Path;

use block_io::{BlockRead, ExtentKind};

use crate::gate::SameFolder;
use crate::image::{Image, open_as};
use crate::mapped::read_padded;
use crate::output::{BackingFile, OutputError};

/// The open image below.
pub(super) struct Below {
    image: Image,
    buf: Vec<u8>,
}

impl fmt::Debug for Below {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Below")
            .field(&self.image.info().path)
            .finish()
    }
}

impl Below {
    /// Open the image that the overlay `overlay` is to lie over: its name is relative to the folder of
    /// the overlay, as every reader will take it. What it names itself is opened in its own folder only.
    pub(super) fn open(overlay: &Path, backing: &BackingFile) -> Result<Self, OutputError> {
        let folder = overlay.parent().unwrap_or(Path::new(""));
        let path = folder.join(&backing.name);
        let image =
            open_as(&path, backing.format, &SameFolder).map_err(|source| OutputError::Below {
                path,
                source: Box::new(source),
            })?;
        Ok(Self {
            image,
            buf: Vec::new(),
        })
    }

    /// Whether it holds `bytes` from byte `offset` on; zeroes past its end.
    pub(super) fn holds(&mut self, offset: u64, bytes: &[u8]) -> Result<bool, OutputError> {
        self.buf.resize(bytes.len(), 0);
        match read_padded(&self.image, offset, &mut self.buf) {
            Ok(()) => Ok(self.buf == bytes),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// Where in `start..end` it may hold something else than zeroes: the first such range.
    pub(super) fn next_data(
        &self,
        start: u64,
        end: u64,
    ) -> Result<Option<std::ops::Range<u64>>, OutputError> {
        let end = end.min(self.image.size());
        if start >= end {
            return Ok(None);
        }
        for extent in block_io::extents(&self.image, start..end) {
            let extent = extent.map_err(|source| self.failed(source))?;
            if extent.kind != ExtentKind::Zero {
                return Ok(Some(extent.range()));
            }
        }
        Ok(None)
    }

    fn failed(&self, source: block_io::BlockError) -> OutputError {
        OutputError::Below {
            path: self.image.info().path.clone(),
            source: Box::new(source),
        }
    }
}
