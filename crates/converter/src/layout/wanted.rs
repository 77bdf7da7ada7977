//! What the user wants, from flags and file, for one disk at a time.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use disk_layout::TableKind;
use disk_layout::arrange::{DiskSize, NewTable, Request, WHOLE_DISK, Wish};
use serde::Deserialize;

use super::args::{LayoutArgs, TableArg};
use super::names::{Bytes, DiskSizeOf, Grow, Of, Part, Shrink, Size, Weight};
use super::plan::Contents;
use crate::convert::guest::OpenDisk;
use crate::inspect::Inspection;

/// A layout file is small.
const LONGEST: u64 = 1 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    disk: Vec<DiskEntry>,
    #[serde(default)]
    partition: Vec<PartitionEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct DiskEntry {
    disk: Option<usize>,
    size: Option<String>,
    align: Option<String>,
    table: Option<TableArg>,
    #[serde(default)]
    order: Vec<Name>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct PartitionEntry {
    part: Name,
    min: Option<String>,
    max: Option<String>,
    weight: Option<u32>,
    #[serde(default)]
    grow: bool,
    shrink: Option<String>,
    #[serde(default)]
    leave_out: bool,
}

/// A partition by number or by name.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Name {
    Number(u32),
    Text(String),
}

impl Name {
    fn part(&self) -> anyhow::Result<Part> {
        let part = match self {
            Self::Number(number) => Ok(Part::Numbered {
                disk: 0,
                number: *number,
            }),
            Self::Text(text) => text.parse(),
        };
        part.map_err(anyhow::Error::msg)
    }
}

/// The flags, with what the layout file says behind them: what comes first wins.
///
/// # Errors
/// When the file cannot be read or says what makes no sense.
pub fn with_file(args: &LayoutArgs) -> anyhow::Result<LayoutArgs> {
    let mut all = args.clone();
    if let Some(path) = &args.layout {
        let doing = || format!("reading the layout file {}", path.display());
        add_file(path, &mut all).with_context(doing)?;
    }
    Ok(all)
}

fn add_file(path: &Path, all: &mut LayoutArgs) -> anyhow::Result<()> {
    let size = path.metadata()?.len();
    ensure!(
        size <= LONGEST,
        "expected at most {LONGEST} bytes, found {size}"
    );
    let file: File = toml::from_str(&std::fs::read_to_string(path)?)?;
    for entry in file.disk {
        let disk = entry
            .disk
            .unwrap_or(1)
            .checked_sub(1)
            .context("disks are counted from 1")?;
        if let Some(size) = entry.size {
            let size = size.parse().map_err(anyhow::Error::msg)?;
            all.disk_size.push(DiskSizeOf { disk, size });
        }
        if let Some(align) = entry.align {
            let align: Bytes = align.parse().map_err(anyhow::Error::msg)?;
            all.align.get_or_insert(align);
        }
        all.table = all.table.or(entry.table);
        if all.order.is_empty() {
            all.order = entry
                .order
                .iter()
                .map(Name::part)
                .collect::<anyhow::Result<_>>()?;
        }
    }
    for entry in file.partition {
        let part = entry.part.part()?;
        let size = |text: String| text.parse::<Bytes>().map_err(anyhow::Error::msg);
        if let Some(value) = entry.min.map(size).transpose()? {
            all.min.push(Of {
                part: part.clone(),
                value,
            });
        }
        if let Some(value) = entry.max.map(size).transpose()? {
            all.max.push(Of {
                part: part.clone(),
                value,
            });
        }
        if let Some(weight) = entry.weight {
            all.weight.push(Of {
                part: part.clone(),
                value: Weight(weight),
            });
        }
        if let Some(shrink) = entry.shrink {
            let value = shrink.parse::<Shrink>().map_err(anyhow::Error::msg)?;
            all.shrink.push(Of {
                part: part.clone(),
                value,
            });
        }
        if entry.leave_out {
            all.leave_out.push(part.clone());
        }
        if entry.grow {
            all.grow.push(Grow::Part(part));
        }
    }
    Ok(())
}

