//! Pushes that meet what an earlier run of the same source left: compare, cut, take the root; and list
//! the pushes that are not committed.

use crate::error::{OnPath, Refusal, Result, StoreError};
use crate::push::{Push, read_description};
use crate::recipe::reader::Recipe;
use crate::recipe::writer::RecipeWriter;
use crate::recipe::{RecipeEntry, RootHasher};
use crate::snapshot::{DiskInfo, PUSH, machine_dirs, recipe_path};
use crate::store::Store;
use crate::sync::lock;

/// A push that is not committed, in progress or abandoned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InProgress {
    /// The machine's name.
    pub machine: String,
    /// The key the push is known by.
    pub push_key: String,
    /// Counts the pushes of a machine.
    pub sequence: u64,
    /// The disks, and for each the byte behind its last durable entry.
    pub disks: Vec<(DiskInfo, u64)>,
}

impl Push {
    /// The number of the first of `entries`, which begin at number `at`, that differs from the one
    /// that is here. `None` if all that are here are equal, or none are here.
    ///
    /// # Errors
    /// `Refused` for a disk that is not there, or as the files answer.
    pub fn first_difference(
        &self,
        disk: usize,
        at: u64,
        entries: &[RecipeEntry],
    ) -> Result<Option<u64>> {
        let mut recipes = lock(&self.recipes);
        recipe(recipes.as_mut(), disk)?.first_difference(at, entries)
    }

    /// Forget a disk's entries from number `count` on: the source has changed since they were sent.
    /// Their chunks stay until garbage is collected.
    ///
    /// # Errors
    /// `Refused` for a disk that is not there, or as the files answer.
    pub fn cut(&self, disk: usize, count: u64) -> Result<()> {
        let mut recipes = lock(&self.recipes);
        let files = self.store.core.files.as_ref();
        recipe(recipes.as_mut(), disk)?.cut(files, count)
    }

    /// The root hash of all entries of a disk that have arrived, by [`crate::recipe_root`]. Makes them
    /// durable first.
    ///
    /// # Errors
    /// `Refused` for a disk that is not there, or as the files answer.
    pub fn root(&self, disk: usize) -> Result<[u8; 32]> {
        let mut recipes = lock(&self.recipes);
        self.flush(recipes.as_mut().ok_or(Refusal::Over)?)?;
        let size = self.disks().get(disk).map_or(0, |info| info.size);
        let mut hasher = RootHasher::new(size);
        let recipe = recipe(recipes.as_mut(), disk)?.recipe();
        recipe.for_each_page(&mut |entries| {
            entries.iter().for_each(|entry| hasher.update(entry));
            Ok(())
        })?;
        Ok(hasher.finish())
    }
}

impl Store {
    /// The pushes that are not committed, by machine. One whose description is damaged is left out: it
    /// cannot be resumed either.
    ///
    /// # Errors
    /// As the files answer.
    pub fn pushes(&self) -> Result<Vec<InProgress>> {
        let files = self.core.files.as_ref();
        let mut pushes = Vec::new();
        for (dir, _) in machine_dirs(files)? {
            for file in files.list(&dir).on(&dir)? {
                let Some(name) = file.strip_suffix(PUSH) else {
                    continue;
                };
                let known = match read_description(self, &dir, name) {
                    Ok(Some(known)) => known,
                    Ok(None) | Err(StoreError::Damaged(_)) => continue,
                    Err(error) => return Err(error),
                };
                let mut disks = Vec::new();
                for (number, disk) in known.disks.into_iter().enumerate() {
                    let end = match Recipe::open(files, &recipe_path(&dir, name, number), None) {
                        Ok(recipe) => last_end(&recipe),
                        Err(StoreError::Damaged(_)) => 0,
                        Err(error) => return Err(error),
                    };
                    disks.push((disk, end));
                }
                pushes.push(InProgress {
                    machine: known.machine,
                    push_key: known.push_key,
                    sequence: known.sequence,
                    disks,
                });
            }
        }
        pushes.sort_by(|a, b| (&a.machine, a.sequence).cmp(&(&b.machine, b.sequence)));
        Ok(pushes)
    }
}

/// The end of the last entry that can be read: the last page may be torn or being written.
fn last_end(recipe: &Recipe) -> u64 {
    let last_pages = (0..recipe.pages()).rev().take(2);
    let ends = last_pages.filter_map(|page| Some(recipe.read_page(page).ok()?.last()?.end()));
    ends.max().unwrap_or(0)
}

fn recipe(
    recipes: Option<&mut Vec<RecipeWriter>>,
    disk: usize,
) -> Result<&mut RecipeWriter, Refusal> {
    let recipes = recipes.ok_or(Refusal::Over)?;
    let disks = recipes.len();
    recipes
        .get_mut(disk)
        .ok_or(Refusal::NoSuchDisk { disk, disks })
}
