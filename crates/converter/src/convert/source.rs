//! What is converted: disks and image files given by path, or a machine from the store.

use std::ops::Range;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use block_io::{BlockRead, Salvage, Unreadable};
use chunk_store::Store;
use clap::Args;
use disk_survey::LeaveOut;
use image_formats::{Image, ImageFormat, SameFolder};
use stream_protocol::inventory::Inventory;

use crate::store_dir::StoreArgs;

/// A machine to convert. Its disks can only be read.
pub struct Source {
    /// The machine's name.
    pub name: String,
    /// Its disks, the boot disk first.
    pub disks: Vec<SourceDisk>,
    /// What the agent found out about the machine; nothing for bare disks.
    pub inventory: Option<Inventory>,
    /// What of its disks counts as free although a file system uses it.
    pub leave_out: LeaveOut,
}

impl Source {
    /// A machine of which nothing is known but its disks, the boot disk first.
    #[must_use]
    pub fn of_disks(name: impl Into<String>, disks: Vec<SourceDisk>) -> Self {
        Self {
            name: name.into(),
            disks,
            inventory: None,
            leave_out: LeaveOut::default(),
        }
    }
}

/// One disk of a machine to convert.
pub struct SourceDisk {
    /// What the user knows it by: a path here, or its device name on the source.
    pub label: String,
    /// Its bytes.
    pub disk: Arc<dyn BlockRead>,
    /// Byte ranges that were not readable when the disk was pushed.
    pub lost_before: Vec<Range<u64>>,
    /// Reads through bad sectors now, where the disk is one of this machine.
    salvage: Option<Arc<Salvage<Image>>>,
}

impl SourceDisk {
    /// A disk all of whose bytes can be read.
    pub fn new(label: impl Into<String>, disk: Arc<dyn BlockRead>) -> Self {
        Self {
            label: label.into(),
            disk,
            lost_before: Vec::new(),
            salvage: None,
        }
    }

    /// All byte ranges that could not be read, then or now; they are zeroes in the outputs.
    pub fn unreadable(&self) -> Vec<Range<u64>> {
        let now = self.salvage.iter().flat_map(|salvage| salvage.unreadable());
        self.lost_before.iter().cloned().chain(now).collect()
    }
}

/// What the user names to be looked at, planned or converted.
#[derive(Debug, Clone, Args)]
pub struct SourceArgs {
    /// A machine's name as `p2v machines` lists it, or paths of its disks, boot disk first
    #[arg(required = true, value_name = "MACHINE|DISK")]
    what: Vec<String>,

    /// Format of the image files; without it each is guessed, and the guess is told. Devices are raw
    #[arg(long, value_name = "FORMAT", value_parser = parse_image_format)]
    from: Option<ImageFormat>,

    /// Put zeroes for sectors that cannot be read, and list them in the report
    #[arg(long)]
    skip_unreadable: bool,

    /// Leave out what is in Windows' page, swap and hibernation files: Windows makes them anew
    #[arg(long)]
    skip_pagefiles: bool,

    #[command(flatten)]
    store: StoreArgs,
}

impl SourceArgs {
    /// Open it; `name` is what the machine is to be called.
    ///
    /// # Errors
    /// When it cannot be opened, or is neither a machine of the store nor a disk.
    pub fn open(&self, name: Option<&str>) -> anyhow::Result<Source> {
        let how = Opening {
            name,
            format: self.from,
            on_unreadable: match self.skip_unreadable {
                true => Unreadable::ReadZeroes,
                false => Unreadable::Stop,
            },
        };
        let mut source = open(&self.what, how, &self.store)?;
        source.leave_out.page_files = self.skip_pagefiles;
        Ok(source)
    }
}

fn parse_image_format(name: &str) -> Result<ImageFormat, String> {
    ImageFormat::from_qemu_name(name).ok_or_else(|| {
        format!("{name:?} is none of raw, qcow2, vmdk, vhd (vpc), vhdx, vdi, parallels")
    })
}

/// How to open what the user named.
#[derive(Debug, Clone, Copy)]
struct Opening<'a> {
    /// What the machine is to be called.
    name: Option<&'a str>,
    /// The format of the images, where the user says it.
    format: Option<ImageFormat>,
    /// What to do with sectors that cannot be read.
    on_unreadable: Unreadable,
}

