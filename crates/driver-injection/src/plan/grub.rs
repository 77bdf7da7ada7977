//! Boot loader files: kernel arguments, drives, the environment block.

use filesystems::path::GuestPath;

use super::arguments::rewrite_arguments;
use super::draft::Draft;
use crate::finding::{Finding, tell};
use crate::hardware::Target;
use crate::inspect::{BootLoader, ConfigFile, ConfigKind, is_kernel_keyword};

/// Length of GRUB's environment block, which never changes. [GRUB manual, "Environment block"]
const ENVIRONMENT_SIZE: usize = 1024;

/// Longest menu entry looked through.
const MOST_ENTRY_LINES: usize = 200;

const WHY_ARGUMENTS: &str = "the disk has another name in the VM; its UUID moves with it";

/// Make every boot loader file independent of device names.
pub fn plan_boot_loader(draft: &mut Draft, target: &Target) {
    for (file, text) in draft.contents_of(ConfigKind::GrubConfig) {
        let text = rewrite_menu(draft, file, &text, "}");
        let text = search_for_root(draft, file, text);
        draft.replace(file, text, WHY_ARGUMENTS);
    }
    for (file, text) in draft.contents_of(ConfigKind::LegacyMenu) {
        let text = rewrite_menu(draft, file, &text, "title");
        draft.replace(file, text, WHY_ARGUMENTS);
    }
    for kind in [ConfigKind::BootEntry, ConfigKind::KernelArguments] {
        for (file, text) in draft.contents_of(kind) {
            let text = rewrite(draft, file, &text, true);
            draft.replace(file, text, WHY_ARGUMENTS);
        }
    }
    for (file, block) in draft.contents_of(ConfigKind::GrubEnvironment) {
        rewrite_environment(draft, file, &block);
    }
    for (file, _) in draft.contents_of(ConfigKind::DeviceMap) {
        let why = "it ties BIOS drives to device names of the old machine; without it GRUB looks for itself";
        draft.remove(file, why);
    }
    warn_of_others(draft, target);
}

