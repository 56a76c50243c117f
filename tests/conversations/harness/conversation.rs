//! One conversation, many ways: the same words, however they are cut, delayed or broken off.

use std::{env, ops::RangeInclusive};

use switchpoint::{Config, Registry, duplex::Faults};

use super::{Answer, Client, Failure, Site, Transport, config, on, settle};

/// What is said and what is heard, one after the other.
pub(crate) struct Conversation {
    config: Config,
    registry: fn() -> Registry,
    steps: Vec<Step>,
    keeps_early_bytes: bool,
}

enum Step {
    Say(Vec<u8>),
    Hear(Vec<u8>),
    Answer { status: u16, is_to_head: bool, check: Box<dyn Fn(&Answer)> },
    Finish,
    End,
}

impl Conversation {
    pub(crate) fn with(registry: fn() -> Registry) -> Self {
        Self { config: config(), registry, steps: Vec::new(), keeps_early_bytes: false }
    }

    pub(crate) fn say(self, bytes: impl AsRef<[u8]>) -> Self {
        self.step(Step::Say(bytes.as_ref().to_vec()))
    }

    pub(crate) fn hear(self, bytes: impl AsRef<[u8]>) -> Self {
        self.step(Step::Hear(bytes.as_ref().to_vec()))
    }

    pub(crate) fn answer(self, status: u16, check: impl Fn(&Answer) + 'static) -> Self {
        self.step(Step::Answer { status, is_to_head: false, check: Box::new(check) })
    }

    pub(crate) fn answer_to_head(self, status: u16, check: impl Fn(&Answer) + 'static) -> Self {
        self.step(Step::Answer { status, is_to_head: true, check: Box::new(check) })
    }

    /// The client says that nothing more will come.
    pub(crate) fn finish(self) -> Self {
        self.step(Step::Finish)
    }

    /// The server's side ends.
    pub(crate) fn end(self) -> Self {
        self.step(Step::End)
    }

    /// Everything may be said at once, before anything was heard.
    pub(crate) fn keeps_early_bytes(mut self) -> Self {
        self.keeps_early_bytes = true;
        self
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    pub(crate) fn many_ways(&self) {
        if let Ok(seed) = env::var("SWITCHPOINT_SEED") {
            return self.with_faults(seed.parse().expect("SWITCHPOINT_SEED is a number"));
        }
        for transport in [Transport::Memory, Transport::Tcp] {
            on(transport, self.config.clone(), (self.registry)(), async |site: &Site| {
                self.cut(site).await;
                self.at_once(site).await;
                self.broken_off(site).await;
            });
        }
        for seed in SEEDS {
            self.with_faults(seed);
        }
    }

    /// Whole, in two parts for each place to cut, and byte by byte.
    async fn cut(&self, site: &Site) {
        self.must_go_well(site.connect(), &[], "whole").await;
        for cut in self.places(site) {
            self.must_go_well(site.connect(), &[cut], &format!("cut at {cut}")).await;
        }
        if let Transport::Memory = site.transport {
            let everywhere: Vec<usize> = (1..self.length()).collect();
            self.must_go_well(site.connect(), &everywhere, "byte by byte").await;
        }
    }

    /// With all that is said later right behind the first words.
    async fn at_once(&self, site: &Site) {
        if !self.keeps_early_bytes {
            return;
        }
        let mut client = site.connect();
        let said: Vec<u8> = self.said().flatten().copied().collect();
        client.send(said).await;
        for step in &self.steps {
            match step {
                Step::Say(_) => {}
                step => self.take(step, &mut client).await.unwrap_or_else(|e| panic!("all at once: {e}")),
            }
        }
    }

    /// Reset by the client after each byte.
    async fn broken_off(&self, site: &Site) {
        for place in self.places(site) {
            let mut client = site.connect();
            self.go(&mut client, &[], Some(place)).await.unwrap_or_else(|e| panic!("until {place}: {e}"));
            client.reset();
        }
        site.is_left_alone().await;
    }

    /// With short reads, short writes and delays; and the same with resets, which may end it but not change it.
    fn with_faults(&self, seed: u64) {
        let faults = Faults { partial_read: 0.6, partial_write: 0.6, delay: 0.02, reset: 0.0 };
        on(Transport::Faulty(faults, seed), self.config.clone(), (self.registry)(), async |site: &Site| {
            self.must_go_well(site.connect(), &[], &format!("SWITCHPOINT_SEED={seed}")).await;
            for round in 0..RESETS {
                let faults = Faults { reset: 0.03 * (1.0 + f64::from(round)), ..faults };
                let mut client = site.connect_over(Transport::Faulty(faults, seed));
                if let Err(Failure::Wrong(what)) = self.go(&mut client, &[], None).await {
                    panic!("SWITCHPOINT_SEED={seed}, with resets: {what}");
                }
            }
        });
    }

    async fn must_go_well(&self, mut client: Client, cuts: &[usize], how: &str) {
        self.go(&mut client, cuts, None).await.unwrap_or_else(|failure| panic!("{how}: {failure}"));
    }

    /// Goes through the steps; with a pause at each of the `cuts`, and no further than `until` bytes were said.
    async fn go(&self, client: &mut Client, cuts: &[usize], until: Option<usize>) -> Result<(), Failure> {
        let mut said = 0;
        for step in &self.steps {
            let Step::Say(bytes) = step else {
                self.take(step, client).await?;
                continue;
            };
            let end = said + bytes.len();
            let last = until.map_or(end, |until| until.min(end));
            let mut from = said;
            for &cut in cuts.iter().filter(|cut| (said + 1..last).contains(cut)) {
                client.try_send(&bytes[from - said..cut - said]).await?;
                from = cut;
                settle(if cuts.len() > 1 { Transport::Memory } else { client.transport() }).await;
            }
            client.try_send(&bytes[from - said..last - said]).await?;
            said = end;
            if until.is_some_and(|until| until <= end) {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn take(&self, step: &Step, client: &mut Client) -> Result<(), Failure> {
        match step {
            Step::Say(bytes) => client.try_send(bytes).await,
            Step::Hear(bytes) => client.try_expect(bytes).await,
            Step::Answer { status, is_to_head, check } => {
                let answer = client.try_answer(*is_to_head).await?;
                if answer.status != *status {
                    return Err(Failure::Wrong(format!("{status} was expected: {answer:?}")));
                }
                check(&answer);
                Ok(())
            }
            Step::Finish => {
                client.finish();
                Ok(())
            }
            Step::End => client.try_end().await,
        }
    }

    fn said(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.steps.iter().filter_map(|step| match step {
            Step::Say(bytes) => Some(bytes),
            _ => None,
        })
    }

    fn length(&self) -> usize {
        self.said().map(Vec::len).sum()
    }

    /// Where to cut: everywhere in memory; over TCP, where each cut costs a pause, in a few places. What is very long
    /// is cut at its ends.
    fn places(&self, site: &Site) -> Vec<usize> {
        let length = self.length();
        let step = if let Transport::Tcp = site.transport { length / TCP_CUTS + 1 } else { 1 };
        (1..length).step_by(step).filter(|place| *place <= CUTS_MAX || place + 50 > length).collect()
    }
}

const SEEDS: RangeInclusive<u64> = 1..=24;
const RESETS: u32 = 3;
const TCP_CUTS: usize = 12;
const CUTS_MAX: usize = 1500;
