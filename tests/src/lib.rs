//! Whole-system tests of Patchmesh: the harness that they share.

pub mod program;
