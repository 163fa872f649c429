//! Values from files with secrets or keys, reloaded when a file changes.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use crate::drain::Drain;

/// How often files are checked for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A value that is loaded from files, and reloaded when one of them changes. Without files it is constant. `Debug`
/// shows the paths only.
pub struct FileBacked<T> {
    paths: Vec<PathBuf>,
    load: Box<dyn Fn() -> Result<T, String> + Send + Sync>,
    state: RwLock<State<T>>,
}

struct State<T> {
    value: Arc<T>,
    versions: Option<Vec<Version>>,
}

/// Distinguishes versions of a file.
type Version = (SystemTime, u64);

impl<T: Send + Sync + 'static> FileBacked<T> {
    /// Loads a value with `load`, which reads these files. Its error must not contain their content.
    ///
    /// # Errors
    /// If the value cannot be loaded.
    pub fn open(
        paths: Vec<PathBuf>,
        load: impl Fn() -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Arc<Self>, String> {
        let versions = versions(&paths);
        let state = RwLock::new(State { value: Arc::new(load()?), versions });
        Ok(Arc::new(Self { paths, load: Box::new(load), state }))
    }

    /// The last value that was loaded successfully.
    pub fn value(&self) -> Arc<T> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner).value)
    }

    /// Reloads the value whenever a file changes, and then calls `on_change`. A version that cannot be loaded is
    /// logged, and the previous value remains in use.
    pub fn follow(self: &Arc<Self>, drain: &Drain, on_change: impl Fn() + Send + 'static) {
        if self.paths.is_empty() {
            return;
        }
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

    /// Loads the value if a file has changed. Returns whether the value has changed.
    fn reload(&self) -> bool {
        let found = versions(&self.paths);
        if found.is_none() || found == self.state.read().unwrap_or_else(PoisonError::into_inner).versions {
            return false;
        }
        let loaded = (self.load)();
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        // A broken version is logged once.
        state.versions = found;
        let path = self.shown_paths();
        match loaded {
            Ok(value) => {
                state.value = Arc::new(value);
                tracing::info!(%path, "file of secrets reloaded");
                true
            }
            Err(error) => {
                tracing::error!(%path, %error, "file of secrets changed and is invalid; the last version stays in use");
                false
            }
        }
    }

    fn shown_paths(&self) -> String {
        self.paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    }
}

impl<T> fmt::Debug for FileBacked<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileBacked").field("paths", &self.paths).finish_non_exhaustive()
    }
}

/// The version of each file; `None` while one cannot be found.
fn versions(paths: &[PathBuf]) -> Option<Vec<Version>> {
    paths.iter().map(|path| version(path).ok()).collect()
}

fn version(path: &Path) -> std::io::Result<Version> {
    let metadata = std::fs::metadata(path)?;
    Ok((metadata.modified()?, metadata.len()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn parse(text: &[u8]) -> Result<String, String> {
        let text = String::from_utf8_lossy(text).into_owned();
        if text.is_empty() { Err("the file is empty".to_owned()) } else { Ok(text) }
    }

    fn open(path: &Path) -> Result<Arc<FileBacked<String>>, String> {
        let path = path.to_owned();
        FileBacked::open(vec![path.clone()], move || {
            parse(&fs::read(&path).map_err(|error| error.to_string())?)
        })
    }

    #[test]
    fn reads_a_changed_file_again_and_keeps_the_last_valid_version() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        assert!(open(&path).is_err());
        fs::write(&path, "one").unwrap();
        let file = open(&path).unwrap();
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
