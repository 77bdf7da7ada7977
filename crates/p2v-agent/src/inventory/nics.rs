//! Network interfaces: cards, and the bonds, bridges and VLANs above them.

use stream_protocol::inventory::Nic;

use super::Root;

const SYS: &str = "sys/class/net";

/// All interfaces but loopback and the ends of containers and virtual machines, without their
/// addresses.
pub(super) fn read(root: &Root) -> Vec<Nic> {
    let names = root.names(SYS);
    names.iter().filter_map(|name| nic(root, name)).collect()
}

fn nic(root: &Root, name: &str) -> Option<Nic> {
    let sys = format!("{SYS}/{name}");
    let kind = kind(root, name)?;
    let mac = mac(root, &sys);
    // [sysfs-class-net] addr_assign_type: 0 is the permanent address, everything else was set.
    let own = root.number::<u32>(&format!("{sys}/addr_assign_type")) == Some(0);
    let bus = root.link_name(&format!("{sys}/device/subsystem"));
    let place = root.link_name(&format!("{sys}/device"));
    Some(Nic {
        name: name.to_owned(),
        permanent_mac: bonded_permanent_mac(root, name)
            .or_else(|| mac.clone().filter(|_| own && kind == "physical")),
        mac,
        driver: root.link_name(&format!("{sys}/device/driver")),
        bus: bus.zip(place).map(|(bus, place)| format!("{bus} {place}")),
        kind: Some(kind.to_owned()),
        master: root.link_name(&format!("{sys}/master")),
        up: root
            .text(&format!("{sys}/operstate"))
            .map(|state| state == "up"),
        mtu: root.number(&format!("{sys}/mtu")),
        // -1 (unknown), or an error while the link is down.
        speed_mbps: root.number(&format!("{sys}/speed")),
        addresses: Vec::new(),
    })
}

/// What kind of interface it is; `None` for those that belong to something running on this
/// machine (containers, virtual machines, tests) or to no machine in particular.
fn kind(root: &Root, name: &str) -> Option<&'static str> {
    let sys = format!("{SYS}/{name}");
    let has = |file: &str| root.exists(&format!("{sys}/{file}"));
    let declared = root.text(&format!("{sys}/uevent")).and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("DEVTYPE="));
        line.map(str::to_owned)
    });
    if has("device") {
        return Some("physical");
    }
    // [if_arp.h] ARPHRD_LOOPBACK.
    if root.number::<u32>(&format!("{sys}/type")) == Some(772) {
        return None;
    }
    if has("bonding") {
        return Some("bond");
    }
    if has("bridge") {
        return Some("bridge");
    }
    if has("tun_flags") {
        return Some("tun");
    }
    let known = ["vlan", "bond", "bridge", "vxlan", "wireguard", "macvlan"];
    let declared = known
        .into_iter()
        .find(|kind| declared.as_deref() == Some(kind));
    let stands_on_others = root
        .names(&sys)
        .iter()
        .any(|entry| entry.starts_with("lower_"));
    declared.or(stands_on_others.then_some("stacked"))
}

/// The address, unless it is all zeroes or no Ethernet address.
fn mac(root: &Root, sys: &str) -> Option<String> {
    let mac = root.text(&format!("{sys}/address"))?.to_ascii_lowercase();
    let pairs = mac.split(':').count();
    (pairs == 6 && mac != "00:00:00:00:00:00").then_some(mac)
}

/// A card in a bond takes the bond's address; the bond remembers the card's own.
fn bonded_permanent_mac(root: &Root, nic: &str) -> Option<String> {
    let master = root.link_name(&format!("{SYS}/{nic}/master"))?;
    let text = root.text(&format!("proc/net/bonding/{master}"))?;
    let mut in_section = false;
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        match key.trim() {
            "Slave Interface" => in_section = value.trim() == nic,
            "Permanent HW addr" if in_section => {
                return Some(value.trim().to_ascii_lowercase());
            }
            _ => {}
        }
    }
    None
}
