//! A libvirt domain. [libvirt: formatdomain]

use std::fmt::Write;
use std::path::Path;

use stream_protocol::inventory::FirmwareKind;

use super::{Board, Clock, DiskBus, Machine, NicModel};

/// The domain XML of a machine whose images stand in `directory`.
pub fn domain(machine: &Machine, directory: &Path) -> String {
    let mut xml = String::from("<domain type='kvm'>\n");
    // Writing to a String cannot fail.
    let _ = write_head(&mut xml, machine);
    xml.push_str("  <devices>\n");
    let _ = write_disks(&mut xml, machine, directory);
    let _ = write_nics(&mut xml, machine);
    xml.push_str(
        "    <serial type='pty'/>\n    <console type='pty'/>\n    <channel type='unix'>\n      \
         <target type='virtio' name='org.qemu.guest_agent.0'/>\n    </channel>\n    \
         <input type='tablet' bus='usb'/>\n    <graphics type='vnc' autoport='yes'/>\n    \
         <video>\n      <model type='vga' vram='16384'/>\n    </video>\n    \
         <memballoon model='virtio'/>\n    <rng model='virtio'>\n      \
         <backend model='random'>/dev/urandom</backend>\n    </rng>\n  </devices>\n</domain>\n",
    );
    xml
}

fn write_head(xml: &mut String, machine: &Machine) -> std::fmt::Result {
    let kib = machine.memory_bytes.div_ceil(1024);
    writeln!(
        xml,
        "  <name>{}</name>",
        escape(&domain_name(&machine.name))
    )?;
    // The name as it was, where a person reads it; an empty title is against the schema.
    if !machine.name.trim().is_empty() {
        writeln!(xml, "  <title>{}</title>", escape(&one_line(&machine.name)))?;
    }
    writeln!(xml, "  <memory unit='KiB'>{kib}</memory>")?;
    writeln!(xml, "  <vcpu>{}</vcpu>", machine.vcpus)?;
    let board = match machine.board {
        Board::Q35 => "q35",
        Board::Pc => "pc",
    };
    match machine.firmware {
        FirmwareKind::Bios => writeln!(xml, "  <os>")?,
        FirmwareKind::Uefi => {
            // libvirt picks firmware and variable store by these features, as formatdomain says under "BIOS bootloader".
            let answer = if machine.secure_boot { "yes" } else { "no" };
            writeln!(xml, "  <os firmware='efi'>\n    <firmware>")?;
            writeln!(
                xml,
                "      <feature enabled='{answer}' name='enrolled-keys'/>"
            )?;
            writeln!(
                xml,
                "      <feature enabled='{answer}' name='secure-boot'/>\n    </firmware>"
            )?;
        }
    }
    writeln!(
        xml,
        "    <type arch='x86_64' machine='{board}'>hvm</type>\n  </os>"
    )?;
    let smm = if machine.secure_boot {
        "<smm state='on'/>"
    } else {
        ""
    };
    writeln!(xml, "  <features><acpi/><apic/>{smm}</features>")?;
    writeln!(xml, "  <cpu mode='host-model'/>")?;
    let offset = match machine.clock {
        Clock::Utc => "utc",
        Clock::Localtime => "localtime",
    };
    writeln!(xml, "  <clock offset='{offset}'/>")?;
    writeln!(
        xml,
        "  <on_poweroff>destroy</on_poweroff>\n  <on_reboot>restart</on_reboot>"
    )
}

fn write_disks(xml: &mut String, machine: &Machine, directory: &Path) -> std::fmt::Result {
    // Each bus names its disks in its own row: vda, vdb; sda, sdb. SCSI and SATA share one.
    let (mut vd, mut sd, mut hd) = (0, 0, 0);
    for (index, disk) in machine.disks.iter().enumerate() {
        let (bus, prefix, number) = match disk.bus {
            DiskBus::VirtioBlk => ("virtio", "vd", &mut vd),
            DiskBus::VirtioScsi => ("scsi", "sd", &mut sd),
            // libvirt emulates no NVMe disk before 11.5 [domaincommon.rng]; a reader of the file is told.
            DiskBus::Ahci | DiskBus::Nvme => ("sata", "sd", &mut sd),
            DiskBus::Ide => ("ide", "hd", &mut hd),
        };
        let target = format!("{prefix}{}", letters(*number));
        *number += 1;
        let file = directory.join(&disk.file);
        if disk.bus == DiskBus::Nvme {
            writeln!(
                xml,
                "    <!-- Meant for NVMe, which libvirt has no disks for before 11.5. -->"
            )?;
        }
        writeln!(xml, "    <disk type='file' device='disk'>")?;
        writeln!(
            xml,
            "      <driver name='qemu' type='{}' discard='unmap'/>",
            disk.format.name()
        )?;
        writeln!(
            xml,
            "      <source file='{}'/>",
            escape(&file.to_string_lossy())
        )?;
        writeln!(xml, "      <target dev='{target}' bus='{bus}'/>")?;
        writeln!(xml, "      <boot order='{}'/>\n    </disk>", index + 1)?;
    }
    if machine.disks.iter().any(|d| d.bus == DiskBus::VirtioScsi) {
        writeln!(
            xml,
            "    <controller type='scsi' index='0' model='virtio-scsi'/>"
        )?;
    }
    Ok(())
}

fn write_nics(xml: &mut String, machine: &Machine) -> std::fmt::Result {
    for nic in &machine.nics {
        writeln!(
            xml,
            "    <interface type='network'>\n      <source network='default'/>"
        )?;
        if let Some(mac) = &nic.mac {
            writeln!(xml, "      <mac address='{}'/>", escape(mac))?;
        }
        let model = match nic.model {
            NicModel::Virtio => "virtio",
            NicModel::E1000e => "e1000e",
            NicModel::E1000 => "e1000",
            NicModel::Rtl8139 => "rtl8139",
        };
        writeln!(xml, "      <model type='{model}'/>\n    </interface>")?;
    }
    Ok(())
}

/// 0 is `a`, 25 is `z`, 26 is `aa`.
fn letters(number: usize) -> String {
    let last = char::from(b'a' + (number % 26) as u8);
    match number / 26 {
        0 => last.to_string(),
        more => letters(more - 1) + &last.to_string(),
    }
}

/// A name libvirt takes: it makes files of it, so no slash, and no line break [domain.rng].
fn domain_name(name: &str) -> String {
    let name = one_line(name).replace('/', "_");
    if name.trim().is_empty() || name == "." || name == ".." {
        "machine".to_owned()
    } else {
        name
    }
}

fn one_line(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_control() { '_' } else { c })
        .collect()
}

/// Text for an element or a quoted attribute. Characters that XML cannot carry at all become `_`. [XML 1.0, 2.2]
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\'' => escaped.push_str("&apos;"),
            '"' => escaped.push_str("&quot;"),
            // As references, or a reader turns them into spaces.
            '\t' | '\n' | '\r' => {
                let _ = write!(escaped, "&#{};", c as u32);
            }
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => escaped.push('_'),
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_twenty_seventh_disk_is_aa() {
        assert_eq!(letters(0), "a");
        assert_eq!(letters(25), "z");
        assert_eq!(letters(26), "aa");
        assert_eq!(letters(26 * 27), "aaa");
    }

    #[test]
    fn a_name_never_leads_out_of_libvirts_directories() {
        assert_eq!(domain_name("../../etc\n"), ".._.._etc_");
        assert_eq!(domain_name(".."), "machine");
        assert_eq!(domain_name(" "), "machine");
    }
}
