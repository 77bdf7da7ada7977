//! Notes: what the receiver of a machine's pushes must remember beside them, as durably as they are.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{OnPath, Result, StoreError};
use crate::names;
use crate::snapshot::machine_dir;
use crate::store::{MACHINES_DIR, Store};
use crate::text::{read_text, write_text};

const KIND: &str = "note";
/// What the name of a note's file ends in.
const NOTE: &str = ".note";

impl Store {
    /// What was last noted of `machine` under `name`. A damaged note counts as none, and
    /// [`Store::mended`] tells of it.
    ///
    /// # Errors
    /// As the files answer.
    pub fn note<T: DeserializeOwned>(&self, machine: &str, name: &str) -> Result<Option<T>> {
        let (dir, file) = place(machine, name);
        match read_text(self.core.files.as_ref(), &dir, &file, KIND) {
            Err(StoreError::Damaged(damage)) => {
                self.note_mended(damage);
                Ok(None)
            }
            other => other,
        }
    }

    /// Note something of `machine` under `name`, durably, in the place of what was noted before. A push
    /// of the machine need not be there.
    ///
    /// # Errors
    /// As the files answer; then the older note stays, or the new one is there already.
    pub fn put_note(&self, machine: &str, name: &str, note: &impl Serialize) -> Result<()> {
        self.to_write()?;
        let (dir, file) = place(machine, name);
        let files = self.core.files.as_ref();
        files.create_dir(&dir).on(&dir)?;
        files.sync_dir(MACHINES_DIR).on(MACHINES_DIR)?;
        write_text(files, &dir, &file, KIND, note)
    }
}

fn place(machine: &str, name: &str) -> (String, String) {
    let dir = machine_dir(&names::encode(machine));
    (dir, format!("{}{NOTE}", names::encode(name)))
}
