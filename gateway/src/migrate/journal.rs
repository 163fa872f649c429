//! The state file: where a move stands, so that it goes on after any end, a kill included.
//!
//! Owns the file. It is replaced as a whole, and is on disk before what it announces is done. It holds names of keys,
//! so it is readable by its owner alone; it must never hold a value, a URL or a secret.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::counts::Counts;
use super::error::MigrateError;

/// What this version writes and reads.
const VERSION: u32 = 2;

/// How far a run has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum JournalStage {
    #[default]
    Move,
    Verify,
}

/// How far one node of the source has been walked. A cursor means nothing to any other incarnation of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ScanCursor {
    pub(super) run_id: String,
    pub(super) cursor: String,
    pub(super) done: bool,
}

/// A key whose move has begun and is not known to have ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct InFlightKey {
    #[serde(serialize_with = "encode", deserialize_with = "decode")]
    pub(super) key: Vec<u8>,
    /// The checksums of the values that were being written: what is found with one at the target was written by us.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) checksums: Vec<u64>,
}

impl InFlightKey {
    /// Remembers a value that is about to be written.
    pub(super) fn add_checksum(&mut self, checksum: u64) {
        if !self.checksums.contains(&checksum) {
            self.checksums.push(checksum);
        }
    }
}

/// Where a move stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    version: u32,
    /// What is being done, so that nothing else goes on from here.
    plan: String,
    pub(super) stage: JournalStage,
    pub(super) nodes: Vec<ScanCursor>,
    /// The slots of the source's nodes, where it is a cluster.
    pub(super) slots: String,
    /// These come before anything that the cursors stand before.
    pub(super) in_flight: Vec<InFlightKey>,
    pub(super) counts: Counts,
}

/// The state with its file.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    /// Held, so that no two runs go on from one file.
    _lock: Option<Lock>,
    pub(super) state: State,
    /// Whether an earlier run began it.
    pub(super) resumed: bool,
}

impl Journal {
    /// Opens a state file, or begins one; nothing is written yet.
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

    /// A state that is kept nowhere, for what changes nothing.
    pub(super) fn in_memory(plan: &str, rules: usize) -> Self {
        Self { path: PathBuf::new(), _lock: None, state: new_state(plan, rules), resumed: false }
    }

    /// Puts the state on disk.
    pub(super) fn save(&self) -> Result<(), MigrateError> {
        if self._lock.is_none() {
            return Ok(());
        }
        write(&self.path, &self.state).map_err(|error| {
            state_error(&self.path, &format!("cannot be written: {error}; give another --state"))
        })
    }

    /// The run is over.
    pub(super) fn remove(self) -> Result<(), MigrateError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(state_error(&self.path, &format!("cannot be removed: {error}")))
            }
            _ => Ok(()),
        }
    }

    /// Goes on to the next stage, from the beginning of the keyspace.
    pub(super) fn start_stage(&mut self, stage: JournalStage) {
        self.state.stage = stage;
        self.state.nodes.clear();
        self.state.in_flight.clear();
    }
}

fn new_state(plan: &str, rules: usize) -> State {
    State {
        version: VERSION,
        plan: plan.to_owned(),
        stage: JournalStage::Move,
        nodes: Vec::new(),
        slots: String::new(),
        in_flight: Vec::new(),
        counts: Counts { rules: vec![<_>::default(); rules], ..Counts::default() },
    }
}

fn parse_state(path: &Path, text: &str, plan: &str, rules: usize) -> Result<State, MigrateError> {
    let state: State = serde_json::from_str(text).map_err(|error| {
        state_error(path, &format!("is not the state of a move: {error}; give another --state"))
    })?;
    if state.version != VERSION {
        return Err(state_error(
            path,
            "was written by another version: finish with that one, or give another --state",
        ));
    }
    if state.plan != plan || state.counts.rules.len() != rules {
        return Err(state_error(
            path,
            &format!(
                "belongs to another move; give another --state, or remove the file to begin anew\n  it is of: {}\n  \
                 asked for: {plan}",
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

/// Replaces the file in one step; it is whole whenever the machine stops.
fn write(path: &Path, state: &State) -> io::Result<()> {
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

/// A lock temporary the state file, which itself is replaced again and again. It goes with its process.
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
                    &format!("{} cannot be made: {error}; give another --state", path.display()),
                )
            })?;
            match file.try_lock() {
                // A run that ended at this moment has removed the file that we hold: nobody else would see our lock.
                Ok(()) if !is_at(&file, &path) => {}
                Ok(()) => return Ok(Self { path, _file: file }),
                Err(fs::TryLockError::WouldBlock) => {
                    return Err(state_error(state, "another run is using it"));
                }
                Err(fs::TryLockError::Error(error)) => {
                    return Err(state_error(state, &format!("cannot be locked: {error}")));
                }
            }
        }
    }
}

/// Whether a path leads to an open file.
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let (Ok(held), Ok(there)) = (file.metadata(), fs::metadata(path)) else { return false };
    (held.dev(), held.ino()) == (there.dev(), there.ino())
}

impl Drop for Lock {
    fn drop(&mut self) {
        // One that is_in_place behind locks nobody out.
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
    fn a_state_is_read_as_it_was_written() {
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
    fn what_is_not_its_state_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        Journal::open(&path, "a to b", 1).unwrap().save().unwrap();
        let told = Journal::open(&path, "a to c", 1).unwrap_err().to_string();
        assert!(told.contains("another move") && told.contains("a to b"), "{told}");
        fs::write(&path, "{").unwrap();
        assert!(matches!(Journal::open(&path, "a to b", 1), Err(MigrateError::State(_))));
    }

    #[test]
    fn two_runs_do_not_share_a_state() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let first = Journal::open(&path, "a", 1).unwrap();
        let told = Journal::open(&path, "a", 1).unwrap_err().to_string();
        assert!(told.contains("another run"), "{told}");
        drop(first);
        Journal::open(&path, "a", 1).unwrap();
    }

    #[test]
    fn only_its_owner_may_read_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        Journal::open(&path, "a", 1).unwrap().save().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
