//! A plan being drawn up: several reasons may change one file, which then is one edit.

use std::collections::BTreeMap;

use filesystems::path::GuestPath;

use crate::edit::{Change, Edit};
use crate::finding::Finding;
use crate::inspect::{ConfigFile, ConfigKind, Inspection};

/// Files as they are and as they shall be, edits that are no text, and what to tell.
pub struct Draft<'a> {
    /// What it is drawn from.
    pub inspection: &'a Inspection,
    /// What to tell.
    pub findings: Vec<Finding>,
    files: BTreeMap<GuestPath, DraftFile>,
    directories: BTreeMap<GuestPath, String>,
    others: Vec<Edit>,
}

struct DraftFile {
    before: Option<Vec<u8>>,
    after: Option<Vec<u8>>,
    mode: u16,
    why: Vec<String>,
}

impl<'a> Draft<'a> {
    /// Nothing is changed yet.
    pub fn new(inspection: &'a Inspection) -> Self {
        Self {
            inspection,
            findings: inspection.findings.clone(),
            files: BTreeMap::new(),
            directories: BTreeMap::new(),
            others: Vec::new(),
        }
    }

    /// The files of one kind with their contents as drafted so far.
    pub fn contents_of(&self, kind: ConfigKind) -> Vec<(&'a ConfigFile, Vec<u8>)> {
        let current = |file: &'a ConfigFile| {
            let bytes = match self.files.get(&file.path) {
                Some(draft) => draft.after.clone()?,
                None => file.bytes.clone(),
            };
            Some((file, bytes))
        };
        self.inspection.files_of(kind).filter_map(current).collect()
    }

    /// Give a known file other contents; nothing happens when they are the same.
    pub fn replace(&mut self, file: &ConfigFile, after: Vec<u8>, why: impl Into<String>) {
        let draft = self
            .files
            .entry(file.path.clone())
            .or_insert_with(|| DraftFile {
                before: Some(file.bytes.clone()),
                after: Some(file.bytes.clone()),
                mode: 0o644,
                why: Vec::new(),
            });
        if draft.after.as_ref() != Some(&after) {
            draft.after = Some(after);
            let why = why.into();
            if !draft.why.contains(&why) {
                draft.why.push(why);
            }
        }
    }

    /// Remove a known file.
    pub fn remove(&mut self, file: &ConfigFile, why: impl Into<String>) {
        self.files.insert(
            file.path.clone(),
            DraftFile {
                before: Some(file.bytes.clone()),
                after: None,
                mode: 0,
                why: vec![why.into()],
            },
        );
    }

    /// A file with these contents shall be at `path`, whose directory exists or is drafted. If it is
    /// a known file, it changes.
    pub fn put(&mut self, path: GuestPath, contents: Vec<u8>, why: impl Into<String>) {
        let inspection = self.inspection;
        if let Some(file) = inspection.files.iter().find(|file| file.path == path) {
            self.replace(file, contents, why);
            return;
        }
        self.files.insert(
            path,
            DraftFile {
                before: None,
                after: Some(contents),
                mode: 0o644,
                why: vec![why.into()],
            },
        );
    }

    /// The directory of that name, drafted if it is missing; `None` when even its parent is.
    pub fn directory(&mut self, name: &'static str, why: &str) -> Option<GuestPath> {
        if let Some(path) = self.inspection.directories.get(name) {
            return Some(path.clone());
        }
        let (parent, last) = name.rsplit_once('/')?;
        let known = self
            .inspection
            .directories
            .iter()
            .find(|(known, _)| **known == parent);
        let path = match known {
            Some((_, parent)) => parent.join(last),
            None => {
                // One level of missing parents more: /etc/systemd/network without /etc/systemd.
                let (above, middle) = parent.rsplit_once('/')?;
                let parent = self.inspection.directories.get(above)?.join(middle);
                self.directories.insert(parent.clone(), why.to_owned());
                parent.join(last)
            }
        };
        self.directories.insert(path.clone(), why.to_owned());
        Some(path)
    }

    /// Any other edit.
    pub fn add(&mut self, edit: Edit) {
        self.others.push(edit);
    }

    /// The edits: directories, then files by path, then the rest, and what to tell.
    pub fn finish(self) -> (Vec<Edit>, Vec<Finding>) {
        let mut edits = Vec::new();
        for (place, why) in self.directories {
            let what = Change::CreateDirectory { mode: 0o755 };
            edits.push(Edit { what, place, why });
        }
        for (place, file) in self.files {
            let what = match (file.before, file.after) {
                (Some(before), Some(after)) if before != after => {
                    Change::ReplaceFile { before, after }
                }
                (Some(before), None) => Change::Remove { before },
                (None, Some(after)) => Change::CreateFile {
                    after,
                    mode: file.mode,
                },
                _ => continue,
            };
            let why = file.why.join("; ");
            edits.push(Edit { what, place, why });
        }
        edits.extend(self.others);
        (edits, self.findings)
    }
}
