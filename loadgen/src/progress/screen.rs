//! The whole terminal: what happens now, what has happened so far, and what would be said of it.
//!
//! `q` ends the run with its summary, as Ctrl-C does; a second one ends it without.

use std::{
    io::{self, Stderr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ratatui::{
    Frame, Terminal,
    backend::CrosstermBackend,
    crossterm::{
        event::{self, Event, KeyCode, KeyModifiers},
        execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
    layout::{Constraint, Layout, Rect},
    style::{Color, Style},
    text::Line,
    widgets::{Block, Gauge, Paragraph, Sparkline},
};

use super::SoFar;
use crate::{
    record::{Interval, Times, percentile},
    units::{Nanos, grouped, short},
};

pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stderr>>,
    stop: Arc<AtomicBool>,
    has_colours: bool,
}

impl Screen {
    pub(super) fn open(stop: Arc<AtomicBool>) -> io::Result<Self> {
        enable_raw_mode()?;
        let opened = execute!(io::stderr(), EnterAlternateScreen)
            .and_then(|()| Terminal::new(CrosstermBackend::new(io::stderr())));
        let has_colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        match opened {
            Ok(terminal) => Ok(Self { terminal, stop, has_colours }),
            Err(error) => {
                restore();
                Err(error)
            }
        }
    }

    pub(super) fn show(&mut self, so_far: &SoFar) {
        let has_colours = self.has_colours;
        // A terminal that has gone takes nothing; the run does not hang on it.
        let _ = self.terminal.draw(|frame| draw(frame, so_far, has_colours));
        self.listen();
    }

    /// Takes the keys that were pressed.
    pub(super) fn listen(&mut self) {
        while event::poll(Duration::ZERO).unwrap_or(false) {
            let Ok(Event::Key(key)) = event::read() else { continue };
            let is_interrupt =
                key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            if !(is_interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)) {
                continue;
            }
            if self.stop.swap(true, Ordering::Relaxed) {
                restore();
                std::process::exit(i32::from(crate::verdict::INTERRUPTED));
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// The terminal as it was; what cannot be done now cannot be mended either.
fn restore() {
    let _ = execute!(io::stderr(), LeaveAlternateScreen);
    let _ = disable_raw_mode();
}

fn draw(frame: &mut Frame<'_>, so_far: &SoFar, has_colours: bool) {
    let colour = |colour: Color| if has_colours { Style::new().fg(colour) } else { Style::new() };
    let lines = so_far.heading.lines().count() as u16;
    let [heading, gauge, figures, charts, verdict] = Layout::vertical([
        Constraint::Length(lines),
        Constraint::Length(1),
        Constraint::Length(7),
        Constraint::Min(4),
        Constraint::Length(2),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(&*so_far.heading), heading);
    frame.render_widget(progress(so_far, colour(Color::Blue)), gauge);

    let [now, all] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(figures);
    frame.render_widget(figures_of("last second", &so_far.last, &so_far.last.latency), now);
    frame.render_widget(figures_of("measured so far", &so_far.sum, &so_far.latency), all);

    let [rates, tails, shape] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1), Constraint::Fill(1)]).areas(charts);
    spark(
        frame,
        rates,
        "answered/s",
        so_far.seconds.iter().map(|(rate, _)| *rate),
        colour(Color::Green),
        &grouped,
    );
    spark(frame, tails, "p99", so_far.seconds.iter().map(|(_, tail)| *tail), colour(Color::Yellow), &short);
    frame.render_widget(
        bars(&so_far.latency, shape).block(Block::bordered().title("latency, log scale")),
        shape,
    );

    let said = so_far.verdict();
    let style = if said.starts_with("VALID") { colour(Color::Green) } else { colour(Color::Red) };
    let said = vec![Line::styled(format!(" {said}"), style), Line::from(" q ends the run with its summary")];
    frame.render_widget(Paragraph::new(said), verdict);
}

fn progress(so_far: &SoFar, style: Style) -> Gauge<'static> {
    let at = so_far.elapsed() as f64;
    let (part, label) = match so_far.total {
        Some(total) => {
            let total = total.as_secs_f64();
            ((at / total).min(1.0), format!("{}  {at} of {} s", so_far.phase(), total.ceil()))
        }
        None => (0.0, format!("{}  {at} s", so_far.phase())),
    };
    Gauge::default().ratio(part).label(label).gauge_style(style)
}

fn figures_of(title: &'static str, interval: &Interval, latency: &Times) -> Paragraph<'static> {
    let time = |percent| percentile(latency, percent).map_or_else(|| "\u{2013}".to_owned(), short);
    let most = if latency.is_empty() { "\u{2013}".to_owned() } else { short(latency.max()) };
    let offered = match interval.planned {
        0 => String::new(),
        planned => format!("  ({:.1} % of planned)", interval.sent as f64 / planned as f64 * 100.0),
    };
    let lines = vec![
        Line::from(format!(
            " planned {}  sent {}{offered}",
            grouped(interval.planned),
            grouped(interval.sent)
        )),
        Line::from(format!(" answered {}  errors {}", grouped(interval.answered), grouped(interval.errors))),
        Line::from(format!(" p50 {}  p90 {}", time(50.0), time(90.0))),
        Line::from(format!(" p99 {}  p99.9 {}", time(99.0), time(99.9))),
        Line::from(format!(" max {most}  our lateness at most {}", short(interval.lag_max))),
    ];
    Paragraph::new(lines).block(Block::bordered().title(title))
}

fn spark(
    frame: &mut Frame<'_>,
    area: Rect,
    title: &str,
    values: impl Iterator<Item = u64>,
    style: Style,
    text: &dyn Fn(u64) -> String,
) {
    let values: Vec<u64> = values.collect();
    // The latest that there is room for.
    let from = values.len().saturating_sub(usize::from(area.width.saturating_sub(2)));
    let most = values.iter().copied().max().unwrap_or(0);
    let title = format!("{title}, up to {}", text(most));
    frame.render_widget(
        Sparkline::default().data(&values[from..]).style(style).block(Block::bordered().title(title)),
        area,
    );
}

/// As many rows as there is room for, each twice as long as the one before.
fn bars(latency: &Times, area: Rect) -> Paragraph<'static> {
    let room = usize::from(area.width.saturating_sub(14)).max(1);
    let mut bins: Vec<(Nanos, u64)> = Vec::new();
    if !latency.is_empty() {
        for value in latency.iter_log(latency.min().max(1_000), 2.0) {
            bins.push((value.value_iterated_to(), value.count_since_last_iteration()));
        }
    }
    let most = bins.iter().map(|(_, count)| *count).max().unwrap_or(1).max(1);
    let rows = usize::from(area.height.saturating_sub(2));
    let line = |(upper, count): &(Nanos, u64)| {
        let width = ((*count as f64).ln_1p() / (most as f64).ln_1p() * room as f64).ceil() as usize;
        Line::from(format!("{:>11} {}", format!("\u{2264} {}", short(*upper)), "#".repeat(width)))
    };
    // The tail is what matters where there is not room for all.
    Paragraph::new(bins.iter().skip(bins.len().saturating_sub(rows)).map(line).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use ratatui::backend::TestBackend;

    use super::*;

    fn drawn(width: u16, height: u16, has_colours: bool) -> (String, bool) {
        let so_far = super::super::tests::so_far();
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, &so_far, has_colours)).unwrap();
        let buffer = terminal.backend().buffer();
        let is_coloured =
            buffer.content().iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
        let text = buffer.content().iter().map(|cell| cell.symbol()).collect();
        (text, is_coloured)
    }

    #[test]
    fn the_screen_has_what_one_wants_to_know() {
        let (text, is_coloured) = drawn(110, 30, true);
        for part in [
            "ws://example.org/echo",
            "run  5 of 10 s",
            "planned 2 004  sent 2 004  (100.0 % of planned)",
            "answered 10 010  errors 0",
            "p99 1.99 ms",
            "answered/s, up to 2 004",
            "latency, log scale",
            "VALID so far",
            "q ends the run",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(is_coloured);
        assert!(!drawn(110, 30, false).1, "NO_COLOR");
        // However small it is.
        for (width, height) in [(1, 1), (20, 5), (80, 24)] {
            drawn(width, height, true);
        }
    }
}
