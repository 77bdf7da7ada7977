//! Several file systems at their mount points, as the guest sees them: one tree.
//!
//! Symbolic links are followed here, component by component and across mounts, the way the kernel
//! does it in a chroot: an absolute link starts at the guest's root, `..` stops there, and forty
//! links are enough. No link leads out of the guest.

use crate::path::GuestPath;
use crate::tree::{
    Attributes, DirEntry, FileKind, FileTree, Result, Space, Stat, TreeError, TreeErrorKind, Xattr,
};

/// Most symbolic links one path may lead through: what Linux allows (MAXSYMLINKS).
pub const MOST_LINKS: usize = 40;

/// Longest link target followed: PATH_MAX of Linux.
const LONGEST_TARGET: usize = 4096;

/// Most paths one pattern may give.
const MOST_MATCHES: usize = 65_536;

/// File systems mounted into one another.
///
/// As a [`FileTree`] it follows links on the way to the last component, and never the last one;
/// [`MountedTree::resolve`] follows that one too, and what it answers holds no link at all.
pub struct MountedTree {
    /// The root first, then in the order of mounting: later ones hide earlier ones.
    mounts: Vec<Mount>,
}

struct Mount {
    at: GuestPath,
    tree: Box<dyn FileTree>,
}

impl MountedTree {
    /// A tree with nothing but its root mounted.
    #[must_use]
    pub fn new(root: Box<dyn FileTree>) -> Self {
        let at = GuestPath::root();
        Self {
            mounts: vec![Mount { at, tree: root }],
        }
    }

    /// Mount `tree` at the directory `at` names, links followed.
    ///
    /// # Errors
    /// `NotFound` or `NotADirectory` when there is no directory to mount on.
    pub fn mount(&mut self, at: &GuestPath, tree: Box<dyn FileTree>) -> Result<()> {
        let at = self.resolve(at)?;
        if self.raw_stat(&at)?.kind != FileKind::Directory {
            return Err(TreeError::new(TreeErrorKind::NotADirectory, &at));
        }
        self.mounts.push(Mount { at, tree });
        Ok(())
    }

    /// Where something is mounted, the root first.
    pub fn mount_points(&self) -> impl Iterator<Item = &GuestPath> {
        self.mounts.iter().map(|mount| &mount.at)
    }

    /// The mount point whose file system holds `path` (taken as resolved).
    #[must_use]
    pub fn mount_point_of(&self, path: &GuestPath) -> &GuestPath {
        &self.mounts[self.mount_of(path).0].at
    }

    /// Take it apart: the file systems in the order of mounting, the root first.
    #[must_use]
    pub fn into_trees(self) -> Vec<Box<dyn FileTree>> {
        self.mounts.into_iter().map(|mount| mount.tree).collect()
    }

    /// The path without symbolic links that `path` leads to. The last component need not exist.
    ///
    /// # Errors
    /// `SymlinkLoop` after [`MOST_LINKS`] links; `NotFound` when a directory on the way is missing.
    pub fn resolve(&self, path: &GuestPath) -> Result<GuestPath> {
        self.walk(path, true)
    }

    /// What `path` leads to, links followed.
    ///
    /// # Errors
    /// As [`MountedTree::resolve`], and `NotFound`.
    pub fn stat_following(&self, path: &GuestPath) -> Result<Stat> {
        self.raw_stat(&self.resolve(path)?)
    }

    /// Whether `path` leads to something, links followed. An unreadable one counts as absent.
    #[must_use]
    pub fn exists(&self, path: &GuestPath) -> bool {
        self.stat_following(path).is_ok()
    }

    /// Whether `path` leads to a directory, links followed.
    #[must_use]
    pub fn is_dir(&self, path: &GuestPath) -> bool {
        matches!(self.stat_following(path), Ok(stat) if stat.kind == FileKind::Directory)
    }

