//! Prefixes for `CLIENT TRACKING`.
//!
//! Owns their reduction to a set without overlaps: Redis refuses a prefix that begins with another one. Pure.

/// The fewest prefixes that cover the same keys. An empty prefix covers every key.
pub(super) fn merge(prefixes: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut sorted = prefixes.to_vec();
    sorted.sort();
    let mut merged: Vec<Vec<u8>> = Vec::new();
    for prefix in sorted {
        // A prefix sorts before everything that begins with it.
        if merged.last().is_none_or(|last| !prefix.starts_with(last)) {
            merged.push(prefix);
        }
    }
    merged
}

/// Whether a key begins with one of the prefixes.
pub(super) fn covers(prefixes: &[Vec<u8>], key: &[u8]) -> bool {
    prefixes.iter().any(|prefix| key.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn merged(prefixes: &[&str]) -> Vec<String> {
        let prefixes: Vec<_> = prefixes.iter().map(|prefix| prefix.as_bytes().to_vec()).collect();
        merge(&prefixes).into_iter().map(|prefix| String::from_utf8(prefix).unwrap()).collect()
    }

    #[test]
    fn removes_overlaps() {
        assert_eq!(merged(&["sess:", "sess:admin:", "jwt:", "sess:"]), ["jwt:", "sess:"]);
        assert_eq!(merged(&["a", "ab", "b", ""]), [""]);
        assert_eq!(merged(&["a", "a!", "a~b"]), ["a"]);
        assert!(merged(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn covers_the_same_keys_without_overlaps(
            prefixes in prop::collection::vec("[ab]{0,3}", 0..6),
            key in "[ab]{0,5}",
        ) {
            let prefixes: Vec<_> = prefixes.into_iter().map(String::into_bytes).collect();
            let merged = merge(&prefixes);
            prop_assert_eq!(covers(&prefixes, key.as_bytes()), covers(&merged, key.as_bytes()));
            for (at, one) in merged.iter().enumerate() {
                for (other_at, other) in merged.iter().enumerate() {
                    prop_assert!(at == other_at || !one.starts_with(other));
                }
            }
        }
    }
}
