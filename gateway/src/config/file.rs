//! The file on disk.
//!
//! Owns finding and reading it. Must never know what is in it.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::errors::{ConfigErrors, Place, Problems};

/// The file that is used when it is there.
const IN_WORKING_DIRECTORY: &str = "earshot.toml";

/// Nobody writes as much; a device or a log file taken for a configuration holds more.
const MOST_BYTES: u64 = 1024 * 1024;

/// A file and its text.
pub(super) struct Read {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// Reads the file that was asked for, or else the one in the working directory, if there is one.
pub(super) fn read(asked: Option<&Path>) -> Result<Option<Read>, ConfigErrors> {
    let path = asked.unwrap_or(Path::new(IN_WORKING_DIRECTORY));
    match read_text(path) {
        Ok(text) => Ok(Some(Read { path: path.into(), text })),
        Err(error) if error.kind() == io::ErrorKind::NotFound && asked.is_none() => Ok(None),
        Err(error) => {
            let mut problems = Problems::default();
            problems.add(&Place::File(path), format!("cannot be read: {error}"));
            Err(problems.into_errors())
        }
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(io::Error::other("more than 1 MiB"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
        io::Error::other(format!("not valid UTF-8 on line {line}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_bytes(bytes: &[u8]) -> Result<String, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("earshot.toml");
        std::fs::write(&path, bytes).unwrap();
        let read = read(Some(&path)).map_err(|errors| errors.to_string())?;
        Ok(read.unwrap().text)
    }

    #[test]
    fn a_file_is_read_whole() {
        assert_eq!(read_bytes(b"log = \"info\"\n").unwrap(), "log = \"info\"\n");
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let error = read_bytes(b"log = \"info\"\n\xff").unwrap_err();
        assert!(error.ends_with("earshot.toml: cannot be read: not valid UTF-8 on line 2"), "{error}");
        let error = read_bytes(&vec![b'#'; 2 << 20]).unwrap_err();
        assert!(error.ends_with("earshot.toml: cannot be read: more than 1 MiB"), "{error}");
        let error = read(Some(Path::new("/nowhere/at/all.toml"))).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/at/all.toml: cannot be read: "), "{error}");
        assert!(read(Some(Path::new("/"))).is_err());
    }
}
