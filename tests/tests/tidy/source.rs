//! The tracked files, and Rust text without what is not code.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Every text file that git tracks (or would track), by its path from the top.
pub struct Tree {
    pub files: BTreeMap<String, String>,
}

impl Tree {
    pub fn read(root: &Path) -> Tree {
        let listed = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root)
            .output()
            .expect("the tidy test needs git");
        assert!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
        let names = String::from_utf8(listed.stdout).expect("file names are UTF-8");
        let mut files = BTreeMap::new();
        for name in names.split_terminator('\0') {
            // A file that was removed and not yet committed, or that is not text, has no rules here.
            if let Ok(text) = std::fs::read_to_string(root.join(name)) {
                files.insert(name.to_owned(), text);
            }
        }
        assert!(files.contains_key("Cargo.toml"), "{} is not the top of the workspace", root.display());
        Tree { files }
    }

    pub fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().filter(|(name, _)| name.ends_with(".rs")).map(|(name, text)| (&name[..], &text[..]))
    }
}

/// `text` with comments gone and the insides of string and character literals emptied.
pub fn code(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |at| at + 2)
        } else if let Some(length) = raw_string(rest) {
            // The `r` of an identifier that ends in r stands before no quote, so it does not come here.
            out.push_str("\"\"");
            length
        } else if next == '"' {
            out.push_str("\"\"");
            quoted(rest, '"')
        } else if next == '\'' && is_character(rest) {
            out.push_str("' '");
            quoted(rest, '\'')
        } else {
            out.push(next);
            next.len_utf8()
        };
        rest = &rest[skipped..];
    }
    out
}

fn raw_string(text: &str) -> Option<usize> {
    let hashes = text.strip_prefix('r')?.bytes().take_while(|byte| *byte == b'#').count();
    let opened = 1 + hashes;
    let end = format!("\"{}", "#".repeat(hashes));
    let body = text[opened..].strip_prefix('"')?;
    Some(body.find(&end).map_or(text.len(), |at| opened + 1 + at + end.len()))
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, next) in text.char_indices().skip(1) {
        match next {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if next == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Whether a quote begins a character and not a lifetime.
fn is_character(text: &str) -> bool {
    let mut following = text.chars().skip(1);
    matches!((following.next(), following.next()), (Some('\\'), _) | (Some(_), Some('\'')))
}

/// `code` (from [`code`]) without items marked `#[cfg(test)]`; such modules in files of their own are named in the second.
pub fn without_tests(code: &str) -> (String, Vec<String>) {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::new();
    let mut test_files = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        out.push_str(&rest[..at]);
        rest = &rest[at + MARK.len()..];
        let end = rest.find(['{', ';']).unwrap_or(rest.len());
        let head = &rest[..end];
        if rest[end..].starts_with('{') {
            rest = &rest[end + block(&rest[end..])..];
        } else {
            let name = head.split_whitespace().skip_while(|word| *word != "mod").nth(1);
            test_files.extend(name.map(str::to_owned));
            rest = &rest[(end + 1).min(rest.len())..];
        }
    }
    out.push_str(rest);
    (out, test_files)
}

/// Length of the block that begins with `{`.
fn block(code: &str) -> usize {
    let mut depth = 0;
    for (at, next) in code.char_indices() {
        match next {
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

/// Names of the modules that `code` declares in files of their own (`mod x;`), in order.
pub fn modules(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for statement in code.split(['{', '}', ';']).map(str::trim) {
        let words: Vec<&str> = statement.split_whitespace().collect();
        if let [.., "mod", name] = words[..]
            && code.contains(&format!("mod {name};"))
        {
            names.push(name.to_owned());
        }
    }
    names
}

#[test]
fn comments_strings_and_tests_are_not_code() {
    let text = r##"
        // crate::a
        fn f<'a>(x: &'a str) -> char { /* crate::b */ let s = "crate::c\" {"; let r = r#"crate::d " {"#; '{' }
        #[cfg(test)]
        mod tests { use crate::e; fn g() { } }
        #[cfg(test)]
        pub(crate) mod model;
        pub mod real;
    "##;
    let (code, tests) = without_tests(&code(text));
    assert!(!code.contains("crate::"), "{code}");
    assert_eq!(tests, ["model"]);
    assert_eq!(modules(&code), ["real"]);
}
