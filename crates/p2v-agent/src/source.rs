//! Which disks are sent, and how they are opened: always read-only.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use block_io::{BlockRead, Extent, FileDisk, Result, SectorSize};
use disk_survey::LeaveOut;
use rustix::fs::Advice;
use stream_protocol::Inventory;
use stream_protocol::inventory::Disk;

use crate::push::{Identity, Source};
use crate::units::{Plain, bytes};

/// Reads at least so long are the copying, not the looking round before it.
const LONG_READ: usize = 256 << 10;

/// A disk or image file of this machine. What was copied of a device is dropped from the page cache:
/// it is read once, and the server it belongs to needs its memory for something else.
#[derive(Debug)]
pub struct SourceDisk {
    disk: FileDisk,
    /// The same device once more, also read-only, to speak to the page cache about.
    cached: Option<File>,
}

impl SourceDisk {
    /// Open `path` read-only.
    ///
    /// # Errors
    /// The operating system's, or that it is neither a device nor a regular file.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let disk = FileDisk::open(path)?;
        let file = File::open(path)?;
        let cached = file
            .metadata()?
            .file_type()
            .is_block_device()
            .then_some(file);
        Ok(Self { disk, cached })
    }

    /// Whether it is a device, not an image file.
    #[must_use]
    pub fn is_device(&self) -> bool {
        self.cached.is_some()
    }
}

impl BlockRead for SourceDisk {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn sector_size(&self) -> SectorSize {
        self.disk.sector_size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.disk.read_at(offset, buf)?;
        if let Some(file) = self.cached.as_ref().filter(|_| buf.len() >= LONG_READ) {
            let len = std::num::NonZeroU64::new(buf.len() as u64);
            // Advice: where it is not taken, nothing is lost.
            let _ = rustix::fs::fadvise(file, offset, len, Advice::DontNeed);
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        self.disk.extent_at(offset)
    }
}

/// The disks that were chosen, and what the user should know about the choice.
pub struct Chosen {
    /// What to send.
    pub sources: Vec<Source>,
    /// What makes these disks the same ones next time.
    pub identity: Identity,
    /// Whether there is a device of this machine among them, not only image files.
    pub of_this_machine: bool,
    /// The first path, for naming a machine known by nothing else.
    pub first_path: PathBuf,
    /// For the user.
    pub warnings: Vec<String>,
    /// For the user, of less weight.
    pub remarks: Vec<String>,
}

/// Open the disks at `paths`, or all disks of the inventory, and look up which of their bytes are used;
/// what `leave_out` names is not sent.
///
/// # Errors
/// When a disk cannot be opened or fails, or there is none.
pub fn choose(
    inventory: &Inventory,
    paths: &[PathBuf],
    leave_out: LeaveOut,
) -> anyhow::Result<Chosen> {
    let mut remarks = Vec::new();
    let paths = match paths {
        [] => all_disks(inventory, &mut remarks),
        given => given.to_vec(),
    };
    let Some(first_path) = paths.first().cloned() else {
        anyhow::bail!("no disk found on this machine; name disks or image files with --disk");
    };
    let mut chosen = Chosen {
        sources: Vec::new(),
        identity: Identity::of_machine(inventory),
        of_this_machine: false,
        first_path,
        warnings: Vec::new(),
        remarks,
    };
    let mut seen = BTreeSet::new();
    for path in paths {
        let real = path
            .canonicalize()
            .with_context(|| format!("finding {}", path.display()))?;
        anyhow::ensure!(
            seen.insert(real.clone()),
            "{} is named twice",
            path.display()
        );
        chosen.add(inventory, &path, &real, leave_out)?;
    }
    Ok(chosen)
}

impl Chosen {
    fn add(
        &mut self,
        inventory: &Inventory,
        path: &Path,
        real: &Path,
        leave_out: LeaveOut,
    ) -> anyhow::Result<()> {
        let shown = path.display();
        let disk = SourceDisk::open(path).with_context(|| {
            let advice = match rustix::process::geteuid().is_root() {
                true => "",
                false => " (reading disks needs root)",
            };
            format!("opening {shown}{advice}")
        })?;
        let known = inventory
            .disks
            .iter()
            .find(|disk| Path::new(&disk.path) == real);
        if let Some(known) = known {
            self.warn_if_live(known);
        }
        self.of_this_machine |= disk.is_device();
        let lasting = known.and_then(|disk| disk.serial.clone().or(disk.wwn.clone()));
        let lasting = lasting.unwrap_or_else(|| real.to_string_lossy().into_owned());
        let identity = std::mem::take(&mut self.identity);
        self.identity = identity.with_disk(disk.size(), &lasting);
        let survey = disk_survey::survey_but(&disk, leave_out)
            .with_context(|| format!("looking at what {shown} holds"))?;
        for finding in &survey.findings {
            self.remarks
                .push(format!("{shown}: {}", Plain(&finding.to_string())));
        }
        self.sources.push(Source {
            name: self.unused_name(real),
            disk: Arc::new(survey.used_only(disk)),
        });
        Ok(())
    }

