//! Whole-system tests, one binary.

mod trust_kill;
mod trust_oracle;
