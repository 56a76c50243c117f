//! DEFLATE as zlib does it, cut down to what a message needs. Nothing else here knows which crate does the work, or
//! whether there is one: without the feature `deflate` nothing is agreed on, so none of this is ever made.

/// What one step of inflating did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    pub(super) consumed: usize,
    pub(super) produced: usize,
    pub(super) stopped: Option<Stopped>,
}

/// Why no further step is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "deflate"), expect(dead_code, reason = "nobody inflates"))]
pub(super) enum Stopped {
    /// A block with BFINAL has ended.
    Final,
    /// This is not DEFLATE. What came before it was produced.
    Invalid,
}

/// What a sync flush ends with, and a message leaves out (RFC 7692 7.2.1).
pub(super) const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

#[cfg(feature = "deflate")]
mod backend {
    use flate2::{Compression, FlushCompress, FlushDecompress, Status};

    use super::{Progress, Stopped, TAIL};

    #[derive(Debug)]
    pub(in crate::ws) struct Compress(flate2::Compress);

    impl Compress {
        /// `bits` is 9–15, `level` 1–9.
        pub(in crate::ws) fn new(bits: u8, level: u8) -> Self {
            Self(flate2::Compress::new_with_window_bits(Compression::new(level.into()), false, bits))
        }

        /// Forgets what was compressed.
        pub(in crate::ws) fn reset(&mut self) {
            self.0.reset();
        }

        /// Appends the message, which is not empty, without its [`TAIL`].
        pub(in crate::ws) fn compress(&mut self, mut message: &[u8], out: &mut Vec<u8>) {
            out.reserve(message.len() / 2 + ROOM);
            loop {
                let before = self.0.total_in();
                self.0
                    .compress_vec(message, out, FlushCompress::Sync)
                    .expect("compressing fails only after the end of a stream, which we never ask for");
                message = &message[(self.0.total_in() - before) as usize..];
                // A flush that has filled its room may have more to say.
                if message.is_empty() && out.len() < out.capacity() {
                    break;
                }
                out.reserve(ROOM);
            }
            debug_assert!(out.ends_with(&TAIL), "a sync flush ends with an empty stored block");
            out.truncate(out.len() - TAIL.len());
        }
    }

    const ROOM: usize = 64;

    #[derive(Debug)]
    pub(in crate::ws) struct Decompress(flate2::Decompress);

    impl Decompress {
        /// The window is always the largest: zlib-rs allocates that for any, and a smaller one only refuses more.
        pub(in crate::ws) fn new() -> Self {
            Self(flate2::Decompress::new(false))
        }

        /// Forgets what was inflated.
        pub(in crate::ws) fn reset(&mut self) {
            self.0.reset(false);
        }

        pub(in crate::ws) fn decompress(&mut self, input: &[u8], out: &mut [u8]) -> Progress {
            let (consumed, produced) = (self.0.total_in(), self.0.total_out());
            let stopped = match self.0.decompress(input, out, FlushDecompress::Sync) {
                Ok(Status::Ok | Status::BufError) => None,
                Ok(Status::StreamEnd) => Some(Stopped::Final),
                Err(_) => Some(Stopped::Invalid),
            };
            Progress {
                consumed: (self.0.total_in() - consumed) as usize,
                produced: (self.0.total_out() - produced) as usize,
                stopped,
            }
        }
    }
}

#[cfg(not(feature = "deflate"))]
mod backend {
    use super::Progress;

    #[derive(Debug)]
    pub(in crate::ws) struct Compress(());

    impl Compress {
        pub(in crate::ws) fn new(_bits: u8, _level: u8) -> Self {
            unreachable!("{WHY}")
        }

        pub(in crate::ws) fn reset(&mut self) {
            unreachable!("{WHY}")
        }

        pub(in crate::ws) fn compress(&mut self, _message: &[u8], _out: &mut Vec<u8>) {
            unreachable!("{WHY}")
        }
    }

    #[derive(Debug)]
    pub(in crate::ws) struct Decompress(());

    impl Decompress {
        pub(in crate::ws) fn new() -> Self {
            unreachable!("{WHY}")
        }

        pub(in crate::ws) fn reset(&mut self) {
            unreachable!("{WHY}")
        }

        pub(in crate::ws) fn decompress(&mut self, _input: &[u8], _out: &mut [u8]) -> Progress {
            unreachable!("{WHY}")
        }
    }

    const WHY: &str = "without the feature `deflate` no negotiation makes an `Agreed`";
}

pub(super) use backend::{Compress, Decompress};
