//! A chat: one room on each core, and a post between the cores.
//!
//! A member's `Sender` is in its core's room until the member leaves, however that comes. What one says is framed once
//! for all; who is slow misses what is oldest. Other cores get it through a bounded channel, which each core empties
//! every 10 ms; when it is full they miss it.
//!
//! ```text
//! cargo run --release --example chat
//! websocat ws://127.0.0.1:8080/chat      # twice, and talk to yourself
//! ```

use std::{cell::*, collections::BTreeMap, rc::Rc, sync::*, time::Duration};

use switchpoint::{
    Config, Registry, Server, StartError, monoio,
    protocols::{
        WebSocket,
        websocket::{Sender, Settings, Socket, WhenFull},
    },
    ws::{Opcode, Prepared},
};

/// The way to each core's room, by its number.
type Post = Arc<Mutex<BTreeMap<usize, mpsc::SyncSender<Arc<str>>>>>;

struct Room {
    members: RefCell<BTreeMap<u64, Sender>>,
    letters: mpsc::Receiver<Arc<str>>,
    is_relayed: Cell<bool>,
}

impl Room {
    async fn say(&self, text: &str) {
        let message = Prepared::new(Opcode::Text, text.as_bytes());
        let members: Vec<Sender> = self.members.borrow().values().cloned().collect(); // not borrowed across `await`
        for member in members {
            drop(member.send_prepared(&message).await); // who has just left misses it
        }
    }

    /// Brings what other cores say, for as long as the core runs.
    async fn relay(self: Rc<Self>) {
        loop {
            while let Ok(text) = self.letters.try_recv() {
                self.say(&text).await;
            }
            monoio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn enter(self: &Rc<Self>, sender: Sender) -> Member {
        if !self.is_relayed.replace(true) {
            switchpoint::spawn(Rc::clone(self).relay());
        }
        let mut members = self.members.borrow_mut();
        let number = members.last_key_value().map_or(0, |(last, _)| last + 1);
        members.insert(number, sender);
        Member { room: Rc::clone(self), number }
    }
}

/// Leaves when it is dropped: at the handler's end, after an error, in a panic.
struct Member {
    room: Rc<Room>,
    number: u64,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.room.members.borrow_mut().remove(&self.number);
    }
}

pub(crate) fn registry(post: &Post, core: usize) -> Registry {
    let (slot, letters) = mpsc::sync_channel(1024);
    post.lock().unwrap().insert(core, slot); // if the worker starts anew, in place of the one before
    let room = Rc::new(Room { members: RefCell::default(), letters, is_relayed: Cell::default() });
    let post = Arc::clone(post);
    let chat = WebSocket::new(async move |socket: Socket| {
        let (mut receiver, sender) = socket.split();
        let member = room.enter(sender);
        while let Some(message) = receiver.recv().await? {
            let Some(text) = message.text() else { continue };
            let text: Arc<str> = format!("{core}.{}: {text}", member.number).into();
            for (_, slot) in post.lock().unwrap().iter().filter(|(other, _)| **other != core) {
                drop(slot.try_send(Arc::clone(&text))); // a full one misses it
            }
            room.say(&text).await;
        }
        Ok(())
    });
    let settings = Settings { when_full: WhenFull::DropOldest, ..Settings::default() };
    Registry::new().at("/chat", chat.with(settings))
}

fn main() -> Result<(), StartError> {
    let post = Post::default();
    Server::start(Config::default(), move |core| registry(&post, core))?.join();
    Ok(())
}
