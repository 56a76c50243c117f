//! What a run is to do: plain data, checked by the time it exists.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use switchpoint::{
    Driver,
    tls::{ClientSettings, Connector, LoadError, Pem, Trust},
};

use crate::{
    content::Sizes,
    flights::Verify,
    pace::Pace,
    progress::Show,
    schedule::{Arrival, Profile},
    target::Target,
    threshold::Threshold,
};

/// A run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// What is done with the connections.
    pub(crate) kind: Kind,
    /// What is spoken.
    pub(crate) what: What,
    /// Where.
    pub(crate) target: Target,
    /// Connections in all, at least one.
    pub(crate) connections: u32,
    /// Which part of it is this process's.
    pub(crate) part: Part,
    /// How many are opened a second; without it, 64 at a time on each thread.
    pub(crate) connection_rate: Option<f64>,
    /// In their order; at least one.
    pub(crate) phases: Vec<Phase>,
    /// What lies between intended times.
    pub(crate) arrival: Arrival,
    /// How many messages to measure. Invariant: this, or the time of each phase, is there.
    pub(crate) requests: Option<u64>,
    /// How long messages are.
    pub(crate) sizes: Sizes,
    /// Messages in flight on each connection, at least one: in a closed loop always, else at most.
    pub(crate) depth: usize,
    /// Invariant: `1 <= threads <= connections`.
    pub(crate) threads: u32,
    /// The first core of the threads, and how many there are; from the last one downwards where it is not said.
    pub(crate) cores: Option<(usize, usize)>,
    /// For a reply, from the intended time on.
    pub(crate) timeout: Option<Duration>,
    /// For a connection and its handshake.
    pub(crate) connect_timeout: Duration,
    /// How long replies are waited for once nothing is sent any more; without it, by what was seen so far.
    pub(crate) grace: Option<Duration>,
    /// How replies are looked at.
    pub(crate) verify: Verify,
    /// How the time until the next message is spent.
    pub(crate) pace: Pace,
    /// How TLS is spoken, where the target wants it.
    pub(crate) tls: Tls,
    /// More fields for the handshake.
    pub(crate) headers: Vec<(String, String)>,
    /// What waits for the kernel.
    pub(crate) driver: Driver,
    /// Where connections come from; the kernel's choice if there are none.
    pub(crate) sources: Vec<IpAddr>,
    /// Connections that read slowly.
    pub(crate) slow: Option<Slow>,
    /// Which part of all connections says nothing until the end, 0 to 1.
    pub(crate) idle: f64,
    /// Connections that the server ended are opened again.
    pub(crate) reconnects: bool,
    /// Whose CPU time to read.
    pub(crate) server_pid: Option<u32>,
    /// It is that of who listens at the target.
    pub(crate) finds_server: bool,
    /// Where the content and the schedule come from.
    pub(crate) seed: u64,
    /// What has to be so in the end.
    pub(crate) thresholds: Vec<Threshold>,
    /// How many errors and unanswered messages are forgiven.
    pub(crate) errors_max: u64,
    /// How to tell.
    pub(crate) output: Output,
    /// What the run is called in its results.
    pub(crate) labels: Vec<(String, String)>,
}

/// Several processes carry out one plan: this one, of so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) index: u32,
    pub(crate) of: u32,
}

impl Part {
    pub(crate) const WHOLE: Self = Self { index: 0, of: 1 };
}

/// What is done with the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Open them all, then messages.
    Load,
    /// Each of them at its time: open, one message if `says` so, hold, close.
    Storm { hold: Duration, says: bool },
    /// The first so many send; all others hear all of it.
    Fanout { senders: u32 },
}

/// Which scenario; [`scenarios`](crate::scenarios) has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Messages over WebSocket.
    WebSocket(WebSocket),
    /// Bytes over a raw `Upgrade: echo`.
    Echo,
    /// Requests, or WebSockets, on the streams of HTTP/2.
    Http2(Http2),
}

/// How HTTP/2 is spoken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Http2 {
    /// At once (RFC 9113 3.3), and not by `Upgrade: h2c`.
    pub(crate) has_prior_knowledge: bool,
    /// Messages are posted, and have to come back; otherwise the same is asked for again and again.
    pub(crate) posts: bool,
    /// WebSockets on streams (RFC 8441), and no requests.
    pub(crate) websocket: Option<WebSocket>,
    /// On each connection: sessions, or requests at a time.
    pub(crate) streams: usize,
}

