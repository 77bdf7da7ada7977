//! Where each partition goes, and how large it gets.

use std::ops::Range;

use super::length;
use super::request::{ArrangeError, DiskSize, Limits, Request};
use crate::layout::{Layout, TableKind};

/// Rounds of sharing out free space: each makes at least one partition reach its largest size.
const MOST_ROUNDS: usize = 300;

/// A partition that is kept, the extended one aside.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) number: u32,
    pub(super) old: Range<u64>,
    /// The size it is to have before free space is shared out.
    pub(super) size: u64,
    smallest: u64,
    largest: u64,
    weight: u32,
    pub(super) logical: bool,
    /// Where its extended boot record lies today.
    pub(super) record: Option<u64>,
}

impl Item {
    pub(super) fn at_smallest(&self) -> Self {
        let size = self.smallest.min(self.size);
        Self {
            size,
            ..self.clone()
        }
    }

    fn is_resized(&self) -> bool {
        self.size != length(&self.old)
    }
}

/// The extended partition.
#[derive(Debug, Clone)]
pub(super) struct Container {
    pub(super) old: Range<u64>,
    /// The logical partitions in the order of the chain, which is that of their numbers and need not
    /// be that of the disk.
    chain: Vec<u32>,
}

/// The frame partitions are placed in.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) align: u64,
    /// Partitions that are not aligned have to move.
    pub(super) realign: bool,
    pub(super) sector: u64,
    /// Nothing lies before this byte.
    pub(super) first: u64,
    /// Bytes at the end of the disk that belong to the table.
    pub(super) behind: u64,
    /// No partition ends behind this byte, whatever the disk.
    pub(super) limit: u64,
    pub(super) extended: Option<Container>,
}

/// A partition's new place.
#[derive(Debug, Clone)]
pub(super) struct Spot {
    pub(super) item: Item,
    pub(super) at: Range<u64>,
    /// Where its extended boot record goes, if it is a logical one.
    pub(super) record: Option<u64>,
}

/// Which partitions stay where they are, if they can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// Those before this one, and itself.
    UpTo(usize),
    /// All, and the unused end of the extended partition too; or none but a first one that nothing
    /// pushes.
    Whole(bool),
}

impl Keep {
    const ALL: Self = Self::Whole(true);
    const NONE: Self = Self::Whole(false);

    fn holds(self, index: usize) -> bool {
        match self {
            Self::UpTo(last) => index <= last,
            Self::Whole(all) => all,
        }
    }
}

/// All new places.
#[derive(Debug, Clone)]
pub(super) struct Placing {
    pub(super) size: u64,
    pub(super) spots: Vec<Spot>,
    pub(super) container: Option<Range<u64>>,
    end: u64,
}

/// The extended partition, unless it is left out.
pub(super) fn container(today: &Layout, request: &Request) -> Option<Container> {
    let to_gpt = request.table == Some(super::NewTable::Gpt);
    let extended = today
        .partitions
        .iter()
        .find(|p| p.is_extended() && !to_gpt)?;
    if request.wish(extended.number).leave_out {
        return None;
    }
    let ebrs = today.mbr.iter().flat_map(|mbr| &mbr.ebrs);
    Some(Container {
        old: extended.range.clone(),
        chain: ebrs.filter_map(|ebr| ebr.number).collect(),
    })
}

