//! What a machine's own words say of its start. Pure: text in, verdict out.
//!
//! The text is what came out of the serial line, or what stands on the screen. Machines say a bad sign and then stand
//! still, or say it on the way to something that works (a firmware tries one device after another): the signs of the
//! second kind count only when nothing followed them for a while.

use std::time::Duration;

use regex::Regex;

/// A way to fail that the machine itself tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadSign {
    /// Short and stable: for scripts.
    pub name: &'static str,
    /// What it means, for people.
    pub meaning: &'static str,
    /// What is looked for, line by line.
    pattern: &'static str,
    /// How long nothing may follow before it counts.
    quiet_seconds: u64,
}

/// What the text says so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The machine started; the line that says so.
    Passed(String),
    /// The machine is lost; why, and the line that says so.
    Failed(BadSign, String),
}

/// What counts as a pass.
#[derive(Debug)]
pub struct Watch {
    pass: Regex,
    bad: Vec<(BadSign, Regex)>,
}

/// A line that is a host name and `login:`.
const LOGIN: &str = r"(?m)^[\w.-]+ login: ?$";

impl Watch {
    /// Passes on a login prompt.
    ///
    /// # Errors
    /// None in practice: the patterns are compiled in, and a test compiles them.
    pub fn for_login() -> Result<Self, regex::Error> {
        Self::for_pattern(LOGIN)
    }

    /// Passes where `text` appears, and not on a login prompt.
    ///
    /// # Errors
    /// As [`Watch::for_login`].
    pub fn for_marker(text: &str) -> Result<Self, regex::Error> {
        Self::for_pattern(&regex::escape(text))
    }

    /// Passes where `pattern` matches (`^` and `$` are those of a line), and not on a login prompt.
    ///
    /// # Errors
    /// A pattern that is none.
    pub fn for_pattern(pattern: &str) -> Result<Self, regex::Error> {
        let compile = |sign: &BadSign| Ok((*sign, Regex::new(sign.pattern)?));
        Ok(Self {
            pass: regex::RegexBuilder::new(pattern).multi_line(true).build()?,
            bad: BAD_SIGNS
                .iter()
                .map(compile)
                .collect::<Result<_, regex::Error>>()?,
        })
    }

    /// What `text`, as [`plain_text`] gives it, says when nothing was added to it for `quiet`.
    #[must_use]
    pub fn judge(&self, text: &str, quiet: Duration) -> Option<Verdict> {
        let failed = self
            .bad
            .iter()
            .filter(|(sign, _)| quiet >= Duration::from_secs(sign.quiet_seconds))
            .find_map(|(sign, pattern)| Some((*sign, pattern.find(text)?)));
        if let Some((sign, found)) = failed {
            return Some(Verdict::Failed(sign, line_at(text, found.start())));
        }
        let found = self.pass.find(text)?;
        Some(Verdict::Passed(line_at(text, found.start())))
    }
}

/// The text a terminal would show of `bytes`, without its escape sequences: lines end in `\n`, what is not UTF-8 becomes
/// U+FFFD, other control characters go.
#[must_use]
pub fn plain_text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => match chars.next() {
                // [ECMA-48, 5.4] Parameters and intermediates, then one final byte from 0x40.
                Some('[') => {
                    let last = chars.by_ref().find(|c| !(' '..='?').contains(c));
                    // GRUB and firmware place lines by moving the cursor (H, f) and clearing (J).
                    if matches!(last, Some('H' | 'f' | 'J')) && !plain.ends_with('\n') {
                        plain.push('\n');
                    }
                }
                // [ECMA-48, 8.3.89] An operating system command ends in BEL or ST.
                Some(']') => {
                    while let Some(c) = chars.next() {
                        if c == '\u{7}' || (c == '\u{1b}' && chars.next_if_eq(&'\\').is_some()) {
                            break;
                        }
                    }
                }
                // Character set choices have one more byte.
                Some('(' | ')' | '#' | '%') => {
                    chars.next();
                }
                _ => {}
            },
            '\r' => {
                if chars.peek() != Some(&'\n') && !plain.ends_with('\n') && !plain.is_empty() {
                    plain.push('\n');
                }
            }
            '\n' | '\t' => plain.push(c),
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    plain
}

