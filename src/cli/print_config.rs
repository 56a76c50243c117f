//! `switchpoint print-config`: every setting that holds, and where it comes from.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Args;

use super::{config, serve};

/// What to print.
#[derive(Args, Debug)]
#[group(skip)]
pub(super) struct Arguments {
    /// Prints a file with every key, its default and what it means, to begin one's own from.
    #[arg(long)]
    sample: bool,
    #[command(flatten)]
    serve: serve::Arguments,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let text = if arguments.sample {
        config::sample()
    } else {
        match arguments.serve.settle() {
            Ok(settled) => config::effective(&settled),
            Err(problems) => return serve::refuse(&problems),
        }
    };
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
