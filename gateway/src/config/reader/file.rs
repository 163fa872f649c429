//! The configuration file on disk.
//!
//! Owns finding and reading it. Must never interpret it.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::diagnostics::{ConfigErrors, Diagnostics, Location};

/// The file that is used if it exists and no other is given.
const DEFAULT_PATH: &str = "earshot.toml";

/// Maximum size. A larger file is not a configuration.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A file and its text.
pub(in crate::config) struct ConfigFile {
    pub(in crate::config) path: PathBuf,
    pub(in crate::config) text: String,
}

/// Reads the given file, or `earshot.toml` in the working directory if it exists.
///
/// # Errors
/// If the file cannot be read.
pub(in crate::config) fn read(given: Option<&Path>) -> Result<Option<ConfigFile>, ConfigErrors> {
    let path = given.unwrap_or(Path::new(DEFAULT_PATH));
    match read_text(path) {
        Ok(text) => Ok(Some(ConfigFile { path: path.into(), text })),
        Err(error) if error.kind() == io::ErrorKind::NotFound && given.is_none() => Ok(None),
        Err(error) => {
            let mut diagnostics = Diagnostics::default();
            diagnostics.add(&Location::File(path), format!("cannot read the file: {error}"));
            Err(diagnostics.into_errors())
        }
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
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
    fn the_entire_file_is_read() {
        assert_eq!(read_bytes(b"log = \"info\"\n").unwrap(), "log = \"info\"\n");
    }

    #[test]
    fn an_unreadable_file_is_an_error() {
        let error = read_bytes(b"log = \"info\"\n\xff").unwrap_err();
        assert!(error.ends_with("earshot.toml: cannot read the file: not valid UTF-8 on line 2"), "{error}");
        let error = read_bytes(&vec![b'#'; 2 << 20]).unwrap_err();
        assert!(error.ends_with("earshot.toml: cannot read the file: more than 1 MiB"), "{error}");
        let error = read(Some(Path::new("/nowhere/at/all.toml"))).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/at/all.toml: cannot read the file: "), "{error}");
        assert!(read(Some(Path::new("/"))).is_err());
    }
}