/// Whether anything is wanted.
#[must_use]
pub fn is_empty(all: &LayoutArgs) -> bool {
    all.disk_size.is_empty()
        && all.grow.is_empty()
        && all.shrink.is_empty()
        && all.leave_out.is_empty()
        && all.order.is_empty()
        && all.align.is_none()
        && all.table.is_none()
        && all.min.is_empty()
        && all.max.is_empty()
        && all.weight.is_empty()
}

/// Knows which partition is meant.
pub struct Names<'a> {
    disks: &'a [OpenDisk],
    seen: &'a Inspection,
}

impl<'a> Names<'a> {
    /// Names of what is on these disks.
    pub fn new(disks: &'a [OpenDisk], seen: &'a Inspection) -> Self {
        Self { disks, seen }
    }

    /// Disk, from 0, and number of a partition.
    ///
    /// # Errors
    /// When there is none such; the text says which there are.
    fn find(&self, part: &Part) -> anyhow::Result<(usize, u32)> {
        match part {
            Part::Numbered { disk, number } => {
                let layout = &self.disk(*disk)?.survey.layout;
                let whole = layout.table == TableKind::None && *number <= 1;
                if whole {
                    return Ok((*disk, WHOLE_DISK));
                }
                let known = || {
                    let numbers = layout.partitions.iter().map(|p| p.number.to_string());
                    numbers.collect::<Vec<_>>().join(", ")
                };
                ensure!(
                    layout.partition(*number).is_some(),
                    "there is no partition {number} on disk {}; there are {}",
                    disk + 1,
                    known()
                );
                Ok((*disk, *number))
            }
            Part::Mounted(at) => self.mounted(at),
        }
    }

    fn mounted(&self, at: &str) -> anyhow::Result<(usize, u32)> {
        for (disk, described) in self.seen.disks.iter().enumerate() {
            let here = |v: &&crate::inspect::Volume| v.mount_points.iter().any(|point| point == at);
            if let Some(volume) = described.volumes.iter().find(here) {
                return Ok((disk, volume.partition.unwrap_or(WHOLE_DISK)));
            }
        }
        bail!(
            "nothing that is a partition of its own is mounted at {at}; p2v inspect shows what is"
        )
    }

    fn disk(&self, disk: usize) -> anyhow::Result<&OpenDisk> {
        let count = self.disks.len();
        let found = self.disks.get(disk);
        found.with_context(|| format!("there is no disk {}; the machine has {count}", disk + 1))
    }
}

/// What is wanted of disk number `disk`, whose partitions hold `contents`.
///
/// # Errors
/// When partitions or disks are named that do not exist, or that cannot be what is asked.
pub fn request(
    all: &LayoutArgs,
    names: &Names<'_>,
    disk: usize,
    contents: &[Contents],
) -> anyhow::Result<Request> {
    for size in &all.disk_size {
        names.disk(size.disk)?;
    }
    let open = names.disk(disk)?;
    let size_today = block_io::BlockRead::size(&open.disk);
    let sizes = all.disk_size.iter().find(|size| size.disk == disk);
    let mut request = Request {
        disk_size: match sizes.map(|size| size.size) {
            None => DiskSize::Same,
            Some(Size::Fit) => DiskSize::Fit,
            Some(Size::To(bytes)) => DiskSize::Bytes(bytes),
            Some(Size::More(bytes)) => DiskSize::Bytes(size_today.saturating_add(bytes)),
        },
        align: all.align.map(|align| align.0),
        table: match (all.table, open.survey.layout.table) {
            (None, _) | (Some(TableArg::Gpt), TableKind::Gpt) => None,
            // Disks without a table are left without one: their file system fills them.
            (Some(_), TableKind::None) => None,
            (Some(TableArg::Mbr), TableKind::Mbr) => None,
            (Some(TableArg::Mbr), _) => Some(NewTable::Mbr),
            (Some(TableArg::Gpt), _) => Some(NewTable::Gpt),
        },
        ..Request::default()
    };
    for part in &all.order {
        let (on, number) = names.find(part)?;
        if on == disk {
            request.order.push(number);
        }
    }
    let mut wishes = Wishes {
        names,
        disk,
        contents,
        list: Vec::new(),
    };
    wishes.add_all(all)?;
    request.wishes = wishes.list;
    Ok(request)
}

