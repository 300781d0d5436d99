//! Tests name the statement that they prove, and the statement exists.

use super::{expect_none, tree};
use std::collections::BTreeMap;

/// Where the statements are listed, one to a line: `- N8 its wording`.
const LIST: &str = "docs/statements.md";

fn is_statement(word: &str) -> bool {
    let number = word.strip_prefix(['N', 'S', 'M', 'P', 'B', 'X']);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The statements that a comment `// proves N8, X2: …` names.
fn proven(line: &str) -> Vec<&str> {
    let mark = ["// pro", "ves "].concat();
    let Some((_, list)) = line.split_once(&mark) else { return Vec::new() };
    let words = list.split([' ', ',', ':', ';', '.', '(', ')']).filter(|word| !word.is_empty());
    words.take_while(|word| is_statement(word) || *word == "and").filter(|word| *word != "and").collect()
}

#[test]
fn every_proof_names_a_statement() {
    let tree = tree();
    let list = tree.files.get(LIST).unwrap_or_else(|| panic!("{LIST} is missing"));
    let mut statements = BTreeMap::new();
    for line in list.lines().filter_map(|line| line.strip_prefix("- ")) {
        let Some((id, wording)) = line.split_once(' ').filter(|(id, _)| is_statement(id)) else { continue };
        assert!(statements.insert(id, wording).is_none(), "{LIST} lists {id} twice");
    }
    assert!(statements.len() > 100, "{LIST} lists only {} statements", statements.len());
    let mut problems = Vec::new();
    for (name, text) in tree.rust() {
        for (number, line) in text.lines().enumerate() {
            let unknown = proven(line).into_iter().filter(|id| !statements.contains_key(id));
            problems.extend(unknown.map(|id| format!("{name}:{} proves {id}", number + 1)));
        }
    }
    expect_none("statements that docs/statements.md does not list", problems);
}

#[test]
fn proofs_are_read_in_every_form() {
    let line = |list: &str| ["// pro", "ves ", list].concat();
    assert_eq!(proven(&line("N8, X2: signed ones are shared")), ["N8", "X2"]);
    assert_eq!(proven(&line("N8 and X2")), ["N8", "X2"]);
    assert_eq!(proven(&line("itself")), [""; 0]);
}
