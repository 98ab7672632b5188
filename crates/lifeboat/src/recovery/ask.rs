//! Asks the person at the terminal.

use anyhow::{Context, bail};
use std::io::{IsTerminal, Write};

/// Whether a person was asked, or has said yes before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Consent {
    /// `--yes`.
    pub(crate) is_given: bool,
}

impl Consent {
    /// Lets the person type the name of this node's member, so that nothing happens on the wrong node.
    pub(crate) fn ask(self, member: &str, what: &str) -> anyhow::Result<()> {
        if self.is_given {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            bail!("{what} This needs an answer: run it in a terminal, or add --yes");
        }
        eprint!("\n{what}\nType the name of this member, {member}, to go on: ");
        std::io::stderr().flush().context("cannot ask")?;
        let mut line = String::new();
        std::io::stdin()
            .read_line(&mut line)
            .context("cannot read the answer")?;
        if line.trim() != member {
            bail!("stopped, because the answer was not {member}; nothing was changed");
        }
        Ok(())
    }
}

/// Says what happens, with the time, on standard error.
pub(crate) fn say(text: &str) {
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    let text = crate::cli::output::one_line(text);
    let _ = writeln!(
        std::io::stderr().lock(),
        "{}  {text}",
        now.strftime("%H:%M:%S")
    );
}
