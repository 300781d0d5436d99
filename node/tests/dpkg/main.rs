//! Scan and deploy on a real dpkg, in root directories of their own. Needs dpkg and namespaces, and fails without.

mod fixture;
mod install;
mod interrupt;
mod sandbox;
mod unprotected;
