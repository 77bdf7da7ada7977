//! Records and files of NTFS by their numbers.

use block_io::BlockRead;

use super::format::{
    ATTRIBUTE_LIST, Attribute, Boot, DATA, MFT, Record, Run, VOLUME, VOLUME_INFORMATION,
    list_entries,
};
use crate::bytes::le16;
use crate::fault::{Fault, Result};

/// Largest attribute list: NTFS limits it to 256 KiB.
const MOST_LIST: u64 = 256 << 10;

/// Where a file's bytes lie.
#[derive(Debug, Clone)]
pub(crate) enum Stream {
    /// In its record.
    Resident(Vec<u8>),
    /// In clusters.
    Runs {
        runs: Vec<Run>,
        /// Length, and how much of it was ever written; what is behind reads as zeroes.
        size: u64,
        valid: u64,
    },
}

pub(crate) struct Volume<D> {
    pub(crate) disk: D,
    pub(crate) boot: Boot,
    /// The runs of the MFT.
    pub(crate) mft: Vec<Run>,
    /// How many bytes of the MFT there are.
    pub(crate) mft_size: u64,
}

impl<D: BlockRead> Volume<D> {
    pub(crate) fn open(disk: D) -> Result<Self> {
        let mut raw = [0; 512];
        disk.read_at(0, &mut raw)?;
        let boot = Boot::parse(&raw, disk.size())?;
        // Enough of the MFT for its own first record; the rest is learnt from that.
        let count = (boot.record as u64).div_ceil(boot.cluster);
        let start = Run {
            vcn: 0,
            lcn: Some(boot.mft),
            count,
        };
        let mut volume = Self {
            disk,
            boot,
            mft: vec![start],
            mft_size: 0,
        };
        volume.learn_mft()?;
        Ok(volume)
    }

    /// The runs of the MFT, from its record and, where they do not fit there, from further ones, each of
    /// which lies in what was learnt before.
    fn learn_mft(&mut self) -> Result<()> {
        let record = self.record(MFT)?;
        let Some(first) = record.attribute(DATA, "", 0) else {
            return Err(Fault::Damage("record 0: the MFT has no data".to_owned()));
        };
        let mut runs = Vec::new();
        first.add_runs(&mut runs, self.boot.clusters)?;
        if runs.first().and_then(|run| run.lcn) != Some(self.boot.mft) {
            return Err(Fault::Damage(format!(
                "record 0: the MFT: expected to begin at cluster {}, found {:?}",
                self.boot.mft,
                runs.first()
            )));
        }
        self.mft = runs;
        // It is not longer than the disk, whatever it says.
        self.mft_size = first.sizes().0.min(self.disk.size());
        if let Some(list) = self.list_of(&record)? {
            for (vcn, number) in list_entries(&list, DATA, "") {
                let known = self.mft.last().map_or(0, |run| run.vcn + run.count);
                if vcn < known {
                    continue;
                }
                let further = self.record(number)?;
                let Some(more) = further.attribute(DATA, "", vcn) else {
                    return Err(Fault::Damage(format!(
                        "record {number}: no part of the MFT from {vcn} on"
                    )));
                };
                more.add_runs(&mut self.mft, self.boot.clusters)?;
            }
        }
        Ok(())
    }

    /// Read record `number`.
    pub(crate) fn record(&self, number: u64) -> Result<Record> {
        let mut raw = vec![0; self.boot.record];
        let at = number.saturating_mul(self.boot.record as u64);
        self.read_runs(&self.mft, at, &mut raw, "the MFT")?;
        Ok(Record::parse(raw, number)?)
    }

