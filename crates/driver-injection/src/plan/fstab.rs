//! fstab, crypttab, and where swap is resumed from.

use super::arguments::rewrite_arguments;
use super::draft::Draft;
use crate::devices::{DeviceNames, Meaning, VolumeIndex};
use crate::finding::Finding;
use crate::fstab::{read_fstab, replace_field, table_lines, unescape_octal};
use crate::inspect::{ConfigFile, ConfigKind};

/// Make the tables independent of device names.
pub fn plan_tables(draft: &mut Draft) {
    for (file, text) in draft.contents_of(ConfigKind::Fstab) {
        let text = rewrite_table(draft, file, text, 0, DeviceNames::lasting_reference);
        let why =
            "the disk has another name in the VM, and a mount that fails ends in emergency mode";
        draft.replace(file, text, why);
        check_root(draft, file);
    }
    for (file, text) in draft.contents_of(ConfigKind::Crypttab) {
        let text = rewrite_table(draft, file, text, 1, crypt_source);
        draft.replace(file, text, "the encrypted disk has another name in the VM");
    }
    for (file, text) in draft.contents_of(ConfigKind::InitramfsSettings) {
        let text = rewrite_arguments(&text, &draft.inspection.names, true).bytes;
        let why =
            "the swap space to resume from has another name in the VM; start-up would wait for it";
        draft.replace(file, text, why);
    }
}

/// The lasting name of an encrypted volume. Only LUKS keeps a UUID: what is encrypted with a random
/// key, as swap often is, is overwritten at every start, and any UUID on it with that.
pub fn crypt_source(names: &DeviceNames, volume: VolumeIndex) -> Option<String> {
    let is_luks = names.volumes().get(volume)?.kind == "crypto_LUKS";
    if is_luks {
        return names.lasting_reference(volume);
    }
    let reference = names.partition_reference(volume)?;
    let partuuid = reference.strip_prefix("PARTUUID=")?;
    Some(format!("/dev/disk/by-partuuid/{partuuid}"))
}

/// Replace the device in one column of a table.
fn rewrite_table(
    draft: &mut Draft,
    file: &ConfigFile,
    mut text: Vec<u8>,
    column: usize,
    lasting: impl Fn(&DeviceNames, VolumeIndex) -> Option<String>,
) -> Vec<u8> {
    let inspection = draft.inspection;
    // From the end, so that earlier ranges stay right.
    for line in table_lines(&text).into_iter().rev() {
        let Some(field) = line.fields.get(column) else {
            continue;
        };
        let device = String::from_utf8_lossy(&unescape_octal(&text[field.clone()])).into_owned();
        match inspection.names.meaning(&device) {
            Meaning::Fleeting(volume) => match lasting(&inspection.names, volume) {
                Some(new) => text = replace_field(&text, field, new.as_bytes()),
                None => draft.findings.push(Finding::warning(
                    "table-nameless-device",
                    format!(
                        "{} line {}: {device} has neither a UUID nor a partition identifier",
                        file.path, line.number
                    ),
                )),
            },
            Meaning::Absent
                if device.starts_with("/dev/") && !device.starts_with("/dev/mapper/") =>
            {
                draft.findings.push(Finding::warning(
                    "table-absent-device",
                    format!(
                        "{} line {}: {device} is none of the disks that are converted",
                        file.path, line.number
                    ),
                ));
            }
            _ => {}
        }
    }
    text
}

/// The line of `/` should mean the volume that holds it.
fn check_root(draft: &mut Draft, file: &ConfigFile) {
    let inspection = draft.inspection;
    for line in read_fstab(&file.bytes).0 {
        let is_root = line.at.as_ref().is_some_and(|at| at.file_name().is_none());
        if let (true, Meaning::Fleeting(volume) | Meaning::Lasting(volume)) =
            (is_root, inspection.names.meaning(&line.device))
            && volume != inspection.root
        {
            let text = format!(
                "{} line {}: {} is not the volume that holds the root",
                file.path, line.number, line.device
            );
            draft
                .findings
                .push(Finding::warning("fstab-other-root", text));
        }
    }
}
