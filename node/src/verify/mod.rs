//! Checks that the vendor made an artifact: OpenPGP, the APT chain, and the bytes themselves (X2, N8).
//!
//! Modules stand in layer order: each imports only from those above it.

pub mod clearsign;

pub mod certificate;

pub mod standing;

pub mod openpgp;

pub mod release;

pub mod index;

pub mod contents;

pub mod package_file;

pub mod apt;

pub mod artifact;

#[cfg(test)]
mod tests;