    /// The names in the directory `path` leads to, sorted.
    ///
    /// # Errors
    /// As [`MountedTree::resolve`], and `NotADirectory`.
    pub fn list(&self, path: &GuestPath) -> Result<Vec<DirEntry>> {
        let mut entries = self.at(&self.resolve(path)?, |tree, path| tree.read_dir(path))?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// The whole contents of the file `path` leads to, at most `most` bytes.
    ///
    /// # Errors
    /// As [`MountedTree::resolve`] and [`FileTree::read_file`].
    pub fn read_following(&self, path: &GuestPath, most: u64) -> Result<Vec<u8>> {
        self.at(&self.resolve(path)?, |tree, path| {
            tree.read_file(path, most)
        })
    }

    /// The existing paths that `pattern` matches, sorted: `*`, `?` and `[a-z]` inside a component,
    /// where a leading dot must be written out. The last component's links are not followed.
    ///
    /// # Errors
    /// `TooLarge` when the answer would be absurdly long. A directory that cannot be read gives
    /// nothing.
    pub fn glob(&self, pattern: &str) -> Result<Vec<GuestPath>> {
        let mut found = vec![GuestPath::root()];
        for component in GuestPath::new(pattern).components() {
            let wild = component.iter().any(|byte| b"*?[".contains(byte));
            let mut next = Vec::new();
            for dir in found {
                if !wild {
                    let path = dir.join(component);
                    if self.stat(&path).is_ok() {
                        next.push(path);
                    }
                    continue;
                }
                for entry in self.list(&dir).unwrap_or_default() {
                    if matches_component(component, &entry.name) {
                        next.push(dir.join(&entry.name));
                    }
                }
                if next.len() > MOST_MATCHES {
                    return Err(TreeError::new(TreeErrorKind::TooLarge, &dir)
                        .detail(format!("more than {MOST_MATCHES} names match {pattern}")));
                }
            }
            found = next;
        }
        Ok(found)
    }

    /// Space left in the file system that holds `path`, links followed.
    ///
    /// # Errors
    /// As [`MountedTree::resolve`].
    pub fn space_at(&self, path: &GuestPath) -> Result<Space> {
        self.at(&self.resolve(path)?, |tree, _| tree.space())
    }

    /// Follow the links of `path`; those of its last component only if `last_too`.
    fn walk(&self, path: &GuestPath, last_too: bool) -> Result<GuestPath> {
        let mut resolved = GuestPath::root();
        // What is still to be walked, the next component last.
        let mut pending: Vec<Vec<u8>> = path.components().map(<[u8]>::to_vec).collect();
        pending.reverse();
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if name == b".." {
                resolved = resolved.parent().unwrap_or_default();
                continue;
            }
            let candidate = resolved.join(&name);
            let last = pending.is_empty();
            match self.raw_stat(&candidate) {
                Ok(stat) if stat.kind == FileKind::Symlink && (!last || last_too) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(TreeError::new(TreeErrorKind::SymlinkLoop, path));
                    }
                    let target = self.at(&candidate, |tree, path| tree.read_link(path))?;
                    if target.is_empty() || target.len() > LONGEST_TARGET {
                        return Err(TreeError::new(TreeErrorKind::BadName, &candidate)
                            .detail(format!("a link target of {} bytes", target.len())));
                    }
                    if target.first() == Some(&b'/') {
                        resolved = GuestPath::root();
                    }
                    let components = target.split(|byte| *byte == b'/').rev();
                    let walked = components.filter(|name| !matches!(*name, b"" | b"."));
                    pending.extend(walked.map(<[u8]>::to_vec));
                }
                Ok(_) => resolved = candidate,
                Err(error) if error.kind() == TreeErrorKind::NotFound && last => {
                    resolved = candidate;
                }
                Err(error) => return Err(error.renamed(path)),
            }
        }
        Ok(resolved)
    }

    /// Which mount holds `path`, and the path inside it.
    fn mount_of(&self, path: &GuestPath) -> (usize, GuestPath) {
        let inside = |(index, mount): (usize, &Mount)| {
            let rest = path.strip_prefix(&mount.at)?;
            Some((index, mount.at.as_bytes().len(), rest))
        };
        // The deepest wins; of two at one place, the later, which hides the earlier.
        let deepest = self.mounts.iter().enumerate().filter_map(inside);
        deepest
            .max_by_key(|(index, depth, _)| (*depth, *index))
            .map_or((0, path.clone()), |(index, _, rest)| (index, rest))
    }

    fn raw_stat(&self, path: &GuestPath) -> Result<Stat> {
        self.at(path, |tree, path| tree.stat(path))
    }

    /// Ask the file system that holds the resolved `path`; an error names the whole path.
    fn at<T>(
        &self,
        path: &GuestPath,
        ask: impl FnOnce(&dyn FileTree, &GuestPath) -> Result<T>,
    ) -> Result<T> {
        let (index, inside) = self.mount_of(path);
        ask(self.mounts[index].tree.as_ref(), &inside).map_err(|error| error.renamed(path))
    }

    /// Change the file system that holds `path`, whose links on the way are followed.
    fn change<T>(
        &mut self,
        path: &GuestPath,
        change: impl FnOnce(&mut dyn FileTree, &GuestPath) -> Result<T>,
    ) -> Result<T> {
        let path = self.walk(path, false)?;
        let (index, inside) = self.mount_of(&path);
        change(self.mounts[index].tree.as_mut(), &inside).map_err(|error| error.renamed(&path))
    }
}

