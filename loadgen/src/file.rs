//! Scenario files: what the command line says, and phases, in TOML.
//!
//! A key of the file is a flag without its dashes, and is read as if it had been typed: the same names, values and errors.
//! What is wrong is said with its line.

use std::{fs, ops::Range, path::Path, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{
    plan::{Phase, Plan},
    schedule::Shape,
    threshold::Threshold,
    units,
};

/// A file that was read.
pub(crate) struct File {
    /// What the command line would have to be, without the program's name.
    pub(crate) arguments: Vec<String>,
    phases: Vec<Phase>,
    source: Source,
    /// The keys that became flags, and where they stand.
    keys: Vec<(String, Range<usize>)>,
}

struct Source {
    name: String,
    text: String,
}

impl Source {
    /// `FILE:LINE: what`, and the line.
    fn at(&self, span: &Range<usize>, what: &str) -> String {
        let start = span.start.min(self.text.len());
        let line = self.text[..start].matches('\n').count();
        let shown = self.text.lines().nth(line).unwrap_or_default();
        format!("{}:{}: {what}\n  | {shown}", self.name, line + 1)
    }
}

impl File {
    /// Reads it; `more` are flags that come behind those of the file, and so are preferred.
    pub(crate) fn read(path: &Path, more: &[String]) -> Result<Self, String> {
        let name = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
        Self::parse(name, text, more)
    }

    fn parse(name: String, text: String, more: &[String]) -> Result<Self, String> {
        let source = Source { name, text };
        let table = DeTable::parse(&source.text).map_err(|error| {
            source.at(&error.span().unwrap_or_default(), &format!("this is not TOML: {}", error.message()))
        })?;
        let (mut scenario, mut url) = ("ws".to_owned(), None);
        let (mut flags, mut keys, mut phases) = (Vec::new(), Vec::new(), Vec::new());
        for (key, value) in table.get_ref() {
            match &**key.get_ref() {
                "scenario" => {
                    scenario =
                        text_of(value).filter(|name| SCENARIOS.contains(&&**name)).ok_or_else(|| {
                            source.at(&value.span(), &format!("the scenarios are {}", SCENARIOS.join(", ")))
                        })?;
                }
                "url" => {
                    let wrong =
                        || source.at(&value.span(), "the URL is a text such as \"ws://127.0.0.1:8080/echo\"");
                    url = Some(text_of(value).ok_or_else(wrong)?);
                }
                "phase" => {
                    let hint = "phases are written as [[phase]], each with its keys below";
                    let all = value.get_ref().as_array().ok_or_else(|| source.at(&value.span(), hint))?;
                    for phase in all {
                        let table =
                            phase.get_ref().as_table().ok_or_else(|| source.at(&phase.span(), hint))?;
                        phases.push(phase_of(&source, phase.span(), table, phases.len())?);
                    }
                }
                of_phase if OF_PHASE.contains(&of_phase) => {
                    let what = format!("`{of_phase}` belongs to a phase: put it below a [[phase]]");
                    return Err(source.at(&key.span(), &what));
                }
                other => {
                    keys.push((other.to_owned(), key.span()));
                    flags.extend(flags_of(&source, other, value)?);
                }
            }
        }
        let whole = 0..0;
        let url = url
            .ok_or_else(|| source.at(&whole, "it lacks a url, such as url = \"ws://127.0.0.1:8080/echo\""))?;
        if phases.is_empty() {
            return Err(source.at(
                &whole,
                "it has no [[phase]]; a phase is such as name = \"steady\", time = \"10s\", rate = \"1k\"",
            ));
        }
        if !phases.iter().any(|phase| phase.is_measured) {
            return Err(
                source.at(&whole, "no phase is measured: at least one has to be without measured = false")
            );
        }
        let mut arguments = vec![scenario, url];
        // What only phases say is replaced later; the defaults of the other flags hang on it.
        let is_open = phases.iter().any(|phase| phase.profile.is_some());
        if is_open
            && phases.iter().any(|phase| phase.profile.is_none())
            && !keys.iter().any(|(key, _)| key == "pipeline")
        {
            return Err(source.at(
                &whole,
                "some phases have a rate and some have none: say with `pipeline` how many messages each connection has in flight at most",
            ));
        }
        arguments.extend(["--duration=1s".to_owned(), "--warmup=0s".to_owned()]);
        arguments.extend(is_open.then(|| "--rate=1".to_owned()));
        arguments.extend(flags);
        arguments.extend_from_slice(more);
        Ok(Self { arguments, phases, source, keys })
    }

    /// What the command line made of [`arguments`](Self::arguments) is given the phases.
    pub(crate) fn complete(self, plan: Plan) -> Plan {
        Plan { phases: self.phases, ..plan }
    }

    /// The error of the command line, with the line that it is about, if it is about one.
    pub(crate) fn explain(&self, error: &clap::Error) -> String {
        use clap::error::{ContextKind, ContextValue};
        let named = match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(name)) => name.clone(),
            Some(ContextValue::Strings(names)) => names.join(" "),
            _ => String::new(),
        };
        let key = self.keys.iter().find(|(key, _)| {
            let flag = format!("--{key}");
            named.split([' ', '=']).any(|part| part == flag)
        });
        let text = error.to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        let text = text.split("\n\nUsage:").next().unwrap_or(text).trim();
        match key {
            Some((_, span)) => self.source.at(span, text),
            None => format!("{}: {text}", self.source.name),
        }
    }
}

