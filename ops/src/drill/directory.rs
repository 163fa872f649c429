//! The temporary directory of a drill: configurations, logs, Redis data.
//!
//! Owns its lifetime. Accessible to this user only, since it contains passwords. Must never remove what it did not
//! create.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Removed when dropped, unless `keep` is set.
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

    /// Creates a subdirectory.
    pub(super) fn subdirectory(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.path.join(name);
        create(&path)?;
        Ok(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.keep {
            // There is no place to report an error, and the directory is a temporary one.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn create(path: &Path) -> Result<(), String> {
    let made = DirBuilder::new().mode(0o700).create(path);
    made.map_err(|error| {
        format!("cannot create {}: {error}; set TMPDIR to use another directory", path.display())
    })
}

/// Writes a file that only this user may read.
pub(super) fn write(path: &Path, text: &str) -> Result<(), String> {
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())
    };
    write().map_err(|error| format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn directory_is_private_and_removed() {
        let directory = Directory::make(false).unwrap();
        let inner = directory.subdirectory("a").unwrap();
        let file = inner.join("secret");
        write(&file, "x").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directory.path), mode(&inner), mode(&file)), (0o700, 0o700, 0o600));
        let path = directory.path.clone();
        drop(directory);
        assert!(!path.exists());
    }
}