impl FileTree for MountedTree {
    fn stat(&self, path: &GuestPath) -> Result<Stat> {
        self.raw_stat(&self.walk(path, false)?)
    }

    fn read_dir(&self, path: &GuestPath) -> Result<Vec<DirEntry>> {
        self.at(&self.walk(path, false)?, |tree, path| tree.read_dir(path))
    }

    fn read_at(&self, path: &GuestPath, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.at(&self.walk(path, false)?, |tree, path| {
            tree.read_at(path, offset, buf)
        })
    }

    fn read_link(&self, path: &GuestPath) -> Result<Vec<u8>> {
        self.at(&self.walk(path, false)?, |tree, path| tree.read_link(path))
    }

    fn xattrs(&self, path: &GuestPath) -> Result<Vec<Xattr>> {
        self.at(&self.walk(path, false)?, |tree, path| tree.xattrs(path))
    }

    fn space(&self) -> Result<Space> {
        self.space_at(&GuestPath::root())
    }

    fn read_file(&self, path: &GuestPath, most: u64) -> Result<Vec<u8>> {
        self.at(&self.walk(path, false)?, |tree, path| {
            tree.read_file(path, most)
        })
    }

    fn write_file(&mut self, path: &GuestPath, contents: &[u8], new: Attributes) -> Result<()> {
        self.change(path, |tree, path| tree.write_file(path, contents, new))
    }

    fn write_at(&mut self, path: &GuestPath, offset: u64, data: &[u8]) -> Result<()> {
        self.change(path, |tree, path| tree.write_at(path, offset, data))
    }

    fn truncate(&mut self, path: &GuestPath, size: u64) -> Result<()> {
        self.change(path, |tree, path| tree.truncate(path, size))
    }

    fn create_dir(&mut self, path: &GuestPath, new: Attributes) -> Result<()> {
        self.change(path, |tree, path| tree.create_dir(path, new))
    }

    fn create_symlink(&mut self, path: &GuestPath, target: &[u8], new: Attributes) -> Result<()> {
        self.change(path, |tree, path| tree.create_symlink(path, target, new))
    }

    fn remove(&mut self, path: &GuestPath) -> Result<()> {
        self.change(path, |tree, path| tree.remove(path))
    }

    fn rename(&mut self, from: &GuestPath, to: &GuestPath) -> Result<()> {
        let (from, to) = (self.walk(from, false)?, self.walk(to, false)?);
        let ((index, inside), (to_index, to_inside)) = (self.mount_of(&from), self.mount_of(&to));
        if index != to_index {
            return Err(TreeError::new(TreeErrorKind::Unsupported, &from)
                .detail(format!("renaming to another file system, {to}")));
        }
        let tree = &mut self.mounts[index].tree;
        tree.rename(&inside, &to_inside)
            .map_err(|error| error.renamed(&from))
    }