const SCENARIOS: [&str; 3] = ["ws", "h2c", "echo"];
/// What each phase says for itself.
const OF_PHASE: [&str; 9] =
    ["name", "time", "duration", "rate", "profile", "warmup", "measured", "reconnect-all", "messages"];

fn text_of(value: &Spanned<DeValue<'_>>) -> Option<String> {
    value.get_ref().as_str().map(str::to_owned)
}

/// A text or a number, as it would be typed.
fn typed(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.clone().into_owned()),
        DeValue::Integer(number) => Some(number.as_str().replace('_', "")),
        DeValue::Float(number) => Some(number.as_str().replace('_', "")),
        _ => None,
    }
}

fn flags_of(source: &Source, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, String> {
    let wrong = || source.at(&value.span(), "a value is a text, a number, true, or a list of texts");
    Ok(match value.get_ref() {
        DeValue::Boolean(true) => vec![format!("--{key}")],
        DeValue::Boolean(false) => Vec::new(),
        DeValue::Array(all) => {
            let one = |value: &Spanned<DeValue<'_>>| {
                Ok(format!("--{key}={}", typed(value.get_ref()).ok_or_else(wrong)?))
            };
            all.iter().map(one).collect::<Result<_, String>>()?
        }
        one => vec![format!("--{key}={}", typed(one).ok_or_else(wrong)?)],
    })
}

fn phase_of(source: &Source, span: Range<usize>, table: &DeTable<'_>, index: usize) -> Result<Phase, String> {
    let (mut name, mut time, mut rate, mut shape) = (format!("phase-{}", index + 1), None, None, None);
    let (mut is_measured, mut is_storm, mut thresholds) = (true, false, Vec::new());
    for (key, value) in table {
        let wrong = |what: String| source.at(&value.span(), &what);
        let typed = |value: &Spanned<DeValue<'_>>| {
            typed(value.get_ref()).ok_or_else(|| wrong("it has to be a text or a number".to_owned()))
        };
        let said = || value.get_ref().as_bool().ok_or_else(|| wrong("it has to be true or false".to_owned()));
        match &**key.get_ref() {
            "name" => {
                name = typed(value)?;
                let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
                if name.is_empty() || !name.bytes().all(is_plain) {
                    return Err(wrong(
                        "a name has letters, digits and - only: it names histograms and files".into(),
                    ));
                }
            }
            "time" => time = Some(units::some_time(&typed(value)?).map_err(wrong)?),
            "rate" => rate = Some(units::rate(&typed(value)?).map_err(wrong)?).filter(|rate| *rate > 0.0),
            "profile" => shape = Some((typed(value)?.parse::<Shape>().map_err(wrong)?, value.span())),
            "measured" => is_measured = said()?,
            "reconnect-all" => is_storm = said()?,
            "threshold" => {
                let one = |value| typed(value)?.parse::<Threshold>().map_err(wrong);
                thresholds = match value.get_ref() {
                    DeValue::Array(all) => all.iter().map(one).collect::<Result<_, _>>()?,
                    _ => vec![one(value)?],
                };
            }
            other => {
                let keys = "name, time, rate, profile, measured, reconnect-all, threshold";
                return Err(source.at(&key.span(), &format!("a phase has no `{other}`; it has {keys}")));
            }
        }
    }
    let of_shape = shape.as_ref().and_then(|(shape, _)| shape.time());
    let time: Duration = time.or(of_shape).ok_or_else(|| {
        source.at(&span, &format!("the phase {name} lacks its time, such as time = \"10s\""))
    })?;
    let profile = match (&shape, rate) {
        (Some((Shape::Constant | Shape::Spike(..), span)), None) => {
            return Err(
                source.at(span, "this profile needs the rate that it departs from: add rate = \"1k\"")
            );
        }
        (Some((_, span)), _) if of_shape.is_some_and(|of_shape| of_shape > time) => {
            return Err(source.at(span, "the steps take longer than the phase's time"));
        }
        (Some((shape, _)), rate) => Some(shape.profile(rate.unwrap_or_default(), time)),
        (None, Some(rate)) => Some(Shape::Constant.profile(rate, time)),
        (None, None) => None,
    };
    Ok(Phase { name, time: Some(time), profile, is_measured, is_storm, thresholds })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
