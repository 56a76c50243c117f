//! One file that a browser opens without a network: curves, a heat map, what was offered and answered.

use std::fmt::Write as _;

use super::{Report, heading};
use crate::{
    plan::{Cohort, Phase},
    record::{Second, Times, percentile},
    units::{Nanos, grouped, short},
};

impl Report {
    pub(super) fn html(&self) -> String {
        let mut body = String::new();
        let _ = write!(
            body,
            "<h1>loadgen</h1><p class=verdict-{}>{}</p><pre>{}</pre><pre>{}</pre>",
            self.verdict.grade.name().to_lowercase(),
            escaped(&self.verdict.to_string()),
            escaped(&heading(&self.plan)),
            escaped(self.text().trim_start_matches('\n').split_once('\n').map_or("", |(_, rest)| rest)),
        );
        self.phases_table(&mut body);
        let many = |wanted: &dyn Fn(&str) -> bool| -> Vec<(String, &Times)> {
            let all = self.histograms().into_iter();
            all.filter(|(name, times)| times.len() >= 100 && wanted(name)).collect()
        };
        let is_message = |name: &str| {
            name == "last-receiver"
                || ["response", "service", "send-lag"].contains(&name.rsplit('/').next().unwrap_or(""))
        };
        let is_measured = |name: &str| {
            let phase = |phase: &Phase| name.split('/').next() == Some(&*phase.name);
            self.plan.phases.iter().find(|one| phase(one)).is_none_or(|phase| phase.is_measured)
        };
        let is_lag = |name: &str| name.ends_with("send-lag");
        section(
            &mut body,
            "Percentiles",
            "Time by percentile; the scale is 1/(1 \u{2212} percentile). Click on a name to hide its curve.",
            &percentiles(&many(&|name| is_message(name) && is_measured(name) && !is_lag(name))),
        );
        section(
            &mut body,
            "Connections",
            "The steps by which connections came about, and their end.",
            &percentiles(&many(&|name| !is_message(name))),
        );
        section(
            &mut body,
            "Send-lag",
            "The generator's own lateness.",
            &percentiles(&many(&|name| is_lag(name) && is_measured(name))),
        );
        // The last one may have been cut short before anything happened.
        let is_used = |second: &&Second| second.planned + second.answered + second.errors > 0;
        let last = self.finished.seconds.iter().rposition(|second| is_used(&second));
        let seconds = &self.finished.seconds[..last.map_or(0, |last| last + 1)];
        if seconds.len() > 1 {
            let marks = self.marks();
            section(
                &mut body,
                "Heat map",
                "Each column is a second, each row a range of latency; darker is more.",
                &heat(seconds, &marks),
            );
            let line = |name: &'static str, value: &dyn Fn(&Second) -> f64| {
                (name, seconds.iter().map(|second| (second.second as f64, value(second))).collect::<Vec<_>>())
            };
            let mut behind = 0.0;
            let backlog = seconds.iter().map(|second| {
                behind += second.planned as f64 - second.answered as f64 - second.errors as f64;
                (second.second as f64, behind.max(0.0))
            });
            let lines = [
                line("offered", &|second| second.planned as f64),
                line("sent", &|second| second.sent as f64),
                line("answered", &|second| second.answered as f64),
                ("backlog", backlog.collect()),
            ];
            section(
                &mut body,
                "Offered and answered",
                "Messages in each second.",
                &over_time(&lines, &marks, &|value| grouped(value as u64)),
            );
            let mut lines = [("p50", Vec::new()), ("p99", Vec::new()), ("max", Vec::new())];
            for second in seconds {
                let latency = second.latency.times();
                for ((_, line), percent) in lines.iter_mut().zip([50.0, 99.0, 100.0]) {
                    line.push((second.second as f64, latency.value_at_percentile(percent) as f64));
                }
            }
            section(
                &mut body,
                "Latency over time",
                "Of each second.",
                &over_time(&lines, &marks, &|value| short(value as Nanos)),
            );
        }
        let environment: String = crate::run::environment()
            .into_iter()
            .map(|(name, value)| format!("<tr><td>{name}<td>{}", escaped(&value)))
            .collect();
        let json = format!("{:#}", self.json());
        let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, json);
        let log = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, self.hlog());
        let _ = write!(
            body,
            "<h2>Machine</h2><table>{environment}</table><p><a download=loadgen.json href=\"data:application/json;base64,{data}\">JSON</a> \
             <a download=loadgen.hlog href=\"data:text/plain;base64,{log}\">hlog</a></p>"
        );
        format!(
            "<!doctype html><html lang=en><meta charset=utf-8><title>loadgen: {}</title><style>{STYLE}</style>{body}<script>{SCRIPT}</script></html>\n",
            escaped(&self.plan.target.to_string())
        )
    }
}

