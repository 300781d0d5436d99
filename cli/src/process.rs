//! What belongs to the process as a whole: its runtime, its parent, its other shapes.

use crate::exit::{Exit, Failure};
use node::deploy::Helper;
use rustix::process::{Signal, set_parent_process_death_signal};

/// First argument that makes this program the installer's sandbox; only the node starts it so.
pub const SANDBOX: &str = "installer-sandbox";

/// How the node starts the installer's sandbox.
pub fn sandbox_helper() -> Result<Helper, Failure> {
    let program = std::env::current_exe().map_err(|error| Failure::of(Exit::Failed, &error))?;
    Ok(Helper { program, arguments: vec![SANDBOX.to_owned()] })
}

/// Makes the kernel end this process when the thread that started it ends, however that ends.
pub fn end_with_parent() -> std::io::Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM))?;
    Ok(())
}

/// The runtime of commands that wait for the network.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|error| Failure::of(Exit::Failed, &error))
}
