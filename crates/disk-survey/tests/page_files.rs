//! Page and hibernation files of Windows, left out by consent, and what else is on the volume kept.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use block_io::{BlockRead, FileDisk};
use disk_layout::Severity;
use disk_survey::{LeaveOut, Survey, survey, survey_but};
use test_oracles::{has_tools, search_path};

const MIB: u64 = 1 << 20;
const PAGE_FILES: LeaveOut = LeaveOut { page_files: true };

fn run(program: &str, args: &[&str]) -> Vec<u8> {
    let mut command = Command::new(program);
    let output = command
        .args(args)
        .env("PATH", search_path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {said}");
    output.stdout
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Bytes that are zero nowhere.
fn pattern(len: u64, step: u8) -> Vec<u8> {
    (0..len)
        .map(|at| (at as u8).wrapping_mul(step) | 1)
        .collect()
}

/// An NTFS with these files in its root, on a disk of its own.
fn volume(dir: &Path, files: &[(&str, &[u8])]) -> FileDisk {
    let (image, from) = (dir.join("image"), dir.join("from"));
    std::fs::File::create(&image)
        .unwrap()
        .set_len(64 * MIB)
        .unwrap();
    run("mkntfs", &["-F", "-f", "-q", text(&image)]);
    for (name, bytes) in files {
        std::fs::write(&from, bytes).unwrap();
        run("ntfscp", &["-f", "-q", text(&image), text(&from), name]);
    }
    FileDisk::open(image).unwrap()
}

/// What `name` holds on `disk` as far as `survey` counts it, read by ntfs-3g.
fn file_in(dir: &Path, survey: &Survey, disk: &FileDisk, name: &str) -> Vec<u8> {
    let copy = dir.join("copy");
    let used = survey.used_only(disk);
    let mut bytes = vec![0; used.size() as usize];
    used.read_at(0, &mut bytes).unwrap();
    std::fs::write(&copy, bytes).unwrap();
    run("ntfscat", &["-f", text(&copy), name])
}

fn remarks(survey: &Survey) -> Vec<(Severity, String)> {
    let findings = survey.findings.iter();
    findings
        .map(|finding| (finding.severity, finding.text.clone()))
        .collect()
}

#[test]
fn page_files_are_left_out_where_that_is_wanted_and_nothing_else_is() {
    let test = "page_files_are_left_out_where_that_is_wanted_and_nothing_else_is";
    if !has_tools(test, &["mkntfs", "ntfscp", "ntfscat"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (page, sleep, data) = (
        pattern(9 * MIB, 3),
        pattern(5 * MIB, 5),
        pattern(3 * MIB, 7),
    );
    let files: [(&str, &[u8]); 4] = [
        ("pagefile.sys", &page),
        ("before.bin", &data),
        ("hiberfil.sys", &sleep),
        ("behind.bin", &data),
    ];
    let disk = volume(dir.path(), &files);
    let (all, less) = (
        survey(&disk).unwrap(),
        survey_but(&disk, PAGE_FILES).unwrap(),
    );
    assert_eq!(all.used_bytes() - less.used_bytes(), 14 * MIB);
    assert!(all.findings.is_empty(), "{:?}", all.findings);
    let said = remarks(&less);
    assert_eq!(
        said,
        [
            (
                Severity::Note,
                format!("pagefile.sys is left out: {} bytes", 9 * MIB)
            ),
            (
                Severity::Note,
                format!("hiberfil.sys is left out: {} bytes", 5 * MIB)
            ),
        ]
    );
    assert!(file_in(dir.path(), &all, &disk, "pagefile.sys") == page);
    for name in ["before.bin", "behind.bin"] {
        assert!(file_in(dir.path(), &less, &disk, name) == data, "{name}");
    }
    let left = file_in(dir.path(), &less, &disk, "pagefile.sys");
    assert!(left.len() == page.len() && left.iter().all(|byte| *byte == 0));
}

#[test]
fn the_files_of_a_system_that_sleeps_are_kept_and_that_is_said() {
    let test = "the_files_of_a_system_that_sleeps_are_kept_and_that_is_said";
    if !has_tools(test, &["mkntfs", "ntfscp", "ntfscat"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let page = pattern(4 * MIB, 3);
    let sleep = [b"HIBR", &pattern(2 * MIB, 5)[..]].concat();
    let disk = volume(
        dir.path(),
        &[("pagefile.sys", &page), ("hiberfil.sys", &sleep)],
    );
    let (all, less) = (
        survey(&disk).unwrap(),
        survey_but(&disk, PAGE_FILES).unwrap(),
    );
    assert_eq!(all.used_bytes(), less.used_bytes());
    let [(Severity::Warning, text)] = &remarks(&less)[..] else {
        panic!("{:?}", less.findings);
    };
    assert!(
        text.contains("hiberfil.sys holds a system that sleeps"),
        "{text}"
    );
}
