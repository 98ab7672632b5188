//! What a program costs.

use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};

/// What one run of a program cost.
#[derive(Clone, Copy)]
pub(super) struct Cost {
    pub(super) wall_s: f64,
    pub(super) cpu_s: f64,
    pub(super) peak_mib: f64,
    /// What it wrote to files, whether that has reached the disk or not.
    pub(super) written_mib: f64,
}

/// Runs a program and reads its cost from GNU time.
pub(super) fn measure(command: &mut Command) -> Result<Cost> {
    let report = tempfile::NamedTempFile::new()?;
    let status = Command::new("/usr/bin/time")
        .args(["-f", "%e %U %S %M %O", "-o"])
        .arg(report.path())
        .arg(command.get_program())
        .args(command.get_args())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("run /usr/bin/time (Debian package time)")?;
    if !status.success() {
        bail!("{:?} failed: {status}", command.get_program());
    }
    let text = std::fs::read_to_string(report.path())?;
    let numbers: Vec<f64> = text
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let [wall_s, user_s, system_s, peak_kib, written_sectors] = numbers.as_slice() else {
        bail!("GNU time printed {text:?}");
    };
    Ok(Cost {
        wall_s: *wall_s,
        cpu_s: user_s + system_s,
        peak_mib: peak_kib / 1024.0,
        written_mib: written_sectors / 2048.0,
    })
}

pub(super) fn median(costs: &[Cost]) -> Cost {
    let of = |field: fn(&Cost) -> f64| {
        let mut sorted: Vec<_> = costs.iter().map(field).collect();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    };
    Cost {
        wall_s: of(|cost| cost.wall_s),
        cpu_s: of(|cost| cost.cpu_s),
        peak_mib: of(|cost| cost.peak_mib),
        written_mib: of(|cost| cost.written_mib),
    }
}

/// Prints the median of each, and its ratio to the first.
pub(super) fn print_medians(costs: Vec<(&str, Vec<Cost>)>) {
    let medians: Vec<_> = costs
        .into_iter()
        .map(|(name, all)| (name, median(&all)))
        .collect();
    let Some((_, base)) = medians.first().copied() else {
        return;
    };
    println!(
        "{:34} {:>8} {:>8} {:>10} {:>12}   ratios",
        "median", "wall s", "CPU s", "peak MiB", "written MiB"
    );
    for (name, cost) in medians {
        println!(
            "{name:34} {:8.3} {:8.2} {:10.1} {:12.2}   {:.3} {:.2} {:.3}",
            cost.wall_s,
            cost.cpu_s,
            cost.peak_mib,
            cost.written_mib,
            cost.wall_s / base.wall_s,
            cost.cpu_s / base.cpu_s,
            cost.peak_mib / base.peak_mib
        );
    }
}
