//! What the servers of this crate share: the port that their command line names, and the accept loop of those that have none.

use std::{env, future::Future, net::Ipv4Addr};

use tokio::net::{TcpListener, TcpStream};

/// The port that the command line names.
pub fn port() -> u16 {
    let port = env::args().nth(1).and_then(|port| port.parse().ok());
    port.expect("the only argument is a port")
}

/// Runs a server on one thread.
pub fn block_on<F: Future>(server: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(server)
}

/// A task for each connection. How a connection ends is its own affair.
pub fn serve<F: Future<Output: Send> + Send + 'static>(connection: impl Fn(TcpStream) -> F) {
    block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port())).await.expect("a port that is free");
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            tokio::spawn(connection(stream));
        }
    });
}
