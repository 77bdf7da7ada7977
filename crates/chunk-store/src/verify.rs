//! Looking for damage before somebody needs the bytes.

use std::collections::BTreeSet;

use chunking::ChunkId;

use crate::error::{Damage, Lie, Result, StoreError};
use crate::pack::scan::{Found, scan};
use crate::pack::{check_head, pack_path};
use crate::push::read_description;
use crate::recipe::reader::Recipe;
use crate::recipe::{RecipeEntry, RootHasher};
use crate::snapshot::{
    MANIFEST, PUSH, Snapshot, SnapshotId, StoredDisk, machine_dirs, push_of, recipe_path,
};
use crate::store::{RECORDS_AT, Store};

/// Damages listed one by one; more are counted.
const LISTED: usize = 10_000;

/// How far verifying has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes looked at.
    pub done: u64,
    /// Bytes to look at, all in all.
    pub total: u64,
}

/// What verifying found.
#[derive(Debug, Default)]
pub struct Verification {
    /// Chunks hashed.
    pub chunks: u64,
    /// Raw bytes hashed.
    pub bytes: u64,
    /// What is damaged: the first ten thousand places.
    pub damaged: Vec<Damage>,
    /// Damaged places beyond those listed.
    pub more_damaged: u64,
}

impl Verification {
    /// Whether nothing is damaged.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.damaged.is_empty()
    }

    fn note(&mut self, damage: Damage) {
        if self.damaged.len() < LISTED {
            self.damaged.push(damage);
        } else {
            self.more_damaged += 1;
        }
    }

    /// Keep damage as a finding, let any other error through.
    fn found<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(StoreError::Damaged(damage)) => {
                self.note(damage);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl Store {
    /// Read all of a snapshot: its manifest, recipes and every chunk, each hashed again. The
    /// snapshot is then marked as verified, or not.
    ///
    /// # Errors
    /// As the files answer. Damage is no error, it is listed.
    pub fn verify_snapshot(
        &self,
        id: &SnapshotId,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Verification> {
        let mut verification = Verification::default();
        let Some(mut snapshot) = verification.found(self.snapshot(id))? else {
            return Ok(verification);
        };
        let total = snapshot.disks.iter().map(|disk| disk.used).sum();
        let mut bad = BTreeSet::new();
        let mut done = 0;
        for (disk, path) in recipes_of(&snapshot) {
            let mut on = |entry: &RecipeEntry, verification: &mut Verification| {
                done += u64::from(entry.len);
                progress(Progress { done, total });
                if bad.contains(&entry.id) {
                    return Ok(());
                }
                match verification.found(self.read_chunk(&entry.id))? {
                    Some(raw) => {
                        verification.chunks += 1;
                        verification.bytes += raw.len() as u64;
                    }
                    None => {
                        bad.insert(entry.id);
                    }
                }
                Ok(())
            };
            self.verify_recipe(disk, &path, &mut verification, &mut on)?;
        }
        let clean = verification.is_clean();
        if snapshot.verified != clean && !self.core.read_only {
            snapshot.verified = clean;
            self.write_manifest(&snapshot)?;
        }
        Ok(verification)
    }

    /// Read the whole store: every record of every pack, hashed again, every index run, manifest and
    /// recipe, and whether every chunk that a snapshot needs is in a pack.
    ///
    /// # Errors
    /// As the files answer. Damage is no error, it is listed.
    pub fn verify(&self, progress: &mut dyn FnMut(Progress)) -> Result<Verification> {
        let mut verification = Verification::default();
        let packs = self.core.packs.lengths();
        let total = packs.iter().map(|(_, len)| len).sum();
        let mut done = 0;
        for (number, len) in packs {
            self.verify_pack(number, len, &mut verification, &mut |bytes| {
                done += bytes;
                progress(Progress { done, total });
            })?;
        }
        for run in self.core.index.runs() {
            verification.found(run.verify())?;
        }
        self.verify_machines(&mut verification)?;
        Ok(verification)
    }

    fn verify_pack(
        &self,
        number: u32,
        len: u64,
        verification: &mut Verification,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let path = pack_path(number);
        let file = match self.core.packs.file(number) {
            // It was collected meanwhile.
            Err(StoreError::NotFound { .. }) => return Ok(()),
            other => other?,
        };
        if let Some(damage) = check_head(file.as_ref(), number, len)? {
            verification.note(damage);
        }
        // The end of the pack that another process appends to may be half a record just now.
        let newest = self.core.packs.lengths().last().map(|(number, _)| *number);
        let growing = self.core.read_only && newest == Some(number);
        let mut last: Option<Damage> = None;
        let mut at = 0;
        scan(file.as_ref(), &path, RECORDS_AT..len, &mut |found| {
            match found {
                Found::Damage(damage) if growing => last = Some(damage),
                Found::Damage(damage) => verification.note(damage),
                Found::Gap(_) => last.take().into_iter().for_each(|it| verification.note(it)),
                Found::Record {
                    offset,
                    header,
                    payload,
                } => {
                    match chunking::unpack(&header.id, header.raw_len, header.codec, payload) {
                        Ok(raw) => {
                            verification.chunks += 1;
                            verification.bytes += raw.len() as u64;
                        }
                        Err(source) => {
                            let id = header.id;
                            verification.note(Damage::new(
                                &path,
                                offset,
                                Lie::Chunk { id, source },
                            ));
                        }
                    }
                    let end = offset + header.record_len();
                    progress(end - at);
                    at = end;
                }
            }
            Ok(())
        })?;
        progress(len.saturating_sub(at));
        Ok(())
    }

    fn verify_machines(&self, verification: &mut Verification) -> Result<()> {
        let files = self.core.files.as_ref();
        for (dir, machine) in machine_dirs(files)? {
            for file in crate::error::OnPath::on(files.list(&dir), &dir)? {
                let Some(push) = push_of(&file) else { continue };
                if file.ends_with(PUSH) {
                    verification.found(read_description(self, &dir, push))?;
                }
                if !file.ends_with(MANIFEST) {
                    continue;
                }
                let id = SnapshotId::new(&machine, push);
                let snapshot = match self.snapshot(&id) {
                    Err(StoreError::NotFound { .. }) => continue,
                    other => verification.found(other)?,
                };
                for (disk, path) in snapshot.iter().flat_map(recipes_of) {
                    self.verify_presence(disk, &path, verification)?;
                }
            }
        }
        Ok(())
    }

    /// Check a recipe, and that its chunks are in packs.
    fn verify_presence(
        &self,
        disk: &StoredDisk,
        path: &str,
        verification: &mut Verification,
    ) -> Result<()> {
        let mut batch: Vec<ChunkId> = Vec::new();
        let look = |batch: &mut Vec<ChunkId>, verification: &mut Verification| -> Result<()> {
            for id in self.lacking(batch)? {
                verification.note(Damage::new(path, 0, Lie::NoChunk { id }));
            }
            batch.clear();
            Ok(())
        };
        self.verify_recipe(disk, path, verification, &mut |entry, verification| {
            batch.push(entry.id);
            if batch.len() >= 64 << 10 {
                look(&mut batch, verification)?;
            }
            Ok(())
        })?;
        look(&mut batch, verification)
    }

    /// Check a recipe's pages, its root hash and its count, and call `on` for each entry.
    fn verify_recipe(
        &self,
        disk: &StoredDisk,
        path: &str,
        verification: &mut Verification,
        on: &mut dyn FnMut(&RecipeEntry, &mut Verification) -> Result<()>,
    ) -> Result<()> {
        let Some(recipe) = verification.found(Recipe::open(
            self.core.files.as_ref(),
            path,
            Some(disk.recipe_pages),
        ))?
        else {
            return Ok(());
        };
        let mut hasher = RootHasher::new(disk.info.size);
        let mut whole = true;
        for number in 0..recipe.pages() {
            let Some(entries) = verification.found(recipe.read_page(number))? else {
                whole = false;
                continue;
            };
            for entry in &entries {
                hasher.update(entry);
                on(entry, verification)?;
            }
        }
        let found = ChunkId(hasher.finish()).to_string();
        // A page that is damaged has been named already; the root then says nothing new.
        if whole && found != disk.root {
            let expected = disk.root.clone();
            verification.note(Damage::new(path, 0, Lie::Root { expected, found }));
        }
        Ok(())
    }
}

fn recipes_of(snapshot: &Snapshot) -> impl Iterator<Item = (&StoredDisk, String)> {
    let (dir, push) = snapshot.id.parts();
    let disks = snapshot.disks.iter().enumerate();
    disks.map(move |(number, disk)| (disk, recipe_path(&dir, &push, number)))
}
