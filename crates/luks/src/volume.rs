//! The disk inside an encrypted volume.

use block_io::{BlockRead, BlockWrite, Extent, ExtentKind, Result, SectorSize, check_range};

use crate::LuksError;
use crate::cipher::{IV_SECTOR, SectorCipher, sector_cipher};
use crate::header::{Data, Header};
use crate::keyslot::VolumeKey;

/// The most that is encrypted aside at once.
const PART: usize = 1 << 20;

/// The plain disk of an encrypted volume. Reads decrypt; writes, where the disk below takes them, encrypt.
///
/// All of it is data: a hole of the disk below reads as the decryption of zeroes, as it does on the machine.
pub struct Volume<D> {
    disk: D,
    data: Data,
    size: u64,
    cipher: Box<dyn SectorCipher>,
}

impl<D: BlockRead> Volume<D> {
    /// The disk inside `disk`, which `header` is of and `key` opens.
    ///
    /// # Errors
    /// `Unsupported` for a cipher that is not known; `Damaged` when the data does not lie on the disk.
    pub fn new(disk: D, header: &Header, key: &VolumeKey) -> std::result::Result<Self, LuksError> {
        let data = header.data.clone();
        let cipher = sector_cipher(&data.cipher, &data.mode, &key.0)?;
        let room = disk.size().checked_sub(data.offset);
        let fits = room.filter(|room| data.len.is_none_or(|len| len <= *room));
        let Some(room) = fits else {
            return Err(LuksError::damaged(
                0,
                "where the data lies",
                format!("within {} bytes", disk.size()),
                format!("byte {}, {:?} bytes", data.offset, data.len),
            ));
        };
        let sector = u64::from(data.sector_size);
        Ok(Self {
            size: data.len.unwrap_or(room) / sector * sector,
            disk,
            data,
            cipher,
        })
    }

    /// The disk below.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    fn sector(&self) -> u64 {
        u64::from(self.data.sector_size)
    }

    fn iv(&self, offset: u64) -> u64 {
        (offset / IV_SECTOR).wrapping_add(self.data.iv_tweak)
    }

    /// Decrypt whole sectors, the first of which lies at `offset`.
    fn decrypt(&self, offset: u64, bytes: &mut [u8]) {
        let sectors = bytes.chunks_exact_mut(self.data.sector_size as usize);
        for (at, sector) in (offset..)
            .step_by(self.data.sector_size as usize)
            .zip(sectors)
        {
            self.cipher.decrypt(self.iv(at), sector);
        }
    }

    fn encrypt(&self, offset: u64, bytes: &mut [u8]) {
        let sectors = bytes.chunks_exact_mut(self.data.sector_size as usize);
        for (at, sector) in (offset..)
            .step_by(self.data.sector_size as usize)
            .zip(sectors)
        {
            self.cipher.encrypt(self.iv(at), sector);
        }
    }

    /// The plain bytes of the sector that `offset` lies in.
    fn read_sector(&self, offset: u64) -> Result<Vec<u8>> {
        let start = offset / self.sector() * self.sector();
        let mut sector = vec![0; self.data.sector_size as usize];
        self.disk.read_at(self.data.offset + start, &mut sector)?;
        self.decrypt(start, &mut sector);
        Ok(sector)
    }
}

impl<D: BlockRead> BlockRead for Volume<D> {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> SectorSize {
        SectorSize::new(self.data.sector_size).unwrap_or_else(|| self.disk.sector_size())
    }

    fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        while !buf.is_empty() {
            let within = (offset % self.sector()) as usize;
            let whole = buf.len() / self.sector() as usize * self.sector() as usize;
            let len = match within == 0 && whole > 0 {
                true => {
                    let (sectors, _) = buf.split_at_mut(whole);
                    self.disk.read_at(self.data.offset + offset, sectors)?;
                    self.decrypt(offset, sectors);
                    whole
                }
                false => {
                    let sector = self.read_sector(offset)?;
                    let len = buf.len().min(sector.len() - within);
                    buf[..len].copy_from_slice(&sector[within..within + len]);
                    len
                }
            };
            offset += len as u64;
            buf = &mut std::mem::take(&mut buf)[len..];
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(self.size, offset, 1)?;
        Ok(Extent {
            kind: ExtentKind::Data,
            start: offset,
            len: self.size - offset,
        })
    }
}

impl<D: BlockWrite> BlockWrite for Volume<D> {
    fn write_at(&self, mut offset: u64, mut data: &[u8]) -> Result<()> {
        check_range(self.size, offset, data.len() as u64)?;
        while !data.is_empty() {
            let within = (offset % self.sector()) as usize;
            let sector = self.sector() as usize;
            let whole = data.len().min(PART) / sector * sector;
            let (mut bytes, len) = match within == 0 && whole > 0 {
                true => (data[..whole].to_vec(), whole),
                false => {
                    let mut around = self.read_sector(offset)?;
                    let len = data.len().min(sector - within);
                    around[within..within + len].copy_from_slice(&data[..len]);
                    (around, len)
                }
            };
            let start = offset - within as u64;
            self.encrypt(start, &mut bytes);
            self.disk.write_at(self.data.offset + start, &bytes)?;
            offset += len as u64;
            data = &data[len..];
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.disk.flush()
    }
}
