//! Carry a plan out.

use filesystems::mounts::MountedTree;
use filesystems::path::GuestPath;
use filesystems::tree::{Attributes, FileKind, FileTree, TreeError, TreeErrorKind};
use serde::Serialize;

use crate::cpio::CpioWriter;
use crate::edit::{AppendArchive, ArchiveEntry, Change, Edit, Packing};
use crate::guest::Guest;
use crate::plan::Plan;
use crate::unpack::{pack_lz4_legacy, unpack_module};

/// Largest file changed or copied.
const LARGEST_FILE: u64 = 64 << 20;
/// Granularity in which space is counted.
const BLOCK: u64 = 4096;
/// Where SELinux keeps a file's label.
const LABEL: &[u8] = b"security.selinux";

/// What came of an edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was made.
    Changed,
    /// The guest is so already.
    AlreadyDone,
}

/// Why a plan could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A file system has too little room. Nothing was written.
    #[error(
        "{at} has {free} bytes free, and the changes need {needed}: make room there on the source, \
         for example by removing old kernels"
    )]
    NoSpace {
        /// Its mount point.
        at: GuestPath,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// A file is not what the plan was made from.
    #[error("{place} is not what the plan was made from: {found}; inspect and plan anew")]
    Moved {
        /// The file.
        place: GuestPath,
        /// What is there.
        found: String,
    },
    /// Reading or writing a file failed.
    #[error("changing {place}")]
    Tree {
        /// The file.
        place: GuestPath,
        /// What went wrong.
        source: TreeError,
    },
    /// A module could not be unpacked.
    #[error("unpacking {place}")]
    Unpack {
        /// The module.
        place: GuestPath,
        /// What went wrong.
        source: std::io::Error,
    },
}

/// Make the changes of `plan`, in order; what is so already stays untouched. The answers stand for
/// the plan's edits, one each.
///
/// # Errors
/// [`ApplyError`]. `NoSpace` and an edit that does not fit the guest any more come before anything
/// is written by that edit; after another error the guest must not be used further.
pub fn apply(plan: &Plan, guest: &mut Guest) -> Result<Vec<Outcome>, ApplyError> {
    let tree = &mut guest.tree;
    check_space(plan, tree)?;
    let mut outcomes = Vec::with_capacity(plan.edits.len());
    for edit in &plan.edits {
        outcomes.push(make(edit, tree, plan.time)?);
    }
    Ok(outcomes)
}

/// Every file system must have room for all that goes there, before anything does.
fn check_space(plan: &Plan, tree: &MountedTree) -> Result<(), ApplyError> {
    let points: Vec<GuestPath> = tree.mount_points().cloned().collect();
    for at in points {
        let mut needed = 0u64;
        for edit in &plan.edits {
            if *tree.mount_point_of(&edit.place) == at && !is_made(edit, tree) {
                needed = needed.saturating_add(edit.growth().next_multiple_of(BLOCK));
            }
        }
        if needed == 0 {
            continue;
        }
        let space = tree.space_at(&at).map_err(|source| ApplyError::Tree {
            place: at.clone(),
            source,
        })?;
        if needed > space.free {
            let free = space.free;
            return Err(ApplyError::NoSpace { at, needed, free });
        }
    }
    Ok(())
}

/// Whether the edit is made, as far as can be told without building an archive.
fn is_made(edit: &Edit, tree: &MountedTree) -> bool {
    match &edit.what {
        Change::CreateFile { .. } | Change::CreateDirectory { .. } => {
            tree.stat(&edit.place).is_ok()
        }
        Change::ReplaceFile { after, .. } => {
            matches!(tree.read_file(&edit.place, LARGEST_FILE), Ok(found) if found == *after)
        }
        Change::Remove { .. } => true,
        Change::AppendArchive(append) => {
            matches!(tree.stat(&edit.place), Ok(stat) if stat.size != append.size_before)
        }
    }
}

