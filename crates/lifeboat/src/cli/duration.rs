//! Durations on the command line.

use std::time::Duration;

/// Reads one with its unit, as `90s` or `10m`.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let problem = || format!("{text:?} is no duration, expected one such as 90s, 10m or 1h");
    let duration: jiff::SignedDuration = text.parse().map_err(|_| problem())?;
    Duration::try_from(duration).map_err(|_| problem())
}
