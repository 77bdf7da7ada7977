//! What this machine is: read from `/proc`, `/sys`, `/etc` and `/run`, changing nothing.
//!
//! Every reader takes a [`Root`], so that a fixture tree reads like a machine. What cannot be read
//! is absent: an inventory never fails.

mod cpu;
mod disks;
mod machine;
mod mounts;
mod network;
mod nics;
mod root;
mod table;

pub use root::Root;
pub use table::write_table;

use stream_protocol::Inventory;
use stream_protocol::inventory::INVENTORY_VERSION;

/// Everything the tree at `root` tells about its machine.
#[must_use]
pub fn read(root: &Root) -> Inventory {
    let mut nics = nics::read(root);
    network::add_addresses(root, &mut nics);
    Inventory {
        version: INVENTORY_VERSION,
        hostname: machine::hostname(root),
        machine_id: machine::machine_id(root),
        hardware: machine::hardware(root),
        cpu: cpu::read(root),
        memory_bytes: machine::memory(root),
        firmware: machine::firmware(root),
        disks: disks::read(root),
        nics,
        routes: network::routes(root),
        dns: network::dns(root),
        os: machine::os(root),
        load: machine::load(root),
    }
}
