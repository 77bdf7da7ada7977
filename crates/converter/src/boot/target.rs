//! What to start: an output directory of `p2v convert`, a machine description, or a bare image.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use block_io::BlockRead;
use disk_layout::{PartitionKind, read_layout};
use image_formats::{StandAlone, detect};
use stream_protocol::inventory::FirmwareKind;

use crate::describe::{
    self, Board, Clock, DiskBus, DiskDevice, ImageFormat, MACHINE_VERSION, Machine, NicDevice,
    NicModel,
};

/// Most entries of a directory that are looked at for a description.
const MOST_ENTRIES: usize = 10_000;
/// What a bare image gets, in bytes of memory.
const MEMORY_FOR_AN_IMAGE: u64 = 2 << 30;

/// A machine to start, and where its files are.
#[derive(Debug, Clone)]
pub struct BootTarget {
    /// What it is.
    pub machine: Machine,
    /// What relative images are relative to, and where reports go unless told otherwise.
    pub directory: PathBuf,
    /// What reports are named after.
    pub stem: String,
}

/// Find out what `path` is. `format` is for a bare image; without it the image's own first bytes say.
///
/// # Errors
/// Nothing there, several machines, or an image that is missing.
pub fn find(path: &Path, format: Option<ImageFormat>) -> anyhow::Result<BootTarget> {
    let kind = fs::metadata(path).with_context(|| format!("opening {}", path.display()))?;
    if kind.is_dir() {
        let description = only_description(path)?;
        return from_description(&description);
    }
    if describe::is_description(path) {
        return from_description(path);
    }
    from_image(path, format)
}

fn only_description(directory: &Path) -> anyhow::Result<PathBuf> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))?;
    let mut found: Vec<PathBuf> = entries
        .take(MOST_ENTRIES)
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "json") && describe::is_description(p))
        .collect();
    found.sort();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => bail!(
            "{} holds no machine description (NAME.json of p2v convert); \
             name an image file to start that alone",
            directory.display()
        ),
        several => bail!(
            "{} holds {} machines; name one: {}",
            directory.display(),
            several.len(),
            several
                .iter()
                .map(|p| p.display().to_string())
                .collect::<Vec<_>>()
                .join(", ")
        ),
    }
}

fn from_description(path: &Path) -> anyhow::Result<BootTarget> {
    let machine = describe::read(path)?;
    let directory = directory_of(path)?;
    for disk in &machine.disks {
        let image = directory.join(&disk.file);
        fs::metadata(&image).with_context(|| {
            format!(
                "opening {}, which {} names",
                image.display(),
                path.display()
            )
        })?;
    }
    Ok(BootTarget {
        machine,
        directory,
        stem: stem_of(path),
    })
}

fn from_image(path: &Path, format: Option<ImageFormat>) -> anyhow::Result<BootTarget> {
    let file = block_io::FileDisk::open(path)?;
    if file.size() == 0 {
        bail!("{} is empty", path.display());
    }
    let format = match format {
        Some(format) => format,
        None => detect::detect(&file)?.into(),
    };
    let name = path.file_name().map(PathBuf::from).unwrap_or_default();
    let machine = Machine {
        version: MACHINE_VERSION,
        name: stem_of(path),
        memory_bytes: MEMORY_FOR_AN_IMAGE,
        vcpus: 1,
        firmware: guess_firmware(path),
        secure_boot: false,
        board: Board::Q35,
        clock: Clock::Utc,
        disks: vec![DiskDevice {
            file: name,
            format,
            bus: DiskBus::VirtioBlk,
        }],
        nics: vec![NicDevice {
            mac: None,
            model: NicModel::Virtio,
        }],
    };
    Ok(BootTarget {
        machine,
        directory: directory_of(path)?,
        stem: stem_of(path),
    })
}

/// UEFI when there is an EFI system partition and nothing for a BIOS to start. Formats this program cannot open get a BIOS;
/// `--firmware` says otherwise.
fn guess_firmware(path: &Path) -> FirmwareKind {
    let Ok(image) = image_formats::open(path, &StandAlone) else {
        return FirmwareKind::Bios;
    };
    let Ok(layout) = read_layout(&image) else {
        return FirmwareKind::Bios;
    };
    let has = |kinds: &[PartitionKind]| layout.partitions.iter().any(|p| kinds.contains(&p.kind));
    let has_esp = has(&[PartitionKind::EFI_SYSTEM, PartitionKind::Mbr(0xEF)]);
    if has_esp && !has(&[PartitionKind::BIOS_BOOT]) {
        FirmwareKind::Uefi
    } else {
        FirmwareKind::Bios
    }
}

fn directory_of(path: &Path) -> anyhow::Result<PathBuf> {
    let whole = path
        .canonicalize()
        .with_context(|| format!("opening {}", path.display()))?;
    Ok(whole.parent().unwrap_or(Path::new("/")).to_owned())
}

fn stem_of(path: &Path) -> String {
    path.file_stem().map_or_else(
        || "machine".into(),
        |stem| stem.to_string_lossy().into_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_the_one_machine_it_describes() {
        let dir = tempfile::tempdir().unwrap();
        let error = find(dir.path(), None).unwrap_err();
        assert!(
            error.to_string().contains("holds no machine description"),
            "{error}"
        );
        fs::write(dir.path().join("web.qcow2"), b"x").unwrap();
        fs::write(dir.path().join("report.json"), b"{\"edits\": []}").unwrap();
        let target = from_image(&dir.path().join("web.qcow2"), Some(ImageFormat::Raw)).unwrap();
        describe::write_all(&target.machine, dir.path(), "web").unwrap();
        assert_eq!(find(dir.path(), None).unwrap().machine, target.machine);
        assert_eq!(
            find(&dir.path().join("web.json"), None).unwrap().stem,
            "web"
        );
        describe::write_all(&target.machine, dir.path(), "twin").unwrap();
        let error = find(dir.path(), None).unwrap_err();
        assert!(error.to_string().contains("holds 2 machines"), "{error}");
    }

    #[test]
    fn an_image_that_a_description_names_and_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.raw"), b"x").unwrap();
        let target = find(&dir.path().join("a.raw"), None).unwrap();
        describe::write_all(&target.machine, dir.path(), "a").unwrap();
        fs::remove_file(dir.path().join("a.raw")).unwrap();
        let error = find(dir.path(), None).unwrap_err();
        assert!(format!("{error:#}").contains("a.raw, which"), "{error:#}");
    }

    #[test]
    fn images_are_known_by_their_first_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("image");
        let formats: &[(&[u8], ImageFormat)] = &[
            (b"QFI\xfb\0\0\0\x03rest", ImageFormat::Qcow2),
            (b"KDMV\x01\0\0\0", ImageFormat::Vmdk),
            (b"vhdxfile", ImageFormat::Vhdx),
            (b"conectix", ImageFormat::Vpc),
            (b"WithouFreSpacExt", ImageFormat::Parallels),
            (b"\xeb\x63\x90", ImageFormat::Raw),
        ];
        for (bytes, format) in formats {
            fs::write(&file, bytes).unwrap();
            assert_eq!(find(&file, None).unwrap().machine.disks[0].format, *format);
        }
        fs::write(&file, b"").unwrap();
        assert!(find(&file, None).is_err());
        assert!(find(&dir.path().join("absent"), None).is_err());
    }
}
