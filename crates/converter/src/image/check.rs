//! `p2v image check`: every rule an image breaks, and whether a platform would take it.

use std::process::ExitCode;

use anyhow::Context;
use image_formats::{Finding, Report, SameFolder, Severity, Verdict, check};
use serde_json::{Value, json};

use super::profile::{self, Judgement, Profile};
use super::{DIFFERENT, Source};
use crate::progress::human_bytes;

/// Exit code where space is lost or a rule broken, and the data are right.
const UNTIDY: u8 = 3;
/// Exit code where the image is right and the platform would not take it.
const UNFIT: u8 = 4;

/// Which image to check.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes, the first three as qemu-img check has them:
  0  nothing is wrong
  1  the check could not be made
  2  data are wrong, or will be when somebody writes
  3  space is lost or a rule broken; the data are right
  4  the image is right; the platform of --profile would not take it")]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// Also say whether this platform would take the image, and what mends it
    #[arg(long, value_name = "PLATFORM")]
    profile: Option<Profile>,
    /// Print JSON, with qemu-img's names where they mean the same
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let path = &args.source.image;
    let format = args.source.format()?;
    let report =
        check(path, format, &SameFolder).with_context(|| format!("checking {}", path.display()))?;
    let judged = args
        .profile
        .map(|profile| profile::judge(profile, &report, path));
    match args.json {
        true => println!("{:#}", as_json(&report, judged.as_ref())),
        false => print!("{}", as_text(&report, judged.as_ref())),
    }
    let unfit = judged.is_some_and(|judged| !judged.broken.is_empty());
    Ok(match (report.verdict(), unfit) {
        (Verdict::Broken, _) => ExitCode::from(DIFFERENT),
        (_, true) => ExitCode::from(UNFIT),
        (Verdict::Untidy, _) => ExitCode::from(UNTIDY),
        (Verdict::Clean, _) => ExitCode::SUCCESS,
    })
}

fn severity(finding: &Finding) -> &'static str {
    match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    }
}

fn as_json(report: &Report, judged: Option<&Judgement>) -> Value {
    let findings = |findings: &[Finding]| -> Vec<Value> {
        let one = |finding: &Finding| {
            json!({
                "severity": severity(finding),
                "rule": finding.rule.id,
                "says": finding.rule.says,
                "spec": finding.rule.spec,
                "offset": finding.offset,
                "expected": finding.expected,
                "found": finding.found,
            })
        };
        findings.iter().map(one).collect()
    };
    let mut value = json!({
        "filename": report.path.display().to_string(),
        "format": report.format.qemu_name(),
        "guessed": report.guessed,
        "check-errors": 0,
        "corruptions": report.corruptions,
        "leaks": report.leaks,
        "findings": findings(&report.findings),
        "findings-not-told": report.untold,
    });
    let numbers = [
        ("total-clusters", report.total_units),
        ("allocated-clusters", report.allocated_units),
        ("compressed-clusters", report.compressed_units),
        ("image-end-offset", report.end),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            value[name] = json!(number);
        }
    }
    if let Some(judged) = judged {
        value["profile"] = json!({
            "name": judged.profile.name(),
            "accepted": judged.broken.is_empty(),
            "findings": findings(&judged.broken),
            "mend": judged.mend,
        });
    }
    value
}

fn as_text(report: &Report, judged: Option<&Judgement>) -> String {
    let name = report.path.display();
    let mut text = String::new();
    if report.guessed {
        text += &format!(
            "{name}: taken for {}; --from says otherwise\n",
            report.format.qemu_name()
        );
    }
    for finding in &report.findings {
        text += &finding_text(finding);
    }
    if report.untold > 0 {
        text += &format!("... and {} more of the same rules\n", report.untold);
    }
    if let Some(info) = &report.info {
        text += &format!("{name}: {} disk", human_bytes(info.virtual_size));
        if let (Some(allocated), Some(total)) = (report.allocated_units, report.total_units)
            && let Some(size) = info.cluster_size
        {
            text += &format!(
                ", {allocated} of {total} units of {} in use",
                human_bytes(size)
            );
        }
        text += "\n";
    }
    text += &match (report.verdict(), report.corruptions, report.leaks) {
        (Verdict::Clean, ..) => format!("{name}: no errors\n"),
        (Verdict::Untidy, _, 0) => format!("{name}: breaks rules, but the data are right\n"),
        (Verdict::Untidy, _, leaks) => {
            format!("{name}: {leaks} leaked units: space is lost, the data are right\n")
        }
        (Verdict::Broken, corruptions, leaks) => {
            format!("{name}: BROKEN (corruptions: {corruptions}, leaked units: {leaks})\n")
        }
    };
    let Some(judged) = judged else {
        return text;
    };
    let platform = judged.profile.name();
    if judged.broken.is_empty() {
        text += &format!("{platform}: would take it\n");
        return text;
    }
    text += &format!("{platform}: would NOT take it\n");
    for finding in &judged.broken {
        let (rule, found) = (finding.rule, &finding.found);
        let expected = &finding.expected;
        text += &format!("  {}: it wants {expected}, this is {found}\n", rule.says);
        text += &format!("    {} ({})\n", rule.id, rule.spec);
    }
    text += &match &judged.mend {
        Some(command) => format!("mend it with:\n  {command}\n"),
        None => "no conversion mends that\n".to_owned(),
    };
    text
}

fn finding_text(finding: &Finding) -> String {
    let Finding {
        rule,
        offset,
        expected,
        found,
        ..
    } = finding;
    format!(
        "{}: {}\n  at byte {offset}: expected {expected}, found {found}\n  {} ({})\n",
        severity(finding),
        rule.says,
        rule.id,
        rule.spec
    )
}
