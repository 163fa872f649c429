//! Files with passwords, certificates and keys.
//!
//! They are read at each attempt to connect, so a renewed or rotated file needs no restart. Must never show their
//! contents.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// Larger than any password or bundle of certificates; stops at devices and log files.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Reads a password: the contents of the file without the line break at its end.
///
/// # Errors
/// A description of what is wrong with the file.
pub fn read_password(path: &Path) -> Result<String, String> {
    let bytes = read(path)?;
    let text = String::from_utf8(bytes).map_err(|_| format!("{} is not UTF-8", path.display()))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(format!("{} is empty; expected a password", path.display())),
        password if password.contains(['\r', '\n']) => {
            Err(format!("{} has more than one line; expected only a password", path.display()))
        }
        password => Ok(password.to_owned()),
    }
}

/// Reads a whole file of at most 4 MiB.
///
/// # Errors
/// A description of what is wrong with the file.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(io::Error::other("more than 4 MiB"));
        }
        Ok(bytes)
    };
    read().map_err(|error| format!("{} cannot be read: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_password_without_its_line_break() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        for (written, read) in
            [("a b\n", Some("a b")), ("#?x\r\n", Some("#?x")), ("\n", None), ("a\nb", None)]
        {
            std::fs::write(&path, written).unwrap();
            assert_eq!(read_password(&path).ok().as_deref(), read, "{written:?}");
        }
        let error = read_password(&directory.path().join("none")).unwrap_err();
        assert!(error.ends_with("none cannot be read: No such file or directory (os error 2)"), "{error}");
    }
}
