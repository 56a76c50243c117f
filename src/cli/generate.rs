//! `switchpoint generate`: the manual pages and the shells' completions, from the same list of arguments as `--help`.

use std::{fs, io, path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;

/// Where to.
#[derive(Args, Clone, Debug)]
pub(super) struct Arguments {
    /// The folder; it is made where it is missing.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match generate(&arguments.folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("switchpoint: {}: {error}", arguments.folder.display());
            ExitCode::FAILURE
        }
    }
}

fn generate(folder: &PathBuf) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    clap_mangen::generate_to(Cli::command(), folder)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut Cli::command(), "switchpoint", folder)?;
    }
    Ok(())
}
