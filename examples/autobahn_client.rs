//! The echo client of the Autobahn TestSuite, against its fuzzing server; see `tests/autobahn/`.
//!
//! `cargo run --example autobahn_client -- ws://127.0.0.1:9001 AGENT`

use std::{env, process::ExitCode, rc::Rc, time::Duration};

use switchpoint::{
    Config, Driver, Error, Registry, Worker,
    protocols::websocket::{Client, Settings, Socket},
    ws::{Deflate, Limits},
};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [url, agent] = &*arguments else {
        eprintln!("usage: autobahn_client ws://HOST:PORT AGENT");
        return ExitCode::from(2);
    };
    let ran =
        Driver::Auto.build().map_err(Error::from).and_then(|mut runtime| runtime.block_on(run(url, agent)));
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(url: &str, agent: &str) -> Result<(), Error> {
    let worker = Worker::new(Config::default(), Registry::new());
    switchpoint::spawn(worker.keep_time());
    let client = Client::new().with(Settings {
        limits: Limits { message_max: 64 << 20, ..Limits::default() },
        // Contexts are used only where both sides want them, so here they are wanted.
        deflate: Some(Deflate {
            server_no_context_takeover: false,
            client_no_context_takeover: false,
            ..Deflate::default()
        }),
        // While it writes its reports the suite does nothing else.
        ping_after: Duration::from_secs(300),
        ..Settings::default()
    });
    for case in 1..=count(&client, &worker, url).await? {
        let url = format!("{url}/runCase?case={case}&agent={agent}");
        // What becomes of a case is the suite's to judge; many of them are made to fail.
        if let Err(error) = client.connect(&worker, &url, echo).await {
            println!("case {case}: {error}");
        }
    }
    client.connect(&worker, &format!("{url}/updateReports?agent={agent}"), echo).await
}

/// How many cases the suite has for us.
async fn count(client: &Client, worker: &Rc<Worker>, url: &str) -> Result<usize, Error> {
    let mut count = None;
    let ask = async |mut socket: Socket| {
        if let Some(message) = socket.recv().await? {
            count = message.text().and_then(|text| text.parse().ok());
        }
        Ok(())
    };
    client.connect(worker, &format!("{url}/getCaseCount"), ask).await?;
    count.ok_or_else(|| Error::peer("it does not say how many cases it has"))
}

/// Sends every message back.
async fn echo(socket: Socket) -> Result<(), Error> {
    let (mut receiver, sender) = socket.split();
    while let Some(message) = receiver.recv().await? {
        sender.send(message).await?;
    }
    Ok(())
}
