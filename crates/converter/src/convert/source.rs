//! What is converted: disks and image files given by path, or a machine from the store.

use std::ops::Range;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use block_io::{BlockRead, FileDisk, Salvage, Unreadable};
use chunk_store::Store;
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
    salvage: Option<Arc<Salvage<FileDisk>>>,
}

impl SourceDisk {
    /// All byte ranges that could not be read, then or now; they are zeroes in the outputs.
    pub fn unreadable(&self) -> Vec<Range<u64>> {
        let now = self.salvage.iter().flat_map(|salvage| salvage.unreadable());
        self.lost_before.iter().cloned().chain(now).collect()
    }
}

/// Open what the user named: a machine in the store, or disks and images by their paths.
///
/// A single word that is no file here is a machine; a word with a slash never is.
///
/// # Errors
/// When it cannot be opened, or is neither.
pub fn open(
    what: &[String],
    name: Option<&str>,
    on_unreadable: Unreadable,
    store: &StoreArgs,
) -> anyhow::Result<Source> {
    match what {
        [machine] if !machine.contains('/') && !Path::new(machine).exists() => {
            open_machine(machine, name, store)
        }
        paths => open_paths(paths, name, on_unreadable),
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
    })
}

/// Open disks and image files of this machine, read-only.
fn open_paths(
    paths: &[String],
    name: Option<&str>,
    on_unreadable: Unreadable,
) -> anyhow::Result<Source> {
    let first = paths.first().context("no disk was named")?;
    let disks = paths
        .iter()
        .map(|path| open_path(path, on_unreadable))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let name = match name {
        Some(name) => name.to_owned(),
        None => name_from(Path::new(first)),
    };
    Ok(Source {
        name,
        disks,
        inventory: None,
    })
}

fn open_path(path: &str, on_unreadable: Unreadable) -> anyhow::Result<SourceDisk> {
    let file = FileDisk::open(path).with_context(|| format!("opening {path}"))?;
    ensure!(
        file.size() > 0,
        "{path} is empty: there is nothing to convert"
    );
    refuse_other_formats(path, &file)?;
    let salvage = Arc::new(Salvage::new(file, on_unreadable));
    Ok(SourceDisk {
        label: path.to_owned(),
        disk: salvage.clone(),
        lost_before: Vec::new(),
        salvage: Some(salvage),
    })
}

/// A raw disk is taken for what it is; an image of another format read as raw would become a guest
/// full of noise, so it is named and refused.
fn refuse_other_formats(path: &str, file: &FileDisk) -> anyhow::Result<()> {
    let mut head = [0; 64];
    let len = head.len().min(usize::try_from(file.size())?);
    file.read_at(0, &mut head[..len])
        .with_context(|| format!("reading {path}"))?;
    let formats: [(&str, &[u8]); 8] = [
        ("qcow2", b"QFI\xfb"),
        ("VMDK", b"KDMV"),
        ("VMDK", b"COWD"),
        ("VMDK descriptor", b"# Disk DescriptorFile"),
        ("VHDX", b"vhdxfile"),
        ("VHD", b"conectix"),
        ("Parallels", b"WithoutFreeSpace"),
        ("Parallels", b"WithouFreSpacExt"),
    ];
    for (format, magic) in formats {
        if head.starts_with(magic) {
            bail!(
                "{path} is a {format} image, and p2v reads raw disks and images only so far; \
                 make it raw first: qemu-img convert -O raw {path} disk.raw"
            );
        }
    }
    Ok(())
}

/// `web01.img` names the machine `web01`; a device has no good name of its own.
fn name_from(path: &Path) -> String {
    let is_device = path
        .metadata()
        .is_ok_and(|m| m.file_type().is_block_device());
    let stem = if is_device {
        path.file_name()
    } else {
        path.file_stem()
    };
    stem.map_or_else(
        || "machine".to_owned(),
        |stem| stem.to_string_lossy().into_owned(),
    )
}