/// The last line that is not blank, for progress.
#[must_use]
pub fn last_line(text: &str) -> &str {
    text.lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or("")
}

fn line_at(text: &str, position: usize) -> String {
    let (before, after) = text.split_at_checked(position).unwrap_or(("", text));
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let end = after.find('\n').map_or(text.len(), |at| position + at);
    text.get(start..end)
        .unwrap_or_default()
        .trim()
        .chars()
        .take(200)
        .collect()
}

const fn at_once(name: &'static str, meaning: &'static str, pattern: &'static str) -> BadSign {
    BadSign {
        name,
        meaning,
        pattern,
        quiet_seconds: 0,
    }
}

const fn when_quiet(name: &'static str, meaning: &'static str, pattern: &'static str) -> BadSign {
    BadSign {
        name,
        meaning,
        pattern,
        quiet_seconds: 5,
    }
}

/// The first that matches is the one that is named, so the more exact ones come first.
pub const BAD_SIGNS: &[BadSign] = &[
    at_once(
        "kernel-panic",
        "the Linux kernel gave up",
        r"(?m)Kernel panic - not syncing|^(\[[ \d.]+\] )?---\[ end Kernel panic",
    ),
    at_once(
        "initramfs-prompt",
        "the initramfs did not find the root file system and opened a shell",
        r"(?m)Dropping to a shell!|^ *\(initramfs\)",
    ),
    at_once(
        "dracut-emergency",
        "dracut did not find the root file system and opened a shell",
        r"(?m)Entering emergency mode\. Exit the shell to continue|^dracut:/(root)?#|dracut-emergency\.service|Starting.*Dracut Emergency Shell",
    ),
    at_once(
        "emergency-mode",
        "the system could not mount or start what it needs and stopped in emergency mode",
        r"(?m)You are in emergency mode|Welcome to emergency mode|Reached target.*(emergency\.target|Emergency Mode)|Cannot open access to console, the root account is locked",
    ),
    at_once(
        "maintenance-prompt",
        "a file system check or mount failed and the system asks for root's password",
        r"(?m)Give root password for (maintenance|login)|Press Enter for maintenance|You are in rescue mode|UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY",
    ),
    at_once(
        "grub-rescue",
        "GRUB did not find its own files",
        r"(?m)^ *grub rescue>|Entering rescue mode\.\.\.",
    ),
    when_quiet(
        "grub-prompt",
        "GRUB found no configuration and waits at its prompt",
        r"(?m)Minimal BASH-like line editing is supported|^ *grub> *$",
    ),
    // GRUB also says `error:` of a missing font or translation and goes on, and a quiet kernel says nothing for long: only
    // what it cannot do without, and only when nothing follows.
    BadSign {
        name: "grub-error",
        meaning: "GRUB could not load what its configuration names",
        pattern: r"(?m)^ *error: ([^\n]*: )?(no such (device|partition|disk)|unknown filesystem|you need to load the kernel first|attempt to read or write outside of disk|disk [^\n]* not found)",
        quiet_seconds: 60,
    },
    at_once(
        "uefi-shell",
        "the UEFI firmware found nothing to start",
        r"(?m)UEFI Interactive Shell|^ *Shell> ",
    ),
    when_quiet(
        "uefi-no-boot-option",
        "the UEFI firmware found nothing to start",
        r"(?m)BdsDxe: No bootable option or device was found|BdsDxe: failed to (load|start) [^\n]*\n*\s*\z",
    ),
    when_quiet(
        "no-bootable-device",
        "the firmware found no disk to start from",
        r"(?m)No bootable device\b",
    ),
    when_quiet(
        "not-a-bootable-disk",
        "the firmware found a disk without boot code",
        r"(?m)Boot failed: (not a bootable disk|could not read the boot disk)|FATAL: (No bootable medium found|Could not read from the boot medium)|Operating [Ss]ystem not found|Reboot and [Ss]elect proper [Bb]oot device",
    ),
    when_quiet(
        "boot-sector-error",
        "the boot code on the disk found no system",
        r"(?m)Missing operating system|Error loading operating system|Invalid partition table|Non-System disk|GRUB (Geom|Read|Hard Disk) Error|^GRUB Loading stage1\.5|Error 1[0-9]\b",
    ),
    at_once(
        "windows-inaccessible-boot-device",
        "Windows has no driver for the disk it should start from (stop code 0x7B)",
        r"(?m)INACCESSIBLE[_ ]BOOT[_ ]DEVICE|0x0000007[bB]\b",
    ),
    at_once(
        "windows-stop",
        "Windows stopped with a stop code",
        r"(?m)\*\*\* STOP: 0x|Your (PC|device) ran into a problem|Stop code:? |A problem has been detected and [Ww]indows has been shut ?down",
    ),
    at_once(
        "windows-loader",
        "the Windows loader did not find its files",
        r"(?m)(BOOTMGR|NTLDR) is (missing|compressed)|NTLDR is missing|Windows (failed|could not) (to )?start|Your PC(/Device)? needs to be repaired|0x[cC]00000(0f|0e|25|34|98|e9)\b",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);
    const NOW: Duration = Duration::ZERO;

    fn judge(bytes: &[u8], quiet: Duration) -> Option<Verdict> {
        Watch::for_login().unwrap().judge(&plain_text(bytes), quiet)
    }

    fn failed_as(bytes: &[u8]) -> &'static str {
        match judge(bytes, LONG) {
            Some(Verdict::Failed(sign, _)) => sign.name,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_are_words_and_each_stands_once() {
        for (number, sign) in BAD_SIGNS.iter().enumerate() {
            assert!(
                sign.name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'-'),
                "{}",
                sign.name
            );
            assert!(
                BAD_SIGNS
                    .iter()
                    .take(number)
                    .all(|other| other.name != sign.name),
                "{}",
                sign.name
            );
        }
    }

    // The logs were captured from this project's own guests and from QEMU's firmware; each is the end of the real one.
    #[test]
    fn captured_starts_that_went_wrong() {
        assert_eq!(
            failed_as(include_bytes!("logs/virtio-initramfs.log")),
            "initramfs-prompt"
        );
        assert_eq!(
            failed_as(include_bytes!("logs/emergency.log")),
            "emergency-mode"
        );
        assert_eq!(failed_as(include_bytes!("logs/panic.log")), "kernel-panic");
        assert_eq!(
            failed_as(include_bytes!("logs/grub-rescue.log")),
            "grub-rescue"
        );
        assert_eq!(
            failed_as(include_bytes!("logs/grub-prompt.log")),
            "grub-prompt"
        );
        assert_eq!(
            failed_as(include_bytes!("logs/seabios-blank.log")),
            "no-bootable-device"
        );
        assert_eq!(
            failed_as(include_bytes!("logs/ovmf-blank.log")),
            "uefi-shell"
        );
    }

    #[test]
    fn a_captured_start_that_went_well() {
        let log = include_bytes!("logs/ahci-login.log");
        assert_eq!(
            judge(log, LONG),
            Some(Verdict::Passed("edge01 login:".into()))
        );
        // And every part of it up to there says nothing yet, however long the pause.
        let end = plain_text(log).find("edge01 login:").unwrap();
        let watch = Watch::for_login().unwrap();
        let text = plain_text(log);
        for (at, _) in text
            .char_indices()
            .take_while(|(at, _)| *at < end)
            .step_by(40)
        {
            assert_eq!(
                watch.judge(text.get(..at).unwrap(), LONG),
                None,
                "after {at} bytes"
            );
        }
    }

    #[test]
    fn a_sign_on_the_way_to_something_that_works_needs_quiet() {
        let text = b"BdsDxe: failed to load Boot0001 \"UEFI Misc Device\" from PciRoot(0x0): Not Found\r\n";
        assert_eq!(judge(text, NOW), None);
        assert_eq!(failed_as(text), "uefi-no-boot-option");
        let more = [text.as_slice(), b"BdsDxe: loading Boot0002 \"debian\"\r\n"].concat();
        assert_eq!(judge(&more, LONG), None);
        assert_eq!(judge(b"No bootable device.", NOW), None);
    }

    #[test]
    fn what_only_talks_of_failure_is_no_sign() {
        for text in [
            "Kernel command line: root=/dev/sda2 rd.emergency=poweroff systemd.unit=emergency.target panic=10",
            "[    1.0] Command line: BOOT_IMAGE=/vmlinuz panic=-1",
            "Starting Emergency Shell watchdog test",
            "sudo: user: Kernel panic is not here",
            "last login: Thu from 10.0.2.2",
            "sshd[1]: user login: failed",
        ] {
            assert_eq!(judge(text.as_bytes(), LONG), None, "{text}");
        }
    }

    #[test]
    fn a_marker_replaces_the_login_prompt() {
        let watch = Watch::for_marker("P2V-GUEST-REPORT {").unwrap();
        assert_eq!(watch.judge("web01 login: ", LONG), None);
        let text = "web01 login: \nP2V-GUEST-REPORT {\"state\":\"running\"}\n";
        assert_eq!(
            watch.judge(text, NOW),
            Some(Verdict::Passed(
                "P2V-GUEST-REPORT {\"state\":\"running\"}".into()
            ))
        );
        // A bad sign still fails it.
        let text = "You are in emergency mode. After logging in\nP2V-GUEST-REPORT {}";
        assert!(matches!(watch.judge(text, NOW), Some(Verdict::Failed(..))));
    }

    #[test]
    fn a_pattern_means_lines() {
        let watch = Watch::for_pattern("^ready$").unwrap();
        assert_eq!(
            watch.judge("not ready\nready\n", NOW),
            Some(Verdict::Passed("ready".into()))
        );
        assert!(Watch::for_pattern("(").is_err());
    }

    #[test]
    fn escape_sequences_do_not_hide_words() {
        let colored = b"[\x1b[0;32m  OK  \x1b[0m] Reached target \x1b[0;1;39memergency.target\x1b[0m - Emergency Mode.\r\n";
        assert_eq!(
            plain_text(colored),
            "[  OK  ] Reached target emergency.target - Emergency Mode.\n"
        );
        assert_eq!(failed_as(colored), "emergency-mode");
        assert_eq!(
            plain_text(b"\x1b]0;title\x07a\x1b]0;t\x1b\\b\x1b(Bc\x08"),
            "abc"
        );
        // Cut anywhere, it ends.
        for end in 0..colored.len() {
            let _ = plain_text(colored.get(..end).unwrap());
        }
        assert_eq!(plain_text(b"\xff\xfe\x1b"), "\u{fffd}\u{fffd}");
    }

    #[test]
    fn windows_screens() {
        for (text, name) in [
            (
                "*** STOP: 0x0000007B (0xF789E528,0xC0000034,0x00000000,0x00000000)",
                "windows-inaccessible-boot-device",
            ),
            (
                "Stop code: INACCESSIBLE_BOOT_DEVICE",
                "windows-inaccessible-boot-device",
            ),
            ("*** STOP: 0x000000A5 (0x1,0x2,0x3,0x4)", "windows-stop"),
            (
                "BOOTMGR is missing\nPress Ctrl+Alt+Del to restart",
                "windows-loader",
            ),
            ("NTLDR is missing", "windows-loader"),
        ] {
            assert_eq!(failed_as(text.as_bytes()), name, "{text}");
        }
    }
}
