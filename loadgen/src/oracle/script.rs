//! What the oracle is told to do: faults by name, several with `+` between them.

use std::{str::FromStr, time::Duration};

use crate::units::{count, time};

/// All faults; by default none. Times count from the first message.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Script {
    /// `stall:AT,TIME`: nothing happens for a while.
    pub(super) stall: Option<(Duration, Duration)>,
    /// `dead:AT`: nothing happens any more.
    pub(super) dead: Option<Duration>,
    /// `fixed:TIME`: each answer waits for so long.
    pub(super) fixed: Option<Duration>,
    /// `exp:MEAN`: each for a random time.
    pub(super) exponential: Option<Duration>,
    /// `bimodal:SHORT,LONG,PART`: that part of them for the long time.
    pub(super) bimodal: Option<(Duration, Duration, f64)>,
    /// `mm1:MEAN`, `dd1:TIME`: one server that takes a random, or a fixed time for each, and has a queue.
    pub(super) queue: Option<(Duration, bool)>,
    /// `corrupt:N`, and so on: every N-th message.
    pub(super) corrupt: Option<u64>,
    pub(super) double: Option<u64>,
    pub(super) drop: Option<u64>,
    pub(super) reorder: Option<u64>,
    pub(super) flip: Option<u64>,
    pub(super) masked: Option<u64>,
    pub(super) reserved: Option<u64>,
    /// `bad-accept`, `no-accept`, `subprotocol`, `extension`: the 101 is wrong.
    pub(super) has_bad_accept: bool,
    pub(super) has_no_accept: bool,
    pub(super) has_subprotocol: bool,
    pub(super) has_extension: bool,
    /// `mute`: no answer to the handshake.
    pub(super) is_mute: bool,
    /// `status:CODE`: a refusal.
    pub(super) status: Option<u16>,
    /// `handshake:TIME`: the 101 waits.
    pub(super) handshake_delay: Option<Duration>,
    /// `first:TIME`: a connection's first answer waits.
    pub(super) first_delay: Option<Duration>,
    /// `slow-first:TIME,DELAY`: all answers of the first while wait.
    pub(super) slow_first: Option<(Duration, Duration)>,
    /// `rst-after:N`: a connection is reset after so many messages.
    pub(super) reset_after: Option<u64>,
    /// `close-after:N,CODE`: it is closed.
    pub(super) close_after: Option<(u64, u16)>,
    /// `fanout`, `fanout:STAGGER`, `fanout:STAGGER,N`: each message goes to all others, one after the other; every N-th
    /// delivery is left out, and with `dup:N` each N-th is made twice.
    pub(super) fanout: Option<(Duration, Option<u64>)>,
    /// `noread`: nothing is read after the switch.
    pub(super) is_deaf: bool,
    /// `backlog:N,TIME`: so many connections may wait, and nobody is let in for a while.
    pub(super) backlog: Option<(i32, Duration)>,
}

impl FromStr for Script {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut script = Self::default();
        for fault in text.split('+') {
            let (name, arguments) = fault.split_once(':').unwrap_or((fault, ""));
            let arguments: Vec<&str> = arguments.split(',').filter(|argument| !argument.is_empty()).collect();
            let at = |index: usize| {
                arguments.get(index).copied().ok_or_else(|| format!("`{fault}` lacks an argument"))
            };
            match name {
                "echo" => {}
                "stall" => script.stall = Some((time(at(0)?)?, time(at(1)?)?)),
                "dead" => script.dead = Some(time(at(0)?)?),
                "fixed" => script.fixed = Some(time(at(0)?)?),
                "exp" => script.exponential = Some(time(at(0)?)?),
                "bimodal" => {
                    let part = at(2)?.parse().map_err(|_| format!("`{}` is no part", arguments[2]))?;
                    script.bimodal = Some((time(at(0)?)?, time(at(1)?)?, part));
                }
                "mm1" => script.queue = Some((time(at(0)?)?, true)),
                "dd1" => script.queue = Some((time(at(0)?)?, false)),
                "corrupt" => script.corrupt = Some(count(at(0)?)?),
                "dup" => script.double = Some(count(at(0)?)?),
                "drop" => script.drop = Some(count(at(0)?)?),
                "reorder" => script.reorder = Some(count(at(0)?)?),
                "flip-opcode" => script.flip = Some(count(at(0)?)?),
                "masked" => script.masked = Some(count(at(0)?)?),
                "rsv" => script.reserved = Some(count(at(0)?)?),
                "bad-accept" => script.has_bad_accept = true,
                "no-accept" => script.has_no_accept = true,
                "subprotocol" => script.has_subprotocol = true,
                "extension" => script.has_extension = true,
                "mute" => script.is_mute = true,
                "status" => script.status = Some(number(at(0)?)?),
                "handshake" => script.handshake_delay = Some(time(at(0)?)?),
                "first" => script.first_delay = Some(time(at(0)?)?),
                "slow-first" => script.slow_first = Some((time(at(0)?)?, time(at(1)?)?)),
                "rst-after" => script.reset_after = Some(count(at(0)?)?),
                "close-after" => script.close_after = Some((count(at(0)?)?, number(at(1)?)?)),
                "fanout" => {
                    let stagger =
                        arguments.first().map(|stagger| time(stagger)).transpose()?.unwrap_or_default();
                    script.fanout = Some((stagger, arguments.get(1).map(|each| count(each)).transpose()?));
                }
                "noread" => script.is_deaf = true,
                "backlog" => script.backlog = Some((i32::from(number(at(0)?)? as i16), time(at(1)?)?)),
                _ => return Err(format!("`{name}` is no fault that the oracle knows; see docs/loadgen.md")),
            }
        }
        Ok(script)
    }
}

fn number(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("`{text}` is not a number up to 65535"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_named_and_add_up() {
        let script: Script = "stall:2s,500ms+corrupt:1k+fanout:10us,1000".parse().unwrap();
        assert_eq!(script.stall, Some((Duration::from_secs(2), Duration::from_millis(500))));
        assert_eq!((script.corrupt, script.drop), (Some(1000), None));
        assert_eq!(script.fanout, Some((Duration::from_micros(10), Some(1000))));
        assert_eq!("echo".parse(), Ok(Script::default()));
        for wrong in ["", "stall:2s", "explode", "corrupt:0", "status:x"] {
            assert!(wrong.parse::<Script>().is_err(), "{wrong}");
        }
    }
}
