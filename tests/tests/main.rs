//! Whole-system tests, one binary.

mod disk_full;
mod tidy;
mod vendor_oracle;
