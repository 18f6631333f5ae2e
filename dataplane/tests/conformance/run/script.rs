//! The text of a script to steps.

use super::cluster::{Change, Cluster};

/// One row of the table.
#[derive(Debug)]
pub struct Script {
    pub file: String,
    /// First column of the README's row.
    pub feature: String,
    /// Second column.
    pub sentence: String,
    pub families: Vec<u8>,
    /// The test that shows it, where no script can.
    pub shown_by: Option<String>,
    /// Flow directions that each worker remembers.
    pub flows: u32,
    /// The cluster before the first step.
    pub start: Change,
    pub steps: Vec<Step>,
}

/// One step, and where it stands.
#[derive(Debug)]
pub struct Step {
    pub line: usize,
    pub text: String,
    /// Only in this family.
    pub family: Option<u8>,
    pub action: Action,
}

#[derive(Debug)]
pub enum Action {
    Change(Box<Change>),
    /// The same state again, as a new snapshot.
    Republish,
    /// The agent restarts: it sends everything again.
    Resend,
    /// Variables stand for nothing again.
    Forget,
    Wait {
        ms: u64,
    },
    Exchange(Exchange),
}

/// A packet in, and what comes of it.
#[derive(Clone, Debug, Default)]
pub struct Exchange {
    /// Where it comes in.
    pub port: String,
    pub packet: String,
    /// `port: packet` of each that comes out.
    pub expected: Vec<String>,
    /// What is counted besides `received` and `transmitted`, each with its number.
    pub counters: Vec<String>,
    /// Instead of `expected`: where so many of the packets come out.
    pub spread: Vec<(String, usize, usize)>,
}

impl Exchange {
    /// One exchange for every number of a range `4000..4019`; itself where there is none.
    pub fn each_of_range(&self) -> Vec<Exchange> {
        let Some((range, min, max)) = find_range(&self.packet) else { return vec![self.clone()] };
        let with = |number: u32| {
            let put_in = |text: &String| text.replace(&range, &number.to_string());
            let packet = put_in(&self.packet);
            let expected = self.expected.iter().map(put_in).collect();
            Exchange { packet, expected, ..self.clone() }
        };
        (min..=max).map(with).collect()
    }
}

fn find_range(text: &str) -> Option<(String, u32, u32)> {
    let word = text.split([' ', ':']).find(|word| word.contains(".."))?;
    let (min, max) = word.split_once("..")?;
    Some((word.to_owned(), min.parse().ok()?, max.parse().ok()?))
}

/// A part of a script: what follows a line `== HEADING`.
struct Section<'a> {
    /// Number of the heading's line.
    line: usize,
    heading: &'a str,
    lines: Vec<&'a str>,
}

impl Section<'_> {
    fn text(&self) -> String {
        self.lines.iter().map(|line| format!("{line}\n")).collect()
    }

    fn words(&self) -> Vec<String> {
        self.lines.iter().map(|line| line.trim().to_owned()).filter(|it| !it.is_empty()).collect()
    }
}

impl Script {
    /// Reads a script over a cluster.
    pub fn read(file: &str, cluster: &str, text: &str) -> Result<Script, String> {
        let sections = split(text);
        let at = |line: usize, error: String| format!("{file}:{line}: {error}");
        let of = |heading| sections.iter().filter(move |it: &&Section| it.heading == heading);
        let names = of("names").flat_map(Section::words).collect();
        let flags: String = of("flags").map(Section::text).collect();
        let mut state = Cluster::new(&flags, names).map_err(|error| at(1, error))?;
        state.apply(cluster).map_err(|error| format!("cluster.yaml: {error}"))?;
        let start = state.settle().map_err(|error| format!("cluster.yaml: {error}"))?;
        if !state.problems.is_empty() {
            return Err(format!("cluster.yaml: {:?}", state.problems));
        }
        let mut steps = Vec::new();
        let mut status: Vec<String> = Vec::new();
        for (number, section) in sections.iter().enumerate() {
            let line = section.line;
            let (heading, family) = read_family(section.heading);
            let (word, rest) = heading.split_once(' ').unwrap_or((heading, ""));
            match word {
                "" | "flags" | "names" => continue,
                "packets" | "packets:" => {
                    steps.extend(read_packets(section, family).map_err(|(n, e)| at(n, e))?);
                    continue;
                }
                "status" => status = section.words(),
                "apply" => state.apply(&section.text()).map_err(|error| at(line, error))?,
                "delete" => state.delete(rest).map_err(|error| at(line, error))?,
                _ => return Err(at(line, format!("what is a section {word:?}?"))),
            }
            // Changes that follow each other are one.
            let next = sections.get(number + 1).map_or("", |next| next.heading);
            if ["apply", "delete", "status"].iter().any(|word| next.starts_with(word)) {
                continue;
            }
            let change = state.settle().map_err(|error| at(line, error))?;
            check_status(&state.problems, &status).map_err(|error| at(line, error))?;
            let (text, action) = (format!("== {heading}"), Action::Change(Box::new(change)));
            steps.push(Step { line, text, family: None, action });
        }
        let header = read_header(&sections[0].lines);
        let shown_by = header.line("Shown by ");
        if shown_by.is_none() && !steps.iter().any(|it| matches!(it.action, Action::Exchange(_))) {
            return Err(at(1, "shows nothing".into()));
        }
        let flows = header.line("Flow table of ").map_or(Ok(1024), |number| number.parse());
        Ok(Script {
            file: file.to_owned(),
            families: match header.line("Only IPv").as_deref() {
                Some("4") => vec![4],
                Some(_) => vec![6],
                None => vec![4, 6],
            },
            feature: header.feature,
            sentence: header.sentence,
            shown_by,
            flows: flows.map_err(|_| at(1, "how many flows?".into()))?,
            start,
            steps,
        })
    }
}

