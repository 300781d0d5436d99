//! Whole-system tests, one binary.

mod attacks;
mod disk_full;
mod mdns_lab;
mod messages;
mod tidy;
mod walkthrough;
mod vendor_oracle;
mod trust_kill;
mod trust_oracle;
mod dashboard;
mod deploy_machine;
mod bootstrapped;
mod path;
mod origins;
mod kill;
mod branch;
mod caps;
mod measuring;
