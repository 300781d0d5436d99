//! TCP connections of a process, as the kernel lists them.

use anyhow::{Context as _, Result};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Remote ends of the IPv4 connections that process `pid` has open.
///
/// # Errors
/// The kernel's list cannot be read.
pub fn remote_ends(pid: u32) -> Result<BTreeSet<SocketAddrV4>> {
    let own = inodes(pid);
    let table = std::fs::read_to_string("/proc/net/tcp").context("the kernel lists no connections")?;
    Ok(table
        .lines()
        .skip(1)
        .filter_map(row)
        .filter(|(_, inode)| own.contains(inode))
        .map(|(end, _)| end)
        .collect())
}

/// Socket numbers that the process holds; none when it is gone.
fn inodes(pid: u32) -> BTreeSet<u64> {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let names =
        links.filter_map(|link| std::fs::read_link(link.path()).ok()?.into_os_string().into_string().ok());
    names.filter_map(|name| name.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()).collect()
}

/// Remote end and inode of one row of `/proc/net/tcp` (proc(5)) whose connection is open or opening.
fn row(line: &str) -> Option<(SocketAddrV4, u64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (remote, state, inode) = (fields.get(2)?, fields.get(3)?, fields.get(9)?);
    const LISTENING: &str = "0A";
    let (address, port) = remote.split_once(':')?;
    let address = u32::from_str_radix(address, 16).ok()?;
    let end = SocketAddrV4::new(Ipv4Addr::from(address.to_ne_bytes()), u16::from_str_radix(port, 16).ok()?);
    (*state != LISTENING).then_some((end, inode.parse().ok()?))
}
