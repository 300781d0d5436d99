//! Deploy: installs verified packages with dpkg, on the machine or in a root directory that it cannot leave.
//!
//! It takes nothing but signed facts (manifests) and open files, so that it can move into a process of its own. All of
//! it blocks: call it on a blocking thread.

pub mod sandbox;

pub mod order;

mod copy;
mod package;

mod escape;
mod hooks;

mod run;

mod lock;

mod install;

pub mod root;

pub use install::{install, install_when};
pub use order::{Failure, Isolation, NotATarget, Order, Outcome, Refusal, Target};
pub use run::probe;
pub use sandbox::Helper;
