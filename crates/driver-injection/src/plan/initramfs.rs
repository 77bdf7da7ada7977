//! Virtio for every kernel: an archive behind each initramfs that lacks the modules, and settings that
//! keep them there at the next update of a kernel.

use std::collections::BTreeSet;

use filesystems::path::GuestPath;

use super::arguments::rewrite_arguments;
use super::draft::Draft;
use super::network::NamingFile;
use crate::edit::{AppendArchive, ArchiveEntry, Change, Edit, Packing};
use crate::finding::{Finding, tell};
use crate::fstab::{replace_field, table_lines};
use crate::inspect::{
    ConfigKind, Contents, DISK_DRIVERS, Entry, Initramfs, InitramfsFile, Kernel, MARK_NAME,
    NET_DRIVERS,
};
use crate::kmod::{Driver, module_name};
use crate::unpack::Compression;

/// Give every initramfs what it lacks.
pub fn plan_initramfs(draft: &mut Draft, naming: &[NamingFile]) {
    let inspection = draft.inspection;
    for kernel in &inspection.kernels {
        for file in &kernel.initramfs {
            if let Some(edit) = plan_one(draft, kernel, file, naming) {
                draft.add(edit);
            }
        }
    }
    plan_next_updates(draft);
}

/// What a kernel can reach its disk with, once the plan is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// Disks on virtio-blk.
    pub virtio_blk: bool,
    /// Disks on virtio-scsi.
    pub virtio_scsi: bool,
    /// Disks on AHCI.
    pub ahci: bool,
    /// Cards of virtio-net.
    pub virtio_net: bool,
}

/// What will this kernel reach?
pub fn reach_of(kernel: &Kernel) -> Reach {
    let built_in = |driver: &str| kernel.index.driver(driver) == Driver::BuiltIn;
    // A module reaches the disk only through an initramfs that loads it by itself.
    let loads = |file: &InitramfsFile| match &file.contents {
        Contents::Known(contents) => contents.loads_drivers_by_itself(),
        Contents::Unread => true,
        Contents::Damaged => false,
    };
    let injects = !kernel.initramfs.is_empty() && kernel.initramfs.iter().all(loads);
    let wanted = |driver: &str| kernel.wanted.keys().any(|file| module_name(file) == driver);
    let early = |driver: &str| built_in(driver) || (injects && wanted(driver));
    let already = |driver: &str| {
        let holds = |file: &InitramfsFile| match &file.contents {
            Contents::Known(contents) => contents.modules_of(&kernel.version).contains_key(driver),
            _ => false,
        };
        built_in(driver) || (!kernel.initramfs.is_empty() && kernel.initramfs.iter().all(holds))
    };
    Reach {
        virtio_blk: early("virtio_pci") && early("virtio_blk"),
        virtio_scsi: early("virtio_pci") && early("virtio_scsi") && early("sd_mod"),
        ahci: already("ahci") && already("sd_mod"),
        virtio_net: kernel.has("virtio_net") && kernel.has("virtio_pci"),
    }
}

fn plan_one(
    draft: &mut Draft,
    kernel: &Kernel,
    file: &InitramfsFile,
    naming: &[NamingFile],
) -> Option<Edit> {
    let unread = Initramfs::default();
    let contents = match &file.contents {
        Contents::Known(contents) => contents,
        Contents::Unread => &unread,
        Contents::Damaged => return None,
    };
    let known = matches!(file.contents, Contents::Known(_));
    if known && !contents.loads_drivers_by_itself() {
        tell(
            &mut draft.findings,
            Finding::warning(
                "initramfs-without-udev",
                format!(
                    "{}: it loads a fixed list of drivers, so that none can be added",
                    file.path
                ),
            ),
        );
        return None;
    }
    let mut archive = Archive::new(contents);
    add_modules(&mut archive, kernel);
    if known {
        add_settings(&mut archive, draft);
        add_awaited_devices(&mut archive, draft);
    }
    let settings = archive.entries.len() > archive.modules;
    if contents.has_program("udevadm")
        || contents.has_program("udevd")
        || contents.has_program("systemd-udevd")
    {
        for file in naming {
            archive.add_text(&file.name, file.contents.clone());
        }
    }
    if archive.entries.is_empty() {
        return None;
    }
    let mark = archive.mark(kernel);
    let own = contents.own.as_ref();
    if own.is_some_and(|own| own.mark == mark) {
        return None;
    }
    let mut entries = vec![ArchiveEntry::Text {
        name: MARK_NAME.to_owned(),
        contents: mark,
    }];
    let modules = archive.modules;
    entries.extend(archive.entries);
    let lz4 = contents.last_compression() == Some(Compression::Lz4);
    let why = if modules > 0 {
        format!(
            "kernel {} cannot reach a virtio disk with what its initramfs holds",
            kernel.version
        )
    } else if settings {
        "its settings name devices of the old machine".to_owned()
    } else {
        "its udev meets the network cards first and must give them the same names".to_owned()
    };
    Some(Edit {
        what: Change::AppendArchive(AppendArchive {
            size_before: file.size,
            base_end: if known { contents.end() } else { file.size },
            replaces: own.is_some(),
            packing: if lz4 {
                Packing::Lz4Blocks
            } else {
                Packing::Plain
            },
            entries,
        }),
        place: file.path.clone(),
        why,
    })
}

