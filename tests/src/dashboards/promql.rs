//! `PromQL` as the dashboards and rules use it: what is selected, inside which function, by which labels.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, anyhow};
use promql_parser::{
    label::{MatchOp, Matcher},
    parser::{self, Expr, LabelModifier, VectorMatchCardinality, VectorSelector},
};

/// What stands for `$__rate_interval` where a query is only parsed: no other range is that long.
pub const RATE_INTERVAL: Duration = Duration::from_secs(253);
/// What stands for `$__range` where a query is only parsed.
pub const RANGE: Duration = Duration::from_secs(3_607);

/// What a query consists of.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Every selector, in order.
    pub selectors: Vec<Selector>,
    /// Every label of a `by`, `without`, `on`, `ignoring` or `group_left`.
    pub labels: BTreeSet<String>,
    /// The labels that `label_replace` and `label_join` make.
    pub made: BTreeSet<String>,
    /// The labels that every aggregation by labels keeps.
    pub kept: BTreeSet<String>,
}

/// One selector of a query.
#[derive(Clone, Debug)]
pub struct Selector {
    /// The metric's name.
    pub metric: String,
    /// Label, operator and value.
    pub matchers: Vec<(String, &'static str, String)>,
    /// The range, for a range vector.
    pub range: Option<Duration>,
    /// The function whose argument it is.
    pub function: Option<&'static str>,
}

impl Selector {
    /// Whether it has exactly this matcher.
    pub fn matches(&self, label: &str, operator: &str, value: &str) -> bool {
        self.matchers
            .iter()
            .any(|(name, op, against)| name == label && *op == operator && against == value)
    }
}

/// Replaces variables (`$name` and `${name}`) by values.
pub fn substitute(expression: &str, variables: &[(&str, &str)]) -> String {
    let mut variables = variables.to_vec();
    // `$__rate_interval` must not be taken for a shorter name that it begins with.
    variables.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    variables
        .iter()
        .fold(expression.to_owned(), |text, (name, value)| {
            text.replace(&format!("${{{name}}}"), value)
                .replace(&format!("${name}"), value)
        })
}

/// Parses a query of a dashboard; the variables of its matchers stay as they are.
pub fn parse(expression: &str) -> Result<Query> {
    let (rate_interval, range) = (
        format!("{}s", RATE_INTERVAL.as_secs()),
        format!("{}s", RANGE.as_secs()),
    );
    let plain = substitute(
        expression,
        &[
            ("__rate_interval", &rate_interval),
            ("__range", &range),
            ("__interval", "15s"),
            ("top", "10"),
        ],
    );
    let tree = parser::parse(&plain).map_err(|error| anyhow!("parse {expression}: {error}"))?;
    let mut query = Query::default();
    query.visit(&tree, None);
    Ok(query)
}

impl Query {
    fn visit(&mut self, expression: &Expr, function: Option<&'static str>) {
        match expression {
            Expr::Aggregate(aggregate) => {
                if let Some(modifier) = &aggregate.modifier {
                    self.labels.extend(modifier.labels().labels.iter().cloned());
                    if let LabelModifier::Include(labels) = modifier {
                        self.kept.extend(labels.labels.iter().cloned());
                    }
                }
                if let Some(parameter) = &aggregate.param {
                    self.visit(parameter, None);
                }
                self.visit(&aggregate.expr, None);
            }
            Expr::Unary(unary) => self.visit(&unary.expr, None),
            Expr::Binary(binary) => {
                if let Some(modifier) = &binary.modifier {
                    if let Some(matching) = &modifier.matching {
                        self.labels.extend(matching.labels().labels.iter().cloned());
                    }
                    if let VectorMatchCardinality::ManyToOne(labels)
                    | VectorMatchCardinality::OneToMany(labels) = &modifier.card
                    {
                        self.labels.extend(labels.labels.iter().cloned());
                        self.kept.extend(labels.labels.iter().cloned());
                    }
                }
                self.visit(&binary.lhs, None);
                self.visit(&binary.rhs, None);
            }
            Expr::Paren(paren) => self.visit(&paren.expr, function),
            Expr::Subquery(subquery) => self.visit(&subquery.expr, None),
            Expr::VectorSelector(selector) => self.select(selector, None, function),
            Expr::MatrixSelector(matrix) => self.select(&matrix.vs, Some(matrix.range), function),
            Expr::Call(call) => {
                if ["label_replace", "label_join"].contains(&call.func.name)
                    && let Some(Expr::StringLiteral(label)) = call.args.args.get(1).map(AsRef::as_ref)
                {
                    self.made.insert(label.val.clone());
                }
                for argument in &call.args.args {
                    self.visit(argument, Some(call.func.name));
                }
            }
            Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => {}
        }
    }

    fn select(&mut self, selector: &VectorSelector, range: Option<Duration>, function: Option<&'static str>) {
        let operator = |matcher: &Matcher| match matcher.op {
            MatchOp::Equal => "=",
            MatchOp::NotEqual => "!=",
            MatchOp::Re(_) => "=~",
            MatchOp::NotRe(_) => "!~",
        };
        let matchers = &selector.matchers.matchers;
        self.selectors.push(Selector {
            metric: selector.name.clone().unwrap_or_default(),
            matchers: matchers
                .iter()
                .map(|one| (one.name.clone(), operator(one), one.value.clone()))
                .collect(),
            range,
            function,
        });
    }
}
