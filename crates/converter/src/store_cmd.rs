//! `p2v store`: verify, collect, count and mend what is kept.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use chunk_store::{Collect, Store};
use image_formats::Progress as _;
use serde_json::json;

use crate::progress::{ByteBar, human_bytes};
use crate::store_dir::StoreArgs;

/// Exit code of `verify` when something is damaged.
pub const DAMAGED: u8 = 2;

/// Verify, collect, count and mend what is kept.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

/// The options of every subcommand.
#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    store: StoreArgs,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Read and hash everything that is kept; the exit code is 2 if something is damaged
    Verify(Common),
    /// Remove what no machine needs
    Gc {
        #[command(flatten)]
        common: Common,
        /// Rewrite a pack when at least this share of it is garbage, from 0 to 1
        #[arg(long, value_name = "SHARE", default_value_t = 0.25)]
        rewrite_above: f64,
        /// Drop pushes that were not finished too; they cannot be resumed then
        #[arg(long)]
        drop_unfinished: bool,
    },
    /// Say how much is kept, and what that takes
    Stats(Common),
    /// Read the index from the packs again
    RebuildIndex(Common),
}

impl Common {
    fn directory(&self) -> anyhow::Result<PathBuf> {
        let directory = self.store.directory()?;
        ensure!(
            directory.exists(),
            "there is no store in {}; name it with --store or P2V_STORE",
            directory.display()
        );
        Ok(directory)
    }
}

/// Run the verb.
///
/// # Errors
/// When the store cannot be read or written.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.what {
        What::Verify(common) => verify(&common.directory()?, common.json),
        What::Gc {
            common,
            rewrite_above,
            drop_unfinished,
        } => {
            ensure!(
                (0.0..=1.0).contains(&rewrite_above),
                "--rewrite-above {rewrite_above} is not a share from 0 to 1"
            );
            let how = Collect {
                rewrite_above,
                drop_inactive_pushes: drop_unfinished,
            };
            collect(&common.directory()?, how, common.json)
        }
        What::Stats(common) => stats(&common.directory()?, common.json),
        What::RebuildIndex(common) => rebuild(&common.directory()?, common.json),
    }
}

fn verify(directory: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let store = Store::open_to_read(directory).with_context(|| opening(directory))?;
    let bar = ByteBar::new("verifying");
    let found = store
        .verify(&mut |progress| bar.advance(progress.done, progress.total))
        .context("verifying the store")?;
    bar.clear();
    let damaged = found.damaged.len() as u64 + found.more_damaged;
    if json {
        let places: Vec<String> = found.damaged.iter().map(ToString::to_string).collect();
        println!(
            "{:#}",
            json!({
                "chunks": found.chunks,
                "bytes": found.bytes,
                "damaged": damaged,
                "places": places,
            })
        );
    } else {
        for damage in &found.damaged {
            println!("{damage}");
        }
        if found.more_damaged > 0 {
            println!("and {} more places", found.more_damaged);
        }
        println!(
            "{} chunks with {}: {}",
            found.chunks,
            human_bytes(found.bytes),
            match damaged {
                0 => "all are what was sent".to_owned(),
                count => format!("{count} places are damaged; push the machines again"),
            }
        );
    }
    Ok(if found.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(DAMAGED)
    })
}

fn collect(directory: &Path, how: Collect, json: bool) -> anyhow::Result<ExitCode> {
    let store = Store::open(directory).with_context(|| opening(directory))?;
    let collected = store.collect_garbage(how).context("collecting garbage")?;
    if json {
        println!(
            "{:#}",
            json!({
                "pushes": collected.pushes,
                "packs": collected.packs,
                "removed": collected.removed,
                "rewritten": collected.rewritten,
            })
        );
    } else {
        println!(
            "removed {} packs with {}, wrote {} of that again, dropped {} unfinished pushes",
            collected.packs,
            human_bytes(collected.removed),
            human_bytes(collected.rewritten),
            collected.pushes
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn stats(directory: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let store = Store::open_to_read(directory).with_context(|| opening(directory))?;
    let stats = store.stats().context("counting what is kept")?;
    if json {
        println!(
            "{:#}",
            json!({
                "snapshots": stats.snapshots,
                "logical": stats.logical,
                "used": stats.used,
                "chunks": stats.chunks,
                "unique": stats.unique,
                "packs": stats.packs,
                "stored": stats.stored,
                "index": stats.index,
                "index_memory": stats.index_memory,
                "recipes": stats.recipes,
                "index_a_terabyte": stats.index_a_terabyte(),
                "recipe_a_terabyte": stats.recipe_a_terabyte(),
            })
        );
        return Ok(ExitCode::SUCCESS);
    }
    let line = |what: &str, value: String| println!("{what:<28} {value}");
    line("machines and states", stats.snapshots.to_string());
    line("their disks", human_bytes(stats.logical));
    line("in use on them", human_bytes(stats.used));
    line("different chunks", stats.chunks.to_string());
    line("in those", human_bytes(stats.unique));
    line("kept, compressed", human_bytes(stats.stored));
    line("packs", stats.packs.to_string());
    line("index", human_bytes(stats.index));
    line("index in memory", human_bytes(stats.index_memory));
    line("recipes", human_bytes(stats.recipes));
    if let Some(bytes) = stats.index_a_terabyte() {
        line("index a terabyte of chunks", human_bytes(bytes));
    }
    if let Some(bytes) = stats.recipe_a_terabyte() {
        line("recipe a terabyte in use", human_bytes(bytes));
    }
    Ok(ExitCode::SUCCESS)
}

fn rebuild(directory: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let store = Store::open(directory).with_context(|| opening(directory))?;
    store.rebuild_index().context("reading the packs")?;
    let stats = store.stats().context("counting what is kept")?;
    if json {
        println!(
            "{:#}",
            json!({ "chunks": stats.chunks, "index": stats.index })
        );
    } else {
        println!(
            "the index knows {} chunks in {} packs again",
            stats.chunks, stats.packs
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn opening(directory: &Path) -> String {
    format!("opening the store {}", directory.display())
}
