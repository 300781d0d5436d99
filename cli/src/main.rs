//! The `patchmesh` command.

fn main() {}
