//! Deadlines: until when an approved patch is to be here, and from when on it is due (M4, decision 0060).

use crate::manifest::Severity;
use crate::time::WallTime;

/// Most days that a policy may leave between approval and deadline.
pub const DAYS_MOST: u32 = 14;
/// Those of critical patches where no policy says anything.
const CRITICAL_DAYS: u32 = 14;
/// A patch is due so many seconds before its deadline: what is fetched in the last minute is not installed in time.
const DUE_SECONDS: u64 = 86_400;

/// Until when a patch is to be on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// When it was approved.
    pub approved: WallTime,
    /// Days from then on.
    pub days: u32,
}

impl Deadline {
    /// The time itself.
    pub const fn at(self) -> WallTime {
        self.approved.plus_days(self.days)
    }

    /// From when on the patch is due.
    pub const fn due_from(self) -> WallTime {
        WallTime::from_unix_seconds(self.at().unix_seconds().saturating_sub(DUE_SECONDS))
    }

    /// What people are told of it at `wall`, as one sentence.
    pub fn sentence(self, wall: WallTime) -> String {
        let days = match self.days {
            1 => "1 day".to_owned(),
            days => format!("{days} days"),
        };
        let at = self.at();
        if at < wall {
            format!(
                "It has been overdue since {at}, {days} after its approval, and goes before what is not due."
            )
        } else if self.due_from() <= wall {
            format!("It is due by {at}, {days} after its approval, and goes before what is not due.")
        } else {
            format!("It is due by {at}, {days} after its approval.")
        }
    }
}

/// Days from approval to deadline of a patch of this severity, where the policies of a device leave `set` of them.
pub fn days(set: Option<u32>, severity: Severity) -> Option<u32> {
    set.or_else(|| (severity == Severity::Critical).then_some(CRITICAL_DAYS))
}
