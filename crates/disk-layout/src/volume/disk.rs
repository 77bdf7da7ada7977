//! A volume as a disk, over the devices its map names.

use std::sync::Arc;

use block_io::{
    BlockError, BlockErrorKind, BlockRead, BlockWrite, Extent, ExtentKind, Result, SectorSize,
    check_range,
};

use super::locate::Whereabouts;
use super::{DeviceIndex, Place, VolumeMap};

/// Bytes made by exclusive or at a time.
const XOR_STEP: usize = 64 << 10;

/// A volume over devices: those the map's [`DeviceIndex`]es count.
#[derive(Debug, Clone)]
pub struct VolumeDisk<D> {
    map: Arc<VolumeMap>,
    devices: Vec<D>,
    sector_size: SectorSize,
    name: Arc<str>,
}

impl<D: BlockRead> VolumeDisk<D> {
    /// `map` over `devices`; `name` is for errors. The sector size is the largest of theirs.
    #[must_use]
    pub fn new(map: Arc<VolumeMap>, devices: Vec<D>, name: &str) -> Self {
        let sector_size = devices
            .iter()
            .map(BlockRead::sector_size)
            .max()
            .unwrap_or(SectorSize::B512);
        Self {
            map,
            devices,
            sector_size,
            name: name.into(),
        }
    }

    /// Where its bytes lie.
    #[must_use]
    pub fn map(&self) -> &Arc<VolumeMap> {
        &self.map
    }

    fn device(&self, index: DeviceIndex, offset: u64) -> Result<&D> {
        self.devices.get(index.0).ok_or_else(|| {
            self.error(BlockErrorKind::Corrupt, offset, 0)
                .detail("its map names a device that was not given")
        })
    }

    fn error(&self, kind: BlockErrorKind, offset: u64, len: u64) -> BlockError {
        BlockError::new(kind, offset, len).on(&*self.name)
    }

    fn lost(&self, who: &str, offset: u64, len: u64) -> BlockError {
        self.error(BlockErrorKind::Vanished, offset, len)
            .detail(format!("it lies on {who}, which is not there"))
    }

    fn read_place(&self, place: Place, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.device(place.device, offset)?
            .read_at(place.offset, buf)
            .map_err(|error| error.on(&*self.name))
    }

    fn read_xor(&self, places: &[Place], offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut other = vec![0; XOR_STEP.min(buf.len())];
        for (step, part) in buf.chunks_mut(XOR_STEP).enumerate() {
            let on = (step * XOR_STEP) as u64;
            part.fill(0);
            for place in places {
                let other = other.get_mut(..part.len()).unwrap_or_default();
                let place = Place {
                    device: place.device,
                    offset: place.offset.saturating_add(on),
                };
                self.read_place(place, offset + on, other)?;
                part.iter_mut()
                    .zip(other)
                    .for_each(|(to, from)| *to ^= *from);
            }
        }
        Ok(())
    }
}

impl<D: BlockRead> BlockRead for VolumeDisk<D> {
    fn size(&self) -> u64 {
        self.map.size()
    }

    fn sector_size(&self) -> SectorSize {
        self.sector_size
    }

    fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buf.len() as u64)?;
        while !buf.is_empty() {
            let Some(located) = self.map.locate(offset) else {
                return Err(BlockError::out_of_bounds(self.size(), offset, 1));
            };
            let len = located.len.min(buf.len() as u64) as usize;
            let (head, tail) = std::mem::take(&mut buf).split_at_mut(len);
            match &located.at {
                Whereabouts::Zero => head.fill(0),
                Whereabouts::One(place) | Whereabouts::Guarded(place) => {
                    self.read_place(*place, offset, head)?;
                }
                Whereabouts::Copies(places) => match places.first() {
                    Some(place) => self.read_place(*place, offset, head)?,
                    None => return Err(self.lost("no device", offset, len as u64)),
                },
                Whereabouts::Xor(places) => self.read_xor(places, offset, head)?,
                Whereabouts::Lost(who) => return Err(self.lost(who, offset, len as u64)),
            }
            offset += len as u64;
            buf = tail;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(self.size(), offset, 1)?;
        let Some(located) = self.map.locate(offset) else {
            return Err(BlockError::out_of_bounds(self.size(), offset, 1));
        };
        let mut extent = Extent {
            kind: ExtentKind::Unknown,
            start: offset,
            len: located.len.min(self.size() - offset),
        };
        let place = match &located.at {
            Whereabouts::Zero => {
                extent.kind = ExtentKind::Zero;
                return Ok(extent);
            }
            Whereabouts::One(place) | Whereabouts::Guarded(place) => *place,
            Whereabouts::Copies(places) => match places.first() {
                Some(place) => *place,
                None => return Ok(extent),
            },
            Whereabouts::Xor(_) | Whereabouts::Lost(_) => return Ok(extent),
        };
        let below = self.device(place.device, offset)?.extent_at(place.offset)?;
        extent.kind = below.kind;
        extent.len = extent.len.min(below.len);
        Ok(extent)
    }
}

/// Every copy is written. What has parity, lies nowhere or is missing is refused before any byte of the
/// call is written, so that a write is never half done for such a reason.
impl<D: BlockWrite> BlockWrite for VolumeDisk<D> {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        check_range(self.size(), offset, data.len() as u64)?;
        let mut todo: Vec<(Place, &[u8])> = Vec::new();
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let Some(located) = self.map.locate(at) else {
                return Err(BlockError::out_of_bounds(self.size(), at, 1));
            };
            let len = located.len.min(rest.len() as u64) as usize;
            let (head, tail) = rest.split_at(len);
            let refused = |why: &str| {
                self.error(BlockErrorKind::Io, at, len as u64)
                    .detail(why.to_owned())
            };
            match located.at {
                Whereabouts::One(place) => todo.push((place, head)),
                Whereabouts::Copies(places) => {
                    todo.extend(places.into_iter().map(|place| (place, head)));
                }
                Whereabouts::Guarded(_) | Whereabouts::Xor(_) => {
                    return Err(refused("volumes with parity are read only"));
                }
                Whereabouts::Zero => {
                    return Err(refused("nothing is allocated there, and nothing will be"));
                }
                Whereabouts::Lost(who) => return Err(self.lost(&who, at, len as u64)),
            }
            at += len as u64;
            rest = tail;
        }
        for (place, part) in todo {
            self.device(place.device, offset)?
                .write_at(place.offset, part)
                .map_err(|error| error.on(&*self.name))?;
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.devices.iter().try_for_each(BlockWrite::flush)
    }
}
