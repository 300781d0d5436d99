//! Text of others that people read on a terminal: which letters steer it instead of being shown.

/// Whether a letter moves the cursor, ends the line, or turns the direction of what follows, so that a reader would see
/// something else than what stands there: control characters, line and paragraph separators, and the bidirectional
/// embeddings, overrides and isolates of Unicode (UAX #9, section 2).
pub fn steers(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether nothing in a text steers a terminal.
pub fn is_plain(text: &str) -> bool {
    !text.contains(steers)
}

/// Letters of a text of others that a message shows.
const SHOWN: usize = 400;

/// A text of others in a message of one line: what steers a terminal as its code, and the end of a long one left out.
pub fn shown(text: &str) -> String {
    let mut shown = String::new();
    for letter in text.chars().take(SHOWN) {
        match steers(letter) {
            true => shown.extend(letter.escape_default()),
            false => shown.push(letter),
        }
    }
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_all_scripts_are_plain_and_what_steers_is_not() {
        for plain in ["", "debian", "Zürich", "עברית", "ภาษา 12", "a\u{200d}b"] {
            assert!(is_plain(plain), "{plain}");
        }
        for bad in ["a\nb", "\u{1b}[2J", "\u{9b}2J", "a\u{202e}b", "a\u{2066}b", "a\u{2028}b", "\u{7f}"] {
            assert!(!is_plain(bad), "{bad:?}");
        }
    }

    #[test]
    fn what_is_shown_is_short_and_steers_nothing() {
        assert_eq!(shown("Zürich"), "Zürich");
        assert_eq!(shown("ev\u{1b}[2Jery\nline \u{202e}"), "ev\\u{1b}[2Jery\\nline \\u{202e}");
        assert_eq!(shown(&"é".repeat(400_000)), format!("{}…", "é".repeat(SHOWN)));
    }
}
