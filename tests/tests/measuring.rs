//! The program that measures what a neighbour costs, on a file so small that its figures mean nothing: it has to understand the
//! released program whenever somebody wants to know.

use patchmesh_tests::program;
use std::process::Command;

#[test]
fn a_transfer_is_measured_beside_others() {
    let program = program::path().expect("the program is built");
    let mut loopback = Command::new(env!("CARGO_BIN_EXE_loopback"));
    loopback
        .args(["--runs", "1", "--size", "8", "--idle", "1", "--peers", "0"])
        .env("PATCHMESH_BIN", program);
    let measured = loopback.output().expect("it runs");
    let said = String::from_utf8_lossy(&measured.stdout);
    assert!(measured.status.success(), "{said}{}", String::from_utf8_lossy(&measured.stderr));
    assert!(said.contains("idle node") && said.contains("patchmesh, from a neighbour"), "{said}");
}