/// Where a phase begins, in seconds, and its name.
type Mark<'a> = (f64, &'a str);

impl Report {
    /// The phases, where there are several.
    fn marks(&self) -> Vec<Mark<'_>> {
        let mut from = 0.0;
        let mark = |phase: &'_ Phase| {
            let begin = from;
            from += phase.time.map_or(0.0, |time| time.as_secs_f64());
            begin
        };
        let begins: Vec<f64> = self.plan.phases.iter().map(mark).collect();
        let names = self.plan.phases.iter().map(|phase| &*phase.name);
        if begins.len() < 2 { Vec::new() } else { begins.into_iter().zip(names).collect() }
    }

    /// A row for each phase, with its own verdict.
    fn phases_table(&self, body: &mut String) {
        if self.verdict.phases.is_empty() {
            return;
        }
        body.push_str("<h2>Phases</h2><table><tr><th>phase<th>verdict<th>time<th>planned<th>answered<th>errors<th>unanswered<th>p50<th>p99<th>why");
        for verdict in &self.verdict.phases {
            let phase = &self.plan.phases[verdict.index];
            let ledger = self.ledger_of(verdict.index);
            let slot = &self.finished.record.slots[usize::from(Cohort::Active.slot(verdict.index))];
            let times = if slot.response.is_empty() { &slot.service } else { &slot.response };
            let time = |percent| percentile(times, percent).map_or_else(|| "\u{2013}".to_owned(), short);
            let missed = verdict.thresholds.iter().filter(|outcome| !outcome.is_met);
            let missed: Vec<String> =
                missed.map(|outcome| format!("{}: {}", outcome.text, outcome.value)).collect();
            let name = verdict.grade.name();
            let _ = write!(
                body,
                "<tr><td>{}<td class=verdict-{}>{name}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}",
                escaped(&phase.name),
                name.to_lowercase(),
                phase.time.map_or_else(String::new, |time| humantime::format_duration(time).to_string()),
                grouped(ledger.planned),
                grouped(ledger.answered),
                grouped(ledger.errors()),
                grouped(ledger.unanswered),
                time(50.0),
                time(99.0),
                escaped(&[verdict.reasons.clone(), missed].concat().join(", ")),
            );
        }
        body.push_str("</table>");
    }
}

