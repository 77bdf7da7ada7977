//! The inventory for people.

use std::fmt::{self, Write};

use stream_protocol::Inventory;
use stream_protocol::inventory::{Cpu, Disk, DiskPart, FirmwareKind, Nic, Route};

use crate::units::{Plain, bytes, duration};

/// Write the inventory as a page of text.
///
/// # Errors
/// What `out` answers.
pub fn write_table(inventory: &Inventory, out: &mut dyn Write) -> fmt::Result {
    write_summary(inventory, out)?;
    writeln!(out, "\nDisks")?;
    let header = [
        "PATH", "SIZE", "SECTOR", "BUS", "KIND", "MODEL", "SERIAL", "USE",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for disk in &inventory.disks {
        rows.push(disk_row(disk));
        rows.extend(disk.parts.iter().map(part_row));
    }
    write_columns_or_none(&rows, out)?;
    writeln!(out, "\nNetwork")?;
    let header = [
        "NAME",
        "MAC",
        "KIND",
        "DRIVER",
        "STATE",
        "SPEED",
        "ADDRESSES",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(inventory.nics.iter().map(nic_row));
    write_columns_or_none(&rows, out)?;
    for route in &inventory.routes {
        writeln!(out, "  route {}", route_line(route))?;
    }
    for server in &inventory.dns.servers {
        writeln!(out, "  name server {}", Plain(server))?;
    }
    if !inventory.dns.search.is_empty() {
        writeln!(out, "  search {}", Plain(&inventory.dns.search.join(" ")))?;
    }
    Ok(())
}

fn write_summary(inventory: &Inventory, out: &mut dyn Write) -> fmt::Result {
    let hardware = &inventory.hardware;
    let machine = words([
        hardware.vendor.clone(),
        hardware.model.clone(),
        hardware
            .serial
            .as_ref()
            .map(|serial| format!("(serial {serial})")),
    ]);
    let os = words([
        inventory.os.pretty_name.clone().or(inventory.os.id.clone()),
        inventory
            .os
            .kernel
            .as_ref()
            .map(|kernel| format!("(kernel {kernel})")),
    ]);
    let firmware = inventory.firmware.as_ref().map(|firmware| {
        match (firmware.kind, firmware.secure_boot) {
            (FirmwareKind::Bios, _) => "BIOS",
            (FirmwareKind::Uefi, Some(true)) => "UEFI, Secure Boot on",
            (FirmwareKind::Uefi, Some(false)) => "UEFI, Secure Boot off",
            (FirmwareKind::Uefi, None) => "UEFI, Secure Boot unknown",
        }
        .to_owned()
    });
    let memory = inventory.memory_bytes.map(|total| {
        let free = inventory.load.memory_available_bytes;
        let free = free.map_or(String::new(), |free| format!(", {} available", bytes(free)));
        format!("{}{free}", bytes(total))
    });
    let load = words([
        inventory
            .load
            .averages
            .map(|[one, five, fifteen]| format!("{one:.2} {five:.2} {fifteen:.2}")),
        inventory
            .load
            .uptime_seconds
            .map(|seconds| format!("(up {})", duration(seconds))),
    ]);
    let lines = [
        ("Host", inventory.hostname.clone()),
        ("Machine", machine),
        ("Board", hardware.board.clone()),
        ("System", os),
        (
            "Firmware",
            words([
                firmware,
                hardware.firmware_version.as_ref().map(|v| format!("({v})")),
            ]),
        ),
        ("Processor", processor(&inventory.cpu)),
        ("Memory", memory),
        ("Load", load),
    ];
    for (name, value) in lines {
        let value = value.unwrap_or_else(|| "unknown".to_owned());
        writeln!(out, "{name:<10} {}", Plain(&value))?;
    }
    Ok(())
}

fn words<const N: usize>(parts: [Option<String>; N]) -> Option<String> {
    let present: Vec<String> = parts.into_iter().flatten().collect();
    (!present.is_empty()).then(|| present.join(" "))
}

fn processor(cpu: &Cpu) -> Option<String> {
    let number = |number: Option<u32>, one: &str| {
        number.map(|number| format!("{number} {one}{}", if number == 1 { "" } else { "s" }))
    };
    let counts = [
        number(cpu.sockets, "socket"),
        number(cpu.cores, "core"),
        number(cpu.threads, "thread"),
    ];
    let counts: Vec<String> = counts.into_iter().flatten().collect();
    words([
        cpu.model.clone().or(cpu.vendor.clone()),
        (!counts.is_empty()).then(|| format!("({})", counts.join(", "))),
        cpu.flags
            .iter()
            .any(|flag| flag == "hypervisor")
            .then(|| "already virtual".to_owned()),
    ])
}

fn disk_row(disk: &Disk) -> Vec<String> {
    let dash = || "-".to_owned();
    let sector = match (disk.logical_sector, disk.physical_sector) {
        (Some(logical), Some(physical)) => format!("{logical}/{physical}"),
        (Some(logical), None) => logical.to_string(),
        _ => dash(),
    };
    let kind = match (disk.removable, disk.rotational) {
        (Some(true), _) => "removable",
        (_, Some(true)) => "spinning",
        (_, Some(false)) => "flash",
        _ => "-",
    };
    vec![
        disk.path.clone(),
        bytes(disk.size),
        sector,
        disk.transport.clone().unwrap_or_else(dash),
        kind.to_owned(),
        disk.model.clone().unwrap_or_else(dash),
        disk.serial.clone().unwrap_or_else(dash),
        String::new(),
    ]
}

fn part_row(part: &DiskPart) -> Vec<String> {
    let mut row = vec![format!("  {}", part.path)];
    row.push(part.size.map(bytes).unwrap_or_default());
    row.extend(std::iter::repeat_n(String::new(), 5));
    let mut usage = part.fs_type.clone().unwrap_or_default();
    for mount in &part.mounts {
        let _ = write!(usage, " {mount}");
    }
    row.push(usage.trim_start().to_owned());
    row
}

fn nic_row(nic: &Nic) -> Vec<String> {
    let dash = || "-".to_owned();
    let mac = match (&nic.mac, &nic.permanent_mac) {
        (Some(mac), Some(own)) if mac != own => format!("{mac} (own {own})"),
        (Some(mac), _) | (None, Some(mac)) => mac.clone(),
        (None, None) => dash(),
    };
    let state = match nic.up {
        Some(true) => "up",
        Some(false) => "down",
        None => "-",
    };
    let kind = nic.kind.clone().unwrap_or_else(dash);
    vec![
        nic.name.clone(),
        mac,
        match &nic.master {
            Some(master) => format!("{kind} in {master}"),
            None => kind,
        },
        nic.driver.clone().unwrap_or_else(dash),
        state.to_owned(),
        nic.speed_mbps
            .map_or_else(dash, |speed| format!("{speed} Mb/s")),
        nic.addresses.join(" "),
    ]
}

fn route_line(route: &Route) -> String {
    let mut line = Plain(&route.destination).to_string();
    if let Some(gateway) = &route.gateway {
        let _ = write!(line, " via {}", Plain(gateway));
    }
    if let Some(nic) = &route.nic {
        let _ = write!(line, " on {}", Plain(nic));
    }
    if let Some(metric) = route.metric.filter(|metric| *metric > 0) {
        let _ = write!(line, ", metric {metric}");
    }
    line
}

fn write_columns_or_none(rows: &[Vec<String>], out: &mut dyn Write) -> fmt::Result {
    match rows.len() {
        0 | 1 => writeln!(out, "  none found"),
        _ => write_columns(rows, out),
    }
}

/// Rows as columns of equal width, indented by two; a column that is empty throughout is left out.
fn write_columns(rows: &[Vec<String>], out: &mut dyn Write) -> fmt::Result {
    let plain: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| Plain(cell).to_string()).collect())
        .collect();
    let columns = plain.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize, rows: &[Vec<String>]| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns)
        .map(
            |column| match width(column, plain.get(1..).unwrap_or_default()) {
                0 => 0,
                _ => width(column, &plain),
            },
        )
        .collect();
    for row in &plain {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths).filter(|(_, width)| **width > 0) {
            let _ = write!(line, "  {cell:<width$}");
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}
