//! Small text files that are there whole or not at all, and say when they were changed.
//!
//! The first line is `p2v-store 1 KIND HASH`, where HASH is the BLAKE3 of everything behind that
//! line, in hex. The rest is JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Damage, Lie, OnPath, Result};
use crate::files::Files;

/// The longest such file that is read. An inventory is some tens of KiB.
const LONGEST: u64 = 64 << 20;

/// Write `value` as `dir/name`, in the place of one that is there, durably.
pub(crate) fn write_text(
    files: &dyn Files,
    dir: &str,
    name: &str,
    kind: &str,
    value: &impl Serialize,
) -> Result<()> {
    let path = join(dir, name);
    let body = serde_json::to_vec_pretty(value)
        .map_err(std::io::Error::other)
        .on(&path)?;
    let mut bytes = format!("p2v-store 1 {kind} {}\n", blake3::hash(&body)).into_bytes();
    bytes.extend_from_slice(&body);
    let temporary = join(dir, &format!("~{name}"));
    let written = (|| {
        let file = files.create(&temporary)?;
        file.write_at(0, &bytes)?;
        file.sync()?;
        files.rename(&temporary, &path)?;
        files.sync_dir(dir)
    })();
    if written.is_err() {
        let _ = files.remove(&temporary);
    }
    written.on(&path)
}

/// Read `dir/name`, verified. `None` if there is no such file.
pub(crate) fn read_text<T: DeserializeOwned>(
    files: &dyn Files,
    dir: &str,
    name: &str,
    kind: &str,
) -> Result<Option<T>> {
    let path = join(dir, name);
    let damage = |offset, lie| Damage::new(&path, offset, lie);
    let file = match files.open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.on(&path)?,
    };
    let len = file.len().on(&path)?;
    if len > LONGEST {
        return Err(damage(
            0,
            Lie::Value {
                what: "the text's length, at most",
                expected: LONGEST,
                found: len,
            },
        )
        .into());
    }
    let mut bytes = vec![0; len as usize];
    file.read_at(0, &mut bytes).on(&path)?;
    let line = bytes.iter().position(|byte| *byte == b'\n');
    let (head, body) = match line.and_then(|at| bytes.split_at_checked(at + 1)) {
        Some(parts) => parts,
        None => (&bytes[..], &[][..]),
    };
    let prefix = format!("p2v-store 1 {kind} ");
    let Some(expected) = head.strip_prefix(prefix.as_bytes()) else {
        let lie = Lie::Magic {
            expected: prefix,
            found: crate::bytes::printable(head.get(..64).unwrap_or(head)),
        };
        return Err(damage(0, lie).into());
    };
    let found = blake3::hash(body).to_string();
    if expected.strip_suffix(b"\n") != Some(found.as_bytes()) {
        let expected = crate::bytes::printable(expected.get(..64).unwrap_or(expected));
        return Err(damage(head.len() as u64, Lie::TextHash { expected, found }).into());
    }
    serde_json::from_slice(body).map(Some).map_err(|error| {
        let detail = error.to_string();
        damage(head.len() as u64, Lie::Text { detail }).into()
    })
}

fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() {
        return name.to_owned();
    }
    format!("{dir}/{name}")
}
