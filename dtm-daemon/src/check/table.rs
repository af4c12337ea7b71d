//! What was found, as a table for a person.

use std::{collections::HashSet, fmt};

/// How a finding bears on what can be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As it should be.
    Fine,
    /// Worth knowing; nothing is missing for it.
    Note,
    /// Something will not be counted.
    Missing,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Note => "note",
            Self::Missing => "missing",
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    verdict: Verdict,
    cells: Vec<String>,
    /// Why, and what to do.
    advice: Option<String>,
}

impl Finding {
    pub(super) fn fine(subject: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Fine,
            cells: vec![subject.into(), found.into()],
            advice: None,
        }
    }

    pub(super) fn note(subject: impl Into<String>, found: impl Into<String>, advice: &str) -> Self {
        Self::fine(subject, found).but(Verdict::Note, advice)
    }

    pub(super) fn missing(subject: impl Into<String>, found: impl Into<String>, advice: &str) -> Self {
        Self::fine(subject, found).but(Verdict::Missing, advice)
    }

    /// A fine one of any number of cells.
    pub(super) fn row(cells: Vec<String>) -> Self {
        Self {
            verdict: Verdict::Fine,
            cells,
            advice: None,
        }
    }

    /// The same, with another verdict and what to do about it.
    pub(super) fn but(self, verdict: Verdict, advice: &str) -> Self {
        Self {
            verdict,
            advice: Some(advice.to_owned()),
            ..self
        }
    }
}

/// Everything that was found. Its text is for a person, and ends with the verdict.
#[derive(Clone, Debug)]
pub struct Report {
    title: String,
    sections: Vec<(&'static str, Vec<Finding>)>,
}

impl Report {
    pub(super) fn new(title: String) -> Self {
        Self {
            title,
            sections: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, title: &'static str, findings: Vec<Finding>) {
        self.sections.push((title, findings));
    }

    /// Whether everything that dtm counts can be counted.
    pub fn is_complete(&self) -> bool {
        self.missing().next().is_none()
    }

    fn missing(&self) -> impl Iterator<Item = &Finding> {
        let all = self.sections.iter().flat_map(|(_title, findings)| findings);
        all.filter(|finding| finding.verdict == Verdict::Missing)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}", printable(&self.title))?;
        for (title, findings) in self
            .sections
            .iter()
            .filter(|(_title, findings)| !findings.is_empty())
        {
            writeln!(formatter, "\n{title}")?;
            section(formatter, findings)?;
        }
        if self.is_complete() {
            return writeln!(formatter, "\nEverything that dtm counts can be counted here.");
        }
        let mut names: Vec<_> = self
            .missing()
            .map(|finding| printable(&finding.cells[0]))
            .collect();
        names.dedup();
        writeln!(
            formatter,
            "\nNot everything can be counted here, for: {}.",
            names.join(", ")
        )
    }
}

/// The width of the first column, and what advice is indented by.
const VERDICT: usize = 9;

fn section(formatter: &mut fmt::Formatter<'_>, findings: &[Finding]) -> fmt::Result {
    let rows: Vec<Vec<String>> = findings
        .iter()
        .map(|finding| finding.cells.iter().map(|cell| printable(cell)).collect())
        .collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let mut said = HashSet::new();
    for (finding, row) in findings.iter().zip(&rows) {
        let cells = row.iter().enumerate();
        let cells: Vec<_> = cells
            .map(|(column, cell)| format!("{cell:<0$}", width(column)))
            .collect();
        let line = format!("  {:VERDICT$}{}", finding.verdict.as_str(), cells.join("  "));
        writeln!(formatter, "{}", line.trim_end())?;
        // What helps one, helps all that lack the same.
        if let Some(advice) = finding.advice.as_ref().filter(|advice| said.insert(*advice)) {
            writeln!(formatter, "  {:VERDICT$}  → {}", "", printable(advice))?;
        }
    }
    Ok(())
}

/// Other people's text, without what a terminal would take for an order.
fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for letter in text.chars() {
        // Bidirectional marks turn a line round, separators break it.
        let is_order = letter.is_control()
            || matches!(letter, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if is_order {
            printable.extend(letter.escape_unicode());
        } else {
            printable.push(letter);
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::new("dtm 1 on Linux 6.18".to_owned());
        report.add(
            "Host",
            vec![
                Finding::fine("kernel", "Linux 6.18"),
                Finding::note("attaching", "no TCX", "clsact does as well"),
            ],
        );
        report.add("Docker", Vec::new());
        report
    }

    #[test]
    fn what_is_only_worth_knowing_leaves_it_complete() {
        assert!(report().is_complete());
        insta::assert_snapshot!("complete", report().to_string());
    }

    #[test]
    fn what_is_missing_is_named_at_the_end_and_orders_to_the_terminal_are_text() {
        let mut report = report();
        let row = |cells: [&str; 4]| Finding::row(cells.map(str::to_owned).to_vec());
        report.add(
            "Containers",
            vec![
                row(["web", "front", "bridge", "host end"]),
                row(["web", "back", "macvlan", "not counted: macvlan_network"])
                    .but(Verdict::Missing, "let dtm see it"),
                row([
                    "e\u{1b}[2Jvil\n\u{202e}",
                    "front",
                    "bridge",
                    "not counted: bridge_not_found",
                ])
                .but(Verdict::Missing, "run it elsewhere"),
            ],
        );
        assert!(!report.is_complete());
        let text = report.to_string();
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text}");
        insta::assert_snapshot!("incomplete", text);
    }
}
