//! Files that a server's sign-in needs: passwords, certificates, keys.
//!
//! Owns reading them. They are read at each attempt to connect, so what is renewed or rotated needs no restart. Must
//! never show what is in them.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// No password and no bundle of certificates is as long; a device or a log file is.
const MOST_BYTES: u64 = 4 * 1024 * 1024;

/// The password in a file: everything but the line break at its end.
///
/// # Errors
/// What is wrong with the file.
pub fn password(path: &Path) -> Result<String, String> {
    let bytes = read(path)?;
    let text = String::from_utf8(bytes).map_err(|_| format!("{} is not UTF-8", path.display()))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(format!("{} is empty: it should hold the password", path.display())),
        password if password.contains(['\r', '\n']) => {
            Err(format!("{} has more than one line: it should hold the password alone", path.display()))
        }
        password => Ok(password.to_owned()),
    }
}

/// What a file holds.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MOST_BYTES {
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
    fn a_password_is_what_stands_before_the_line_break() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        for (written, read) in
            [("a b\n", Some("a b")), ("#?x\r\n", Some("#?x")), ("\n", None), ("a\nb", None)]
        {
            std::fs::write(&path, written).unwrap();
            assert_eq!(password(&path).ok().as_deref(), read, "{written:?}");
        }
        let told = password(&directory.path().join("none")).unwrap_err();
        assert!(told.ends_with("none cannot be read: No such file or directory (os error 2)"), "{told}");
    }
}
