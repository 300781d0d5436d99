//! Whole-system tests, one binary.

mod tidy;
mod vendor_oracle;