    fn set_owner(&mut self, path: &GuestPath, mode: u16, uid: u32, gid: u32) -> Result<()> {
        self.change(path, |tree, path| tree.set_owner(path, mode, uid, gid))
    }

    fn set_xattr(&mut self, path: &GuestPath, name: &[u8], value: Option<&[u8]>) -> Result<()> {
        self.change(path, |tree, path| tree.set_xattr(path, name, value))
    }

    fn sync(&mut self) -> Result<()> {
        self.mounts
            .iter_mut()
            .try_for_each(|mount| mount.tree.sync())
    }
}

impl std::fmt::Debug for MountedTree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.mount_points()).finish()
    }
}

/// Whether a name matches one component of a pattern.
fn matches_component(pattern: &[u8], name: &[u8]) -> bool {
    if name.first() == Some(&b'.') && pattern.first() != Some(&b'.') {
        return false;
    }
    // The usual two-pointer match: on a mismatch, let the last star swallow one byte more. Linear
    // in practice and never more than pattern × name.
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p + 1, n));
            p += 1;
        } else if let Some(width) = pattern.get(p..).and_then(|rest| one_matches(rest, name[n])) {
            p += width;
            n += 1;
        } else if let Some((after, from)) = star {
            star = Some((after, from + 1));
            (p, n) = (after, from + 1);
        } else {
            return false;
        }
    }
    pattern[p.min(pattern.len())..]
        .iter()
        .all(|byte| *byte == b'*')
}

