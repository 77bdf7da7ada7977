//! The machine as a whole: hardware, firmware, memory, operating system, load.

use stream_protocol::inventory::{Firmware, FirmwareKind, Hardware, Load, Os};

use super::Root;

/// From DMI. What vendors write where they have nothing to say counts as absent.
pub(super) fn hardware(root: &Root) -> Hardware {
    let dmi = |file: &str| {
        let text = root.text(&format!("sys/class/dmi/id/{file}"))?;
        (!is_placeholder(&text)).then_some(text)
    };
    Hardware {
        vendor: dmi("sys_vendor"),
        model: dmi("product_name"),
        model_version: dmi("product_version"),
        serial: dmi("product_serial").or_else(|| dmi("chassis_serial")),
        uuid: dmi("product_uuid"),
        board: joined(dmi("board_vendor"), dmi("board_name")),
        firmware_version: joined(dmi("bios_vendor"), dmi("bios_version")),
        chassis_type: dmi("chassis_type"),
    }
}

fn joined(first: Option<String>, second: Option<String>) -> Option<String> {
    match (first, second) {
        (Some(first), Some(second)) => Some(format!("{first} {second}")),
        (first, second) => first.or(second),
    }
}

fn is_placeholder(text: &str) -> bool {
    let placeholders = [
        "to be filled by o.e.m.",
        "default string",
        "not specified",
        "not applicable",
        "system serial number",
        "system manufacturer",
        "system product name",
        "system version",
        "none",
        "n/a",
        "oem",
        "0123456789",
        "00000000-0000-0000-0000-000000000000",
    ];
    placeholders.contains(&text.to_ascii_lowercase().as_str())
}

/// How the machine was started; `None` where neither can be told (a tree without `/sys/firmware`,
/// a machine that is no PC).
pub(super) fn firmware(root: &Root) -> Option<Firmware> {
    if root.exists("sys/firmware/efi") {
        return Some(Firmware {
            kind: FirmwareKind::Uefi,
            secure_boot: secure_boot(root),
        });
    }
    root.exists("sys/firmware").then_some(Firmware {
        kind: FirmwareKind::Bios,
        secure_boot: None,
    })
}

/// [UEFI] 3.3, "Globally Defined Variables": `SecureBoot`, one byte, 1 when on. efivarfs puts four
/// bytes of attributes before the value; the older `vars` directory has the value alone in `data`.
fn secure_boot(root: &Root) -> Option<bool> {
    let name = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    let value = match root.bytes(&format!("sys/firmware/efi/efivars/{name}")) {
        Some(bytes) => *bytes.get(4)?,
        None => *root
            .bytes(&format!("sys/firmware/efi/vars/{name}/data"))?
            .first()?,
    };
    Some(value == 1)
}

/// Memory that the operating system sees, in bytes.
pub(super) fn memory(root: &Root) -> Option<u64> {
    meminfo(root, "MemTotal")
}

fn meminfo(root: &Root, key: &str) -> Option<u64> {
    let text = root.text("proc/meminfo")?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let kilobytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// The host's name: what the kernel has now, before what a file would set at the next start.
pub(super) fn hostname(root: &Root) -> Option<String> {
    root.text("proc/sys/kernel/hostname")
        .filter(|name| name != "(none)")
        .or_else(|| root.text("etc/hostname"))
}

/// `/etc/machine-id`: 32 hexadecimal digits, or absent while it is `uninitialized`.
pub(super) fn machine_id(root: &Root) -> Option<String> {
    let id = root
        .text("etc/machine-id")
        .or_else(|| root.text("var/lib/dbus/machine-id"))?;
    let is_id = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| id.to_ascii_lowercase())
}

/// Operating system and kernel.
pub(super) fn os(root: &Root) -> Os {
    let release = root
        .text("etc/os-release")
        .or_else(|| root.text("usr/lib/os-release"));
    let release = release.unwrap_or_default();
    let value = |key: &str| os_release_value(&release, key);
    Os {
        family: Some("linux".to_owned()),
        id: value("ID"),
        version: value("VERSION_ID"),
        // Before os-release there was one line for people, on each distribution elsewhere.
        pretty_name: value("PRETTY_NAME").or_else(|| {
            [
                "etc/redhat-release",
                "etc/SuSE-release",
                "etc/debian_version",
            ]
            .iter()
            .find_map(|file| Some(root.text(file)?.lines().next()?.to_owned()))
        }),
        kernel: root.text("proc/sys/kernel/osrelease"),
        kernel_command_line: root.text("proc/cmdline"),
    }
}

/// [os-release(5)]: `KEY=value`, `KEY="value"` or `KEY='value'`, backslash before `"$\` and `` ` ``.
fn os_release_value(text: &str, key: &str) -> Option<String> {
    let value = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))?;
    let value = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => value.trim_matches(quote),
        _ => value,
    };
    let mut plain = String::new();
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => plain.extend(characters.next()),
            other => plain.push(other),
        }
    }
    (!plain.is_empty()).then_some(plain)
}

/// How busy the machine is.
pub(super) fn load(root: &Root) -> Load {
    let averages = root.text("proc/loadavg").and_then(|text| {
        let mut fields = text.split(' ').map(|field| field.parse::<f64>().ok());
        Some([fields.next()??, fields.next()??, fields.next()??])
    });
    let uptime = root.text("proc/uptime").and_then(|text| {
        let seconds = text.split(['.', ' ']).next()?;
        seconds.parse().ok()
    });
    Load {
        averages,
        uptime_seconds: uptime,
        memory_available_bytes: meminfo(root, "MemAvailable").or_else(|| meminfo(root, "MemFree")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_quoting() {
        let text =
            "NAME='x'\nPRETTY_NAME=\"A \\\"B\\\" \\$C\"\nID=debian\nVERSION_ID=\"12\"\nEMPTY=\n";
        assert_eq!(os_release_value(text, "PRETTY_NAME").unwrap(), "A \"B\" $C");
        assert_eq!(os_release_value(text, "ID").unwrap(), "debian");
        assert_eq!(os_release_value(text, "VERSION_ID").unwrap(), "12");
        assert_eq!(os_release_value(text, "EMPTY"), None);
        assert_eq!(os_release_value(text, "VERSION"), None);
    }
}
