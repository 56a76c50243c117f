//! What a connection says once it has switched, and where in the bytes that arrive the replies are: bytes in, bytes out, no
//! time, no I/O, and nothing of what the messages mean.

use std::{rc::Rc, sync::Arc};

use switchpoint::ws::{
    Contexts, Opening,
    opening::{Switched, Unfit},
};

use crate::{
    content::{Content, Random},
    fault::{Fault, Wrong},
    plan::Plan,
};

/// A protocol, as one connection speaks it. The list is in [`scenarios`](crate::scenarios).
pub(crate) trait Scenario: Sized + 'static {
    /// Whether replies come in the order of their messages.
    const IS_ORDERED: bool = true;

    /// What the handshake asks for; the fields of the command line come behind it. `None`: there is no handshake.
    fn opening(plan: &Plan, random: &mut Random) -> Result<Option<Opening>, Unfit>;

    /// `switched` is what the handshake has settled, if there was one.
    fn new(
        plan: &Plan,
        switched: Option<&Switched>,
        random: Random,
        contexts: &Rc<Contexts>,
        content: &Arc<Content>,
    ) -> Result<Self, Fault>;

    /// What is said between the handshake and the first message: takes what it needs of `bytes`, appends the answer to
    /// `out`, and says whether messages can be sent now.
    fn settle(&mut self, _bytes: &mut Vec<u8>, _out: &mut Vec<u8>) -> Result<bool, Fault> {
        Ok(true)
    }

    /// How many bytes have to be held, at most, for a reply to a message of so many bytes to be seen as a whole.
    fn reply_max(size: usize) -> usize;

    /// Appends a message of `length` bytes as it goes on the wire. `content` appends those, masked with a key (RFC 6455 5.3),
    /// of which [`PLAIN`] leaves them as they are.
    fn send(&mut self, out: &mut Vec<u8>, length: usize, content: impl FnOnce(&mut Vec<u8>, [u8; 4]));

    /// Appends what [`send`](Self::send) has kept back so far, if it does.
    #[inline]
    fn flush(&mut self, _out: &mut Vec<u8>) {}

    /// Reads what has arrived, hands over each reply, and returns how much is done with. What the protocol itself wants
    /// answered, a ping for instance, is appended to `out`.
    fn receive(&mut self, bytes: &mut [u8], out: &mut Vec<u8>, sink: &mut impl Sink) -> Result<usize, Fault>;

    /// Appends a sign of life, if the protocol has one.
    fn ping(&mut self, _: &mut Vec<u8>) {}

    /// Appends the protocol's goodbye. If it has none, the end of our bytes has to do.
    fn goodbye(&mut self, out: &mut Vec<u8>);
}

/// Who takes replies.
pub(crate) trait Sink {
    /// How long the next reply should be, for protocols that do not say so themselves. `None`: nothing is due.
    fn expected(&self) -> Option<usize>;

    /// A whole reply. `is_right_type`: it is of the type (text, binary) of our messages.
    fn reply(&mut self, payload: &[u8], is_right_type: bool) -> Result<(), Fault>;

    /// Which message of this connection `payload` says that it answers.
    fn number(&self, _payload: &[u8]) -> Option<u64> {
        None
    }

    /// The reply to the message of this number, for protocols that know it.
    fn answer(&mut self, _number: u64, _answer: Answer<'_>) -> Result<(), Fault> {
        Err(Fault::Surplus)
    }
}

/// What has come for a message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer<'a> {
    /// This, which has to be the message.
    Message(&'a [u8]),
    /// Something that was looked at already, and what is wrong with it.
    Judged(Option<Wrong>),
}

/// The key that masks nothing.
pub(crate) const PLAIN: [u8; 4] = [0; 4];
