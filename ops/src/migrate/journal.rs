//! The state file, from which a run continues after any interruption, including SIGKILL.
//!
//! Owns the file. It is replaced atomically, and intended writes are saved before they are made. It contains key
//! names, so only its owner can read it; it must never contain a value, a URL or a secret.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::counts::Counts;
use super::error::MigrateError;

/// Version of the format that is written and read.
const VERSION: u32 = 2;

/// Stage of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum JournalStage {
    #[default]
    Move,
    Verify,
}

/// SCAN position in one node of the source. Cursors are valid only for the same process of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ScanCursor {
    pub(super) run_id: String,
    pub(super) cursor: String,
    pub(super) done: bool,
}

/// A key whose copy has started and is not known to be complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct InFlightKey {
    #[serde(serialize_with = "encode", deserialize_with = "decode")]
    pub(super) key: Vec<u8>,
    /// Checksums of the values that were to be written. A value at the target with one of them was written by this
    /// migration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) checksums: Vec<u64>,
}

impl InFlightKey {
    /// Records a value that is about to be written.
    pub(super) fn add_checksum(&mut self, checksum: u64) {
        if !self.checksums.contains(&checksum) {
            self.checksums.push(checksum);
        }
    }
}

/// State of a migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct JournalState {
    version: u32,
    /// Identifies the migration, so that no other one resumes from this state.
    plan: String,
    pub(super) stage: JournalStage,
    pub(super) nodes: Vec<ScanCursor>,
    /// Slots of the source's nodes; empty unless it is a cluster.
    pub(super) slots: String,
    /// Keys to handle before scanning continues.
    pub(super) in_flight: Vec<InFlightKey>,
    pub(super) counts: Counts,
}

/// A state with its file.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    /// Prevents concurrent runs with the same state file.
    _lock: Option<Lock>,
    pub(super) state: JournalState,
    /// Whether an earlier run created the state.
    pub(super) resumed: bool,
}

impl Journal {
    /// Opens or creates a state. Writes nothing yet.
    pub(super) fn open(path: &Path, plan: &str, rules: usize) -> Result<Self, MigrateError> {
        let lock = Lock::take(path)?;
        let found = read(path).map_err(|error| state_error(path, &format!("cannot be read: {error}")))?;
        let resumed = found.is_some();
        let state = match found {
            Some(text) => parse_state(path, &text, plan, rules)?,
            None => new_state(plan, rules),
        };
        Ok(Self { path: path.to_owned(), _lock: Some(lock), state, resumed })
    }

    /// A state without a file, for operations that change nothing.
    pub(super) fn in_memory(plan: &str, rules: usize) -> Self {
        Self { path: PathBuf::new(), _lock: None, state: new_state(plan, rules), resumed: false }
    }

    /// Saves the state to disk.
    pub(super) fn save(&self) -> Result<(), MigrateError> {
        if self._lock.is_none() {
            return Ok(());
        }
        write(&self.path, &self.state).map_err(|error| {
            state_error(&self.path, &format!("cannot be written: {error}; set another path with --state"))
        })
    }

    /// Removes the state file after the run is complete.
    pub(super) fn remove(self) -> Result<(), MigrateError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(state_error(&self.path, &format!("cannot be removed: {error}")))
            }
            _ => Ok(()),
        }
    }

    /// Enters a stage at the start of the keyspace.
    pub(super) fn start_stage(&mut self, stage: JournalStage) {
        self.state.stage = stage;
        self.state.nodes.clear();
        self.state.in_flight.clear();
    }
}

fn new_state(plan: &str, rules: usize) -> JournalState {
    JournalState {
        version: VERSION,
        plan: plan.to_owned(),
        stage: JournalStage::Move,
        nodes: Vec::new(),
        slots: String::new(),
        in_flight: Vec::new(),
        counts: Counts { rules: vec![<_>::default(); rules], ..Counts::default() },
    }
}