/// How WebSocket is spoken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WebSocket {
    pub(crate) is_text: bool,
    pub(crate) subprotocols: Vec<String>,
    pub(crate) deflate: bool,
    /// The longest frame of a message.
    pub(crate) fragment: Option<usize>,
    /// All masking keys are 0, which spares the server the unmasking.
    pub(crate) has_zero_mask: bool,
    /// How often each connection sends a ping.
    pub(crate) ping: Option<Duration>,
}

/// A part of the run with figures of its own.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Phase {
    pub(crate) name: String,
    /// Without it, until the messages are used up.
    pub(crate) time: Option<Duration>,
    /// When messages are due; without it, the closed loop.
    pub(crate) profile: Option<Profile>,
    /// Warm-up is not.
    pub(crate) is_measured: bool,
    /// At its begin all connections are closed and opened again.
    pub(crate) is_storm: bool,
    /// What has to be so of this phase.
    pub(crate) thresholds: Vec<Threshold>,
}

/// How slow, and how many.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Slow {
    /// Of all connections, 0 to 1.
    pub(crate) part: f64,
    /// What each of them reads.
    pub(crate) bytes_a_second: usize,
}

/// How TLS is spoken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    /// Whoever answers is believed.
    pub(crate) is_insecure: bool,
    /// Who says whom to believe; otherwise the authorities of the web.
    pub(crate) authority: Option<PathBuf>,
    /// The name to ask for, if it is not the target's.
    pub(crate) name: Option<String>,
}

/// Who reads the result.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Output {
    /// What goes to the standard output.
    pub(crate) format: Format,
    /// Files to write.
    pub(crate) json: Option<PathBuf>,
    pub(crate) csv: Option<PathBuf>,
    pub(crate) hlog: Option<PathBuf>,
    pub(crate) hgrm: Option<PathBuf>,
    pub(crate) html: Option<PathBuf>,
    /// Only the plan is told.
    pub(crate) is_dry: bool,
    /// Those of the table.
    pub(crate) percentiles: Vec<f64>,
    /// Where it is shown how it goes.
    pub(crate) progress: Show,
}

/// What goes to the standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
    /// A line for each histogram.
    Csv,
    /// The verdict only.
    Quiet,
}

impl Plan {
    /// Whether messages are made of text.
    pub(crate) fn is_text(&self) -> bool {
        self.websocket().is_some_and(|how| how.is_text)
    }

    /// How WebSocket is spoken, if it is.
    pub(crate) fn websocket(&self) -> Option<&WebSocket> {
        match &self.what {
            What::WebSocket(how) => Some(how),
            What::Http2(how) => how.websocket.as_ref(),
            What::Echo => None,
        }
    }