/// The first lines of a script.
struct Header {
    feature: String,
    sentence: String,
    lines: Vec<String>,
}

impl Header {
    /// What follows on a line that starts so.
    fn line(&self, start: &str) -> Option<String> {
        self.lines.iter().find_map(|line| line.strip_prefix(start)).map(str::to_owned)
    }
}

fn read_header(lines: &[&str]) -> Header {
    let mut lines = lines.iter().copied();
    let feature = lines.next().unwrap_or_default().to_owned();
    let sentence: Vec<&str> = lines.by_ref().take_while(|it| !it.is_empty()).collect();
    let lines = lines.map(str::to_owned).collect();
    Header { feature, sentence: sentence.join(" "), lines }
}

fn split(text: &str) -> Vec<Section<'_>> {
    let mut sections = vec![Section { line: 1, heading: "", lines: Vec::new() }];
    for (number, line) in (1..).zip(text.lines()) {
        match line.strip_prefix("== ") {
            Some(heading) => sections.push(Section { line: number, heading, lines: Vec::new() }),
            None => sections.last_mut().expect("one").lines.push(line.trim_end()),
        }
    }
    sections
}

fn read_family(heading: &str) -> (&str, Option<u8>) {
    for (word, family) in [("packets (IPv4)", 4), ("packets (IPv6)", 6)] {
        if heading.starts_with(word) {
            return ("packets", Some(family));
        }
    }
    (heading, None)
}

fn check_status(problems: &[String], said: &[String]) -> Result<(), String> {
    let all_said = problems.iter().all(|it| said.iter().any(|said| it.contains(said)));
    let all_there = said.iter().all(|said| problems.iter().any(|it| it.contains(said)));
    match all_said && all_there {
        true => Ok(()),
        false => Err(format!("expected status {said:#?}, found {problems:#?}")),
    }
}

fn read_packets(section: &Section<'_>, family: Option<u8>) -> Result<Vec<Step>, (usize, String)> {
    let mut steps: Vec<Step> = Vec::new();
    for (line, raw) in (section.line + 1..).zip(&section.lines) {
        let text = raw.split_whitespace().collect::<Vec<_>>().join(" ");
        let (word, rest) = text.split_once(' ').unwrap_or((&text, ""));
        let wrong = |what: &str| (line, format!("{what}: {text}"));
        let action = match word {
            "" | "#" => continue,
            "republish" => Action::Republish,
            "forget" => Action::Forget,
            "agent" if rest == "restarts" => Action::Resend,
            "wait" => Action::Wait { ms: read_time(rest).ok_or_else(|| wrong("no time"))? },
            "from" => {
                let (port, packet) = rest.split_once(' ').ok_or_else(|| wrong("no packet"))?;
                let (port, packet) = (port.to_owned(), packet.to_owned());
                Action::Exchange(Exchange { port, packet, ..Exchange::default() })
            }
            _ => {
                let last = steps.last_mut().map(|step| &mut step.action);
                let Some(Action::Exchange(exchange)) = last else {
                    return Err(wrong("what packet is this about"));
                };
                read_result(word, rest, exchange).ok_or_else(|| wrong("what is that"))?;
                continue;
            }
        };
        steps.push(Step { line, text: text.clone(), family, action });
    }
    Ok(steps)
}

fn read_result(word: &str, rest: &str, exchange: &mut Exchange) -> Option<()> {
    match word {
        "to" => {
            let (port, packet) = rest.split_once(' ')?;
            exchange.expected.push(format!("{port}: {packet}"));
        }
        "counters" => exchange.counters = rest.split(", ").map(str::to_owned).collect(),
        "spread" => {
            for part in rest.split(", ") {
                let (name, range) = part.split_once(' ')?;
                let (min, max) = range.split_once('-').unwrap_or((range, range));
                exchange.spread.push((name.to_owned(), min.parse().ok()?, max.parse().ok()?));
            }
        }
        _ => return None,
    }
    Some(())
}

fn read_time(text: &str) -> Option<u64> {
    let (number, unit) = text.split_once(' ')?;
    let unit = match unit {
        "ms" => 1,
        "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(number.parse::<u64>().ok()? * unit)
}
