//! A guest: volumes put together the way its fstab says.

use filesystems::mounts::MountedTree;
use filesystems::path::GuestPath;
use filesystems::tree::FileTree;

use crate::devices::{DeviceFacts, DeviceNames, Meaning, VolumeIndex};
use crate::finding::{Finding, escape_controls, tell};
use crate::fstab::{MountLine, read_fstab};
use crate::hardware::SourceHardware;

/// Longest fstab read.
const LONGEST_FSTAB: u64 = 1 << 20;

/// A volume the converter opened.
pub struct GuestVolume {
    /// What is known of it.
    pub facts: DeviceFacts,
    /// Its files; `None` where there are none, or they cannot be read.
    pub tree: Option<Box<dyn FileTree>>,
    /// Why there are no files, where there should be.
    pub problem: Option<String>,
}

/// Which of several roots is meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum RootChoice {
    /// The only one; several are an error that lists them.
    #[default]
    Only,
    /// The first on the disks.
    First,
    /// The one on this volume.
    Volume(VolumeIndex),
}

/// What a line of fstab uses a volume for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FstabUse {
    /// It is mounted there.
    Mount(GuestPath),
    /// It is swap space.
    Swap,
}

impl std::fmt::Display for FstabUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mount(at) => at.fmt(f),
            Self::Swap => f.write_str("[SWAP]"),
        }
    }
}

/// A root that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootSeen {
    /// The volume it is on.
    pub volume: VolumeIndex,
    /// What the volume is.
    pub description: String,
    /// The name of the operating system there.
    pub os: String,
}

/// Why no guest could be put together. The text says what was seen on the disks.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// There are no volumes at all.
    #[error("no operating system found: blank disk")]
    BlankDisk,
    /// None of the volumes holds a root.
    #[error("no operating system found; seen: {}", .seen.join("; "))]
    NoOperatingSystem {
        /// Each volume, with what keeps it from being read.
        seen: Vec<String>,
    },
    /// Several do, and none was chosen.
    #[error("several operating systems found, choose one by its number: {}", list_roots(.roots))]
    SeveralRoots {
        /// All of them.
        roots: Vec<RootSeen>,
    },
    /// The chosen volume holds none.
    #[error("volume {volume} holds no operating system; found: {}", list_roots(.roots))]
    NoSuchRoot {
        /// The choice.
        volume: VolumeIndex,
        /// Those there are.
        roots: Vec<RootSeen>,
    },
}

/// As a list to choose from: the number is what [`RootChoice::Volume`] takes.
impl std::fmt::Display for RootSeen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let os = escape_controls(&self.os);
        write!(
            f,
            "{}: {os} on {}",
            self.volume,
            escape_controls(&self.description)
        )
    }
}

fn list_roots(roots: &[RootSeen]) -> String {
    let lines = roots.iter().map(ToString::to_string);
    lines.collect::<Vec<_>>().join("; ")
}

/// A guest whose files can be read and written as it sees them itself.
pub struct Guest {
    pub(crate) tree: MountedTree,
    pub(crate) names: DeviceNames,
    pub(crate) root: VolumeIndex,
    pub(crate) mounted: Vec<(GuestPath, VolumeIndex)>,
    pub(crate) uses: Vec<(FstabUse, VolumeIndex)>,
    pub(crate) findings: Vec<Finding>,
}

impl Guest {
    /// Find the root among `volumes` and mount what its fstab says.
    ///
    /// # Errors
    /// [`AssembleError`] when there is no root, or more than one and no choice.
    pub fn assemble(
        volumes: Vec<GuestVolume>,
        source: &SourceHardware,
        choice: &RootChoice,
    ) -> Result<Self, AssembleError> {
        if volumes.is_empty() {
            return Err(AssembleError::BlankDisk);
        }
        let mut facts = Vec::new();
        let mut problems = Vec::new();
        let mut trees: Vec<Option<MountedTree>> = Vec::new();
        for volume in volumes {
            facts.push(volume.facts);
            problems.push(volume.problem);
            trees.push(volume.tree.map(MountedTree::new));
        }
        let roots = find_roots(&facts, &trees);
        if roots.is_empty() {
            let seen = facts.iter().zip(&problems).map(describe_seen).collect();
            return Err(AssembleError::NoOperatingSystem { seen });
        }
        let root = choose(roots, choice)?;
        let Some(tree) = trees.get_mut(root).and_then(Option::take) else {
            return Err(AssembleError::BlankDisk);
        };
        let mut guest = Self {
            tree,
            names: DeviceNames::new(facts, source),
            root,
            mounted: vec![(GuestPath::root(), root)],
            uses: vec![(FstabUse::Mount(GuestPath::root()), root)],
            findings: Vec::new(),
        };
        guest.mount_all(&mut trees, &problems);
        Ok(guest)
    }

