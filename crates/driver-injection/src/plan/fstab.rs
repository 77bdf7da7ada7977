//! fstab, crypttab, and where swap is resumed from.

use std::ops::Range;

use super::arguments::rewrite_arguments;
use super::draft::Draft;
use crate::devices::{DeviceNames, Meaning, VolumeIndex};
use crate::finding::{Finding, tell};
use crate::fstab::{read_fstab, replace_field, table_lines, unescape_octal};
use crate::inspect::{ConfigFile, ConfigKind};

/// Make the tables independent of device names.
pub fn plan_tables(draft: &mut Draft) {
    for (file, text) in draft.contents_of(ConfigKind::Fstab) {
        let text = rewrite_table(draft, file, &text, 0, DeviceNames::lasting_reference);
        let why =
            "the disk has another name in the VM, and a mount that fails ends in emergency mode";
        draft.replace(file, text, why);
        check_root(draft, file);
    }
    for (file, text) in draft.contents_of(ConfigKind::Crypttab) {
        let text = rewrite_table(draft, file, &text, 1, crypt_source);
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

/// Replace the device in one column of a table, line by line.
fn rewrite_table(
    draft: &mut Draft,
    file: &ConfigFile,
    text: &[u8],
    column: usize,
    lasting: impl Fn(&DeviceNames, VolumeIndex) -> Option<String>,
) -> Vec<u8> {
    let mut out: Vec<Vec<u8>> = Vec::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let mut place = format!("{} line {}", file.path, index + 1);
        let fields = table_lines(line)
            .pop()
            .map(|line| line.fields)
            .unwrap_or_default();
        let device = fields
            .get(column)
            .map(|field| unescape_octal(&line[field.clone()]));
        let device = String::from_utf8_lossy(&device.unwrap_or_default()).into_owned();
        place.push_str(&format!(": {device}"));
        let mut line = line.to_vec();
        match (draft.inspection.names.meaning(&device), fields.get(column)) {
            (Meaning::Fleeting(volume), Some(field)) => {
                match lasting(&draft.inspection.names, volume) {
                    Some(new) => line = replace_field(&line, field, new.as_bytes()),
                    None => tell(
                        &mut draft.findings,
                        Finding::warning(
                            "table-nameless-device",
                            format!("{place} has neither a UUID nor a partition identifier"),
                        ),
                    ),
                }
            }
            (Meaning::Absent, Some(_)) if is_certainly_absent(draft, &device) => {
                let what = format!("{place} is none of the disks that are converted");
                tell(
                    &mut draft.findings,
                    Finding::warning("table-absent-device", what),
                );
                if column == 0 {
                    line = with_nofail(line, &fields);
                }
            }
            _ => {}
        }
        out.push(line);
    }
    out.join(&b'\n')
}

/// Whether a device that is not among the volumes cannot be inside one of them either: a name of the
/// old machine's, or a UUID where nothing here holds volumes of its own.
fn is_certainly_absent(draft: &Draft, device: &str) -> bool {
    let containers = [
        "LVM2_member",
        "crypto_LUKS",
        "linux_raid_member",
        "zfs_member",
        "bcache",
    ];
    let holds_volumes = |kind: &str| kind.is_empty() || containers.contains(&kind);
    if device.starts_with("/dev/mapper/")
        || device.starts_with("/dev/md")
        || device.starts_with("/dev/dm-")
    {
        return false;
    }
    device.starts_with("/dev/") && !device.starts_with("/dev/disk/by-uuid/")
        || !draft
            .inspection
            .names
            .volumes()
            .iter()
            .any(|volume| holds_volumes(&volume.kind))
}

/// A mount that is not there, and not marked as one that may be missing, ends the start of a system
/// with systemd in emergency mode. [systemd.mount(5)]
fn with_nofail(line: Vec<u8>, fields: &[Range<usize>]) -> Vec<u8> {
    let (Some(at), Some(options)) = (fields.get(1), fields.get(3)) else {
        return line;
    };
    let (at, old) = (&line[at.clone()], &line[options.clone()]);
    let may_be_missing = |option: &[u8]| matches!(option, b"nofail" | b"noauto");
    if at == b"/" || old.split(|byte| *byte == b',').any(may_be_missing) {
        return line;
    }
    let new = [old, b",nofail"].concat();
    replace_field(&line, options, &new)
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
            tell(
                &mut draft.findings,
                Finding::warning("fstab-other-root", text),
            );
        }
    }
}
