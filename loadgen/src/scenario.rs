//! What a connection says once it has switched, and what it takes for an answer: bytes in, bytes out, no time, no I/O.

use std::sync::Arc;

use crate::{
    content::{Content, Random},
    fault::{Fault, Wrong},
    handshake::{Answer, Broken},
    plan::Plan,
};

/// One connection's side of the conversation. The list is in [`scenarios`](crate::scenarios).
pub(crate) trait Scenario: Sized + 'static {
    /// What the handshake asks for.
    const TOKEN: &'static str;

    fn new(plan: &Plan, content: &Arc<Content>, connection: u32, random: Random) -> Self;

    /// What the handshake needs besides `Host`, `Connection` and `Upgrade`.
    fn fields(&self) -> Vec<(&'static str, String)>;

    /// Whether a 101 that names the token is also right otherwise.
    fn admit(&self, answer: &Answer, asked: &[(String, String)]) -> Result<(), Broken>;

    /// How many bytes have to be held, at most, for a reply to be seen as a whole.
    fn reply_max(&self) -> usize;

    /// Appends the next message, as it goes on the wire.
    fn send(&mut self, out: &mut Vec<u8>);

    /// Reads what has arrived, names each reply as right or wrong, and returns how much is done with. What the protocol
    /// itself wants answered, a ping for instance, is appended to `out`.
    fn receive(
        &mut self,
        bytes: &mut [u8],
        out: &mut Vec<u8>,
        reply: impl FnMut(Result<(), Wrong>),
    ) -> Result<usize, Fault>;

    /// Appends the protocol's goodbye. If it has none, the end of our bytes has to do.
    fn goodbye(&mut self, out: &mut Vec<u8>);
}
