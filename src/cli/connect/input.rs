//! What there is to say: lines, blocks or the whole of standard input. A thread reads it, and waits while the connection has not taken what it has read before.

use std::{
    io::{self, BufRead, Read},
    sync::mpsc::{self, Receiver, SyncSender},
    thread,
};

use super::{talk::Payload, wait::Wake};

/// Something that was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    Message(Payload),
    /// A line that may be a command.
    Typed(String),
    /// There is no more.
    End,
    /// It cannot be read, or is not what it was said to be.
    Failed(String),
}

/// How standard input is read.
pub(super) enum Source {
    /// Each line is a text.
    Lines,
    /// What comes at once is a message of bytes.
    Blocks,
    /// All of it is one message.
    Whole { is_binary: bool },
    /// Lines of a terminal that cannot edit, to be read as commands.
    Typed,
}

/// The way from the reading thread.
pub(super) struct Inputs(Receiver<Input>);

impl Inputs {
    pub(super) fn new(source: Source, wake: Wake) -> io::Result<Self> {
        let (sender, receiver) = mpsc::sync_channel(WAITING_MAX);
        thread::Builder::new().name("input".into()).spawn(move || {
            let mut give = Giver { sender, wake };
            if let Err(error) = source.read(&mut give) {
                give.give(Input::Failed(error.to_string()));
            }
            give.give(Input::End);
        })?;
        Ok(Self(receiver))
    }

    /// The next, if it is there.
    pub(super) fn take(&self) -> Option<Input> {
        self.0.try_recv().ok()
    }
}

/// How many messages were read and not taken, at most.
const WAITING_MAX: usize = 4;
/// The longest line, and the longest whole.
const LENGTH_MAX: usize = 64 << 20;
const BLOCK_SIZE: usize = 64 << 10;

struct Giver {
    sender: SyncSender<Input>,
    wake: Wake,
}

impl Giver {
    /// `false`: nobody takes it any more.
    fn give(&mut self, input: Input) -> bool {
        let is_taken = self.sender.send(input).is_ok();
        self.wake.wake();
        is_taken
    }
}

impl Source {
    fn read(self, give: &mut Giver) -> io::Result<()> {
        let stdin = io::stdin().lock();
        match self {
            Self::Lines => lines(stdin, |line| give.give(Input::Message(Payload::Text(line)))),
            Self::Typed => lines(stdin, |line| give.give(Input::Typed(line))),
            Self::Blocks => blocks(stdin, |block| give.give(Input::Message(Payload::Binary(block)))),
            Self::Whole { is_binary } => {
                let whole = whole(stdin)?;
                let payload =
                    if is_binary { Payload::Binary(whole) } else { Payload::Text(text(whole, "the input")?) };
                give.give(Input::Message(payload));
                Ok(())
            }
        }
    }
}

fn lines(mut input: impl BufRead, mut give: impl FnMut(String) -> bool) -> io::Result<()> {
    for number in 1_u64.. {
        let mut line = Vec::new();
        if input.by_ref().take(LENGTH_MAX as u64).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line.len() == LENGTH_MAX {
            return Err(io::Error::other(format!("line {number} is longer than {LENGTH_MAX} bytes")));
        }
        if line.pop_if(|last| *last == b'\n').is_some() {
            line.pop_if(|last| *last == b'\r');
        }
        if !give(text(line, &format!("line {number}"))?) {
            return Ok(());
        }
    }
    Ok(())
}

fn text(bytes: Vec<u8>, what: &str) -> io::Result<String> {
    String::from_utf8(bytes)
        .map_err(|_| io::Error::other(format!("{what} is not UTF-8, which a text has to be: use --binary")))
}

fn blocks(mut input: impl Read, mut give: impl FnMut(Vec<u8>) -> bool) -> io::Result<()> {
    let mut buffer = vec![0; BLOCK_SIZE];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) if !give(buffer[..count].to_owned()) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn whole(input: impl Read) -> io::Result<Vec<u8>> {
    let mut whole = Vec::new();
    if input.take(LENGTH_MAX as u64).read_to_end(&mut whole)? == LENGTH_MAX {
        return Err(io::Error::other(format!(
            "the input is longer than {LENGTH_MAX} bytes; without --whole it is sent as it comes"
        )));
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &[u8]) -> (Vec<String>, io::Result<()>) {
        let mut found = Vec::new();
        let result = lines(input, |line| {
            found.push(line);
            true
        });
        (found, result)
    }

    #[test]
    fn a_line_is_what_stands_between_two_ends() {
        let (found, result) = read("a\n\n b \r\nü".as_bytes());
        assert_eq!(found, ["a", "", " b ", "ü"]);
        assert!(result.is_ok());
        assert_eq!(read(b"").0, Vec::<String>::new());
    }

    #[test]
    fn what_is_not_utf_8_is_named_by_its_line() {
        let (found, result) = read(b"a\n\xff\n");
        assert_eq!(found, ["a"]);
        let error = result.unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("--binary"), "{error}");
    }

    #[test]
    fn reading_ends_when_nobody_takes_it() {
        let mut count = 0;
        lines(&b"a\nb\n"[..], |_| {
            count += 1;
            false
        })
        .unwrap();
        assert_eq!(count, 1);
    }
}
