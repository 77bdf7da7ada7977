//! By what the converter recognises that a run goes on with an earlier one.

use ring::rand::{SecureRandom, SystemRandom};
use stream_protocol::message::{NameError, RunId};
use stream_protocol::{Inventory, MachineName, PushKey};

/// What makes a machine and its disks the same ones as before: machine-id, DMI numbers, and of each
/// disk what does not change when it is called differently after a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    facts: Vec<String>,
}

impl Identity {
    /// That of the machine itself.
    #[must_use]
    pub fn of_machine(inventory: &Inventory) -> Self {
        let facts = [
            &inventory.machine_id,
            &inventory.hardware.uuid,
            &inventory.hardware.serial,
        ];
        Self {
            facts: facts.into_iter().flatten().cloned().collect(),
        }
    }

    /// With one more disk: its size, and its serial number, WWN or path.
    #[must_use]
    pub fn with_disk(mut self, size: u64, name: &str) -> Self {
        self.facts.push(format!("{size} {name}"));
        self
    }

    /// The key of a push of it under `name`.
    ///
    /// # Errors
    /// None that could happen: the key is hexadecimal.
    pub fn push_key(&self, name: &MachineName) -> Result<PushKey, NameError> {
        let mut text = format!("p2v push key 1\n{name:?}\n");
        for fact in &self.facts {
            // Quoted, so that no fact can look like two.
            text.push_str(&format!("{fact:?}\n"));
        }
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        PushKey::new(hex(digest.as_ref().get(..16).unwrap_or_default()))
    }
}

/// The name of this run of the program, unlike any other's.
pub(super) fn new_run() -> anyhow::Result<RunId> {
    Ok(RunId::new(hex(&random::<16>()))?)
}

/// Numbers that spread the retries of many agents.
pub(super) fn jitter() -> Box<dyn FnMut() -> u64 + Send> {
    let mut state = u64::from_le_bytes(random::<8>());
    Box::new(move || {
        // splitmix64: any spread will do.
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed ^ (mixed >> 31)
    })
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if SystemRandom::new().fill(&mut bytes).is_err() {
        // No getrandom and no /dev/urandom: the clock and the process number are unlike enough.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seed = now.map_or(0, |now| now.as_nanos()) ^ u128::from(std::process::id());
        let seeds = seed.to_le_bytes().into_iter().cycle();
        bytes
            .iter_mut()
            .zip(seeds)
            .for_each(|(byte, seed)| *byte = seed);
    }
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_depends_on_machine_disks_and_name_alone() {
        let inventory = Inventory {
            machine_id: Some("3d1219c7c4c5404aaa1f6d2a48adfda4".to_owned()),
            ..Inventory::default()
        };
        let identity = Identity::of_machine(&inventory).with_disk(4 << 30, "S1");
        let key = |identity: &Identity, name: &str| {
            identity.push_key(&MachineName::new(name).unwrap()).unwrap()
        };
        let busier = Inventory {
            memory_bytes: Some(1),
            ..inventory.clone()
        };
        let again = Identity::of_machine(&busier).with_disk(4 << 30, "S1");
        assert_eq!(key(&identity, "web01"), key(&again, "web01"));
        assert_ne!(key(&identity, "web01"), key(&identity, "web02"));
        let other_disk = Identity::of_machine(&inventory).with_disk(4 << 30, "S2");
        assert_ne!(key(&identity, "web01"), key(&other_disk, "web01"));
        let one = Identity::default().with_disk(1, "a\"\n\"1 b");
        let two = Identity::default().with_disk(1, "a").with_disk(1, "b");
        assert_ne!(key(&one, "x"), key(&two, "x"));
        assert_ne!(new_run().unwrap(), new_run().unwrap());
    }
}
