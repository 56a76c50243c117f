//! warp: the crate's own `examples/websockets.rs`.

use std::net::Ipv4Addr;

use futures_util::{FutureExt, StreamExt, TryStreamExt, future};
use warp::Filter;

fn main() {
    let echo = warp::ws().map(|upgrade: warp::ws::Ws| {
        upgrade.on_upgrade(|socket| {
            let (write, read) = socket.split();
            let messages = read.try_filter(|message| future::ready(message.is_text() || message.is_binary()));
            messages.forward(write).map(|_| ())
        })
    });
    doctor_peers::block_on(warp::serve(echo).run((Ipv4Addr::LOCALHOST, doctor_peers::port())));
}
