//! Whole-system tests, one binary.

mod tidy;
