//! Whole-system tests, one binary.

mod vendor_oracle;
