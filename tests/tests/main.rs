//! Whole-system tests, one binary.

mod deploy_machine;