/// The partitions that are kept, in their order on the new disk.
pub(super) fn items(
    today: &Layout,
    size: u64,
    limits: &[Limits],
    request: &Request,
) -> Result<Vec<Item>, ArrangeError> {
    let whole = crate::Partition {
        number: super::WHOLE_DISK,
        range: 0..size,
        kind: crate::PartitionKind::Mbr(0),
        bootable: false,
        name: None,
        guid: None,
        attributes: crate::Attributes::default(),
        logical: false,
    };
    let partitions = match today.table {
        TableKind::None => std::slice::from_ref(&whole),
        _ => &today.partitions,
    };
    let keeps_logical = container(today, request).is_some() || request.table.is_some();
    let mut items = Vec::new();
    for partition in partitions.iter().filter(|p| !p.is_extended()) {
        let gone =
            request.wish(partition.number).leave_out || (partition.logical && !keeps_logical);
        if !gone {
            items.push(item(today, partition, limits, request)?);
        }
    }
    items.sort_by_key(|item| item.old.start);
    let place = |item: &Item| {
        request
            .order
            .iter()
            .position(|number| *number == item.number)
    };
    items.sort_by_key(|item| place(item).unwrap_or(usize::MAX));
    together(&items)?;
    Ok(items)
}

fn item(
    today: &Layout,
    partition: &crate::Partition,
    limits: &[Limits],
    request: &Request,
) -> Result<Item, ArrangeError> {
    let number = partition.number;
    let wish = request.wish(number);
    let now = length(&partition.range);
    let sector = request.sector_size.unwrap_or(today.sector_size).bytes();
    if !partition.range.start.is_multiple_of(sector) || !now.is_multiple_of(sector) {
        return Err(ArrangeError::Sector {
            number,
            at: partition.range.start,
            sector,
        });
    }
    let limit = limits.iter().find(|limit| limit.number == number);
    let (smallest, largest) = limit.map_or((now, now), |l| (l.smallest, l.largest));
    let round = |bytes: u64| bytes.checked_next_multiple_of(sector).unwrap_or(bytes);
    let (smallest, largest) = (round(smallest).min(now), largest.max(now));
    if let (Some(min), Some(max)) = (wish.min, wish.max)
        && min > max
    {
        return Err(ArrangeError::Bounds { number, min, max });
    }
    let size = wish.size.unwrap_or(now);
    let size = round(
        size.max(wish.min.unwrap_or(0))
            .min(wish.max.unwrap_or(u64::MAX)),
    );
    if size < smallest || size == 0 {
        return Err(ArrangeError::TooSmall {
            number,
            asked: size,
            smallest,
        });
    }
    if size > largest {
        return Err(ArrangeError::TooLarge {
            number,
            asked: size,
            largest,
        });
    }
    let ebrs = today.mbr.iter().flat_map(|mbr| &mbr.ebrs);
    let record = ebrs
        .filter(|ebr| ebr.number == Some(number))
        .find_map(|ebr| ebr.at.byte(today.sector_size));
    let logical = partition.logical && request.table != Some(super::NewTable::Gpt);
    Ok(Item {
        number,
        old: partition.range.clone(),
        size,
        smallest,
        largest: largest.min(wish.max.unwrap_or(u64::MAX)).max(size),
        weight: wish.weight,
        logical,
        record: record.filter(|_| logical),
    })
}

/// Logical partitions lie in one extended partition, so nothing may come between them.
fn together(items: &[Item]) -> Result<(), ArrangeError> {
    let first = items.iter().position(|item| item.logical);
    let last = items.iter().rposition(|item| item.logical);
    let (Some(first), Some(last)) = (first, last) else {
        return Ok(());
    };
    let between = items.get(first..=last).unwrap_or_default();
    match between.iter().find(|item| !item.logical) {
        Some(item) => Err(ArrangeError::Order {
            number: item.number,
        }),
        None => Ok(()),
    }
}

impl Plan {
    /// The size of the smallest disk that holds `items` as they are, in whole MiB. Closing the gaps
    /// mostly needs less; not where it would align what was not.
    pub(super) fn disk_for(&self, items: &[Item]) -> u64 {
        let ends = [Keep::NONE, Keep::ALL].map(|keep| self.run(items, keep).end);
        self.disk_of(ends[0].min(ends[1]))
    }

    fn disk_of(&self, end: u64) -> u64 {
        let whole = end.saturating_add(self.behind);
        whole.checked_next_multiple_of(1 << 20).unwrap_or(whole)
    }

