//! What is wrong with a layer.

use crate::fleet::Malformed;
use crate::identifier::RuleName;
use crate::limits;

/// A layer that contradicts itself; `policy check` prints it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistent {
    /// A file that cannot be read as a layer.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Two rules of one kind with one name.
    #[error("{kind} \"{name}\" is defined twice; give one of them another name")]
    Twice {
        /// `policy` or `configuration`.
        kind: &'static str,
        /// The name.
        name: RuleName,
    },
    /// A policy names a configuration that does not exist.
    #[error("policy \"{policy}\" names configuration \"{configuration}\", which is not defined in this file")]
    NoSuchConfiguration {
        /// The policy.
        policy: RuleName,
        /// The missing configuration.
        configuration: RuleName,
    },
    /// A value out of its range.
    #[error("policy \"{policy}\": {setting} must be between {least} and {most}")]
    Range {
        /// The policy.
        policy: RuleName,
        /// The setting.
        setting: &'static str,
        /// Smallest allowed value.
        least: u32,
        /// Largest allowed value.
        most: u32,
    },
    /// Days without news out of their range.
    #[error(
        "offline-days must be between 1 and {}: so long a device that hears nothing new goes on by what it has",
        limits::OFFLINE_DAYS_MOST
    )]
    OfflineDays,
    /// An address that nobody but whoever has the password is to see.
    #[error(
        "policy \"{policy}\": the address of a mirror carries a user or a password, and every device of the fleet reads policy; give an address that needs none"
    )]
    Credentials {
        /// The policy.
        policy: RuleName,
    },
    /// A cap for a site as a whole where only some of its devices are meant.
    #[error(
        "policy \"{policy}\": site-download is for a site as a whole; assign it to sites or to everyone, or use download, which is for each device"
    )]
    NotOfASite {
        /// The policy.
        policy: RuleName,
    },
}
