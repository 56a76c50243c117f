//! What the program can be told: a file for each command, and the list.

mod admin;
mod check_config;
mod client;
mod config;
mod connect;
mod ctl;
mod debug_head;
mod doctor;
mod generate;
mod life;
mod log;
mod print_config;
mod replay;
mod serve;
mod service_manager;
mod successor;
#[cfg(feature = "tls")]
mod tls;
mod trace;
mod upgrade_binary;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A server for HTTP/1.1 Upgrade: 101 Switching Protocols, and what follows it.
///
/// Without a command it serves: a page that shows the switch at `/`, checks at `/healthz` and `/readyz`, and `/echo`,
/// which speaks `websocket` (every message comes back) and `echo` (every byte does). HTTP/2 is spoken on the same port,
/// with WebSocket on its streams; `--h2c` also takes the upgrade to it.
#[derive(Debug, Parser)]
#[command(name = "switchpoint", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Arguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves until SIGTERM or Ctrl-C, then drains. This is what happens without a command.
    Serve(serve::Arguments),
    /// Looks after a running server, by its admin socket.
    Ctl(ctl::Arguments),
    /// Records the exact bytes around a switch on a running server, by its admin socket.
    Trace(trace::Arguments),
    /// Examines the upgrades of any server: some 180 probes, each with the rule that it is about.
    ///
    /// The exit code is 0 if no MUST failed, 1 if one did, 2 for arguments that cannot be followed, 3 if there was no
    /// connection, and 4 if what is at the URL does not switch.
    Doctor(doctor::Arguments),
    /// Draws one handshake: name, connection, TLS, and each field with what it means.
    Explain(doctor::explain::Arguments),
    /// Has a running server start its program's file anew, and hand its sockets over: nobody is refused meanwhile.
    UpgradeBinary(upgrade_binary::Arguments),
    /// Writes the manual pages and the shells' completions, for packages.
    #[command(hide = true)]
    Generate(generate::Arguments),
    /// Looks for errors in a file of settings, and in the environment and the flags over it. Exit code 0 without, 2 with.
    CheckConfig(check_config::Arguments),
    /// Prints every setting that holds, and where it comes from: default, file and line, variable or flag.
    PrintConfig(print_config::Arguments),
    /// Talks to a server from the terminal, a pipe or a script: WebSocket, or any protocol behind an upgrade.
    Connect(connect::Arguments),
    /// Plays a recorded trace again: the client's side of it, to see what a server answers now.
    Replay(replay::Arguments),
}

/// Reads the arguments and does what they say.
pub(crate) fn run() -> ExitCode {
    if let Some(code) = successor::step() {
        return code;
    }
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Serve(arguments)) => serve::run(&arguments),
        Some(Command::Doctor(arguments)) => doctor::run(&arguments),
        Some(Command::Explain(arguments)) => doctor::explain::run(&arguments),
        Some(Command::CheckConfig(arguments)) => check_config::run(arguments),
        Some(Command::PrintConfig(arguments)) => print_config::run(&arguments),
        Some(Command::Connect(arguments)) => connect::run(arguments),
        Some(Command::Replay(arguments)) => replay::run(arguments),
        Some(Command::UpgradeBinary(arguments)) => upgrade_binary::run(&arguments),
        Some(Command::Generate(arguments)) => generate::run(&arguments),
        None => serve::run(&cli.serve),
        Some(Command::Ctl(arguments)) => ctl::run(&arguments),
        Some(Command::Trace(arguments)) => trace::run(&arguments),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_means_serve() {
        let cli = Cli::try_parse_from(["switchpoint", "--threads", "3"]).unwrap();
        assert!(cli.command.is_none());
        assert!(
            Cli::try_parse_from(["switchpoint", "serve", "--listen", "[::1]:0", "--listen", ":9000"]).is_ok()
        );
    }
}