/// The archive of one initramfs, being put together.
struct Archive<'a> {
    base: &'a Initramfs,
    entries: Vec<ArchiveEntry>,
    directories: BTreeSet<Vec<u8>>,
    modules: usize,
}

impl<'a> Archive<'a> {
    fn new(base: &'a Initramfs) -> Self {
        Self {
            base,
            entries: Vec::new(),
            directories: BTreeSet::new(),
            modules: 0,
        }
    }

    /// The name under which `name` must be written so that links of the base are followed and not
    /// replaced: the kernel removes what stands in the way of an entry of another type. Directories
    /// that are missing above it are added.
    fn place(&mut self, name: &[u8]) -> Option<String> {
        let name = self.base.resolve(name)?;
        let slashes = name.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        for (end, _) in slashes {
            let directory = &name[..end];
            let missing = !self.base.entries.contains_key(directory);
            if missing && self.directories.insert(directory.to_vec()) {
                let name = String::from_utf8(directory.to_vec()).ok()?;
                self.entries.push(ArchiveEntry::Directory { name });
            }
        }
        String::from_utf8(name).ok()
    }

    fn add_text(&mut self, name: &str, contents: Vec<u8>) {
        if let Some(name) = self.place(name.as_bytes()) {
            self.entries.push(ArchiveEntry::Text { name, contents });
        }
    }

    fn add_copy(&mut self, name: &[u8], from: GuestPath, size: u64, unpack: bool) {
        if let Some(name) = self.place(name) {
            self.entries.push(ArchiveEntry::Copy {
                name,
                from,
                size,
                unpack,
            });
        }
    }

    /// What the first entry says: enough to see whether an archive is the one that would be made.
    fn mark(&self, kernel: &Kernel) -> Vec<u8> {
        let mut mark = format!("p2v injected archive 1\nkernel {}\n", kernel.version);
        for entry in &self.entries {
            let note = match entry {
                ArchiveEntry::Directory { .. } => "directory".to_owned(),
                ArchiveEntry::Text { contents, .. } => blake3::hash(contents).to_string(),
                ArchiveEntry::Copy {
                    size,
                    unpack: false,
                    ..
                } => size.to_string(),
                ArchiveEntry::Copy {
                    size, unpack: true, ..
                } => format!("{size} unpacked"),
            };
            mark.push_str(&format!("{} {note}\n", entry.name()));
        }
        mark.into_bytes()
    }
}

/// The modules that are missing, and then the indexes that make them known to udev.
fn add_modules(archive: &mut Archive, kernel: &Kernel) {
    let (Some(modules), base) = (&kernel.modules, archive.base) else {
        return;
    };
    let there = base.modules_of(&kernel.version);
    let missing: Vec<_> = kernel
        .wanted
        .iter()
        .filter(|(file, _)| !there.contains_key(&module_name(file)))
        .collect();
    if missing.is_empty() {
        return;
    }
    let directory = base.module_directory(&kernel.version);
    let name_of = |file: &str| [directory.as_slice(), b"/", file.as_bytes()].concat();
    for (file, size) in missing {
        let suffix = file.find(".ko").map_or("", |at| &file[at..]);
        let packed = suffix != ".ko";
        let shown = there.values().any(|other| other == suffix);
        archive.add_copy(&name_of(file), modules.join(file), *size, packed && !shown);
        archive.modules += 1;
    }
    for (file, size) in &kernel.index_files {
        archive.add_copy(&name_of(file), modules.join(file), *size, false);
    }
}

/// Settings in the initramfs that name devices, with lasting names.
fn add_settings(archive: &mut Archive, draft: &Draft) {
    let names = &draft.inspection.names;
    for (name, text) in &archive.base.configs {
        let new = if name.ends_with("crypttab") {
            let mut text = text.clone();
            for line in table_lines(&text).into_iter().rev() {
                let Some(field) = line.fields.get(1) else {
                    continue;
                };
                let device = String::from_utf8_lossy(&text[field.clone()]).into_owned();
                if let crate::devices::Meaning::Fleeting(volume) = names.meaning(&device)
                    && let Some(new) = super::fstab::crypt_source(names, volume)
                {
                    text = replace_field(&text, field, new.as_bytes());
                }
            }
            text
        } else {
            rewrite_arguments(text, names, true).bytes
        };
        if new != *text
            && !matches!(
                archive.base.entries.get(name.as_bytes()),
                Some(Entry::Symlink(_))
            )
        {
            archive.add_text(name, new);
        }
    }
}

