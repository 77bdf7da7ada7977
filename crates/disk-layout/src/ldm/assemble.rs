//! Disks to disk groups and volumes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use super::format::{Record, Records, SECTOR};
use super::reader::LdmDisk;
use crate::Severity;
use crate::volume::{
    DeviceIndex, Mapping, ParityLayout, Place, Segment, Source, VolumeFinding, VolumeMap,
};

/// The dynamic disks that know each other.
#[derive(Debug, Clone)]
pub struct LdmGroup {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Its volumes, those whose disks are missing among them.
    pub volumes: Vec<DynamicVolume>,
    /// What was noticed.
    pub findings: Vec<VolumeFinding>,
}

/// A volume of a disk group.
#[derive(Debug, Clone)]
pub struct DynamicVolume {
    /// Its name: `Volume1`.
    pub name: String,
    /// Its drive letter, if it has one.
    pub drive: Option<String>,
    /// How it is made.
    pub kind: VolumeKind,
    /// What an MBR partition of its kind would have for a type.
    pub partition_type: u8,
    /// Its size in bytes.
    pub size: u64,
    /// Where its bytes lie, or why they cannot be read.
    pub map: Result<Arc<VolumeMap>, String>,
}

/// How a volume is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum VolumeKind {
    Simple,
    Spanned,
    Striped,
    Mirrored,
    Raid5,
}

impl fmt::Display for VolumeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Simple => "simple",
            Self::Spanned => "spanned",
            Self::Striped => "striped",
            Self::Mirrored => "mirrored",
            Self::Raid5 => "RAID5",
        })
    }
}

/// Put the dynamic disks of a machine together. Each [`DeviceIndex`] in the answer counts in `disks`.
#[must_use]
pub fn assemble(disks: &[&LdmDisk]) -> Vec<LdmGroup> {
    let mut newest: BTreeMap<Uuid, &LdmDisk> = BTreeMap::new();
    for disk in disks {
        let known = newest.entry(disk.group).or_insert(disk);
        if disk.change > known.change {
            *known = disk;
        }
    }
    newest
        .into_values()
        .map(|newest| Builder { newest, disks }.build())
        .collect()
}

struct Builder<'a> {
    newest: &'a LdmDisk,
    disks: &'a [&'a LdmDisk],
}

/// A partition of a component.
struct Piece {
    volume_offset: u64,
    column: u64,
    len: u64,
    source: Source,
}

