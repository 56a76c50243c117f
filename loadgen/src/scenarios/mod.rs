//! The scenarios: one file for each, and the list.
//!
//! To add one, write its file (`echo.rs` is the shortest), name it here, in [`What`](crate::plan::What), and where a
//! thread chooses (`worker.rs`).

mod echo;
mod http2;
mod websocket;

pub(crate) use echo::Echo;
pub(crate) use http2::{Requests, WebSockets};
pub(crate) use websocket::WebSocket;

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::VecDeque;

    use crate::{fault::Fault, scenario::Sink};

    /// Takes replies of these lengths.
    pub(crate) struct Due {
        lengths: VecDeque<usize>,
        pub(crate) heard: Vec<Vec<u8>>,
        pub(crate) is_right_type: bool,
    }

    impl Due {
        pub(crate) fn new(lengths: impl IntoIterator<Item = usize>) -> Self {
            Self { lengths: lengths.into_iter().collect(), heard: Vec::new(), is_right_type: true }
        }
    }

    impl Sink for Due {
        fn expected(&self) -> Option<usize> {
            self.lengths.front().copied()
        }

        fn reply(&mut self, payload: &[u8], is_right_type: bool) -> Result<(), Fault> {
            self.lengths.pop_front().ok_or(Fault::Surplus)?;
            self.is_right_type &= is_right_type;
            self.heard.push(payload.to_vec());
            Ok(())
        }
    }
}
