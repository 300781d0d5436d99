//! Whole-system tests, one binary.

mod dashboard;
