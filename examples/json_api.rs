//! Questions and answers in JSON. Each question has an `id`, and its answer repeats it.
//!
//! ```text
//! cargo run --release --example json_api
//! websocat ws://127.0.0.1:8080/api
//! {"id": 1, "do": "add", "numbers": [1, 2, 3.5]}        {"id":1,"sum":6.5}
//! {"id": 2, "do": "reverse", "text": "abc"}             {"id":2,"text":"cba"}
//! {"id": 3, "do": "dance"}                              {"error":"unknown variant `dance`, ..."}
//! ```

use serde::{Deserialize, Serialize};
use switchpoint::{
    Config, Error, Registry, Server, StartError,
    protocols::{WebSocket, websocket::Socket},
    ws::Code,
};

#[derive(Deserialize)]
struct Question<'a> {
    id: u64,
    #[serde(flatten, borrow)]
    task: Task<'a>,
}

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
enum Task<'a> {
    Add { numbers: Vec<f64> },
    Reverse { text: std::borrow::Cow<'a, str> },
}

#[derive(Serialize)]
struct Answer {
    id: u64,
    #[serde(flatten)]
    result: Outcome,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Sum(f64),
    Text(String),
}

fn answer(question: Question<'_>) -> Answer {
    let result = match question.task {
        Task::Add { numbers } => Outcome::Sum(numbers.iter().sum()),
        Task::Reverse { text } => Outcome::Text(text.chars().rev().collect()),
    };
    Answer { id: question.id, result }
}

async fn api(mut socket: Socket) -> Result<(), Error> {
    while let Some(message) = socket.recv().await? {
        let Some(text) = message.text() else {
            socket.close(Code::UNSUPPORTED_DATA, "JSON is text");
            break;
        };
        let answer = match serde_json::from_str(text) {
            Ok(question) => serde_json::to_string(&answer(question)).map_err(Error::peer)?,
            Err(error) => serde_json::json!({ "error": error.to_string() }).to_string(),
        };
        socket.send(&answer).await?;
    }
    Ok(())
}

pub(crate) fn registry(_core: usize) -> Registry {
    Registry::new().at("/api", WebSocket::new(api))
}

fn main() -> Result<(), StartError> {
    Server::start(Config::default(), registry)?.join();
    Ok(())
}
