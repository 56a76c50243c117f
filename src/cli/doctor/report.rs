//! What was found, for people: a table by section, a score, each failure with what it means.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};

use super::{
    client::{Direction, Log, shown},
    probe::{Known, Level, Setting},
    probes,
    run::{Outcome, Verdict},
};

/// Colours, where they are wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint(pub(crate) bool);

impl Paint {
    pub(crate) fn red(self, text: &str) -> String {
        self.with("31", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.with("33", text)
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(crate) fn faint(self, text: &str) -> String {
        self.with("2", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// How many of a level were kept, of those that say something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: usize,
    pub(crate) judged: usize,
}

pub(crate) fn count<'a>(outcomes: impl Iterator<Item = &'a Outcome>, level: Level) -> Count {
    outcomes.filter(|outcome| outcome.probe.level == level).fold(Count::default(), |count, outcome| {
        match outcome.verdict {
            Verdict::Passed(_) => Count { passed: count.passed + 1, judged: count.judged + 1 },
            Verdict::Failed(_) => Count { judged: count.judged + 1, ..count },
            _ => count,
        }
    })
}

/// Of 100: a MUST counts three times what a SHOULD does, advice does not count.
pub(crate) fn score(outcomes: &[Outcome]) -> Option<usize> {
    let must = count(outcomes.iter(), Level::Must);
    let should = count(outcomes.iter(), Level::Should);
    let judged = 3 * must.judged + should.judged;
    (judged > 0).then(|| 100 * (3 * must.passed + should.passed) / judged)
}

/// What the server is, in a line.
pub(crate) fn known(setting: &Setting, known: &Known) -> String {
    let yes = |is: bool, yes: &str, no: &str| if is { yes.to_owned() } else { no.to_owned() };
    let mut words = vec![format!("switches to {}", setting.token)];
    if setting.is_websocket() {
        words.push(yes(known.pongs, "answers pings", "does not answer pings"));
        words.push(yes(known.echoes, "messages come back", "messages do not come back"));
        words.push(known.deflate.clone().unwrap_or_else(|| "no permessage-deflate".into()));
    } else if setting.token != "h2c" {
        words.push(yes(known.echoes, "bytes come back", "bytes do not come back"));
    }
    if setting.token != "h2c" {
        words.push(yes(known.h2c, "h2c", "no h2c"));
    }
    words.join("; ")
}

pub(crate) fn table(outcomes: &[Outcome]) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["section", "", "MUST", "SHOULD", "advice", "skipped", "unclear"]);
    for column in 2..7 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for (about, section) in probes::SECTIONS {
        let Some(name) = section.first().map(|probe| probe.section()) else { continue };
        let of: Vec<_> = outcomes.iter().filter(|outcome| outcome.probe.section() == name).collect();
        if of.is_empty() {
            continue;
        }
        let told = |level| match count(of.iter().copied(), level) {
            Count { judged: 0, .. } => String::new(),
            Count { passed, judged } => format!("{passed}/{judged}"),
        };
        let of_kind =
            |kind: fn(&Verdict) -> bool| match of.iter().filter(|outcome| kind(&outcome.verdict)).count() {
                0 => String::new(),
                many => many.to_string(),
            };
        table.add_row([
            name.to_owned(),
            (*about).to_owned(),
            told(Level::Must),
            told(Level::Should),
            told(Level::Advice),
            of_kind(|verdict| matches!(verdict, Verdict::Skipped(_))),
            of_kind(|verdict| matches!(verdict, Verdict::Unclear(_))),
        ]);
    }
    table.to_string()
}

/// The last line.
pub(crate) fn summary(outcomes: &[Outcome], paint: Paint) -> String {
    let parts: Vec<_> = Level::ALL
        .iter()
        .map(|level| {
            let Count { passed, judged } = count(outcomes.iter(), *level);
            let text = format!("{} {passed}/{judged}", level.name());
            if passed == judged {
                paint.green(&text)
            } else if *level == Level::Must {
                paint.red(&text)
            } else {
                paint.yellow(&text)
            }
        })
        .collect();
    let score =
        score(outcomes).map_or_else(|| "no score".to_owned(), |score| format!("score {score} of 100"));
    format!("{} · {}", parts.join(", "), paint.bold(&score))
}

/// What was found about one probe.
pub(crate) fn finding(outcome: &Outcome, paint: Paint, with_bytes: bool) -> String {
    let probe = outcome.probe;
    let head = match outcome.verdict {
        Verdict::Passed(_) => paint.green("✓"),
        Verdict::Failed(_) if probe.level == Level::Must => paint.red("✗"),
        Verdict::Failed(_) => paint.yellow("✗"),
        Verdict::Skipped(_) => paint.faint("–"),
        Verdict::Unclear(_) => paint.yellow("?"),
    };
    let mut text = format!("{head} {}  {}, {}\n", paint.bold(probe.id), probe.level.name(), probe.rule);
    let mut say =
        |name: &str, what: &str| _ = writeln!(text, "    {} {what}", paint.faint(&format!("{name:<6}")));
    say("sends", probe.what);
    say(
        if matches!(outcome.verdict, Verdict::Passed(_) | Verdict::Failed(_)) { "came" } else { "why" },
        outcome.verdict.text(),
    );
    if matches!(outcome.verdict, Verdict::Failed(_)) {
        say("means", probe.means);
        say("cure", probe.cure);
    }
    if with_bytes {
        outcome.logs.iter().for_each(|log| text += &bytes(log, paint));
    }
    text
}

/// What went over a connection, a line for each line.
pub(crate) fn bytes(log: &Log, paint: Paint) -> String {
    let mut text = String::new();
    for (direction, piece) in &log.pieces {
        let mark = match direction {
            Direction::Sent => paint.faint("    >"),
            Direction::Came => paint.faint("    <"),
        };
        for line in piece.split_inclusive(|byte| *byte == b'\n') {
            let _ = writeln!(text, "{mark} {}", shown(line));
        }
    }
    text
}
