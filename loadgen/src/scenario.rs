//! What a connection says once it has switched, and where in the bytes that arrive the replies are: bytes in, bytes out, no
//! time, no I/O, and nothing of what the messages mean.

use std::rc::Rc;

use switchpoint::ws::{
    Contexts, Opening,
    opening::{Switched, Unfit},
};

use crate::{content::Random, fault::Fault, plan::Plan};

/// A protocol, as one connection speaks it. The list is in [`scenarios`](crate::scenarios).
pub(crate) trait Scenario: Sized + 'static {
    /// What the handshake asks for; the fields of the command line come behind it.
    fn opening(plan: &Plan, random: &mut Random) -> Result<Opening, Unfit>;

    fn new(plan: &Plan, switched: &Switched, random: Random, contexts: &Rc<Contexts>) -> Self;

    /// How many bytes have to be held, at most, for a reply to a message of so many bytes to be seen as a whole.
    fn reply_max(size: usize) -> usize;

    /// Appends a message of `length` bytes, which `content` appends, as it goes on the wire.
    fn send(&mut self, out: &mut Vec<u8>, length: usize, content: impl FnOnce(&mut Vec<u8>));

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
}
