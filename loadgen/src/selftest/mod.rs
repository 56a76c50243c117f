//! `loadgen selftest`: the tool against its oracle, what it adds itself, and how far it can be trusted on this machine.
//!
//! Each case runs this very program as a process, as a user would: what is tested is what is used.

mod bench;
mod cases;
mod floor;

use std::{
    any::Any,
    io,
    panic::{self, AssertUnwindSafe},
    time::{Duration, Instant},
};

use cases::CASES;

use crate::{print, verdict};

/// What is to be tested.
#[derive(Clone, Debug)]
pub(crate) struct SelfTest {
    /// Cases whose names begin so; all, if there are none.
    pub(crate) only: Vec<String>,
    /// Only what takes a moment.
    pub(crate) is_quick: bool,
    /// Says which cases there are.
    pub(crate) lists: bool,
}

/// Tests; the exit code is 3 if a case does not hold.
pub(crate) fn run(test: &SelfTest) -> io::Result<u8> {
    let is_wanted = |name: &str| {
        let is_named = test.only.iter().any(|only| {
            name.strip_prefix(&**only)
                .is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_alphanumeric()))
        });
        if test.only.is_empty() { !test.is_quick || QUICK.contains(&short(name)) } else { is_named }
    };
    let chosen: Vec<_> = CASES.iter().filter(|(name, _)| is_wanted(name)).collect();
    if test.lists {
        chosen.iter().for_each(|(name, _)| print(&format!("{name}\n")));
        return Ok(0);
    }
    if chosen.is_empty() {
        return Err(io::Error::other("there is no such case; --list names them"));
    }
    // What a case says is printed with its name.
    panic::set_hook(Box::new(|_| {}));
    let mut failed = 0;
    for (name, case) in &chosen {
        let begun = Instant::now();
        let result = panic::catch_unwind(AssertUnwindSafe(case));
        let seconds = begun.elapsed().as_secs_f64();
        match result {
            Ok(()) => print(&format!("ok    {name}  {seconds:.1} s\n")),
            Err(why) => {
                failed += 1;
                print(&format!("FAIL  {name}  {seconds:.1} s\n      {}\n", text_of(&*why)));
            }
        }
    }
    let _ = panic::take_hook();
    print(&format!("{} of {} cases hold\n", chosen.len() - failed, chosen.len()));
    if test.only.is_empty() {
        let time = if test.is_quick { Duration::from_millis(500) } else { Duration::from_secs(2) };
        print(&format!("\n{}", floor::floor(time)?));
        print(&floor::honest_rate(time, test.is_quick)?);
    }
    Ok(if failed > 0 { verdict::FAILED } else { 0 })
}

/// `t8` of `t8_the_rate_is_what_was_asked_for`.
fn short(name: &str) -> &str {
    name.split('_').next().unwrap_or(name)
}

const QUICK: [&str; 6] = ["t1", "t2", "t3", "t4", "t6", "t11"];

/// The beginning and the end of what it says: what lies between may be a whole result.
fn text_of(why: &(dyn Any + Send)) -> String {
    let text = why.downcast_ref::<String>().map(String::as_str);
    let lines: Vec<&str> =
        text.or_else(|| why.downcast_ref::<&str>().copied()).unwrap_or("?").lines().collect();
    match &lines[..] {
        [first, .., one, other] if lines.len() > 6 => format!("{first} \u{2026}\n      {one}\n      {other}"),
        all => all.join("\n      "),
    }
}
