//! What the metadata text says: a volume group, its physical volumes, its logical volumes.
// vgcfgbackup's format; LVM2 lib/format_text/import_vsn1.c and the segment types' import functions.

use super::format::LvmId;
use super::text::{Section, Value};

/// Why a text describes no volume group.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MetadataError {
    /// Something that must be there is not.
    #[error("{path}: expected {expected}, found nothing of that kind")]
    Missing {
        /// Where in the text, by names.
        path: String,
        /// What should be there.
        expected: &'static str,
    },
    /// A number out of the range that makes sense.
    #[error("{path}: expected {least} to {most}, found {found}")]
    Range {
        /// Where in the text, by names.
        path: String,
        /// The least that makes sense.
        least: i64,
        /// The most.
        most: i64,
        /// What is there.
        found: i64,
    },
    /// An id that is none.
    #[error("{path}: expected an id of 32 letters and digits, found {found:?}")]
    Id {
        /// Where in the text, by names.
        path: String,
        /// What is there.
        found: String,
    },
    /// Not the one volume group a text describes.
    #[error("expected one volume group, found {found}")]
    Groups {
        /// How many there are.
        found: usize,
    },
}

type Result<T> = std::result::Result<T, MetadataError>;

/// A volume group as the text has it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct GroupText {
    pub(super) name: String,
    pub(super) id: LvmId,
    pub(super) seqno: u64,
    /// Bytes of an extent.
    pub(super) extent: u64,
    pub(super) members: Vec<MemberText>,
    pub(super) volumes: Vec<VolumeText>,
}

/// A physical volume as its group has it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct MemberText {
    /// What segments call it.
    pub(super) name: String,
    pub(super) id: LvmId,
    /// Where it was when last seen.
    pub(super) device: Option<String>,
    /// Told to be missing by the group itself.
    pub(super) missing: bool,
    /// Where the first extent begins, in bytes.
    pub(super) start: u64,
    /// How many extents it has.
    pub(super) extents: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct VolumeText {
    pub(super) name: String,
    pub(super) id: Option<LvmId>,
    pub(super) visible: bool,
    pub(super) segments: Vec<SegmentText>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct SegmentText {
    /// First extent and how many.
    pub(super) start: u64,
    pub(super) extents: u64,
    pub(super) kind: SegmentKind,
}

/// A leg: the name of a physical or logical volume, and the extent of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Leg {
    pub(super) of: String,
    pub(super) extent: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum SegmentKind {
    /// Linear with one leg.
    Striped {
        chunk: u64,
        legs: Vec<Leg>,
    },
    /// The old mirror, with the log's volume.
    Mirror {
        legs: Vec<Leg>,
    },
    /// raid1, raid4, raid5_*, raid6_*, raid10*: pairs of metadata and data volumes.
    Raid {
        level: String,
        chunk: u64,
        pairs: Vec<(Option<String>, String)>,
    },
    Zero,
    /// Named, and not read. The names of the logical volumes it speaks of come with it.
    Other {
        kind: String,
        names: Vec<String>,
    },
}

/// Sizes in the text are sectors of 512 bytes, whatever the device has.
const SECTOR: u64 = 512;
/// Extents are 1 KiB to 2 TiB; more than that no version makes. // vgcreate(8)
const MOST_EXTENT: i64 = 1 << 32;
/// Sectors or extents of anything: so that bytes fit 63 bits.
const MOST_SECTORS: i64 = 1 << 53;

/// What the text says. It is checked in itself, not against any device.
pub(super) fn read_group(text: &Section) -> Result<GroupText> {
    if text.sections.len() != 1 {
        return Err(MetadataError::Groups {
            found: text.sections.len(),
        });
    }
    let Some((name, section)) = text.sections.iter().next() else {
        return Err(MetadataError::Groups { found: 0 });
    };
    let group = Fields {
        path: name.clone(),
        section,
    };
    let mut members = Vec::new();
    for member in group.children("physical_volumes") {
        members.push(read_member(&member)?);
    }
    let mut volumes = Vec::new();
    for volume in group.children("logical_volumes") {
        volumes.push(read_volume(&volume)?);
    }
    Ok(GroupText {
        name: name.clone(),
        id: group.id("id")?,
        seqno: group.number("seqno", 0, i64::MAX)?,
        extent: group.number("extent_size", 1, MOST_EXTENT)? * SECTOR,
        members,
        volumes,
    })
}

fn read_member(member: &Fields) -> Result<MemberText> {
    Ok(MemberText {
        name: member.name(),
        id: member.id("id")?,
        device: member.text("device"),
        missing: member.has_flag("MISSING"),
        start: member.number("pe_start", 0, MOST_SECTORS)? * SECTOR,
        extents: member.number("pe_count", 0, MOST_SECTORS)?,
    })
}

fn read_volume(volume: &Fields) -> Result<VolumeText> {
    let mut segments = Vec::new();
    for (name, section) in &volume.section.sections {
        if name.starts_with("segment") {
            let fields = Fields {
                path: format!("{}/{name}", volume.path),
                section,
            };
            segments.push(read_segment(&fields)?);
        }
    }
    segments.sort_by_key(|segment: &SegmentText| segment.start);
    Ok(VolumeText {
        name: volume.name(),
        id: volume.id("id").ok(),
        visible: volume.has_flag("VISIBLE"),
        segments,
    })
}

fn read_segment(segment: &Fields) -> Result<SegmentText> {
    let kind = segment.text("type").ok_or(MetadataError::Missing {
        path: format!("{}/type", segment.path),
        expected: "a string",
    })?;
    // Flags may follow the type: "striped+FLAG". What they mean is not known, so it is another type.
    let kind = match kind.as_str() {
        "striped" | "linear" => SegmentKind::Striped {
            chunk: segment.chunk("stripe_size")?,
            legs: segment.legs("stripes")?,
        },
        // A mirror that is being converted has further fields; its legs are mirrors again then.
        "mirror" => SegmentKind::Mirror {
            legs: segment.legs("mirrors")?,
        },
        level if level.starts_with("raid") && !segment.is_reshaped() => SegmentKind::Raid {
            level: level.to_owned(),
            chunk: segment.chunk("stripe_size")?,
            pairs: segment.pairs()?,
        },
        "zero" => SegmentKind::Zero,
        other => SegmentKind::Other {
            kind: other.to_owned(),
            names: segment.names(),
        },
    };
    Ok(SegmentText {
        start: segment.number("start_extent", 0, MOST_SECTORS)?,
        extents: segment.number("extent_count", 1, MOST_SECTORS)?,
        kind,
    })
}

/// A section, and the names that lead to it.
struct Fields<'a> {
    path: String,
    section: &'a Section,
}

