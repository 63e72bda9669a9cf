use agirails::Result;
use clap_complete::Shell;

use super::{NAME, parser};
use crate::{failure::DONE, output::print};

/// Print the completions of a shell.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  agirails completions bash > ~/.local/share/bash-completion/completions/agirails"
)]
pub struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl Completions {
    pub fn run(self) -> Result<u8> {
        let mut script = vec![];
        clap_complete::generate(self.shell, &mut parser(), NAME, &mut script);
        print(&String::from_utf8_lossy(&script))?;
        Ok(DONE)
    }
}
