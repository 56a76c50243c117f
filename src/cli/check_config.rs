//! `switchpoint check-config`: what is wrong with a file of settings, before a server is told of it.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::serve;

/// What to look at.
#[derive(Args, Debug)]
#[group(skip)]
pub(super) struct Arguments {
    /// The file; the same as `--config`.
    #[arg(value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
    #[command(flatten)]
    serve: serve::Arguments,
}

pub(super) fn run(mut arguments: Arguments) -> ExitCode {
    if arguments.file.is_some() {
        arguments.serve.config = arguments.file;
    }
    let settled = arguments.serve.settle().and_then(|settled| match settled.settings.check_certificates() {
        Ok(()) => Ok(settled),
        Err(error) => Err(format!("error: {error}\n")),
    });
    match settled {
        Ok(settled) => {
            let path = arguments.serve.config;
            let name = path.map_or_else(|| "no file".into(), |path| path.display().to_string());
            println!("{name}: no errors; {}", settled.summary());
            ExitCode::SUCCESS
        }
        Err(problems) => serve::refuse(&problems),
    }
}
