//! Counting what libtest reports.

use std::{fmt, ops::AddAssign};

/// Results of any number of test programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: u64,
    pub(super) failed: u64,
    /// Not run; there should be none.
    pub(super) ignored: u64,
}

impl Tally {
    /// Adds a test program's last line; any other line is nothing.
    pub(super) fn count(&mut self, line: &str) {
        let Some((_, counts)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split("; ") {
            let Some((number, what)) = count.split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.ignored > 0 {
            write!(f, ", {} ignored", self.ignored)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(lines: &[&str]) -> Tally {
        let mut tally = Tally::default();
        for line in lines {
            tally.count(line);
        }
        tally
    }

    #[test]
    fn results_of_several_programs_add_up() {
        let lines = [
            "running 3 tests",
            "test a ... ok",
            "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.01s",
            "test result: FAILED. 5 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s",
        ];
        let expected = Tally {
            passed: 7,
            failed: 2,
            ignored: 1,
        };
        assert_eq!(tally(&lines), expected);
        assert_eq!(expected.to_string(), "7 passed, 2 failed, 1 ignored");
    }

    #[test]
    fn other_lines_are_no_results() {
        let lines = [
            "",
            "test result: ",
            "3 passed; 1 failed",
            "test result: ok. x passed; y",
        ];
        assert_eq!(tally(&lines), Tally::default());
        assert_eq!(Tally::default().to_string(), "0 passed, 0 failed");
    }
}
