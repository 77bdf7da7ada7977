//! Where the store is, for every verb that uses it.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

/// The option that names the store.
#[derive(Debug, Clone, Args)]
pub struct StoreArgs {
    /// Directory that keeps what machines have sent
    /// [default: $XDG_DATA_HOME/p2v or ~/.local/share/p2v]
    #[arg(long = "store", value_name = "DIR", env = "P2V_STORE")]
    directory: Option<PathBuf>,
}

impl StoreArgs {
    /// The directory the user named, or the default one.
    ///
    /// # Errors
    /// When neither the option nor a home directory says where.
    pub fn directory(&self) -> anyhow::Result<PathBuf> {
        if let Some(directory) = &self.directory {
            return Ok(directory.clone());
        }
        let data = std::env::var_os("XDG_DATA_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share")))
            .context(
                "finding the store: neither --store, P2V_STORE, XDG_DATA_HOME nor HOME is set",
            )?;
        Ok(data.join("p2v"))
    }
}
