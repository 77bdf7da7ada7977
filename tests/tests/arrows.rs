//! The arrows between the crates, held: a crate imports only crates of a strictly lower level.
//! `docs/architecture.md`, "Crates and arrows", states the same table in prose.

use std::collections::BTreeMap;
use std::process::Command;

const LEVELS: &[(&str, u32)] = &[
    ("block-io", 0),
    ("test-oracles", 0),
    ("chunking", 1),
    ("disk-layout", 1),
    ("filesystems", 1),
    ("image-formats", 1),
    ("luks", 1),
    ("disk-survey", 2),
    ("stream-protocol", 2),
    ("chunk-store", 2),
    ("driver-injection", 3),
    ("p2v-agent", 4),
    ("converter", 4),
    ("tests", 5),
];

/// What a crate must never import although its level would allow it, and why.
const NEVER: &[(&str, &str, &str)] = &[
    (
        "p2v-agent",
        "luks",
        "an encrypted volume is sent as it is: no secret is asked for on the source",
    ),
    (
        "p2v-agent",
        "image-formats",
        "the agent sends disks, it does not make images",
    ),
    ("p2v-agent", "driver-injection", "the source is only read"),
    (
        "p2v-agent",
        "chunk-store",
        "what is kept is the converter's affair",
    ),
    (
        "driver-injection",
        "image-formats",
        "fix-ups see disks, not image files",
    ),
    (
        "driver-injection",
        "stream-protocol",
        "fix-ups know no network",
    ),
    (
        "driver-injection",
        "chunk-store",
        "fix-ups see disks, not where they are kept",
    ),
    ("chunk-store", "tokio", "the store has no network"),
    (
        "stream-protocol",
        "tokio",
        "bytes in, bytes out: no sockets",
    ),
    ("filesystems", "tracing", "no logging below the programs"),
    ("filesystems", "log", "no logging below the programs"),
    (
        "chunking",
        "block-io",
        "a chunk does not know what it was cut from",
    ),
];

/// The crates of the workspace as `cargo metadata` tells of them.
fn workspace_packages() -> Vec<serde_json::Value> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

fn workspace_imports() -> BTreeMap<String, Vec<String>> {
    let mut imports = BTreeMap::new();
    for package in workspace_packages() {
        // Development dependencies count too: a test that reaches up is an arrow.
        let all = package["dependencies"].as_array().unwrap().iter();
        let names = all
            .map(|d| d["name"].as_str().unwrap().to_owned())
            .collect();
        imports.insert(package["name"].as_str().unwrap().to_owned(), names);
    }
    imports
}

#[test]
fn every_crate_has_a_level() {
    let known: Vec<&str> = LEVELS.iter().map(|(name, _)| *name).collect();
    for name in workspace_imports().keys() {
        assert!(
            known.contains(&name.as_str()),
            "{name} has no level: add it to LEVELS"
        );
    }
}

#[test]
fn crates_import_only_from_lower_levels() {
    let level = |name: &str| {
        LEVELS
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, l)| *l)
    };
    for (name, imports) in workspace_imports() {
        for import in imports {
            if let (Some(from), Some(to)) = (level(&name), level(&import)) {
                assert!(
                    to < from,
                    "{name} (level {from}) imports {import} (level {to})"
                );
            }
        }
    }
}

#[test]
fn forbidden_imports_are_absent() {
    let imports = workspace_imports();
    for (name, import, why) in NEVER {
        let has = imports[*name].iter().any(|i| i == import);
        assert!(!has, "{name} imports {import}: {why}");
    }
}

#[test]
fn what_tests_need_is_no_part_of_the_programs() {
    for package in workspace_packages() {
        for dependency in package["dependencies"].as_array().unwrap() {
            let for_tests = dependency["kind"] == "dev" || package["name"] == "tests";
            assert!(
                for_tests || dependency["name"] != "test-oracles",
                "{} imports test-oracles outside of its tests",
                package["name"]
            );
        }
    }
}

#[test]
fn every_dependency_has_its_line() {
    let list = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/dependencies.md");
    let list = std::fs::read_to_string(list).unwrap();
    // Rows are `| name version, name version … | …`; a name may stand anywhere in the first cell.
    let used = list.split("## Looked at").next().unwrap();
    let cells: String = used
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" |").next())
        .map(|c| format!(" {c} "))
        .collect();
    let imports = workspace_imports();
    for (name, dependencies) in &imports {
        for dependency in dependencies.iter().filter(|d| !imports.contains_key(*d)) {
            let listed = cells.contains(&format!(" {dependency} "));
            assert!(
                listed,
                "{name} uses {dependency}, which has no line in docs/dependencies.md"
            );
        }
    }
}
