//! A temporary directory of the drill's own: configurations, logs, what a Redis keeps.
//!
//! Owns its life. Nobody but this user may look into it, since the passwords of the children are in there. Must never
//! remove what it did not make.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Removed when dropped, unless it is to be kept.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    keep: bool,
}

impl Directory {
    pub(super) fn make(keep: bool) -> Result<Self, String> {
        let path = std::env::temp_dir().join(format!("earshot-drill-{:016x}", fastrand::u64(..)));
        create(&path)?;
        Ok(Self { path, keep })
    }

    /// A directory inside.
    pub(super) fn below(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.path.join(name);
        create(&path)?;
        Ok(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.keep {
            // Nobody is left to tell; what is left there is in the directory of temporary files.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn create(path: &Path) -> Result<(), String> {
    let made = DirBuilder::new().mode(0o700).create(path);
    made.map_err(|error| format!("{} cannot be made: {error}; TMPDIR names another place", path.display()))
}

/// Writes a file that nobody else may read.
pub(super) fn write(path: &Path, text: &str) -> Result<(), String> {
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())
    };
    write().map_err(|error| format!("{} cannot be written: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn it_is_for_nobody_else_and_goes_with_what_is_in_it() {
        let directory = Directory::make(false).unwrap();
        let inner = directory.below("a").unwrap();
        let file = inner.join("secret");
        write(&file, "x").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directory.path), mode(&inner), mode(&file)), (0o700, 0o700, 0o600));
        let path = directory.path.clone();
        drop(directory);
        assert!(!path.exists());
    }
}
