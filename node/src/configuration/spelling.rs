//! Which known name somebody meant who wrote an unknown one.

/// The known name nearest to `name`, when it is near enough to be a slip of the keyboard.
pub(super) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let name: String = name.chars().take(64).collect::<String>().replace('_', "-");
    let scored = known.iter().map(|&candidate| (distance(&name, candidate), candidate));
    let (distance, candidate) = scored.min()?;
    (distance <= candidate.len().div_ceil(3)).then_some(candidate)
}

/// Insertions, deletions and replacements between two words (Levenshtein 1965, with one row of the table).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, from) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (at, to) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[at + 1];
            row[at + 1] = replaced.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let known = ["listen", "control-socket", "root", "mdns"];
        assert_eq!(nearest("lisen", &known), Some("listen"));
        assert_eq!(nearest("control_socket", &known), Some("control-socket"));
        assert_eq!(nearest("colour", &known), None);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