    /// The files, as the guest sees them.
    #[must_use]
    pub fn files(&self) -> &MountedTree {
        &self.tree
    }

    /// What is mounted where, the root first.
    #[must_use]
    pub fn mounted(&self) -> &[(GuestPath, VolumeIndex)] {
        &self.mounted
    }

    /// What the guest's fstab uses each volume for, the root first; also volumes whose files could
    /// not be read.
    #[must_use]
    pub fn uses(&self) -> &[(FstabUse, VolumeIndex)] {
        &self.uses
    }

    /// What was noticed while its volumes were put together.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The file systems, all changes on the disks below.
    ///
    /// # Errors
    /// As the disks answer.
    pub fn sync(&mut self) -> filesystems::tree::Result<()> {
        self.tree.sync()
    }

    fn mount_all(&mut self, trees: &mut [Option<MountedTree>], problems: &[Option<String>]) {
        let fstab = self
            .tree
            .read_following(&"/etc/fstab".into(), LONGEST_FSTAB);
        let (mut lines, nonsense) = read_fstab(&fstab.unwrap_or_default());
        for text in nonsense {
            let text = format!("/etc/fstab: {text}");
            tell(&mut self.findings, Finding::warning("fstab-nonsense", text));
        }
        for line in &lines {
            if line.at == Some(GuestPath::root()) {
                self.names.learn(&line.device, self.root);
            }
        }
        // Parents first, so that their mount points are seen. The sort keeps the order of equals.
        lines.sort_by_key(|line| line.at.as_ref().map_or(0, |at| at.components().count()));
        for line in &lines {
            self.note_use(line);
            if let Some(at) = line.at.clone().filter(|at| *at != GuestPath::root()) {
                self.mount_one(line, at, trees, problems);
            }
        }
    }

    fn note_use(&mut self, line: &MountLine) {
        let (Meaning::Fleeting(volume) | Meaning::Lasting(volume)) =
            self.names.meaning(&line.device)
        else {
            return;
        };
        let used = match &line.at {
            Some(at) => FstabUse::Mount(at.clone()),
            None if line.kind == "swap" => FstabUse::Swap,
            None => return,
        };
        if !self.uses.contains(&(used.clone(), volume)) {
            self.uses.push((used, volume));
        }
    }

    fn mount_one(
        &mut self,
        line: &MountLine,
        at: GuestPath,
        trees: &mut [Option<MountedTree>],
        problems: &[Option<String>],
    ) {
        let (Meaning::Fleeting(volume) | Meaning::Lasting(volume)) =
            self.names.meaning(&line.device)
        else {
            return;
        };
        let Some(tree) = trees.get_mut(volume).and_then(Option::take) else {
            if let Some(Some(problem)) = problems.get(volume) {
                let facts = &self.names.volumes()[volume];
                tell(
                    &mut self.findings,
                    Finding::warning(
                        "mount-unreadable",
                        format!("{at} is not mounted, {}: {problem}", facts.describe()),
                    ),
                );
            }
            return;
        };
        for tree in tree.into_trees() {
            match self.tree.mount(&at, tree) {
                Ok(()) => self.mounted.push((at.clone(), volume)),
                Err(error) => tell(
                    &mut self.findings,
                    Finding::warning(
                        "mount-failed",
                        format!("/etc/fstab line {}: {error}", line.number),
                    ),
                ),
            }
        }
    }
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest")
            .field("mounted", &self.mounted)
            .finish_non_exhaustive()
    }
}

fn describe_seen((facts, problem): (&DeviceFacts, &Option<String>)) -> String {
    match problem {
        Some(problem) => format!("{}: {problem}", facts.describe()),
        None => facts.describe(),
    }
}

fn choose(roots: Vec<RootSeen>, choice: &RootChoice) -> Result<VolumeIndex, AssembleError> {
    match choice {
        RootChoice::Volume(volume) => roots
            .iter()
            .find(|root| root.volume == *volume)
            .map(|root| root.volume)
            .ok_or(AssembleError::NoSuchRoot {
                volume: *volume,
                roots,
            }),
        RootChoice::Only if roots.len() > 1 => Err(AssembleError::SeveralRoots { roots }),
        RootChoice::Only | RootChoice::First => {
            let first = roots.first().map(|root| root.volume);
            first.ok_or(AssembleError::BlankDisk)
        }
    }
}

