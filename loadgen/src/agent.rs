//! Several processes, on several machines, that carry out one plan: agents load, a coordinator adds up.
//!
//! ```text
//!   coordinator                               agent
//!   hello, version, token ──────────────────► compares the token
//!                         ◄────────────────── welcome
//!   clock? (16 times)     ◄─────────────────► its clock
//!   run: the command line, k of n ──────────► opens its connections
//!                         ◄────────────────── ready
//!   start, in the agent's own clock ────────► begins then: of all messages the k-th, the (k + n)-th …
//!                         ◄────────────────── its histograms and ledgers, to be added
//! ```
//!
//! A line of JSON each. Intended times hang on the start alone, so what clocks differ by moves an agent's share as a whole,
//! by half a round trip at most; that is measured, and said. No time of one clock is subtracted from another's.
//!
//! The token keeps others from using an agent; it goes over the wire as it is, so the network has to be one that is trusted.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    cli,
    plan::{Output, Part, Plan},
    progress::Progress,
    run::{self, Finished, Share},
    units::{Nanos, short},
};

/// The program's, and that of what is said here.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "/2");

#[derive(Serialize, Deserialize)]
enum Ask {
    Hello { version: String, token: String },
    Clock,
    Run { arguments: Vec<String>, index: u32, of: u32, seed: u64 },
    Start { at: Nanos },
    Stop,
}

#[derive(Serialize, Deserialize)]
enum Say {
    Welcome,
    Refused(String),
    Clock(Nanos),
    Ready,
    Done(Box<Share>),
}

/// One side of the conversation.
struct Line {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
}

impl Line {
    fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { writer: stream.try_clone()?, reader: BufReader::new(stream) })
    }

    fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.writer.write_all(&line)
    }

    /// The next line, of at most so many bytes, within `limit`.
    fn hear<T: for<'de> Deserialize<'de>>(&mut self, max: u64, limit: Duration) -> io::Result<T> {
        self.writer.set_read_timeout(Some(limit))?;
        hear(&mut self.reader, max)
    }
}

fn hear<T: for<'de> Deserialize<'de>>(reader: &mut impl BufRead, max: u64) -> io::Result<T> {
    let mut line = Vec::new();
    reader.take(max).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the other side has gone, or says too much",
        ));
    }
    serde_json::from_slice(&line).map_err(io::Error::other)
}

/// An agent's clock.
fn clock() -> Nanos {
    base().elapsed().as_nanos() as Nanos
}

fn base() -> Instant {
    static BASE: OnceLock<Instant> = OnceLock::new();
    *BASE.get_or_init(Instant::now)
}

