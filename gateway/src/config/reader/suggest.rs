//! "Did you mean": the known word that is most similar to an unknown one.
//!
//! Owns the measure of similarity. Must never know what the words are for.

/// Longer words are not typing errors, and the cost of a comparison grows with the square of the length.
const LENGTH_MAX: usize = 64;

/// The known word that is most similar to `word`; `None` if none is similar enough.
pub(in crate::config) fn suggest<'k>(
    word: &str,
    known: impl IntoIterator<Item = &'k str>,
) -> Option<&'k str> {
    if word.len() > LENGTH_MAX {
        return None;
    }
    let folded = fold(word);
    let with_distance = |candidate: &'k str| (strsim::levenshtein(&folded, &fold(candidate)), candidate);
    let (distance, best) = known.into_iter().map(with_distance).min_by_key(|(distance, _)| *distance)?;
    // Short words must match more closely.
    (distance <= 1 + word.len().min(best.len()) / 4).then_some(best)
}

/// Case does not matter, nor does `-` instead of `_`.
fn fold(word: &str) -> String {
    word.replace('-', "_").to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_the_word_for_a_typing_error() {
        let known = ["listen", "allowed_origins", "limits", "redis"];
        for (word, suggestion) in [
            ("lisen", "listen"),
            ("limit", "limits"),
            ("allowed-origins", "allowed_origins"),
            ("Redis", "redis"),
        ] {
            assert_eq!(suggest(word, known), Some(suggestion), "{word}");
        }
    }

    #[test]
    fn suggests_nothing_for_another_word() {
        for word in ["", "tls", "colour", &"x".repeat(10_000)] {
            assert_eq!(suggest(word, ["listen", "limits"]), None, "{word}");
        }
    }
}
