//! The rules of the source tree that no compiler checks: layers, names, sizes, statements.

mod files;
mod layers;
mod source;
mod statements;

use source::Tree;
use std::path::Path;

fn tree() -> Tree {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace above this crate");
    Tree::read(root)
}

fn expect_none(rule: &str, problems: Vec<String>) {
    assert!(problems.is_empty(), "{rule}:\n  {}\n", problems.join("\n  "));
}
