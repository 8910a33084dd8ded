//! The known word that a misspelled one was probably meant to be.

/// The candidate closest to `word`, if it is close enough to be a slip of the fingers.
pub(super) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let folded = fold(word);
    let allowed = (folded.len() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (slips(&folded, &fold(candidate)), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `forbidden_tools`, `forbidden-tools` and `forbiddenTools` are one word to a person.
fn fold(word: &str) -> Vec<char> {
    word.chars()
        .filter(|c| !matches!(c, '_' | '-'))
        .map(|c| c.to_ascii_lowercase())
        .take(64)
        .collect()
}

/// A word cut short counts as one slip (`reach` for `reaches`).
fn slips(a: &[char], b: &[char]) -> usize {
    if a.len() >= 4 && b.starts_with(a) {
        usize::from(a != b)
    } else {
        distance(a, b)
    }
}

/// Optimal string alignment: insertions, deletions, replacements and swaps of neighbours.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (row, x) in a.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, y) in b.iter().enumerate() {
            let at = |cells: &[usize], index: usize| cells.get(index).copied().unwrap_or(usize::MAX - 1);
            let mut best = (at(&above, column + 1) + 1).min(at(&current, column) + 1);
            best = best.min(at(&above, column) + usize::from(x != y));
            let swapped = row > 0 && column > 0 && a.get(row - 1) == Some(y) && b.get(column - 1) == Some(x);
            if swapped {
                best = best.min(at(&before, column - 1) + 1);
            }
            current.push(best);
        }
        before = std::mem::replace(&mut above, current);
    }
    above.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn slips_are_recognised() {
        let known = [
            "serviceAccount",
            "tools",
            "forbiddenTools",
            "scope",
            "mayCall",
            "issuers",
            "reaches",
        ];
        for (word, meant) in [
            ("serviceAcount", Some("serviceAccount")),
            ("service_account", Some("serviceAccount")),
            ("forbidden_tools", Some("forbiddenTools")),
            ("scopes", Some("scope")),
            ("socpe", Some("scope")),
            ("reach", Some("reaches")),
            ("issuer", Some("issuers")),
            ("tool", Some("tools")),
            ("password", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
    }
}