    /// Place `items` on a disk as large as asked for, today's being `today`.
    pub(super) fn place(
        &self,
        items: Vec<Item>,
        asked: DiskSize,
        today: u64,
        smallest: u64,
    ) -> Result<Placing, ArrangeError> {
        let size = match asked {
            DiskSize::Same => today,
            DiskSize::Bytes(bytes) => bytes / self.sector * self.sector,
            DiskSize::Fit => self.disk_for(&items),
        };
        let usable = size.saturating_sub(self.behind).min(self.limit);
        let grows = items
            .iter()
            .position(|item| item.weight > 0 && item.largest > item.size);
        let in_order = items.is_sorted_by_key(|item| item.old.start);
        // Everything stays where it is, up to the first that grows, if that leaves room; otherwise
        // the gaps are closed.
        let keep = match grows {
            Some(index) if in_order => Keep::UpTo(index),
            Some(_) => Keep::NONE,
            None => Keep::ALL,
        };
        let keep = match self.run(&items, keep).end <= usable {
            true => keep,
            false => Keep::NONE,
        };
        let packed = self.run(&items, keep);
        if packed.end > usable {
            let needed = self.disk_for(&items);
            return Err(ArrangeError::DiskTooSmall {
                size,
                needed,
                smallest,
            });
        }
        let items = match grows {
            Some(_) => self.share_out(items, &packed, usable),
            None => items,
        };
        let placing = self.run(&items, keep);
        if placing.end > usable {
            // Cannot be: what was shared out is what was left.
            let needed = self.disk_for(&items);
            return Err(ArrangeError::DiskTooSmall {
                size,
                needed,
                smallest,
            });
        }
        Ok(Placing { size, ..placing })
    }

    /// Share what is left of `usable` out among the partitions that grow, by their weights.
    fn share_out(&self, mut items: Vec<Item>, packed: &Placing, usable: u64) -> Vec<Item> {
        let mut left = usable.saturating_sub(packed.end);
        let mut extra = vec![0_u64; items.len()];
        for _ in 0..MOST_ROUNDS {
            let room = |item: &Item, extra: u64| (item.largest - item.size).saturating_sub(extra);
            let open = |(item, extra): &(&Item, &u64)| item.weight > 0 && room(item, **extra) > 0;
            let weights: u64 = items
                .iter()
                .zip(&extra)
                .filter(open)
                .map(|(i, _)| u64::from(i.weight))
                .sum();
            if weights == 0 || left < weights {
                break;
            }
            let (share, mut given) = (left / weights, 0);
            for (item, extra) in items.iter().zip(&mut extra) {
                let more = share
                    .saturating_mul(u64::from(item.weight))
                    .min(room(item, *extra));
                if item.weight > 0 {
                    *extra += more;
                    given += more;
                }
            }
            left -= given;
            if given == 0 {
                break;
            }
        }
        // What grows ends aligned, so that what follows needs no gap. Only the first one that grows can
        // begin unaligned: whatever lies behind it is put at an aligned place.
        let mut start = None;
        for ((item, extra), spot) in items.iter_mut().zip(extra).zip(&packed.spots) {
            if extra == 0 {
                continue;
            }
            let from = *start.get_or_insert(spot.at.start % self.align);
            let end =
                from.saturating_add(item.size).saturating_add(extra) / self.align * self.align;
            item.size = item.size.max(end.saturating_sub(from));
            start = Some(0);
        }
        items
    }

