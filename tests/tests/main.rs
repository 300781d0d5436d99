//! Whole-system tests, one binary.

mod trust_oracle;