/// dracut, made for this machine only, waits for the devices it saw: a hook a device, whose name says
/// which. A device with a fleeting name would be waited for in vain.
fn add_awaited_devices(archive: &mut Archive, draft: &Draft) {
    let names = &draft.inspection.names;
    let base = archive.base;
    for hook in base.entries.keys() {
        let Ok(hook) = std::str::from_utf8(hook) else {
            continue;
        };
        let device = hook
            .split_once("hooks/initqueue/finished/devexists-")
            .and_then(|(_, rest)| rest.strip_suffix(".sh"))
            .map(|device| device.replace("\\x2f", "/").replace("\\x2d", "-"));
        let Some(device) = device else { continue };
        if let crate::devices::Meaning::Fleeting(volume) = names.meaning(&device)
            && let Some(lasting) = names.lasting_path(volume)
        {
            archive.add_text(hook, format!("[ -e \"{lasting}\" ]\n").into_bytes());
        }
    }
}

/// Settings of the programs that make initramfs files, so that the next one holds virtio too.
fn plan_next_updates(draft: &mut Draft) {
    let why = "the initramfs of the next kernel update must hold virtio too";
    let drivers = [DISK_DRIVERS, NET_DRIVERS].concat();
    for (file, text) in draft.contents_of(ConfigKind::InitramfsModules) {
        let mut text = String::from_utf8_lossy(&text).into_owned();
        let listed: BTreeSet<String> = text
            .lines()
            .filter_map(|line| Some(line.split_whitespace().next()?.replace('-', "_")))
            .collect();
        let missing: Vec<_> = drivers
            .iter()
            .filter(|driver| !listed.contains(**driver))
            .collect();
        if missing.is_empty() {
            continue;
        }
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str("# Virtual hardware.\n");
        for driver in missing {
            text.push_str(driver);
            text.push('\n');
        }
        draft.replace(file, text.into_bytes(), why);
    }
    let has_dracut = draft
        .inspection
        .files_of(ConfigKind::Dracut)
        .next()
        .is_some()
        || draft
            .inspection
            .directories
            .contains_key("/etc/dracut.conf.d");
    if has_dracut && let Some(directory) = draft.directory("/etc/dracut.conf.d", why) {
        let list = drivers.join(" ");
        let text = format!(
            "# Virtual hardware, whatever machine dracut runs on.\nadd_drivers+=\" {list} \"\n"
        );
        let path = directory.join("10-p2v-virtio.conf");
        draft.put(path, text.into_bytes(), why);
    }
    for (file, text) in draft.contents_of(ConfigKind::SuseKernel) {
        let text = add_words(&text, "INITRD_MODULES=", &drivers, '"');
        draft.replace(file, text, why);
    }
    for (file, text) in draft.contents_of(ConfigKind::Mkinitfs) {
        let text = add_words(&text, "features=", &["virtio"], '"');
        draft.replace(file, text, why);
    }
}

/// Add words to the quoted list that a line `key"…"` holds; a file without the line stays as it is.
fn add_words(text: &[u8], key: &str, words: &[&str], quote: char) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(text) else {
        return text.to_vec();
    };
    let lines: Vec<String> = text
        .split('\n')
        .map(|line| {
            let list = line
                .strip_prefix(key)
                .and_then(|rest| rest.trim_end().strip_prefix(quote)?.strip_suffix(quote));
            let Some(list) = list else {
                return line.to_owned();
            };
            let listed: Vec<&str> = list.split_whitespace().collect();
            let missing = words.iter().filter(|word| !listed.contains(word));
            let all: Vec<&str> = listed.iter().chain(missing).copied().collect();
            if all.len() == listed.len() {
                return line.to_owned();
            }
            format!("{key}{quote}{}{quote}", all.join(" "))
        })
        .collect();
    lines.join("\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_added_once_and_only_to_their_line() {
        let text = b"A=1\nINITRD_MODULES=\"ahci sd_mod\"\n";
        let once = add_words(text, "INITRD_MODULES=", &["sd_mod", "virtio_blk"], '"');
        assert_eq!(once, b"A=1\nINITRD_MODULES=\"ahci sd_mod virtio_blk\"\n");
        assert_eq!(
            add_words(&once, "INITRD_MODULES=", &["sd_mod", "virtio_blk"], '"'),
            once
        );
        assert_eq!(add_words(b"x\n", "features=", &["virtio"], '"'), b"x\n");
    }

    #[test]
    fn an_entry_goes_through_the_links_of_the_base() {
        let mut base = Initramfs::default();
        base.entries
            .insert(b"lib".to_vec(), Entry::Symlink(b"usr/lib".to_vec()));
        base.entries.insert(b"usr".to_vec(), Entry::Directory);
        let mut archive = Archive::new(&base);
        archive.add_text("lib/systemd/network/x.link", Vec::new());
        let names: Vec<_> = archive.entries.iter().map(ArchiveEntry::name).collect();
        assert_eq!(
            names,
            [
                "usr/lib",
                "usr/lib/systemd",
                "usr/lib/systemd/network",
                "usr/lib/systemd/network/x.link"
            ]
        );
    }
}
