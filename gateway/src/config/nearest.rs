//! Which known word was meant.
//!
//! Owns the measure of likeness. Must never know what the words are for.

/// Longer words are no typing mistakes, and comparing them costs their product.
const LONGEST: usize = 64;

/// The known word that is nearest to the given one, if any is near enough to be meant.
pub(super) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    if word.len() > LONGEST {
        return None;
    }
    let near = |candidate: &'k str| (distance(word, candidate), candidate);
    let (steps, best) = known.into_iter().map(near).min_by_key(|(steps, _)| *steps)?;
    // One mistake in three letters is a slip; more is another word.
    (steps <= 1 + word.len().min(best.len()) / 4).then_some(best)
}

/// Letters to insert, to delete or to replace (Levenshtein), blind to case and to `-` for `_`.
fn distance(a: &str, b: &str) -> usize {
    let fold = |letter: char| if letter == '-' { '_' } else { letter.to_ascii_lowercase() };
    let b: Vec<char> = b.chars().map(fold).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().map(fold).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_word() {
        let known = ["listen", "allowed_origins", "limits", "redis"];
        for (word, meant) in [
            ("lisen", "listen"),
            ("limit", "limits"),
            ("allowed-origins", "allowed_origins"),
            ("Redis", "redis"),
        ] {
            assert_eq!(nearest(word, known), Some(meant), "{word}");
        }
    }

    #[test]
    fn another_word_finds_none() {
        for word in ["", "tls", "colour", &"x".repeat(10_000)] {
            assert_eq!(nearest(word, ["listen", "limits"]), None, "{word}");
        }
    }
}