/// The volumes that hold a root: a description or fstab in `/etc`, and a system to start.
fn find_roots(facts: &[DeviceFacts], trees: &[Option<MountedTree>]) -> Vec<RootSeen> {
    let mut roots = Vec::new();
    for (volume, tree) in trees.iter().enumerate() {
        let Some(tree) = tree else { continue };
        let has = |path: &str| tree.exists(&path.into());
        let told = has("/etc/fstab") || has("/etc/os-release") || has("/usr/lib/os-release");
        let starts = [
            "/sbin/init",
            "/usr/lib/systemd/systemd",
            "/lib/systemd/systemd",
        ]
        .iter()
        .any(|path| has(path));
        // A separate /usr leaves /sbin -> usr/sbin dangling; then users and a mount point must do.
        let skeleton = has("/etc/passwd") && tree.is_dir(&"/usr".into()) && has("/etc/fstab");
        if told && (starts || skeleton) {
            roots.push(RootSeen {
                volume,
                description: facts[volume].describe(),
                os: crate::inspect::os_name(tree),
            });
        }
    }
    roots
}

#[cfg(test)]
mod tests {
    use super::*;
    use filesystems::memory::MemoryTree;

    fn volume(partition: u32, tree: Option<MemoryTree>) -> GuestVolume {
        GuestVolume {
            facts: DeviceFacts {
                disk: Some(0),
                partition: Some(partition),
                uuid: Some(format!("uuid-{partition}")),
                kind: "ext4".into(),
                ..DeviceFacts::default()
            },
            tree: tree.map(|tree| Box::new(tree) as Box<dyn FileTree>),
            problem: None,
        }
    }

    fn root(fstab: &str) -> MemoryTree {
        let mut tree = MemoryTree::new();
        tree.add_file("/etc/fstab", fstab).unwrap();
        tree.add_file("/etc/os-release", "PRETTY_NAME=\"Test OS 1\"\n")
            .unwrap();
        tree.add_file("/sbin/init", "").unwrap();
        tree.add_dir("/boot").unwrap();
        tree.add_dir("/var/log").unwrap();
        tree
    }

    fn boot() -> MemoryTree {
        let mut tree = MemoryTree::new();
        tree.add_file("/vmlinuz-1", "").unwrap();
        tree
    }

    #[test]
    fn fstab_decides_what_is_mounted_where() {
        let fstab = "/dev/sda2 / ext4 d 0 1\nUUID=uuid-1 /boot ext4 d 0 2\n\
            tmpfs /tmp tmpfs d 0 0\n/dev/sdz1 /gone ext4 d\nrubbish\n";
        let volumes = vec![volume(1, Some(boot())), volume(2, Some(root(fstab)))];
        let source = SourceHardware::unknown(1);
        let guest = Guest::assemble(volumes, &source, &RootChoice::Only).unwrap();
        assert_eq!(guest.root, 1);
        assert!(guest.files().exists(&"/boot/vmlinuz-1".into()));
        assert_eq!(guest.mounted().len(), 2);
        let uses: Vec<_> = guest
            .uses()
            .iter()
            .map(|(u, v)| (u.to_string(), *v))
            .collect();
        assert_eq!(uses, [("/".to_owned(), 1), ("/boot".to_owned(), 0)]);
        assert_eq!(guest.findings.len(), 1);
        assert_eq!(guest.findings[0].code, "fstab-nonsense");
    }

    #[test]
    fn what_was_seen_is_named_when_nothing_boots() {
        let source = SourceHardware::unknown(1);
        let blank = Guest::assemble(Vec::new(), &source, &RootChoice::Only).unwrap_err();
        assert_eq!(blank.to_string(), "no operating system found: blank disk");
        let mut broken = volume(2, None);
        broken.problem = Some("file system not cleanly unmounted".into());
        let volumes = vec![volume(1, Some(boot())), broken];
        let none = Guest::assemble(volumes, &source, &RootChoice::Only).unwrap_err();
        assert_eq!(
            none.to_string(),
            "no operating system found; seen: disk 0 partition 1 (ext4, UUID uuid-1); \
             disk 0 partition 2 (ext4, UUID uuid-2): file system not cleanly unmounted"
        );
    }

    #[test]
    fn of_several_roots_one_must_be_chosen() {
        let source = SourceHardware::unknown(1);
        let volumes = || vec![volume(1, Some(root(""))), volume(2, Some(root("")))];
        let several = Guest::assemble(volumes(), &source, &RootChoice::Only).unwrap_err();
        assert!(
            several
                .to_string()
                .contains("1: Test OS 1 on disk 0 partition 2"),
            "{several}"
        );
        let chosen = Guest::assemble(volumes(), &source, &RootChoice::Volume(1)).unwrap();
        assert_eq!(chosen.root, 1);
        let wrong = Guest::assemble(volumes(), &source, &RootChoice::Volume(7)).unwrap_err();
        assert!(matches!(wrong, AssembleError::NoSuchRoot { .. }));
    }
}