struct Wishes<'a> {
    names: &'a Names<'a>,
    disk: usize,
    contents: &'a [Contents],
    list: Vec<Wish>,
}

impl Wishes<'_> {
    fn add_all(&mut self, all: &LayoutArgs) -> anyhow::Result<()> {
        for part in &all.leave_out {
            self.with(part, |wish, _| wish.leave_out = true)?;
        }
        // What was said first wins: flags stand before the file.
        for of in all.shrink.iter().rev() {
            self.with(&of.part, |wish, held| {
                let smallest = held.map_or(0, |held| held.smallest);
                let used = held.map_or(0, |held| held.used);
                wish.size = Some(match of.value {
                    Shrink::To(bytes) => bytes,
                    Shrink::Smallest => smallest,
                    Shrink::UsedAnd(margin) => used.saturating_add(margin).max(smallest),
                });
            })?;
        }
        for of in all.min.iter().rev() {
            self.with(&of.part, |wish, _| wish.min = Some(of.value.0))?;
        }
        for of in all.max.iter().rev() {
            self.with(&of.part, |wish, _| wish.max = Some(of.value.0))?;
        }
        for grow in &all.grow {
            self.add_grow(grow)?;
        }
        for of in all.weight.iter().rev() {
            self.with(&of.part, |wish, _| wish.weight = of.value.0)?;
        }
        Ok(())
    }

    fn add_grow(&mut self, grow: &Grow) -> anyhow::Result<()> {
        let chosen: Vec<u32> = match grow {
            Grow::Part(part) => return self.grow_part(part),
            Grow::Largest { disk } | Grow::All { disk } if *disk != self.disk => {
                self.names.disk(*disk)?;
                return Ok(());
            }
            Grow::Largest { .. } => {
                let growable = self.contents.iter().filter(|held| held.is_growable());
                let largest = growable.max_by_key(|held| held.size());
                vec![
                    largest
                        .context("no partition holds a file system that can grow")?
                        .number,
                ]
            }
            Grow::All { .. } => {
                let growable = self.contents.iter().filter(|held| held.is_growable());
                growable.map(|held| held.number).collect()
            }
        };
        for number in chosen {
            let wish = self.wish(number);
            wish.weight = wish.weight.max(1);
        }
        Ok(())
    }

    fn grow_part(&mut self, part: &Part) -> anyhow::Result<()> {
        let mut cannot = None;
        self.with(part, |wish, held| {
            cannot = held
                .filter(|held| held.largest <= held.size())
                .map(|held| held.fixed.clone());
            wish.weight = wish.weight.max(1);
        })?;
        if let Some(why) = cannot {
            let why = why.unwrap_or_else(|| "its file system has its largest size".to_owned());
            bail!("partition {part} cannot grow: {why}");
        }
        Ok(())
    }

    fn with(
        &mut self,
        part: &Part,
        say: impl FnOnce(&mut Wish, Option<&Contents>),
    ) -> anyhow::Result<()> {
        let (disk, number) = self.names.find(part)?;
        if disk == self.disk {
            let held = self.contents.iter().find(|held| held.number == number);
            say(self.wish(number), held);
        }
        Ok(())
    }

    fn wish(&mut self, number: u32) -> &mut Wish {
        let at = match self.list.iter().position(|wish| wish.number == number) {
            Some(at) => at,
            None => {
                self.list.push(Wish {
                    number,
                    ..Wish::default()
                });
                self.list.len() - 1
            }
        };
        &mut self.list[at]
    }
}