    /// One after the other; those in `keep` stay where they are if they can.
    fn run(&self, items: &[Item], keep: Keep) -> Placing {
        let mut run = Run {
            plan: self,
            first_of_chain: self.first_of_chain(items),
            spots: Vec::with_capacity(items.len()),
            cursor: self.first,
            container: None,
        };
        for (index, item) in items.iter().enumerate() {
            let aligned = item.old.start.is_multiple_of(self.align);
            let at_first = index == 0 && item.old.start == self.first;
            let may_stay = (keep.holds(index) || at_first) && (aligned || !self.realign);
            run.add(item, may_stay);
            let last = items.get(index + 1).is_none_or(|next| !next.logical);
            if let (true, true, Some(range)) = (item.logical, last, &mut run.container) {
                range.end = self.container_end(items, keep, run.cursor, range.start);
                run.cursor = range.end;
            }
        }
        if keep == Keep::ALL {
            run.keep_empty_container();
        }
        Placing {
            size: 0,
            spots: run.spots,
            container: run.container,
            end: run.cursor,
        }
    }

    /// The logical partition whose record lies at the start of the extended one.
    fn first_of_chain(&self, items: &[Item]) -> Option<u32> {
        let chain = self.extended.as_ref()?.chain.iter().copied();
        let kept = |number: &u32| {
            items
                .iter()
                .any(|item| item.logical && item.number == *number)
        };
        chain.clone().find(kept)
    }

    /// The extended partition keeps its end while nothing in it changes and nothing needs the room.
    fn container_end(&self, items: &[Item], keep: Keep, cursor: u64, start: u64) -> u64 {
        let Some(extended) = &self.extended else {
            return cursor;
        };
        let whole = items.iter().all(|item| !item.logical || !item.is_resized());
        let stays = keep == Keep::ALL && whole && start == extended.old.start;
        if stays {
            cursor.max(extended.old.end)
        } else {
            cursor
        }
    }

    fn up(&self, byte: u64) -> u64 {
        byte.checked_next_multiple_of(self.align)
            .unwrap_or(u64::MAX)
    }
}

/// One placing, as far as it has come.
struct Run<'a> {
    plan: &'a Plan,
    first_of_chain: Option<u32>,
    spots: Vec<Spot>,
    /// Everything before this byte is taken.
    cursor: u64,
    container: Option<Range<u64>>,
}

impl Run<'_> {
    fn add(&mut self, item: &Item, may_stay: bool) {
        let record = match item.logical {
            true => self.add_record(item, may_stay),
            false => None,
        };
        let start = match may_stay && item.old.start >= self.cursor {
            true => item.old.start,
            false => self.plan.up(self.cursor),
        };
        self.cursor = start.saturating_add(item.size);
        self.spots.push(Spot {
            item: item.clone(),
            at: start..self.cursor,
            record,
        });
    }

    /// Open the extended partition in front of its first logical one, and make room for the record of
    /// `item`. The chain's first record takes the first sector, whoever lies behind it.
    fn add_record(&mut self, item: &Item, may_stay: bool) -> Option<u64> {
        let (plan, sector) = (self.plan, self.plan.sector);
        let leads = self.first_of_chain == Some(item.number);
        let opening = self.container.is_none();
        if let (true, Some(extended)) = (opening, &plan.extended) {
            let start = match may_stay && extended.old.start >= self.cursor {
                true => extended.old.start,
                false => plan.up(self.cursor),
            };
            self.container = Some(start..start);
            self.cursor = start.saturating_add(sector);
        }
        if leads {
            return self.container.as_ref().map(|range| range.start);
        }
        let today = item.record;
        let at = match today.filter(|at| may_stay && (self.cursor..item.old.start).contains(at)) {
            Some(today) => today,
            None if opening => self.cursor,
            None => plan.up(self.cursor),
        };
        self.cursor = at.saturating_add(sector);
        Some(at)
    }

    /// An extended partition that holds nothing stays if nothing has taken its place.
    fn keep_empty_container(&mut self) {
        if let (None, Some(extended)) = (&self.container, &self.plan.extended) {
            let clear = |spot: &Spot| {
                spot.at.end <= extended.old.start || spot.at.start >= extended.old.end
            };
            if self.spots.iter().all(clear) {
                self.container = Some(extended.old.clone());
                self.cursor = self.cursor.max(extended.old.end);
            }
        }
    }
}