/// Open what the user named: a machine in the store, or disks and images by their paths.
///
/// A single word that is no file here is a machine; a word with a slash never is.
///
/// # Errors
/// When it cannot be opened, or is neither.
fn open(what: &[String], how: Opening<'_>, store: &StoreArgs) -> anyhow::Result<Source> {
    match what {
        [machine] if !machine.contains('/') && !Path::new(machine).exists() => {
            ensure!(
                how.format.is_none(),
                "--from names the format of image files, and {machine} is no file here"
            );
            open_machine(machine, how.name, store)
        }
        paths => open_paths(paths, how),
    }
}

/// Open the newest snapshot of `machine` in the store.
fn open_machine(machine: &str, name: Option<&str>, store: &StoreArgs) -> anyhow::Result<Source> {
    let directory = store.directory()?;
    let doing = || format!("opening {machine} in the store {}", directory.display());
    let store = Store::open_to_read(&directory).with_context(doing)?;
    let listing = store.snapshots().with_context(doing)?;
    let Some(snapshot) = listing
        .snapshots
        .iter()
        .rev()
        .find(|s| s.machine == machine)
    else {
        bail!(
            "{machine} is neither a file here nor a machine in the store {}; \
             `p2v machines` lists those that have arrived",
            directory.display()
        );
    };
    let disks = (0..snapshot.disks.len())
        .map(|number| {
            let disk = store.open_disk(snapshot, number).with_context(doing)?;
            Ok(SourceDisk {
                label: disk.info().info.name.clone(),
                lost_before: disk.unreadable().to_vec(),
                disk: Arc::new(disk),
                salvage: None,
            })
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let inventory = serde_json::from_value(snapshot.inventory.clone())
        .with_context(|| format!("reading the inventory of {machine}"))?;
    let name = name.unwrap_or(machine).to_owned();
    Ok(Source {
        name,
        disks,
        inventory: Some(inventory),
        leave_out: LeaveOut::default(),
    })
}

/// Open disks and image files of this machine, read-only.
fn open_paths(paths: &[String], how: Opening<'_>) -> anyhow::Result<Source> {
    let first = paths.first().context("no disk was named")?;
    let disks = paths
        .iter()
        .map(|path| open_path(path, how))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let name = match how.name {
        Some(name) => name.to_owned(),
        None => name_from(Path::new(first)),
    };
    Ok(Source::of_disks(name, disks))
}

fn open_path(path: &str, how: Opening<'_>) -> anyhow::Result<SourceDisk> {
    // A device is a disk, whatever its owner wrote to its start: taking that for an image's header
    // could make us open whatever it names.
    let format = how
        .format
        .or(is_device(Path::new(path)).then_some(ImageFormat::Raw));
    let opened = match format {
        Some(format) => image_formats::open_as(path, format, &SameFolder),
        None => image_formats::open(path, &SameFolder),
    };
    let image = opened.with_context(|| format!("opening {path}"))?;
    ensure!(
        image.size() > 0,
        "{path} is empty: there is nothing to convert"
    );
    let info = image.info();
    if info.guessed {
        let format = info.format.qemu_name();
        eprintln!("{path}: taken for {format}; --from FORMAT says otherwise");
    }
    for note in &info.notes {
        eprintln!("{path}: {:?}: {note}", note.severity);
    }
    let salvage = Arc::new(Salvage::new(image, how.on_unreadable));
    Ok(SourceDisk {
        label: path.to_owned(),
        disk: salvage.clone(),
        lost_before: Vec::new(),
        salvage: Some(salvage),
    })
}

fn is_device(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|m| m.file_type().is_block_device())
}

/// `web01.img` names the machine `web01`; a device has no good name of its own.
fn name_from(path: &Path) -> String {
    // Of a bundle the folder has the name.
    let path = match path.parent() {
        Some(bundle) if path.ends_with("DiskDescriptor.xml") => bundle,
        _ => path,
    };
    let stem = match is_device(path) {
        true => path.file_name(),
        false => path.file_stem(),
    };
    stem.map_or_else(
        || "machine".to_owned(),
        |stem| stem.to_string_lossy().into_owned(),
    )
}
