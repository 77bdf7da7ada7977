//! Things the guest remembers of the old machine's hardware.

use super::PlannedNic;
use super::draft::Draft;
use crate::finding::{Finding, tell};
use crate::inspect::{ConfigKind, persistent_net_rule};

/// Forget them.
pub fn plan_stale_hardware(draft: &mut Draft, nics: &[PlannedNic]) {
    for (file, text) in draft.contents_of(ConfigKind::UdevRules) {
        let name = file.path.file_name().unwrap_or_default();
        if name.ends_with(b"persistent-cd.rules") || name.ends_with(b"persistent-disk.rules") {
            draft.remove(
                file,
                "it ties names to drives of the old machine, and udev refuses to name others",
            );
        } else {
            let kept = without_stale_nics(&text, nics);
            let why = "rules for network cards that are not in the VM keep their names from those that are";
            draft.replace(file, kept, why);
        }
    }
    for (file, _) in draft.contents_of(ConfigKind::LvmDevices) {
        let why = "it lists the old machine's disks, and LVM looks at no others; without it LVM looks at all";
        draft.remove(file, why);
    }
    for (file, _) in draft.contents_of(ConfigKind::DeviceCache) {
        draft.remove(file, "a cache of the old machine's device names");
    }
    for (file, text) in draft.contents_of(ConfigKind::LvmSettings) {
        let text = String::from_utf8_lossy(&text).into_owned();
        let filters = |line: &&str| {
            let line = line.trim_start();
            (line.starts_with("filter") || line.starts_with("global_filter"))
                && [
                    "/dev/sd",
                    "/dev/hd",
                    "/dev/nvme",
                    "/dev/cciss",
                    "by-id",
                    "by-path",
                ]
                .iter()
                .any(|name| line.contains(name))
        };
        if let Some(line) = text.lines().find(filters) {
            let text = format!(
                "{}: LVM's filter names disks of the old machine: {}",
                file.path,
                line.trim()
            );
            tell(&mut draft.findings, Finding::warning("lvm-filter", text));
        }
    }
}

/// The rules without those that name cards the VM will not have, and the comments just above them.
fn without_stale_nics(text: &[u8], nics: &[PlannedNic]) -> Vec<u8> {
    let is_stale = |line: &[u8]| {
        let line = String::from_utf8_lossy(line);
        let Some((mac, name)) = persistent_net_rule(&line) else {
            return false;
        };
        // A rule that also wants the old slot or driver will not match in the VM.
        let pinned = line.contains("KERNELS==")
            || line.contains("ENV{ID_PATH}==")
            || line
                .split("DRIVERS==\"")
                .nth(1)
                .is_some_and(|rest| !rest.starts_with("?*\""));
        pinned
            || !nics
                .iter()
                .any(|nic| nic.mac == mac && nic.name.as_ref() == Some(&name))
    };
    let mut out: Vec<&[u8]> = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        if !is_stale(line) {
            out.push(line);
            continue;
        }
        // udev's generator writes "# PCI device 0x8086:0x1533 (igb)" above each rule.
        while out.last().is_some_and(|above| {
            above.starts_with(b"# PCI device") || above.starts_with(b"# USB device")
        }) {
            out.pop();
        }
    }
    out.join(&b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::MacAddress;

    #[test]
    fn rules_for_cards_that_stay_are_kept() {
        let rules = "# This file was automatically generated\n\n# PCI device 0x8086:0x1533 (igb)\n\
            SUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", ATTR{address}==\"52:54:00:00:00:01\", NAME=\"eth0\"\n\n\
            # PCI device 0x14e4:0x1639 (bnx2)\n\
            SUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", ATTR{address}==\"52:54:00:00:00:02\", NAME=\"eth1\"\n";
        let nic = PlannedNic {
            name: Some("eth0".into()),
            mac: MacAddress([0x52, 0x54, 0, 0, 0, 1]),
            generated: false,
        };
        let kept = String::from_utf8(without_stale_nics(rules.as_bytes(), &[nic])).unwrap();
        assert!(kept.contains("eth0") && kept.contains("igb"));
        assert!(!kept.contains("eth1") && !kept.contains("bnx2"));
    }
}