fn make(edit: &Edit, tree: &mut MountedTree, time: i64) -> Result<Outcome, ApplyError> {
    let place = &edit.place;
    let failed = |source| ApplyError::Tree {
        place: place.clone(),
        source,
    };
    match &edit.what {
        Change::ReplaceFile { before, after } => {
            let found = tree.read_file(place, LARGEST_FILE).map_err(failed)?;
            if found == *after {
                return Ok(Outcome::AlreadyDone);
            }
            expect_contents(place, &found, before)?;
            let attributes = Attributes::root_owned(0o644, time);
            tree.write_file(place, after, attributes).map_err(failed)?;
        }
        Change::CreateFile { after, mode } => match tree.read_file(place, LARGEST_FILE) {
            Ok(found) if found == *after => return Ok(Outcome::AlreadyDone),
            Ok(found) => expect_contents(place, &found, after)?,
            Err(error) if error.kind() == TreeErrorKind::NotFound => {
                let attributes = Attributes::root_owned(*mode, time);
                tree.write_file(place, after, attributes).map_err(failed)?;
                copy_label(tree, place).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        },
        Change::CreateDirectory { mode } => match tree.stat(place) {
            Ok(stat) if stat.kind == FileKind::Directory => return Ok(Outcome::AlreadyDone),
            Ok(_) => return Err(failed(TreeError::new(TreeErrorKind::NotADirectory, place))),
            Err(error) if error.kind() == TreeErrorKind::NotFound => {
                let attributes = Attributes::root_owned(*mode, time);
                tree.create_dir(place, attributes).map_err(failed)?;
                copy_label(tree, place).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        },
        Change::Remove { before } => match tree.read_file(place, LARGEST_FILE) {
            Ok(found) => {
                expect_contents(place, &found, before)?;
                tree.remove(place).map_err(failed)?;
            }
            Err(error) if error.kind() == TreeErrorKind::NotFound => {
                return Ok(Outcome::AlreadyDone);
            }
            Err(error) => return Err(failed(error)),
        },
        Change::AppendArchive(append) => return make_archive(place, append, tree),
    }
    Ok(Outcome::Changed)
}

fn expect_contents(place: &GuestPath, found: &[u8], expected: &[u8]) -> Result<(), ApplyError> {
    if found == expected {
        return Ok(());
    }
    Err(ApplyError::Moved {
        place: place.clone(),
        found: format!("{} bytes, expected {}", found.len(), expected.len()),
    })
}

/// A new file gets the label of its first neighbour of the same kind, or of its directory: what the
/// policy says of a directory it says of what is in it, with few exceptions.
fn copy_label(tree: &mut MountedTree, path: &GuestPath) -> Result<(), TreeError> {
    let Some(directory) = path.parent() else {
        return Ok(());
    };
    let kind = tree.stat(path)?.kind;
    let label_of = |path: &GuestPath| {
        let xattrs = tree.xattrs(path).unwrap_or_default();
        xattrs
            .into_iter()
            .find(|xattr| xattr.name == LABEL)
            .map(|xattr| xattr.value)
    };
    let neighbours = tree.list(&directory)?;
    let label = neighbours
        .iter()
        .filter(|entry| entry.kind == kind)
        .map(|entry| directory.join(&entry.name))
        .filter(|neighbour| neighbour != path)
        .find_map(|neighbour| label_of(&neighbour))
        .or_else(|| label_of(&directory));
    match label {
        Some(label) => tree.set_xattr(path, LABEL, Some(&label)),
        None => Ok(()),
    }
}

/// Put the archive behind the initramfs: padding, archive, and nothing after it.
fn make_archive(
    place: &GuestPath,
    append: &AppendArchive,
    tree: &mut MountedTree,
) -> Result<Outcome, ApplyError> {
    let failed = |source| ApplyError::Tree {
        place: place.clone(),
        source,
    };
    let archive = build(append, tree)?;
    let mut tail = vec![0; (append.offset() - append.base_end) as usize];
    match append.packing {
        Packing::Plain => tail.extend_from_slice(&archive),
        Packing::Lz4Blocks => tail.extend_from_slice(&pack_lz4_legacy(&archive)),
    }
    let size = tree.stat(place).map_err(failed)?.size;
    let end = append.base_end + tail.len() as u64;
    if size == end && read_tail(tree, place, append.base_end, tail.len()).map_err(failed)? == tail {
        return Ok(Outcome::AlreadyDone);
    }
    if size != append.size_before {
        return Err(ApplyError::Moved {
            place: place.clone(),
            found: format!("{size} bytes, expected {}", append.size_before),
        });
    }
    tree.write_at(place, append.base_end, &tail)
        .map_err(failed)?;
    if size > end {
        tree.truncate(place, end).map_err(failed)?;
    }
    Ok(Outcome::Changed)
}

fn build(append: &AppendArchive, tree: &MountedTree) -> Result<Vec<u8>, ApplyError> {
    let mut writer = CpioWriter::new();
    for entry in &append.entries {
        match entry {
            ArchiveEntry::Directory { name } => writer.add_directory(name.as_bytes()),
            ArchiveEntry::Text { name, contents } => writer.add_file(name.as_bytes(), contents),
            ArchiveEntry::Copy {
                name, from, unpack, ..
            } => {
                let bytes =
                    tree.read_following(from, LARGEST_FILE)
                        .map_err(|source| ApplyError::Tree {
                            place: from.clone(),
                            source,
                        })?;
                let bytes = if *unpack {
                    unpack_module(bytes, LARGEST_FILE).map_err(|source| ApplyError::Unpack {
                        place: from.clone(),
                        source,
                    })?
                } else {
                    bytes
                };
                writer.add_file(name.as_bytes(), &bytes);
            }
        }
    }
    Ok(writer.finish())
}

fn read_tail(
    tree: &MountedTree,
    path: &GuestPath,
    offset: u64,
    length: usize,
) -> Result<Vec<u8>, TreeError> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match tree.read_at(path, offset + filled as u64, &mut bytes[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}