url = "ws://127.0.0.1:8080/echo"
connections = 1_000
header = ["Origin: http://a", "X-B: c"]
text = true
deflate = false

[[phase]]
name = "warm-up"
time = "3s"
rate = "1k"
measured = false

[[phase]]
name = "spike"
time = "10s"
rate = 1000
profile = "spike:5k@2s"
threshold = ["p99<1ms", "errors==0"]

[[phase]]
time = "5s"
rate = "1k"
reconnect-all = true
"#;

    fn parse(text: &str) -> Result<File, String> {
        File::parse("a.toml".into(), text.into(), &["--seed=7".into()])
    }

    #[test]
    fn keys_are_flags_and_phases_are_phases() {
        let file = parse(GOOD).unwrap();
        let arguments = file.arguments.join(" ");
        assert_eq!(
            arguments,
            "ws ws://127.0.0.1:8080/echo --duration=1s --warmup=0s --rate=1 --connections=1000 \
             --header=Origin: http://a --header=X-B: c --text --seed=7"
        );
        let names: Vec<_> = file.phases.iter().map(|phase| (&*phase.name, phase.is_measured)).collect();
        assert_eq!(names, [("warm-up", false), ("spike", true), ("phase-3", true)]);
        assert_eq!(file.phases[1].profile.as_ref().unwrap().mean(), 1800.0);
        assert_eq!((file.phases[1].thresholds.len(), file.phases[2].is_storm), (2, true));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (from, to, line, hint) in [
            ("time = \"10s\"", "time = \"ten\"", 16, "10s"),
            ("time = \"10s\"", "", 14, "lacks its time"),
            ("rate = 1000", "ratte = 1000", 17, "a phase has no `ratte`; it has name, time, rate"),
            ("spike:5k@2s", "spike", 18, "`spike:20k@2s`"),
            ("rate = 1000", "", 18, "needs the rate"),
            ("measured = false", "measured = 1", 12, "true or false"),
            ("p99<1ms", "p99(x)<1ms", 19, "not a histogram"),
            ("text = true", "rate = 5", 5, "belongs to a phase"),
            ("text = true", "text = [[1]]", 5, "a text, a number"),
            ("text = true", "text = tru", 5, "not TOML"),
            ("text = true", "scenario = \"http\"", 5, "ws, h2c, echo"),
            ("\"warm-up\"", "\"warm up\"", 9, "letters, digits"),
        ] {
            let Err(error) = parse(&GOOD.replace(from, to)) else { panic!("{to} is taken") };
            assert!(error.starts_with(&format!("a.toml:{line}: ")) && error.contains(hint), "{to}: {error}");
        }
        for (text, hint) in [("", "lacks a url"), ("url = \"ws://a/\"", "no [[phase]]")] {
            assert!(parse(text).is_err_and(|error| error.contains(hint)), "{text}");
        }
    }
}
