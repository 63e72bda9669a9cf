use std::path::PathBuf;

use agirails::{ACTPClient, Result, back_up};

use crate::{failure::DONE, output::print};

/// Copy the state files, while the processes that use them go on.
///
/// Each file is copied as it stood at one moment, checked, and written to the disk. A copy of a file
/// alone, made by other means, lacks what lies in the log beside it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "To restore, stop all processes and use DIRECTORY as the state directory, or move its \
    .actp in place of the old one. A paywall that opens a copy does not give back what may have been \
    served after the copy was made. Keystores are not copied: keep them elsewhere.\n\n\
    Example:\n  agirails backup /backups/2026-11-27 --state-directory /srv/app"
)]
pub struct Backup {
    /// A new directory
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
    /// What to copy: ACTP_STATE_DIR where it is left out, else the working directory
    #[arg(long, value_name = "DIRECTORY")]
    state_directory: Option<PathBuf>,
}

impl Backup {
    pub async fn run(self) -> Result<u8> {
        let state = match self.state_directory {
            Some(directory) => directory,
            None => ACTPClient::builder().directory(),
        };
        for path in super::aside(move || back_up(state, self.directory)).await? {
            print(&format!("{}\n", path.display()))?;
        }
        Ok(DONE)
    }
}
