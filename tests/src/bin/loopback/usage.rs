//! What processes use: processor time and memory, as the kernel counts them (proc(5)).

use anyhow::{Context as _, Result};
use std::time::Duration;

/// The kernel counts processor time in steps of 10 ms for programs, whatever its own clock does.
const TICK: Duration = Duration::from_millis(10);

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Resident and anonymous: heap and stacks.
    pub anonymous: u64,
    /// All that is resident, the program's own file included.
    pub resident: u64,
}

/// Processor time of a process and of its children that have ended.
pub fn processor_time(process: u32) -> Result<Duration> {
    // utime, stime, cutime and cstime.
    times(&process.to_string(), 11, 4)
}

/// Processor time of the children of this process that have ended.
pub fn of_children() -> Result<Duration> {
    times("self", 13, 2)
}

/// Sum of `count` fields of `/proc/…/stat`, counted from the state, which follows the program's name in parentheses.
fn times(process: &str, first: usize, count: usize) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).context("the process is gone")?;
    let (_, fields) = stat.rsplit_once(')').context("a process without a name")?;
    let fields = fields.split_whitespace().skip(first).take(count);
    let ticks = fields.map(str::parse::<u32>).sum::<Result<u32, _>>()?;
    Ok(TICK * ticks)
}

/// What a process has in memory now.
pub fn memory(process: u32) -> Result<Memory> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).context("the process is gone")?;
    let field = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such field")?;
        let number =
            line.trim_start_matches(':').split_whitespace().next().context("a field without a value")?;
        Ok(number.parse::<u64>()? << 10)
    };
    Ok(Memory { anonymous: field("RssAnon")?, resident: field("VmRSS")? })
}