    fn warn_if_live(&mut self, disk: &Disk) {
        let written: Vec<String> = disk
            .parts
            .iter()
            .filter(|part| part.mounted_writable == Some(true))
            .flat_map(|part| part.mounts.clone())
            .collect();
        if written.is_empty() {
            return;
        }
        self.warnings.push(format!(
            "{} is in use ({} mounted writable): the copy is at best as after a power cut. Stop \
             databases and other services that write, or push from a live medium.",
            disk.path,
            Plain(&written.join(", ")),
        ));
    }

    /// The last part of the path, numbered where two disks would have the same name.
    fn unused_name(&self, path: &Path) -> String {
        let name = path
            .file_name()
            .map_or("disk".into(), |name| name.to_string_lossy());
        let mut unused = name.to_string();
        let mut number = 2;
        while self.sources.iter().any(|source| source.name == unused) {
            unused = format!("{name}-{number}");
            number += 1;
        }
        unused
    }
}

/// All disks but removable ones and second paths to the same disk.
fn all_disks(inventory: &Inventory, remarks: &mut Vec<String>) -> Vec<PathBuf> {
    let mut seen = Vec::new();
    let mut paths = Vec::new();
    for disk in &inventory.disks {
        let size = bytes(disk.size);
        if disk.removable == Some(true) {
            let path = &disk.path;
            remarks.push(format!(
                "{path} ({size}) is removable, and left out; --disk {path} sends it"
            ));
            continue;
        }
        let name = disk.wwn.clone().map(|wwn| (wwn, disk.size));
        if name.is_some() && seen.contains(&name) {
            remarks.push(format!(
                "{} ({size}) is another path to a disk already listed",
                disk.path
            ));
            continue;
        }
        seen.push(name);
        paths.push(PathBuf::from(&disk.path));
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(path: &str, wwn: Option<&str>, removable: bool) -> Disk {
        Disk {
            path: path.to_owned(),
            size: 1 << 30,
            wwn: wwn.map(str::to_owned),
            removable: Some(removable),
            ..Disk::default()
        }
    }

    #[test]
    fn a_stick_and_a_second_path_are_left_out_and_said_so() {
        let inventory = Inventory {
            disks: vec![
                disk("/dev/sda", Some("naa.5"), false),
                disk("/dev/sdb", Some("naa.5"), false),
                disk("/dev/sdc", None, true),
                disk("/dev/sdd", None, false),
                disk("/dev/sde", None, false),
            ],
            ..Inventory::default()
        };
        let mut remarks = Vec::new();
        let paths = all_disks(&inventory, &mut remarks);
        let expected = ["/dev/sda", "/dev/sdd", "/dev/sde"].map(PathBuf::from);
        assert_eq!(paths, expected);
        assert_eq!(remarks.len(), 2, "{remarks:?}");
    }

    #[test]
    fn image_files_of_one_name_get_numbers_and_one_named_twice_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for dir in [&a, &b] {
            std::fs::create_dir(dir).unwrap();
            std::fs::write(dir.join("disk.img"), [1; 1024]).unwrap();
        }
        let paths = [a.join("disk.img"), b.join("disk.img")];
        let chosen = choose(&Inventory::default(), &paths, LeaveOut::default()).unwrap();
        let names: Vec<_> = chosen
            .sources
            .iter()
            .map(|source| source.name.as_str())
            .collect();
        assert_eq!(names, ["disk.img", "disk.img-2"]);
        assert!(!chosen.of_this_machine);
        let twice = [a.join("disk.img"), a.join("../a/disk.img")];
        let error = choose(&Inventory::default(), &twice, LeaveOut::default())
            .err()
            .unwrap();
        assert!(error.to_string().contains("twice"), "{error}");
        assert!(
            choose(
                &Inventory::default(),
                &[dir.path().join("none")],
                LeaveOut::default()
            )
            .is_err()
        );
    }
}