impl<'a> Fields<'a> {
    fn name(&self) -> String {
        self.path.rsplit('/').next().unwrap_or_default().to_owned()
    }

    fn at(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    /// The sections in section `name`; none where that is missing, as in a group without volumes.
    fn children(&self, name: &str) -> Vec<Fields<'a>> {
        let Some(parent) = self.section.sections.get(name) else {
            return Vec::new();
        };
        let child = |(child, section): (&String, &'a Section)| Fields {
            path: format!("{}/{name}/{child}", self.path),
            section,
        };
        parent.sections.iter().map(child).collect()
    }

    fn number(&self, name: &str, least: i64, most: i64) -> Result<u64> {
        match self.section.values.get(name) {
            Some(Value::Number(found)) if (least..=most).contains(found) => {
                Ok(found.unsigned_abs())
            }
            Some(Value::Number(found)) => Err(MetadataError::Range {
                path: self.at(name),
                least,
                most,
                found: *found,
            }),
            _ => Err(MetadataError::Missing {
                path: self.at(name),
                expected: "a number",
            }),
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        match self.section.values.get(name) {
            Some(Value::Text(text)) => Some(text.clone()),
            _ => None,
        }
    }

    fn id(&self, name: &str) -> Result<LvmId> {
        let found = self.text(name).unwrap_or_default();
        LvmId::parse(found.as_bytes()).ok_or_else(|| MetadataError::Id {
            path: self.at(name),
            found,
        })
    }

    fn list(&self, name: &str) -> Result<&'a [Value]> {
        match self.section.values.get(name) {
            Some(Value::List(list)) => Ok(list),
            _ => Err(MetadataError::Missing {
                path: self.at(name),
                expected: "a list",
            }),
        }
    }

    fn has_flag(&self, flag: &str) -> bool {
        let lists = ["status", "flags"].map(|name| self.list(name).unwrap_or_default());
        let wanted = Value::Text(flag.to_owned());
        lists.iter().any(|list| list.contains(&wanted))
    }

    /// Bytes of a chunk; 0 where there is none, as on one leg.
    fn chunk(&self, name: &str) -> Result<u64> {
        match self.section.values.get(name) {
            None => Ok(0),
            Some(_) => Ok(self.number(name, 0, MOST_EXTENT)? * SECTOR),
        }
    }

    /// Name and extent in turn.
    fn legs(&self, name: &str) -> Result<Vec<Leg>> {
        let missing = || MetadataError::Missing {
            path: self.at(name),
            expected: "names and extents in turn",
        };
        let list = self.list(name)?;
        let mut legs = Vec::new();
        for pair in list.chunks(2) {
            let [Value::Text(of), Value::Number(extent)] = pair else {
                return Err(missing());
            };
            if !(0..=MOST_SECTORS).contains(extent) {
                return Err(missing());
            }
            legs.push(Leg {
                of: of.clone(),
                extent: extent.unsigned_abs(),
            });
        }
        if legs.is_empty() {
            return Err(missing());
        }
        Ok(legs)
    }

    /// Names of metadata and data volumes in turn; data volumes only for raid0.
    fn pairs(&self) -> Result<Vec<(Option<String>, String)>> {
        let missing = || MetadataError::Missing {
            path: self.at("raids"),
            expected: "names of metadata and data volumes in turn",
        };
        let name = |value: &Value| match value {
            Value::Text(name) => Ok(name.clone()),
            _ => Err(missing()),
        };
        let mut pairs = Vec::new();
        if let Ok(list) = self.list("raid0_lvs") {
            for value in list {
                pairs.push((None, name(value)?));
            }
        } else {
            for pair in self.list("raids")?.chunks(2) {
                let [meta, data] = pair else {
                    return Err(missing());
                };
                pairs.push((Some(name(meta)?), name(data)?));
            }
        }
        if pairs.is_empty() {
            return Err(missing());
        }
        Ok(pairs)
    }

    /// Whether a RAID is being turned into another, or has room for that in front of its data.
    fn is_reshaped(&self) -> bool {
        ["reshape_count", "data_offset", "delta_disks"]
            .iter()
            .any(|name| self.section.values.contains_key(*name))
    }

    /// Every string of the section: names of other volumes among them.
    fn names(&self) -> Vec<String> {
        let text = |value: &Value| match value {
            Value::Text(text) => vec![text.clone()],
            Value::List(list) => list
                .iter()
                .filter_map(|value| match value {
                    Value::Text(text) => Some(text.clone()),
                    _ => None,
                })
                .collect(),
            Value::Number(_) => Vec::new(),
        };
        let values = self.section.values.iter();
        values
            .filter(|(name, _)| *name != "type")
            .flat_map(|(_, value)| text(value))
            .collect()
    }
}
