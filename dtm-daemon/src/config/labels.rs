//! Docker labels that are shown as Prometheus labels.

use std::collections::BTreeMap;

/// A Docker label and what Prometheus calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerLabel {
    /// The name in Docker.
    pub docker: String,
    /// The name in Prometheus: `label_` and the Docker name, with `_` for what Prometheus does not take.
    pub prometheus: String,
}

/// The Docker labels to show, sorted by their Prometheus names, which differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerLabels(Vec<ContainerLabel>);

impl ContainerLabels {
    /// Takes the Docker names of labels, each as often as it likes to come.
    ///
    /// # Errors
    ///
    /// Where two different names become one, or a name is empty.
    pub fn new(names: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut labels = BTreeMap::new();
        for docker in names {
            if docker.is_empty() {
                return Err("the name of a label is empty".to_owned());
            }
            let prometheus = prometheus_name(&docker);
            match labels.get(&prometheus) {
                Some(other) if *other != docker => {
                    return Err(format!(
                        "{other:?} and {docker:?} would both be {prometheus}: leave one out"
                    ));
                }
                _ => labels.insert(prometheus, docker),
            };
        }
        let labels = labels
            .into_iter()
            .map(|(prometheus, docker)| ContainerLabel { docker, prometheus });
        Ok(Self(labels.collect()))
    }

    /// The labels, in the order in which they are shown.
    pub fn iter(&self) -> impl Iterator<Item = &ContainerLabel> {
        self.0.iter()
    }
}

fn prometheus_name(docker: &str) -> String {
    let valid = |character: char| {
        if character.is_ascii_alphanumeric() {
            character
        } else {
            '_'
        }
    };
    format!("label_{}", docker.chars().map(valid).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::ContainerLabels;

    fn labels(names: &[&str]) -> Result<Vec<String>, String> {
        let labels = ContainerLabels::new(names.iter().map(|&name| name.to_owned()))?;
        Ok(labels
            .iter()
            .map(|label| format!("{}={}", label.prometheus, label.docker))
            .collect())
    }

    #[test]
    fn names_are_made_fit_for_prometheus_and_sorted() {
        assert_eq!(
            labels(&["team", "com.example/Team-é", "team"]).unwrap(),
            ["label_com_example_Team__=com.example/Team-é", "label_team=team"]
        );
    }

    #[test]
    fn two_names_that_become_one_are_refused() {
        let error = labels(&["a.b", "c", "a-b"]).unwrap_err();
        assert_eq!(error, r#""a.b" and "a-b" would both be label_a_b: leave one out"#);
        assert!(labels(&[""]).unwrap_err().contains("empty"));
    }
}