/// Serves coordinators, one after the other, until SIGTERM or SIGINT. The first line that it prints is its address.
pub(crate) fn serve(listen: SocketAddr, token: &str) -> io::Result<()> {
    base();
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let listener = TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    println!("agent on {}", listener.local_addr()?);
    io::stdout().flush()?;
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, peer)) => {
                stream.set_nonblocking(false)?;
                match serve_one(stream, token, &stop) {
                    Ok(()) => eprintln!("loadgen: {peer}: a run is done"),
                    Err(error) => eprintln!("loadgen: {peer}: {error}"),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(LOOK_UP),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn serve_one(stream: TcpStream, token: &str, stop: &Arc<AtomicBool>) -> io::Result<()> {
    let mut line = Line::new(stream)?;
    let refuse = |line: &mut Line, why: &str| {
        let _ = line.send(&Say::Refused(why.to_owned()));
        Err(io::Error::other(why.to_owned()))
    };
    match line.hear(SHORT, ANSWER_TIME)? {
        Ask::Hello { token: theirs, .. } if !is_same(&theirs, token) => {
            return refuse(&mut line, "the token is not mine");
        }
        Ask::Hello { version, .. } if version != VERSION => {
            return refuse(&mut line, &format!("my version is {VERSION}, and yours is {version}"));
        }
        Ask::Hello { .. } => line.send(&Say::Welcome)?,
        _ => return refuse(&mut line, "a hello comes first"),
    }
    let (arguments, part, seed) = loop {
        match line.hear(LONG, RUN_TIME)? {
            Ask::Clock => line.send(&Say::Clock(clock()))?,
            Ask::Run { arguments, index, of, seed } if index < of => {
                break (arguments, Part { index, of }, seed);
            }
            _ => return refuse(&mut line, "a run comes next"),
        }
    };
    let plan = match cli::plan_of(&arguments) {
        // Files are the coordinator's, and so is what is printed.
        Ok(plan) => Arc::new(Plan { part, seed, output: Output::default(), ..plan }),
        Err(why) => return refuse(&mut line, &why),
    };
    let stop_run = Arc::new(AtomicBool::new(false));
    let address = plan.target.resolve(plan.connect_timeout)?;
    let begin = |epoch: Instant| -> io::Result<Nanos> {
        line.send(&Say::Ready)?;
        let Ask::Start { at } = line.hear(SHORT, START_TIME)? else {
            return Err(io::Error::other("a start comes next"));
        };
        let at = base() + Duration::from_nanos(at);
        // From here on the coordinator may only stop us, or go away, which does the same.
        let (mut reader, stops) = (line.writer.try_clone()?, [Arc::clone(&stop_run), Arc::clone(stop)]);
        reader.set_read_timeout(Some(LOOK_UP))?;
        let ours = Arc::clone(&stop_run);
        thread::spawn(move || {
            let mut byte = [0];
            loop {
                match reader.read(&mut byte) {
                    Err(error)
                        if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                    _ => break,
                }
                if stops.iter().any(|stop| stop.load(Ordering::Relaxed)) {
                    break;
                }
            }
            ours.store(true, Ordering::Relaxed);
        });
        Ok(at.saturating_duration_since(epoch).as_nanos() as Nanos)
    };
    let finished = run::run(&plan, address, Arc::clone(&stop_run), Progress::none(), Some(Box::new(begin)))?;
    stop_run.store(true, Ordering::Relaxed);
    line.send(&Say::Done(Box::new(finished.into_share())))
}

/// In a time that does not tell where they differ.
fn is_same(one: &str, other: &str) -> bool {
    let differ = one.bytes().zip(other.bytes()).fold(0, |differ, (one, other)| differ | (one ^ other));
    one.len() == other.len() && differ == 0 && !one.is_empty()
}

/// An agent, as the coordinator has it.
struct Agent {
    name: String,
    line: Line,
    /// Its clock minus ours, and by how much that may be wrong.
    offset: i128,
    error: Nanos,
}

/// Lets all agents carry out `plan`, each its part, and adds up.
pub(crate) fn coordinate(
    plan: &Plan,
    names: &[String],
    token: &str,
    arguments: &[String],
    stop: &AtomicBool,
) -> io::Result<Finished> {
    base();
    let of = names.len() as u32;
    if plan.connections < of * plan.threads {
        return Err(io::Error::other(format!(
            "{of} agents with {} threads each need at least {} connections",
            plan.threads,
            of * plan.threads
        )));
    }
    plan.have_all_threads_work(of).map_err(io::Error::other)?;
    let mut agents = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("agent {name}: {error}"));
        let mut agent = meet(name, token).map_err(named)?;
        let arguments = arguments.to_vec();
        agent.line.send(&Ask::Run { arguments, index: index as u32, of, seed: plan.seed }).map_err(named)?;
        agents.push(agent);
    }
    // Connections are opened while we wait: as long as that may take.
    for agent in &mut agents {
        agent.expect(READY_TIME, stop, |say| matches!(say, Say::Ready).then_some(()))?;
    }
    let start = clock() + HEAD_START.as_nanos() as Nanos;
    for agent in &mut agents {
        let at = (i128::from(start) + agent.offset).max(0) as Nanos;
        agent.line.send(&Ask::Start { at })?;
    }
    let limit: Duration = plan.phases.iter().filter_map(|phase| phase.time).sum();
    let mut shares = Vec::new();
    for agent in &mut agents {
        let limit =
            if plan.phases.iter().all(|phase| phase.time.is_some()) { limit + SLACK } else { RUN_TIME };
        let share = agent.expect(limit, stop, |say| match say {
            Say::Done(share) => Some(*share),
            _ => None,
        })?;
        shares.push(share);
    }
    let error = agents.iter().map(|agent| agent.error).max().unwrap_or(0);
    let note = format!("{of} agents, whose clocks are known to \u{b1}{}", short(error));
    Finished::of_shares(plan, shares, note, stop.load(Ordering::Relaxed))
}

