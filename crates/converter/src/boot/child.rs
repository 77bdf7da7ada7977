//! A child process that does not outlive its owner.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

/// Ended and waited for when dropped.
#[derive(Debug)]
pub struct Child {
    inner: std::process::Child,
}

impl Child {
    /// Start `command`, which [`command_for`] made.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(mut command: Command) -> io::Result<Self> {
        Ok(Self {
            inner: command.spawn()?,
        })
    }

    /// Its status if it has ended.
    ///
    /// # Errors
    /// As `waitpid`.
    pub fn exit_status(&mut self) -> io::Result<Option<ExitStatus>> {
        self.inner.try_wait()
    }

    /// Its pipes.
    pub fn pipes(&mut self) -> &mut std::process::Child {
        &mut self.inner
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.inner.kill();
        let _ = self.inner.wait();
    }
}

/// A command for `program` that the kernel ends when this process ends, however it ends, where `setpriv` is there to ask
/// for that: `pre_exec` would be the way without it, and is unsafe.
#[must_use]
pub fn command_for(program: &Path) -> Command {
    match program_on_path("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// The first program of that name on `PATH`.
#[must_use]
pub fn program_on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata()
        .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}