    /// The attribute list of a record, if it has one.
    pub(crate) fn list_of(&self, record: &Record) -> Result<Option<Vec<u8>>> {
        let Some(list) = record.attribute(ATTRIBUTE_LIST, "", 0) else {
            return Ok(None);
        };
        if list.is_resident() {
            return Ok(Some(list.value().to_vec()));
        }
        let (size, _) = list.sizes();
        if size > MOST_LIST {
            return Err(Fault::Damage(format!(
                "attribute list of {size} bytes, expected at most {MOST_LIST}"
            )));
        }
        let mut runs = Vec::new();
        list.add_runs(&mut runs, self.boot.clusters)?;
        let mut bytes = vec![0; size as usize];
        self.read_runs(&runs, 0, &mut bytes, "an attribute list")?;
        Ok(Some(bytes))
    }

    /// The attribute `kind` called `name` of record `number`, wherever its parts are; `None` when it has
    /// none.
    pub(crate) fn stream(&self, number: u64, kind: u32, name: &str) -> Result<Option<Stream>> {
        let record = self.record(number)?;
        let Some(list) = self.list_of(&record)? else {
            return match record.attribute(kind, name, 0) {
                Some(only) => self.stream_of(&only).map(Some),
                None => Ok(None),
            };
        };
        let places = list_entries(&list, kind, name);
        let mut runs = Vec::new();
        let mut sizes = None;
        for (vcn, place) in &places {
            let part = self.record(*place)?;
            let Some(attribute) = part.attribute(kind, name, *vcn) else {
                return Err(Fault::Damage(format!(
                    "record {place}: expected a part from {vcn} on"
                )));
            };
            if attribute.is_resident() {
                return Ok(Some(Stream::Resident(attribute.value().to_vec())));
            }
            sizes.get_or_insert(attribute.sizes());
            attribute.add_runs(&mut runs, self.boot.clusters)?;
        }
        Ok(sizes.map(|(size, valid)| Stream::Runs { runs, size, valid }))
    }

    pub(crate) fn stream_of(&self, whole: &Attribute) -> Result<Stream> {
        if whole.is_resident() {
            return Ok(Stream::Resident(whole.value().to_vec()));
        }
        let (size, valid) = whole.sizes();
        let mut runs = Vec::new();
        whole.add_runs(&mut runs, self.boot.clusters)?;
        Ok(Stream::Runs { runs, size, valid })
    }

    /// Fill `buf` from byte `at` of a file with these runs. A hole is damage here.
    pub(crate) fn read_runs(
        &self,
        runs: &[Run],
        mut at: u64,
        mut buf: &mut [u8],
        what: &str,
    ) -> Result<()> {
        while !buf.is_empty() {
            let (place, left) = self.place(runs, at, what)?;
            let len = left.min(buf.len() as u64) as usize;
            let (head, tail) = std::mem::take(&mut buf).split_at_mut(len);
            self.disk.read_at(place, head)?;
            at += len as u64;
            buf = tail;
        }
        Ok(())
    }

    /// Where byte `at` of a file with these runs lies, and how many bytes follow it there.
    pub(super) fn place(&self, runs: &[Run], at: u64, what: &str) -> Result<(u64, u64)> {
        let size = self.boot.cluster;
        let vcn = at / size;
        let index = runs.partition_point(|run| run.vcn + run.count <= vcn);
        let run = runs.get(index).filter(|run| run.vcn <= vcn);
        match run.and_then(|run| run.lcn.map(|lcn| (run, lcn))) {
            Some((run, lcn)) => Ok((
                (lcn + vcn - run.vcn) * size + at % size,
                (run.vcn + run.count) * size - at,
            )),
            None => Err(Fault::Damage(format!("{what}: nothing at cluster {vcn}"))),
        }
    }

    /// Whether the volume's own flag says that it must be checked.
    pub(crate) fn is_dirty(&self) -> Result<bool> {
        let record = self.record(VOLUME)?;
        match record.attribute(VOLUME_INFORMATION, "", 0) {
            // Reserved 8 bytes, version, flags.
            Some(information) => Ok(le16(information.value(), 10) & 1 != 0),
            None => Err(Fault::Damage("record 3: no volume information".to_owned())),
        }
    }
}