    /// What is offered by ALPN.
    pub(crate) fn alpn(&self) -> &'static str {
        if matches!(self.what, What::Http2(_)) { "h2" } else { "http/1.1" }
    }

    /// What makes connections secure, if the target wants that.
    pub(crate) fn connector(&self) -> Result<Option<Connector>, LoadError> {
        if !self.target.url.is_secure() {
            return Ok(None);
        }
        let trust = match &self.tls {
            Tls { is_insecure: true, .. } => Trust::Anyone,
            Tls { authority: Some(file), .. } => Trust::Authorities(Pem::File(file.clone())),
            _ => Trust::WebPki,
        };
        let settings = ClientSettings {
            trust,
            alpn: vec![self.alpn().to_owned()],
            server_name: self.tls.name.clone(),
            // Each handshake is a whole one: a server has to bear those of clients that come for the first time.
            resumption: false,
            ..ClientSettings::default()
        };
        Connector::new(&settings).map(Some)
    }

    /// Whether messages have intended times.
    pub(crate) fn is_open(&self) -> bool {
        self.phases.iter().any(|phase| phase.profile.is_some())
    }

    /// For how many messages under way a connection has room from the beginning, so that memory is not taken in the midst of
    /// a measurement: in an open loop, for what [two seconds](STALL) without replies leave.
    pub(crate) fn at_once(&self) -> usize {
        if !self.is_open() {
            return self.depth;
        }
        let rates = self.phases.iter().filter_map(|phase| Some(phase.profile.as_ref()?.mean()));
        let each = rates.fold(0.0, f64::max) / f64::from(self.connections.max(1));
        ((each * STALL.as_secs_f64()) as usize).min(self.depth)
    }

    /// Which of [`lanes`](Self::lanes) a thread of ours is.
    pub(crate) fn lane(&self, thread: u32) -> u32 {
        self.part.index * self.threads + thread
    }

    /// The threads of all processes: what is planned goes to them in turn.
    pub(crate) fn lanes(&self) -> u32 {
        self.part.of * self.threads
    }

    /// The connections of one thread, by their numbers.
    pub(crate) fn share(&self, thread: u32) -> std::ops::Range<u32> {
        self.share_of(self.lane(thread), self.lanes())
    }

    fn share_of(&self, lane: u32, lanes: u32) -> std::ops::Range<u32> {
        let begin = |lane: u32| (u64::from(self.connections) * u64::from(lane) / u64::from(lanes)) as u32;
        begin(lane)..begin(lane + 1)
    }

    /// Says no if so many processes would have a thread without a connection that says anything: each has its part of the
    /// rate.
    pub(crate) fn have_all_threads_work(&self, processes: u32) -> Result<(), String> {
        let lanes = processes * self.threads;
        let is_idle = |lane| self.share_of(lane, lanes).all(|one| self.cohort(one) == Cohort::Idle);
        if (0..lanes).any(is_idle) {
            return Err(format!(
                "each of {lanes} threads needs a connection that is not idle: more connections (-c), or fewer threads or idle ones"
            ));
        }
        Ok(())
    }

    /// The messages that one thread may measure.
    pub(crate) fn budget(&self, thread: u32) -> u64 {
        let Some(requests) = self.requests else { return u64::MAX };
        let share = self.share(thread);
        let up_to = |connection: u32| {
            (u128::from(requests) * u128::from(connection) / u128::from(self.connections)) as u64
        };
        up_to(share.end) - up_to(share.start)
    }

    /// Which cohort a connection is in: each is spread over all connections.
    pub(crate) fn cohort(&self, connection: u32) -> Cohort {
        let is_one = |connection: u32, part: f64| {
            let up_to = |connection: u32| (f64::from(connection) * part).floor();
            up_to(connection) < up_to(connection + 1)
        };
        if is_one(connection, self.idle) {
            return Cohort::Idle;
        }
        // Of those that are left; their numbers without the idle ones.
        let at = connection - (f64::from(connection) * self.idle).floor() as u32;
        match self.slow {
            Some(slow) if is_one(at, (slow.part / (1.0 - self.idle)).min(1.0)) => Cohort::Slow,
            _ => Cohort::Active,
        }
    }

    /// How many connections are in a cohort.
    pub(crate) fn count(&self, cohort: Cohort) -> u32 {
        if !self.has(cohort) {
            return 0;
        }
        (0..self.connections).filter(|connection| self.cohort(*connection) == cohort).count() as u32
    }

    /// Whether there may be connections of that kind.
    pub(crate) fn has(&self, cohort: Cohort) -> bool {
        match cohort {
            Cohort::Active => true,
            Cohort::Slow => self.slow.is_some(),
            Cohort::Idle => self.idle > 0.0,
        }
    }

    /// Where the messages are counted that idle connections say in the end.
    pub(crate) fn idle_slot(&self) -> u16 {
        let phase = self.phases.iter().rposition(|phase| phase.is_measured).unwrap_or(0);
        Cohort::Idle.slot(phase)
    }

    /// How many slots a record has: one for each phase and cohort.
    pub(crate) fn slots(&self) -> usize {
        self.phases.len() * COHORTS
    }
}

/// Connections that are alike, and have figures of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cohort {
    /// Reads as fast as it can.
    Active,
    /// Reads slowly.
    Slow,
    /// Says one message, in the end.
    Idle,
}

