//! Bytes over a raw `Upgrade: echo`: the stream that comes back is cut where it was cut when it went out.

use std::sync::Arc;

use crate::{
    content::{Content, Messages, Random},
    fault::{Fault, Wrong},
    handshake::{Answer, Broken},
    plan::Plan,
    scenario::Scenario,
};

pub(crate) struct Echo {
    messages: Messages,
}

impl Scenario for Echo {
    const TOKEN: &'static str = "echo";

    fn new(_: &Plan, content: &Arc<Content>, connection: u32, _: Random) -> Self {
        Self { messages: Messages::new(Arc::clone(content), connection) }
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn admit(&self, _: &Answer, _: &[(String, String)]) -> Result<(), Broken> {
        Ok(())
    }

    fn reply_max(&self) -> usize {
        self.messages.size()
    }

    #[inline]
    fn send(&mut self, out: &mut Vec<u8>) {
        self.messages.append_next(out);
    }

    #[inline]
    fn receive(
        &mut self,
        bytes: &mut [u8],
        _: &mut Vec<u8>,
        mut reply: impl FnMut(Result<(), Wrong>),
    ) -> Result<usize, Fault> {
        let mut replies = bytes.chunks_exact(self.messages.size());
        for bytes in &mut replies {
            if !self.messages.is_due() {
                return Err(Fault::Surplus);
            }
            reply(self.messages.check_next(bytes));
        }
        let rest = replies.remainder().len();
        if rest > 0 && !self.messages.is_due() {
            return Err(Fault::Surplus);
        }
        Ok(bytes.len() - rest)
    }

    fn goodbye(&mut self, _: &mut Vec<u8>) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{What, tests::plan};

    #[test]
    fn replies_are_cut_where_messages_were() {
        let content = Arc::new(Content::new(20, false, 7));
        let mut echo = Echo::new(&plan(What::Echo, 20), &content, 1, Random::new(7));
        let (mut wire, mut replies) = (Vec::new(), Vec::new());
        (0..3).for_each(|_| echo.send(&mut wire));
        wire[45] ^= 1;
        let mut hear = |echo: &mut Echo, bytes: &mut [u8]| {
            echo.receive(bytes, &mut Vec::new(), |verdict| replies.push(verdict))
        };
        assert_eq!(hear(&mut echo, &mut wire[..19]).unwrap(), 0);
        assert_eq!(hear(&mut echo, &mut wire[..41]).unwrap(), 40);
        assert_eq!(hear(&mut echo, &mut wire[40..]).unwrap(), 20);
        assert!(matches!(hear(&mut echo, &mut [0]), Err(Fault::Surplus)));
        assert_eq!(replies, [Ok(()), Ok(()), Err(Wrong::Content(5))]);
    }
}
