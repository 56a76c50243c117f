//! A feed: ten numbers a second to each client, and what happens to one that does not read them.
//!
//! A full queue drops what is oldest, so a slow client misses some and then gets what is new. The feed tells it how
//! much waited for it, and how many messages it has missed.
//!
//! ```text
//! cargo run --release --example ticker
//! websocat ws://127.0.0.1:8080/ticks     # stop it with Ctrl-Z, let it go on with `fg`: `missed` has grown, if it was
//!                                        # away long enough for the kernel's buffers to fill
//! ```

use std::time::Duration;

use switchpoint::{
    Config, Error, Registry, Server, StartError,
    monoio::time,
    protocols::{
        WebSocket,
        websocket::{Sender, Settings, Socket, WhenFull},
    },
};

async fn ticks(socket: Socket) -> Result<(), Error> {
    let (mut receiver, sender) = socket.split();
    switchpoint::spawn(feed(sender));
    while receiver.recv().await?.is_some() {} // what the client says is not heard, but its close is
    Ok(())
}

/// Ends by itself: once the connection is closed, `send` fails.
async fn feed(sender: Sender) {
    let mut interval = time::interval(Duration::from_millis(100));
    for tick in 0_u64.. {
        interval.tick().await;
        let (waiting, missed) = (sender.queued(), sender.dropped());
        let text = format!("tick {tick}: {waiting} bytes were waiting, {missed} messages missed");
        if sender.send(&text).await.is_err() {
            return;
        }
    }
}

pub(crate) fn registry(_core: usize) -> Registry {
    let settings = Settings { queue_max: 4 * 1024, when_full: WhenFull::DropOldest, ..Settings::default() };
    Registry::new().at("/ticks", WebSocket::new(ticks).with(settings))
}

fn main() -> Result<(), StartError> {
    Server::start(Config::default(), registry)?.join();
    Ok(())
}
