//! A file with secrets or keys, read again when it changes.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use crate::drain::Drain;

/// How often a file is checked for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Why a file cannot be used. The text never contains what is in the file.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct SecretFileError {
    path: PathBuf,
    reason: String,
}

/// A value that is read from a file, and again when the file changes. `Debug` shows the path only.
pub struct SecretFile<T> {
    path: PathBuf,
    parse: Box<Parse<T>>,
    state: RwLock<State<T>>,
}

type Parse<T> = dyn Fn(&[u8]) -> Result<T, String> + Send + Sync;

struct State<T> {
    value: Arc<T>,
    version: Option<Version>,
}

/// Distinguishes versions of a file.
type Version = (SystemTime, u64);

impl<T: Send + Sync + 'static> SecretFile<T> {
    /// Reads a file with `parse`, whose error must not contain what is in the file.
    ///
    /// # Errors
    /// If the file cannot be read or parsed.
    pub fn open(
        path: &Path,
        parse: impl Fn(&[u8]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Arc<Self>, SecretFileError> {
        let failed = |reason: String| SecretFileError { path: path.to_owned(), reason };
        let version = version(path).map_err(|error| failed(error.to_string()))?;
        let text = fs::read(path).map_err(|error| failed(error.to_string()))?;
        let value = Arc::new(parse(&text).map_err(failed)?);
        let state = RwLock::new(State { value, version: Some(version) });
        Ok(Arc::new(Self { path: path.to_owned(), parse: Box::new(parse), state }))
    }

    /// The value of the last version that could be read.
    pub fn value(&self) -> Arc<T> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner).value)
    }

    /// Reads the file again whenever it changes, and then calls `on_change`. A version that cannot be read is logged, and
    /// the last one stays valid.
    pub fn follow(self: &Arc<Self>, drain: &Drain, on_change: impl Fn() + Send + 'static) {
        let (file, stop) = (Arc::clone(self), drain.clone());
        drain.spawn(async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(CHECK_INTERVAL) => {}
                    () = stop.stopped() => return,
                }
                let checked = Arc::clone(&file);
                // Reading a file blocks.
                if tokio::task::spawn_blocking(move || checked.reload()).await.unwrap_or(false) {
                    on_change();
                }
            }
        });
    }

    /// Reads the file if it has changed. Returns whether there is another value.
    fn reload(&self) -> bool {
        let found = version(&self.path).ok();
        let known = self.state.read().unwrap_or_else(PoisonError::into_inner).version;
        if found == known || found.is_none() {
            return false;
        }
        let parsed =
            fs::read(&self.path).map_err(|error| error.to_string()).and_then(|text| (self.parse)(&text));
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        // A broken version is logged once.
        state.version = found;
        match parsed {
            Ok(value) => {
                state.value = Arc::new(value);
                tracing::info!(path = %self.path.display(), "file of secrets reloaded");
                true
            }
            Err(error) => {
                let path = self.path.display();
                tracing::error!(%path, %error, "file of secrets changed and is invalid; the last version stays in use");
                false
            }
        }
    }
}

impl<T> fmt::Debug for SecretFile<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretFile").field("path", &self.path).finish_non_exhaustive()
    }
}

fn version(path: &Path) -> std::io::Result<Version> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.modified()?, metadata.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Result<String, String> {
        let text = String::from_utf8_lossy(text).into_owned();
        if text.is_empty() { Err("the file is empty".to_owned()) } else { Ok(text) }
    }

    #[test]
    fn reads_a_changed_file_again_and_keeps_the_last_valid_version() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        assert!(SecretFile::open(&path, parse).is_err());
        fs::write(&path, "one").unwrap();
        let file = SecretFile::open(&path, parse).unwrap();
        assert!(!file.reload());
        fs::write(&path, "second").unwrap();
        assert!(file.reload());
        assert_eq!(*file.value(), "second");
        fs::write(&path, "").unwrap();
        assert!(!file.reload());
        fs::remove_file(&path).unwrap();
        assert!(!file.reload());
        assert_eq!(*file.value(), "second");
        fs::write(&path, "3").unwrap();
        assert!(file.reload());
        assert_eq!(*file.value(), "3");
        assert!(!format!("{file:?}").contains('3') || path.display().to_string().contains('3'));
    }
}