fn section(body: &mut String, title: &str, text: &str, picture: &str) {
    if !picture.is_empty() {
        let _ = write!(body, "<h2>{title}</h2><p>{text}</p><figure>{picture}</figure>");
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 320.0;
/// Left, and below.
const MARGIN: (f64, f64) = (70.0, 30.0);

struct Picture(String);

impl Picture {
    fn new() -> Self {
        Self(format!(
            "<svg viewBox=\"0 0 {} {}\" role=img>",
            WIDTH + MARGIN.0 + 10.0,
            HEIGHT + MARGIN.1 + 10.0
        ))
    }

    fn tick_x(&mut self, part: f64, text: &str) {
        let x = MARGIN.0 + part * WIDTH;
        let _ = write!(
            self.0,
            "<path class=grid d=\"M{x:.1} 5V{}\"/><text x={x:.1} y={} text-anchor=middle>{text}</text>",
            HEIGHT + 5.0,
            HEIGHT + 22.0
        );
    }

    fn tick_y(&mut self, part: f64, text: &str) {
        let y = 5.0 + (1.0 - part) * HEIGHT;
        let _ = write!(
            self.0,
            "<path class=grid d=\"M{} {y:.1}H{}\"/><text x={} y={:.1} text-anchor=end>{text}</text>",
            MARGIN.0,
            MARGIN.0 + WIDTH,
            MARGIN.0 - 5.0,
            y + 4.0
        );
    }

    /// Where a phase begins.
    fn mark(&mut self, part: f64, name: &str) {
        let x = MARGIN.0 + part.min(1.0) * WIDTH;
        let _ = write!(
            self.0,
            "<path class=mark d=\"M{x:.1} 5V{}\"/><text class=name x={:.1} y=16>{}</text>",
            HEIGHT + 5.0,
            x + 4.0,
            escaped(name)
        );
    }

    fn line(&mut self, index: usize, points: &[(f64, f64)]) {
        let mut path = String::new();
        for (at, (x, y)) in points.iter().enumerate() {
            let _ = write!(
                path,
                "{}{:.1} {:.1}",
                if at == 0 { 'M' } else { 'L' },
                MARGIN.0 + x * WIDTH,
                5.0 + (1.0 - y) * HEIGHT
            );
        }
        let _ = write!(self.0, "<path class=\"line {}\" data-line={index} d=\"{path}\"/>", look('c', index));
    }

    fn finish(self, names: &[&str]) -> String {
        let mut legend = String::new();
        for (index, name) in names.iter().enumerate() {
            let _ = write!(
                legend,
                "<button class=\"{}\" data-line={index}>{}</button>",
                look('k', index),
                escaped(name)
            );
        }
        format!("{}</svg><figcaption>{legend}</figcaption>", self.0)
    }
}

/// The classes of a curve, or of its name: six colours, then the same with dashes, then with dots.
fn look(kind: char, index: usize) -> String {
    format!("{kind}{} d{}", index % 6, index / 6 % 3)
}

/// Where a time stands between the shortest and the longest, on a logarithmic scale.
fn scale(low: Nanos, high: Nanos) -> impl Fn(f64) -> f64 {
    let (low, high) = ((low.max(1) as f64).ln(), (high.max(2) as f64).ln());
    move |value| ((value.max(1.0).ln() - low) / (high - low).max(1e-9)).clamp(0.0, 1.0)
}

fn ticks_of_time(picture: &mut Picture, low: Nanos, high: Nanos) {
    let place = scale(low, high);
    let mut decade = 1_u64;
    while decade <= high {
        for step in [1, 2, 5] {
            let value = decade * step;
            if value >= low && value <= high && (step == 1 || high / low.max(1) < 1000) {
                picture.tick_y(place(value as f64), &short(value));
            }
        }
        decade *= 10;
    }
}

fn percentiles(curves: &[(String, &Times)]) -> String {
    if curves.is_empty() {
        return String::new();
    }
    let low = curves.iter().map(|(_, times)| times.min()).min().unwrap_or(1).max(1);
    let high = curves.iter().map(|(_, times)| times.max()).max().unwrap_or(2);
    let most = curves.iter().map(|(_, times)| times.len()).max().unwrap_or(1);
    let nines = (most as f64).log10().clamp(1.0, 7.0);
    let mut picture = Picture::new();
    ticks_of_time(&mut picture, low, high);
    for (nines_here, text) in [
        (0.0, "0"),
        (0.301, "50"),
        (1.0, "90"),
        (2.0, "99"),
        (3.0, "99.9"),
        (4.0, "99.99"),
        (5.0, "99.999"),
        (6.0, "99.9999"),
    ] {
        if nines_here <= nines {
            picture.tick_x(nines_here / nines, &format!("{text} %"));
        }
    }
    let place = scale(low, high);
    for (index, (_, times)) in curves.iter().enumerate() {
        // No further than the samples go.
        let last = (times.len() as f64).log10().min(nines);
        let points: Vec<(f64, f64)> = (0..=200)
            .map(|step| {
                let here = last * f64::from(step) / 200.0;
                let value = times.value_at_quantile(1.0 - 10_f64.powf(-here));
                (here / nines, place(value as f64))
            })
            .collect();
        picture.line(index, &points);
    }
    picture.finish(&curves.iter().map(|(name, _)| &**name).collect::<Vec<_>>())
}

type Line = (&'static str, Vec<(f64, f64)>);

fn over_time(lines: &[Line], marks: &[Mark<'_>], text: &dyn Fn(f64) -> String) -> String {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let right = points().map(|(x, _)| *x).fold(1.0, f64::max);
    let top = points().map(|(_, y)| *y).fold(1.0, f64::max) * 1.05;
    let mut picture = Picture::new();
    for step in 0..=4 {
        let part = f64::from(step) / 4.0;
        picture.tick_y(part, &text(top * part));
    }
    ticks_of_seconds(&mut picture, right);
    marks.iter().for_each(|(at, name)| picture.mark(at / right, name));
    for (index, (_, points)) in lines.iter().enumerate() {
        let points: Vec<_> = points.iter().map(|(x, y)| (x / right, y / top)).collect();
        picture.line(index, &points);
    }
    picture.finish(&lines.iter().map(|(name, _)| *name).collect::<Vec<_>>())
}

/// Whole seconds, at most ten of them.
fn ticks_of_seconds(picture: &mut Picture, right: f64) {
    let steps = [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];
    let step = steps.into_iter().find(|step| right / step <= 10.0).unwrap_or(right / 10.0);
    let mut at = 0.0;
    while at <= right {
        picture.tick_x(at / right, &format!("{at:.0} s"));
        at += step;
    }
}

fn heat(seconds: &[Second], marks: &[Mark<'_>]) -> String {
    let all = seconds.iter().map(|second| second.latency.times()).filter(|latency| !latency.is_empty());
    let bounds = all.map(|latency| (latency.min().max(1), latency.max()));
    let Some((low, high)) = bounds.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))) else {
        return String::new();
    };
    let place = scale(low, high);
    let mut picture = Picture::new();
    let width = WIDTH / seconds.len() as f64;
    for (at, second) in seconds.iter().enumerate() {
        let mut cells = [0_u64; ROWS];
        let latency = second.latency.times();
        for value in latency.iter_recorded() {
            let row = (place(value.value_iterated_to() as f64) * (ROWS - 1) as f64) as usize;
            cells[row] += value.count_at_value();
        }
        let most = latency.len().max(1) as f64;
        for (row, count) in cells.iter().enumerate().filter(|(_, count)| **count > 0) {
            // One in a million is still to be seen.
            let shade = 0.15 + 0.85 * (*count as f64).ln_1p() / most.ln_1p();
            let height = HEIGHT / ROWS as f64;
            let (x, y) = (MARGIN.0 + at as f64 * width, 5.0 + HEIGHT - (row + 1) as f64 * height);
            let _ = write!(
                picture.0,
                "<rect class=heat x={x:.1} y={y:.1} width={width:.2} height={height:.2} opacity={shade:.2}><title>{}: {}</title></rect>",
                second.second,
                grouped(*count)
            );
        }
    }
    ticks_of_time(&mut picture, low, high);
    let right = seconds.len() as f64;
    ticks_of_seconds(&mut picture, right);
    marks.iter().for_each(|(at, name)| picture.mark(at / right, name));
    picture.finish(&[])
}

const ROWS: usize = 40;

const STYLE: &str = ":root{color-scheme:light dark;--f:#222;--b:#fff;--g:#ddd;--h:#a30}\
@media(prefers-color-scheme:dark){:root{--f:#ddd;--b:#161616;--g:#333;--h:#f96}}\
body{font:15px/1.45 system-ui,sans-serif;color:var(--f);background:var(--b);max-width:960px;margin:2em auto;padding:0 1em}\
pre{overflow:auto;font-size:12px}table{display:block;overflow-x:auto}figure{margin:0}svg{width:100%;height:auto}text{font-size:11px;fill:var(--f)}\
.grid{stroke:var(--g);fill:none}.line{fill:none;stroke-width:1.8}.heat{fill:var(--h)}\
.c0{stroke:#1f77b4}.c1{stroke:#ff7f0e}.c2{stroke:#2ca02c}.c3{stroke:#d62728}.c4{stroke:#9467bd}.c5{stroke:#8c8c8c}\
button{border:0;border-left:12px solid;background:none;color:var(--f);margin-right:1em;cursor:pointer;font:inherit}\
.k0{border-color:#1f77b4}.k1{border-color:#ff7f0e}.k2{border-color:#2ca02c}.k3{border-color:#d62728}.k4{border-color:#9467bd}.k5{border-color:#8c8c8c}\
.d1{stroke-dasharray:7 3;border-left-style:dashed}.d2{stroke-dasharray:2 3;border-left-style:dotted}\
.off{opacity:.25}.verdict-valid{font-weight:bold;color:#2a7}.verdict-degraded{font-weight:bold;color:#b80}\
.verdict-failed,.verdict-invalid{font-weight:bold;color:#d33}td,th{padding-right:1.5em;text-align:left;vertical-align:top;white-space:nowrap}td:last-child{white-space:normal;min-width:16em}\
.mark{stroke:var(--f);stroke-dasharray:2 4;opacity:.5}.name{opacity:.7}\
@media print{body{max-width:none}button{break-inside:avoid}}";

const SCRIPT: &str = "document.querySelectorAll('button').forEach(b=>b.onclick=()=>{b.classList.toggle('off');\
const l=b.closest('figure').querySelector(`path[data-line=\"${b.dataset.line}\"]`);\
l.style.display=b.classList.contains('off')?'none':''})";

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        plan::{What, tests::plan},
        report::tests::{finished, second},
    };

    #[test]
    fn the_page_is_one_file_and_needs_no_network() {
        let plan = plan(What::Echo, 1);
        let mut finished = finished(&plan);
        finished.seconds = (0..5).map(|at| second(at, 1000)).collect();
        finished.record.slots[0].service.record_n(5_000, 5000).unwrap();
        let html = Report::new(Arc::new(plan), finished).html();
        assert!(!html.contains("http://") && !html.contains("https://") && !html.contains("src="));
        for part in
            ["Percentiles", "Heat map", "Offered and answered", "prefers-color-scheme", "99.9 %", "<rect"]
        {
            assert!(html.contains(part), "{part}");
        }
        assert!(!html.contains("NaN") && !html.contains("inf"));
        let (style, script) = (STYLE.len(), SCRIPT.len());
        assert!(style + script < 30_000);
        assert_eq!(escaped("<a href=\"&\">"), "&lt;a href=&quot;&amp;&quot;&gt;");
    }
}
