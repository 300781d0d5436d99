//! Whole-system tests, one binary.

mod mdns_lab;