/// Says hello, and asks for the time: the shortest of some round trips knows it best.
fn meet(name: &str, token: &str) -> io::Result<Agent> {
    let address =
        name.to_socket_addrs()?.next().ok_or_else(|| io::Error::other("the name has no address"))?;
    let mut line = Line::new(TcpStream::connect_timeout(&address, ANSWER_TIME)?)?;
    line.send(&Ask::Hello { version: VERSION.to_owned(), token: token.to_owned() })?;
    match line.hear(SHORT, ANSWER_TIME)? {
        Say::Welcome => {}
        Say::Refused(why) => return Err(io::Error::other(format!("it refuses: {why}"))),
        _ => return Err(io::Error::other("it does not speak our language")),
    }
    let mut best = (Nanos::MAX, 0);
    for _ in 0..CLOCKS {
        let before = clock();
        line.send(&Ask::Clock)?;
        let Say::Clock(theirs) = line.hear(SHORT, ANSWER_TIME)? else {
            return Err(io::Error::other("it does not tell the time"));
        };
        let after = clock();
        let offset = i128::from(theirs) - i128::from(before + (after - before) / 2);
        best = best.min((after - before, offset));
    }
    let (round_trip, offset) = best;
    Ok(Agent { name: name.to_owned(), line, offset, error: round_trip / 2 })
}

impl Agent {
    /// Waits for an answer. If the user wants an end, the agent is told, and still waited for.
    fn expect<T>(
        &mut self,
        limit: Duration,
        stop: &AtomicBool,
        wanted: impl Fn(Say) -> Option<T>,
    ) -> io::Result<T> {
        let named = |why: &str| io::Error::other(format!("agent {}: {why}", self.name));
        let mut until = Instant::now() + limit;
        let mut told = false;
        self.line.writer.set_read_timeout(Some(LOOK_UP))?;
        let mut heard = Vec::new();
        loop {
            if stop.load(Ordering::Relaxed) && !told {
                told = true;
                until = Instant::now() + SLACK;
                self.line.send(&Ask::Stop)?;
            }
            let reader = &mut self.line.reader;
            match reader.take(LONG - heard.len() as u64).read_until(b'\n', &mut heard) {
                Ok(_) if heard.last() == Some(&b'\n') => {}
                Ok(_) => return Err(named("it has gone, or says too much")),
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
                        && Instant::now() < until =>
                {
                    continue;
                }
                Err(error) => return Err(named(&error.to_string())),
            }
            return match serde_json::from_slice(&heard)? {
                Say::Refused(why) => Err(named(&format!("it refuses: {why}"))),
                say => wanted(say).ok_or_else(|| named("it says something else than was asked")),
            };
        }
    }
}

const CLOCKS: usize = 16;
const LOOK_UP: Duration = Duration::from_millis(50);
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// For all connections of an agent.
const READY_TIME: Duration = Duration::from_secs(300);
/// For the start, once we are ready: others may still open their connections.
const START_TIME: Duration = Duration::from_secs(600);
const RUN_TIME: Duration = Duration::from_secs(24 * 3600);
/// For the grace, and for what an agent has to say in the end.
const SLACK: Duration = Duration::from_secs(60);
/// So that the start has reached everyone before it comes.
const HEAD_START: Duration = Duration::from_millis(500);
/// How long a line may be: questions, and results with all their histograms.
const SHORT: u64 = 64 << 10;
const LONG: u64 = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_the_same_or_not() {
        assert!(is_same("secret", "secret"));
        assert!(!is_same("secret", "secre") && !is_same("secret", "Secret") && !is_same("", ""));
    }
}