/// A menu whose entries end with a line that starts with `end`: each kernel line is rewritten in the
/// light of whether its entry has an initramfs.
fn rewrite_menu(draft: &mut Draft, file: &ConfigFile, text: &[u8], end: &str) -> Vec<u8> {
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    let first_word = |line: &[u8]| {
        let line = String::from_utf8_lossy(line).into_owned();
        line.split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let words: Vec<String> = lines.iter().map(|line| first_word(line)).collect();
    // Walked backwards: whether an initrd line follows in the entry.
    let mut has_initramfs = vec![true; lines.len()];
    let mut seen = false;
    for index in (0..lines.len()).rev() {
        let word = words[index].as_str();
        if word == end || word.starts_with("menuentry") {
            seen = false;
        } else if word.to_ascii_lowercase().starts_with("initrd") {
            seen = true;
        } else if is_kernel_keyword(word) {
            has_initramfs[index] = seen;
            seen = false;
        }
    }
    let mut out: Vec<Vec<u8>> = Vec::with_capacity(lines.len());
    for (index, line) in lines.iter().enumerate() {
        // Debian's GRUB legacy keeps its settings in comments of this form.
        let comment = words[index].starts_with('#') && !line.starts_with(b"# kopt");
        out.push(if comment {
            line.to_vec()
        } else {
            rewrite(draft, file, line, has_initramfs[index])
        });
    }
    out.join(&b'\n')
}

fn rewrite(draft: &mut Draft, file: &ConfigFile, text: &[u8], has_initramfs: bool) -> Vec<u8> {
    let rewritten = rewrite_arguments(text, &draft.inspection.names, has_initramfs);
    let mut tell_all = |names: &[String], code, what: &str| {
        for name in names {
            let finding = Finding::warning(code, format!("{}: {name} {what}", file.path));
            tell(&mut draft.findings, finding);
        }
    };
    tell_all(
        &rewritten.absent,
        "boot-absent-device",
        "is none of the disks that are converted",
    );
    tell_all(
        &rewritten.nameless,
        "boot-nameless-device",
        "has neither a UUID nor a partition identifier",
    );
    rewritten.bytes
}

/// Entries that say `set root='hd1,…'` and do not search: the VM's firmware may count its drives
/// otherwise. hd0 is the drive it started from and stays right.
fn search_for_root(draft: &Draft, file: &ConfigFile, text: Vec<u8>) -> Vec<u8> {
    let inspection = draft.inspection;
    let at = inspection.mount_point_of(&file.path);
    let volume = inspection
        .mounted
        .iter()
        .find(|(point, ..)| *point == at)
        .map(|(_, volume, _)| *volume);
    let uuid = volume.and_then(|volume| {
        let reference = inspection.names.lasting_reference(volume)?;
        reference.strip_prefix("UUID=").map(str::to_owned)
    });
    let Some(uuid) = uuid else { return text };
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    let mut out: Vec<Vec<u8>> = Vec::with_capacity(lines.len());
    for (index, line) in lines.iter().enumerate() {
        out.push(line.to_vec());
        let indent = line
            .iter()
            .take_while(|byte| byte.is_ascii_whitespace())
            .count();
        if names_other_drive(&line[indent..]) && starts_kernel_without_search(&lines[index + 1..]) {
            let mut search = line[..indent].to_vec();
            search.extend_from_slice(
                format!("search --no-floppy --fs-uuid --set=root {uuid}").as_bytes(),
            );
            out.push(search);
        }
    }
    out.join(&b'\n')
}

/// `set root='hd1,msdos1'`, for any drive but the first.
fn names_other_drive(line: &[u8]) -> bool {
    let line = String::from_utf8_lossy(line);
    let value = line
        .strip_prefix("set root=")
        .map(|value| value.trim_matches(['\'', '"', '(', ')', ' ']));
    value
        .and_then(|value| value.strip_prefix("hd"))
        .is_some_and(|drive| {
            let number = drive.split(',').next().unwrap_or_default();
            number.parse::<u32>().is_ok_and(|number| number > 0)
        })
}

/// Whether the rest of an entry starts a kernel and does not search before.
fn starts_kernel_without_search(rest: &[&[u8]]) -> bool {
    for line in rest.iter().take(MOST_ENTRY_LINES) {
        let line = String::from_utf8_lossy(line);
        match line.split_whitespace().next().unwrap_or_default() {
            "search" | "}" | "chainloader" => return false,
            word if is_kernel_keyword(word) => return true,
            _ => {}
        }
    }
    false
}

/// [GRUB manual, "Environment block"]: a fixed length, lines of name=value, `#` to the end.
fn rewrite_environment(draft: &mut Draft, file: &ConfigFile, block: &[u8]) {
    let used = block
        .iter()
        .rposition(|byte| *byte != b'#')
        .map_or(0, |last| last + 1);
    let text = rewrite(draft, file, &block[..used], true);
    if text == block[..used] {
        return;
    }
    if block.len() != ENVIRONMENT_SIZE || text.len() > ENVIRONMENT_SIZE {
        let text = format!(
            "{}: the arguments with UUIDs do not fit into {ENVIRONMENT_SIZE} bytes",
            file.path
        );
        tell(&mut draft.findings, Finding::warning("grubenv-full", text));
        return;
    }
    let mut block = text;
    block.resize(ENVIRONMENT_SIZE, b'#');
    draft.replace(file, block, WHY_ARGUMENTS);
}

fn warn_of_others(draft: &mut Draft, target: &Target) {
    let inspection = draft.inspection;
    match inspection.boot_loader {
        BootLoader::Lilo => tell(
            &mut draft.findings,
            Finding::blocker(
                "lilo",
                "LILO stores where on the disk the kernel lies; it starts only while partitions stay where \
             they are, and its root= is not changed",
            ),
        ),
        BootLoader::Unknown => tell(
            &mut draft.findings,
            Finding::warning(
                "no-boot-loader",
                "no boot loader that is known was found in /boot or on the EFI system partition",
            ),
        ),
        _ => {}
    }
    let boot = inspection.mount_point_of(&GuestPath::new("/boot/x"));
    let volume = inspection
        .mounted
        .iter()
        .find(|(at, ..)| *at == boot)
        .map(|(_, volume, _)| *volume);
    let disk = volume.and_then(|volume| inspection.names.volumes().get(volume)?.disk);
    if let Some(disk) = disk.filter(|disk| *disk != target.boot_disk) {
        let text = format!(
            "/boot lies on disk {disk}, but the VM starts from disk {}: give it that disk first",
            target.boot_disk
        );
        tell(
            &mut draft.findings,
            Finding::warning("boot-disk-not-first", text),
        );
    }
}