impl Cohort {
    pub(crate) const ALL: [Self; COHORTS] = [Self::Active, Self::Slow, Self::Idle];
    /// Those whose messages are planned by the phases.
    pub(crate) const BUSY: [Self; 2] = [Self::Active, Self::Slow];

    /// Its slot in a phase.
    #[inline]
    pub(crate) fn slot(self, phase: usize) -> u16 {
        (phase * COHORTS) as u16 + self as u16
    }

    /// That of a slot.
    pub(crate) fn of(slot: usize) -> Self {
        Self::ALL[slot % COHORTS]
    }

    /// What stands before the names of its figures.
    pub(crate) fn name(self) -> Option<&'static str> {
        match self {
            Self::Active => None,
            Self::Slow => Some("slow"),
            Self::Idle => Some("idle"),
        }
    }
}

/// How many slots a phase has.
pub(crate) const COHORTS: usize = 3;

/// How long a stall may be that needs no memory.
const STALL: Duration = Duration::from_secs(2);

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A plan for tests.
    pub(crate) fn plan(what: What, size: usize) -> Plan {
        Plan {
            kind: Kind::Load,
            what,
            target: "ws://example.org/echo".parse().unwrap(),
            connections: 7,
            part: Part::WHOLE,
            connection_rate: None,
            phases: vec![Phase {
                name: "run".into(),
                time: None,
                profile: None,
                is_measured: true,
                is_storm: false,
                thresholds: Vec::new(),
            }],
            arrival: Arrival::Fixed,
            requests: Some(100),
            sizes: Sizes::Fixed(size),
            depth: 1,
            threads: 3,
            cores: None,
            timeout: None,
            connect_timeout: Duration::from_secs(1),
            grace: None,
            verify: Verify::Full,
            pace: Pace::Auto,
            tls: Tls::default(),
            headers: Vec::new(),
            driver: Driver::Auto,
            sources: Vec::new(),
            slow: None,
            idle: 0.0,
            reconnects: false,
            server_pid: None,
            finds_server: false,
            seed: 7,
            thresholds: Vec::new(),
            errors_max: 0,
            output: Output { percentiles: vec![50.0, 90.0, 99.0, 99.9, 99.99], ..Output::default() },
            labels: Vec::new(),
        }
    }

    #[test]
    fn threads_share_everything_and_nothing_twice() {
        for (connections, threads, requests) in
            [(1, 1, 1), (7, 3, 100), (u32::MAX, 1024, u64::MAX), (5, 5, 2)]
        {
            let plan = Plan { connections, threads, requests: Some(requests), ..plan(What::Echo, 1) };
            let shares: Vec<_> = (0..threads).map(|thread| plan.share(thread)).collect();
            assert_eq!((shares[0].start, shares[threads as usize - 1].end), (0, connections));
            assert!(shares.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(shares.iter().all(|share| !share.is_empty()));
            assert_eq!((0..threads).map(|thread| plan.budget(thread)).sum::<u64>(), requests);
        }
    }

    #[test]
    fn processes_share_as_threads_do() {
        let part =
            |index| Plan { connections: 11, threads: 2, part: Part { index, of: 3 }, ..plan(What::Echo, 1) };
        let shares: Vec<_> =
            (0..3).flat_map(|index| [0, 1].map(|thread| part(index).share(thread))).collect();
        assert_eq!(shares, [0..1, 1..3, 3..5, 5..7, 7..9, 9..11]);
        assert_eq!((part(2).lane(1), part(2).lanes()), (5, 6));
    }

    #[test]
    fn slow_connections_are_spread_over_all() {
        let slow = Some(Slow { part: 0.05, bytes_a_second: 1000 });
        let plan = Plan { slow, ..plan(What::Echo, 1) };
        let count = |plan: &Plan, of: std::ops::Range<u32>, cohort| {
            of.filter(|connection| plan.cohort(*connection) == cohort).count()
        };
        assert_eq!(count(&plan, 0..1000, Cohort::Slow), 50);
        assert_eq!(count(&plan, 0..100, Cohort::Slow), 5);
        // Both at once are parts of the whole, and nobody is in both.
        let both = Plan { idle: 0.5, ..plan };
        assert_eq!(Cohort::ALL.map(|cohort| count(&both, 0..1000, cohort)), [450, 50, 500]);
    }
}
