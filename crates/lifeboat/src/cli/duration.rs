//! Durations on the command line.

use std::time::Duration;

/// Parses a duration with its unit, such as `90s` or `10m`.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let problem =
        || format!("{text:?} is not a duration: use a number with a unit, such as 90s, 10m or 1h");
    let duration: jiff::SignedDuration = text.parse().map_err(|_| problem())?;
    Duration::try_from(duration).map_err(|_| problem())
}