impl Builder<'_> {
    fn build(&self) -> LdmGroup {
        let mut group = LdmGroup {
            id: self.newest.group,
            name: self.newest.group_name.clone(),
            volumes: Vec::new(),
            findings: Vec::new(),
        };
        let subject = format!("dynamic disks {}", group.name);
        for disk in self.disks.iter().filter(|disk| disk.group == group.id) {
            if disk.change < self.newest.change {
                let text = format!(
                    "disk {} is stale: its database is at change {}, the newest at {}",
                    disk.id, disk.change, self.newest.change
                );
                let finding = VolumeFinding::new(Severity::Doubtful, &subject, text);
                group.findings.push(finding);
            }
        }
        let records: &Records = &self.newest.records;
        for record in records.values() {
            if let Record::Disk { name, id } = record
                && self.device(*id).is_none()
            {
                let text = format!("{name} ({id}) is missing");
                let finding = VolumeFinding::new(Severity::Warning, &subject, text);
                group.findings.push(finding);
            }
        }
        for (id, record) in records {
            if let Record::Volume {
                name,
                kind,
                sectors,
                partition_type,
                hint,
            } = record
            {
                let size = sectors.saturating_mul(SECTOR);
                let (kind, map) = self.map_of(*id, *kind, size);
                group.volumes.push(DynamicVolume {
                    name: name.clone(),
                    drive: hint.clone(),
                    kind,
                    partition_type: *partition_type,
                    size,
                    map: map.map(Arc::new),
                });
            }
        }
        group
    }

    fn device(&self, id: Uuid) -> Option<(DeviceIndex, &LdmDisk)> {
        let mut disks = self.disks.iter().enumerate();
        let found = disks.find(|(_, disk)| disk.id == id && disk.group == self.newest.group);
        found.map(|(index, disk)| (DeviceIndex(index), *disk))
    }

    fn map_of(&self, volume: u64, kind: u8, size: u64) -> (VolumeKind, Result<VolumeMap, String>) {
        const RAID5: u8 = 4;
        let mut mappings = Vec::new();
        let mut shape = if kind == RAID5 {
            VolumeKind::Raid5
        } else {
            VolumeKind::Simple
        };
        for (id, record) in &self.newest.records {
            let Record::Component {
                volume: of,
                kind,
                children,
                stripe,
            } = record
            else {
                continue;
            };
            if *of != volume {
                continue;
            }
            match self.component(*id, *kind, *children, stripe.saturating_mul(SECTOR), size) {
                Ok((made, map)) => {
                    shape = made;
                    mappings.push(map);
                }
                Err(why) => return (shape, Err(why)),
            }
        }
        let first = mappings.pop();
        match (first, mappings.is_empty()) {
            (None, _) => (shape, Err("it has no components".to_owned())),
            (Some(only), true) => (shape, Ok(only)),
            (Some(first), false) => {
                let legs = mappings
                    .into_iter()
                    .chain([first])
                    .map(|map| Source::Volume {
                        map: Arc::new(map),
                        offset: 0,
                    });
                let segment = Segment {
                    at: 0..size,
                    mapping: Mapping::Mirrored(legs.collect()),
                };
                let map = VolumeMap::new(vec![segment]).map_err(|error| error.to_string());
                (VolumeKind::Mirrored, map)
            }
        }
    }

    fn component(
        &self,
        id: u64,
        kind: u8,
        children: u64,
        chunk: u64,
        size: u64,
    ) -> Result<(VolumeKind, VolumeMap), String> {
        const STRIPED: u8 = 1;
        const SPANNED: u8 = 2;
        const RAID5: u8 = 3;
        let mut pieces = self.pieces(id)?;
        if pieces.len() as u64 != children {
            return Err(format!(
                "a component with {children} parts expected, {} found",
                pieces.len()
            ));
        }
        pieces.sort_by_key(|piece| (piece.column, piece.volume_offset));
        let legs = |pieces: Vec<Piece>| pieces.into_iter().map(|piece| piece.source).collect();
        let (made, mapping) = match kind {
            SPANNED => {
                pieces.sort_by_key(|piece| piece.volume_offset);
                let made = match pieces.len() {
                    1 => VolumeKind::Simple,
                    _ => VolumeKind::Spanned,
                };
                let segments = pieces.into_iter().map(|piece| Segment {
                    at: piece.volume_offset..piece.volume_offset.saturating_add(piece.len),
                    mapping: Mapping::Linear(piece.source),
                });
                let map = VolumeMap::new(segments.collect()).map_err(|error| error.to_string())?;
                if map.size() != size {
                    return Err(format!(
                        "expected parts of {size} bytes, found {}",
                        map.size()
                    ));
                }
                return Ok((made, map));
            }
            STRIPED | RAID5 => {
                let parities = u64::from(kind == RAID5);
                let share = pieces.iter().map(|piece| piece.len).min().unwrap_or(0);
                let room = share.saturating_mul((pieces.len() as u64).saturating_sub(parities));
                if room < size {
                    return Err(format!("expected parts of {size} bytes, found {room}"));
                }
                if kind == STRIPED {
                    let (first, legs) = (0, legs(pieces));
                    (VolumeKind::Striped, Mapping::Striped { chunk, first, legs })
                } else {
                    let mapping = Mapping::Parity {
                        chunk,
                        parities: 1,
                        layout: ParityLayout::LeftSymmetric,
                        last_is_second: false,
                        legs: legs(pieces),
                    };
                    (VolumeKind::Raid5, mapping)
                }
            }
            other => return Err(format!("components of kind {other} are not supported")),
        };
        let segment = Segment {
            at: 0..size,
            mapping,
        };
        let map = VolumeMap::new(vec![segment]).map_err(|error| error.to_string())?;
        Ok((made, map))
    }

    /// The partitions of a component, each checked to lie on its disk.
    fn pieces(&self, of: u64) -> Result<Vec<Piece>, String> {
        let mut pieces = Vec::new();
        for record in self.newest.records.values() {
            let Record::Partition {
                component,
                disk,
                start,
                volume_offset,
                sectors,
                column,
            } = record
            else {
                continue;
            };
            if *component != of {
                continue;
            }
            let Some(Record::Disk { name, id }) = self.newest.records.get(disk) else {
                return Err(format!(
                    "a part lies on disk number {disk}, which is not known"
                ));
            };
            let len = sectors.saturating_mul(SECTOR);
            let source = match self.device(*id) {
                None => Source::Lost(format!("{name} ({id})").into()),
                Some((device, disk)) => {
                    // Counted from the start of the disk's data.
                    let offset = start.saturating_mul(SECTOR).saturating_add(disk.data.start);
                    if offset.saturating_add(len) > disk.data.end {
                        return Err(format!("a part reaches past the end of {name}"));
                    }
                    Source::Device(Place { device, offset })
                }
            };
            pieces.push(Piece {
                volume_offset: volume_offset.saturating_mul(SECTOR),
                column: *column,
                len,
                source,
            });
        }
        Ok(pieces)
    }
}
