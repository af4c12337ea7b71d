//! The configuration file: TOML, with the flags' names as keys.

use std::{ffi::OsString, fs, path::Path};

use toml::{Table, Value};

/// One key of the file and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// The flag's name without its dashes.
    pub(super) key: String,
    /// The values, as they would stand on a command line.
    pub(super) values: Vec<String>,
}

impl Setting {
    /// The flags that say the same.
    pub(super) fn into_arguments(self) -> impl Iterator<Item = OsString> {
        let Self { key, values } = self;
        values
            .into_iter()
            .map(move |value| OsString::from(format!("--{key}={value}")))
    }
}

/// Reads the settings of the file at `path`. `is_setting` knows the keys.
pub(super) fn read(path: &Path, is_setting: &dyn Fn(&str) -> bool) -> Result<Vec<Setting>, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("read the configuration file: {error}"))?;
    parse(&text, is_setting)
}

fn parse(text: &str, is_setting: &dyn Fn(&str) -> bool) -> Result<Vec<Setting>, String> {
    let table: Table = toml::from_str(text).map_err(|error| {
        let before = error
            .span()
            .and_then(|span| text.get(..span.start))
            .unwrap_or_default();
        format!("line {}: {}", before.matches('\n').count() + 1, error.message())
    })?;
    let mut settings = Vec::new();
    flatten("", &table, is_setting, &mut settings)?;
    Ok(settings)
}

/// `[log]` and `level`, `log.level` and `"log.level"` are the same key.
fn flatten(
    parent: &str,
    table: &Table,
    is_setting: &dyn Fn(&str) -> bool,
    settings: &mut Vec<Setting>,
) -> Result<(), String> {
    for (name, value) in table {
        let key = if parent.is_empty() {
            name.clone()
        } else {
            format!("{parent}.{name}")
        };
        match value {
            Value::Table(table) if !is_setting(&key) => flatten(&key, table, is_setting, settings)?,
            _ if !is_setting(&key) => return Err(format!("unknown key {key:?}")),
            _ if settings.iter().any(|setting| setting.key == key) => {
                return Err(format!("key {key:?} is there twice"));
            }
            Value::Array(values) => {
                let values = values
                    .iter()
                    .map(|value| scalar(&key, value))
                    .collect::<Result<_, _>>()?;
                settings.push(Setting { key, values });
            }
            value => {
                let value = scalar(&key, value)?;
                settings.push(Setting {
                    key,
                    values: vec![value],
                });
            }
        }
    }
    Ok(())
}

fn scalar(key: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Boolean(choice) => Ok(choice.to_string()),
        other => Err(format!(
            "key {key:?} holds a value of type {}, not a string, a number, true or false, or a list of them",
            other.type_str()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_setting(key: &str) -> bool {
        ["linger", "log.level", "list"].contains(&key)
    }

    fn setting(key: &str, values: &[&str]) -> Setting {
        Setting {
            key: key.to_owned(),
            values: values.iter().map(|&value| value.to_owned()).collect(),
        }
    }

    #[test]
    fn every_way_to_write_a_dotted_key_is_the_same() {
        for text in [
            "log.level = 'debug'",
            "[log]\nlevel = 'debug'",
            "'log.level' = 'debug'",
            "log = { level = 'debug' }",
        ] {
            assert_eq!(
                parse(text, &is_setting),
                Ok(vec![setting("log.level", &["debug"])]),
                "{text}"
            );
        }
    }

    #[test]
    fn numbers_and_lists_are_taken() {
        let settings = parse("linger = 90\nlist = ['a', 'b', 3]", &is_setting);
        assert_eq!(
            settings,
            Ok(vec![
                setting("linger", &["90"]),
                setting("list", &["a", "b", "3"])
            ])
        );
        assert_eq!(parse("list = []", &is_setting), Ok(vec![setting("list", &[])]));
        assert_eq!(parse("# nothing\n[log]\n", &is_setting), Ok(vec![]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, problem) in [
            ("lingr = 1", "unknown key \"lingr\""),
            ("[log]\nlvl = 1", "unknown key \"log.lvl\""),
            ("linger = 1.5", "\"linger\" holds a value of type float"),
            ("linger = { a = 1 }", "\"linger\" holds a value of type table"),
            ("list = [['a']]", "\"list\" holds a value of type array"),
            ("linger = 1\n\nlog.level =", "line 3: "),
            ("linger = 1\nlinger = 2", "line 2: duplicate key"),
            (
                "log.level = 'a'\n'log.level' = 'b'",
                "\"log.level\" is there twice",
            ),
        ] {
            let error = parse(text, &is_setting).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
