//! Bytes over a raw `Upgrade: echo`: the stream that comes back is cut where it was cut when it went out.

use std::{rc::Rc, sync::Arc};

use switchpoint::ws::{
    Contexts, Opening,
    opening::{Switched, Unfit},
};

use crate::{
    content::{Content, Random},
    fault::Fault,
    plan::Plan,
    scenario::{PLAIN, Scenario, Sink},
};

pub(crate) struct Echo;

impl Scenario for Echo {
    fn opening(_: &Plan, _: &mut Random) -> Result<Option<Opening>, Unfit> {
        Ok(Some(Opening::to("echo")))
    }

    fn new(
        _: &Plan,
        _: Option<&Switched>,
        _: Random,
        _: &Rc<Contexts>,
        _: &Arc<Content>,
    ) -> Result<Self, Fault> {
        Ok(Self)
    }

    fn reply_max(size: usize) -> usize {
        size
    }

    #[inline]
    fn send(&mut self, out: &mut Vec<u8>, _: usize, content: impl FnOnce(&mut Vec<u8>, [u8; 4])) {
        content(out, PLAIN);
    }

    #[inline]
    fn receive(&mut self, bytes: &mut [u8], _: &mut Vec<u8>, sink: &mut impl Sink) -> Result<usize, Fault> {
        let mut at = 0;
        while at < bytes.len() {
            let expected = sink.expected().ok_or(Fault::Surplus)?;
            let Some(reply) = bytes.get(at..at + expected) else { break };
            sink.reply(reply, true)?;
            at += expected;
        }
        Ok(at)
    }

    fn goodbye(&mut self, _: &mut Vec<u8>) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenarios::tests::Due;

    #[test]
    fn replies_are_cut_where_messages_were() {
        let mut due = Due::new([3, 1, 4]);
        let mut wire = *b"abcdefghi";
        let hear = |due: &mut Due, bytes: &mut [u8]| Echo.receive(bytes, &mut Vec::new(), due);
        assert_eq!(hear(&mut due, &mut wire[..2]).unwrap(), 0);
        assert_eq!(hear(&mut due, &mut wire[..5]).unwrap(), 4);
        assert_eq!(hear(&mut due, &mut wire[4..8]).unwrap(), 4);
        assert!(matches!(hear(&mut due, &mut wire[8..]), Err(Fault::Surplus)));
        assert_eq!(due.heard, [b"abc".to_vec(), b"d".to_vec(), b"efgh".to_vec()]);
    }
}
