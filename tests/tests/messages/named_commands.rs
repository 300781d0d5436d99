//! Whatever command a message, a help text or a page names, exists.

use patchmesh_tests::typed;
use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn every_command_that_is_named_exists() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let listed = typed::run({
        let mut git = typed::other("git", &top);
        git.args(["ls-files", "*.rs", "*.md"]);
        git
    });
    assert_eq!(listed.code, Some(0), "{}", listed.err);
    let mut named = BTreeSet::new();
    for file in listed.out.lines().filter(|file| !file.starts_with("tests/")) {
        let text = std::fs::read_to_string(top.join(file)).expect("a tracked file");
        for part in text.split("`patchmesh ").skip(1) {
            let words = part.split(|end: char| !(end.is_ascii_lowercase() || end == ' ' || end == '-'));
            let words = words.into_iter().next().unwrap_or_default().split(' ');
            let words: Vec<&str> =
                words.take_while(|word| !word.is_empty() && !word.starts_with('-')).collect();
            named.insert(words.join(" "));
        }
    }
    assert!(named.len() > 10, "{named:?}");
    for words in named {
        let mut command = typed::command(&top);
        command.args(words.split(' ').filter(|word| !word.is_empty())).arg("--help");
        let said = typed::run(command);
        assert_eq!(said.code, Some(0), "a text names `patchmesh {words}`: {}", said.err);
    }
}
