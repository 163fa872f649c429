//! Links in documents point to files that exist, and documents keep their size.

use std::fs;

use crate::source::root;

/// Documents with the most lines that they may have.
const DOCUMENTS: [(&str, usize); 4] =
    [("README.md", 250), ("ARCHITECTURE.md", 200), ("CONTRIBUTING.md", 250), ("SECURITY.md", 100)];

#[test]
fn documents_name_files_that_exist() {
    for (document, _) in DOCUMENTS {
        let text = fs::read_to_string(root().join(document)).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap();
            if !path.is_empty() && !path.contains("://") {
                assert!(root().join(path).exists(), "{document} links to {path}, which does not exist");
            }
        }
    }
}

#[test]
fn documents_stay_short() {
    for (document, max) in DOCUMENTS {
        let lines = fs::read_to_string(root().join(document)).unwrap().lines().count();
        assert!(lines <= max, "{document} has {lines} lines, more than {max}");
    }
}