/// How many pattern bytes match this one byte of a name: 1 for a literal or `?`, more for a set.
fn one_matches(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern.first()? {
        b'?' => Some(1),
        b'[' => {
            let close = 1 + pattern.get(1..)?.iter().position(|b| *b == b']')?;
            let set = &pattern[1..close];
            let (negated, set) = match set.first() {
                Some(b'!' | b'^') => (true, &set[1..]),
                _ => (false, set),
            };
            let mut inside = false;
            let mut i = 0;
            while i < set.len() {
                if set.get(i + 1) == Some(&b'-') && i + 2 < set.len() {
                    inside |= (set[i]..=set[i + 2]).contains(&byte);
                    i += 3;
                } else {
                    inside |= set[i] == byte;
                    i += 1;
                }
            }
            (inside != negated).then_some(close + 1)
        }
        literal => (*literal == byte).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryTree;

    fn guest() -> MountedTree {
        let mut root = MemoryTree::new();
        root.add_file("/etc/fstab", "root's").unwrap();
        root.add_dir("/boot").unwrap();
        root.add_file("/boot/hidden", "below the mount").unwrap();
        root.add_symlink("/lib", "usr/lib").unwrap();
        root.add_file("/usr/lib/os-release", "ID=debian").unwrap();
        root.add_symlink("/etc/os-release", "../usr/lib/os-release")
            .unwrap();
        root.add_symlink("/escape", "../../../../boot/../etc/fstab")
            .unwrap();
        root.add_symlink("/host", "/etc/shadow-of-the-host")
            .unwrap();
        root.add_symlink("/loop", "/loop2/x").unwrap();
        root.add_symlink("/loop2", "/loop").unwrap();
        let mut boot = MemoryTree::new();
        boot.add_file("/grub/grub.cfg", "menu").unwrap();
        boot.add_file("/vmlinuz-6.1", "k").unwrap();
        boot.add_file("/vmlinuz-6.10", "k").unwrap();
        boot.add_symlink("/menu", "/boot/grub/grub.cfg").unwrap();
        boot.add_symlink("/up", "../etc/fstab").unwrap();
        let mut tree = MountedTree::new(Box::new(root));
        tree.mount(&"/boot".into(), Box::new(boot)).unwrap();
        tree
    }

    fn read(tree: &MountedTree, path: &str) -> String {
        String::from_utf8(tree.read_following(&path.into(), 100).unwrap()).unwrap()
    }

    #[test]
    fn links_are_followed_across_mounts_and_stay_inside_the_guest() {
        let tree = guest();
        assert_eq!(read(&tree, "/etc/os-release"), "ID=debian");
        assert_eq!(read(&tree, "/lib/os-release"), "ID=debian");
        assert_eq!(read(&tree, "/boot/menu"), "menu");
        assert_eq!(read(&tree, "/boot/up"), "root's");
        assert_eq!(read(&tree, "/escape"), "root's");
        assert!(!tree.exists(&"/boot/hidden".into()));
        let missing = tree.read_following(&"/host".into(), 10).unwrap_err();
        assert_eq!(missing.kind(), TreeErrorKind::NotFound);
        assert_eq!(
            missing.path().unwrap().to_string(),
            "/etc/shadow-of-the-host"
        );
    }

    #[test]
    fn a_loop_of_links_ends() {
        let error = guest().resolve(&"/loop".into()).unwrap_err();
        assert_eq!(error.kind(), TreeErrorKind::SymlinkLoop);
    }

    #[test]
    fn the_last_link_is_followed_only_on_demand() {
        let tree = guest();
        let link = GuestPath::new("/etc/os-release");
        assert_eq!(tree.stat(&link).unwrap().kind, FileKind::Symlink);
        assert_eq!(tree.stat_following(&link).unwrap().kind, FileKind::File);
        assert_eq!(
            tree.resolve(&"/lib/new".into()).unwrap().to_string(),
            "/usr/lib/new"
        );
    }

    #[test]
    fn writing_goes_to_the_file_system_that_holds_the_path() {
        let mut tree = guest();
        let attributes = Attributes::root_owned(0o644, 0);
        tree.write_file(&"/lib/new".into(), b"1", attributes)
            .unwrap();
        tree.write_file(&"/boot/new".into(), b"2", attributes)
            .unwrap();
        let error = tree
            .rename(&"/boot/new".into(), &"/etc/new".into())
            .unwrap_err();
        assert_eq!(error.kind(), TreeErrorKind::Unsupported);
        let trees = tree.into_trees();
        assert!(trees[0].stat(&"/usr/lib/new".into()).is_ok());
        assert!(trees[1].stat(&"/new".into()).is_ok());
    }

    #[test]
    fn patterns_match_inside_components() {
        let tree = guest();
        let names = |pattern| -> Vec<String> {
            let found = tree.glob(pattern).unwrap();
            found.iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            names("/boot/vmlinuz-*"),
            ["/boot/vmlinuz-6.1", "/boot/vmlinuz-6.10"]
        );
        assert_eq!(names("/boot/vmlinuz-6.?"), ["/boot/vmlinuz-6.1"]);
        assert_eq!(names("/*/grub/*.cfg"), ["/boot/grub/grub.cfg"]);
        assert_eq!(names("/[a-b]oot/m[!x]nu"), ["/boot/menu"]);
        assert_eq!(names("/nothing/*"), [""; 0]);
        assert!(matches_component(b"*a*b*", b"xxaxxbxx"));
        assert!(!matches_component(b"*", b".hidden"));
        assert!(matches_component(b"", b""));
        assert!(!matches_component(b"[", b"x"));
    }

    #[test]
    fn a_mount_point_must_be_a_directory() {
        let mut tree = guest();
        let error = tree
            .mount(&"/etc/fstab".into(), Box::new(MemoryTree::new()))
            .unwrap_err();
        assert_eq!(error.kind(), TreeErrorKind::NotADirectory);
        tree.mount(&"/lib".into(), Box::new(MemoryTree::new()))
            .unwrap();
        assert_eq!(
            tree.mount_points().last().unwrap(),
            &GuestPath::new("/usr/lib")
        );
    }
}