fn parse_state(path: &Path, text: &str, plan: &str, rules: usize) -> Result<JournalState, MigrateError> {
    let state: JournalState = serde_json::from_str(text).map_err(|error| {
        state_error(
            path,
            &format!("is not a state file of a migration: {error}; set another path with --state"),
        )
    })?;
    if state.version != VERSION {
        return Err(state_error(
            path,
            "was written by another version; finish the migration with that version, or set another path with --state",
        ));
    }
    if state.plan != plan || state.counts.rules.len() != rules {
        return Err(state_error(
            path,
            &format!(
                "belongs to another migration; set another path with --state, or remove the file to start over\n  \
                 file: {}\n  requested: {plan}",
                state.plan
            ),
        ));
    }
    Ok(state)
}

fn read(path: &Path) -> io::Result<Option<String>> {
    let mut text = String::new();
    match File::open(path) {
        Ok(mut file) => file.read_to_string(&mut text).map(|_| Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces the file atomically.
fn write(path: &Path, state: &JournalState) -> io::Result<()> {
    let temporary = suffixed(path, ".new");
    let mut file = private().truncate(true).open(&temporary)?;
    file.write_all(&serde_json::to_vec(state)?)?;
    file.sync_data()?;
    fs::rename(&temporary, path)
}

fn private() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600);
    options
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn state_error(path: &Path, what: &str) -> MigrateError {
    MigrateError::State(format!("state file {}: {what}", path.display()))
}

/// A lock file next to the state file, which is replaced on each save. Released when the process exits.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    fn take(state: &Path) -> Result<Self, MigrateError> {
        let path = suffixed(state, ".lock");
        loop {
            let file = private().open(&path).map_err(|error| {
                state_error(
                    state,
                    &format!("cannot create {}: {error}; set another path with --state", path.display()),
                )
            })?;
            match file.try_lock() {
                // A run that has just ended may have removed this file; a lock on it would not be visible to others.
                Ok(()) if !is_at(&file, &path) => {}
                Ok(()) => return Ok(Self { path, _file: file }),
                Err(fs::TryLockError::WouldBlock) => {
                    return Err(state_error(state, "is in use by another run"));
                }
                Err(fs::TryLockError::Error(error)) => {
                    return Err(state_error(state, &format!("cannot be locked: {error}")));
                }
            }
        }
    }
}

/// Whether a path refers to an open file.
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let (Ok(held), Ok(there)) = (file.metadata(), fs::metadata(path)) else { return false };
    (held.dev(), held.ino()) == (there.dev(), there.ino())
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A leftover lock file is harmless: the lock is on the open file.
        drop(fs::remove_file(&self.path));
    }
}

fn encode<S: Serializer>(key: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(key))
}

fn decode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    STANDARD.decode(text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_round_trips() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let mut journal = Journal::open(&path, "a to b", 2).unwrap();
        assert!(!journal.resumed);
        journal.state.in_flight.push(InFlightKey { key: b"\x00\xff".to_vec(), checksums: vec![u64::MAX, 1] });
        journal.state.in_flight.push(InFlightKey { key: b"k".to_vec(), checksums: Vec::new() });
        journal.state.nodes.push(ScanCursor {
            run_id: "r".into(),
            cursor: u64::MAX.to_string(),
            done: false,
        });
        journal.state.counts.rules[1].count("hash", 7, true);
        journal.save().unwrap();
        let state = journal.state.clone();
        drop(journal);
        let again = Journal::open(&path, "a to b", 2).unwrap();
        assert!(again.resumed);
        assert_eq!(again.state, state);
        again.remove().unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn other_states_are_rejected() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        Journal::open(&path, "a to b", 1).unwrap().save().unwrap();
        let message = Journal::open(&path, "a to c", 1).unwrap_err().to_string();
        assert!(message.contains("another migration") && message.contains("a to b"), "{message}");
        fs::write(&path, "{").unwrap();
        assert!(matches!(Journal::open(&path, "a to b", 1), Err(MigrateError::State(_))));
    }

    #[test]
    fn concurrent_runs_are_rejected() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let first = Journal::open(&path, "a", 1).unwrap();
        let message = Journal::open(&path, "a", 1).unwrap_err().to_string();
        assert!(message.contains("another run"), "{message}");
        drop(first);
        Journal::open(&path, "a", 1).unwrap();
    }

    #[test]
    fn state_file_is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        Journal::open(&path, "a", 1).unwrap().save().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
