//! How many reads may be in progress at the same time, overall and of one client.

/// The maximum number of reads in progress. They need the CPU more than the disk, and appends need
/// it, too.
pub(super) const READS_MAX: usize = 16;

/// The reads that are spared for identities that do not have their own yet.
pub(super) const READS_SPARED: usize = READS_MAX / 5;

/// The maximum number of reads in progress of one client: an identity, or one connection while
/// access control is off.
pub(crate) const READS_PER_CALLER_MAX: usize = READS_MAX / 2;

/// The maximum number of differences of one client that determine which objects changed.
pub(crate) const DIFFERENCES_PER_CALLER_MAX: usize = 2;
