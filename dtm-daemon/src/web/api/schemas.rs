//! Holds what the API answers, and the examples of its documentation, to the published schemas.

use axum::http::Method;
use serde_json::Value;

use super::tests::{PATHS, app, call, places, snapshots};
use crate::{metrics::fixture, tracker::TrackerHandle};

const DOCUMENTATION: &str = include_str!("../../../../docs/api.md");

/// The text of the schema of a path's answer.
fn schema(path: &str) -> &'static str {
    match path {
        "/api/v1/containers" => include_str!("../../../../docs/api/containers.schema.json"),
        "/api/v1/flows" => include_str!("../../../../docs/api/flows.schema.json"),
        "/api/v1/interfaces" => include_str!("../../../../docs/api/interfaces.schema.json"),
        _ => panic!("{path} has no schema"),
    }
}

/// Holds an answer to its schema, and to having no field that the schema does not have.
fn holds(path: &str, answer: &Value) {
    let text = schema(path);
    let closed = text.replace(
        "\"additionalProperties\": true",
        "\"additionalProperties\": false",
    );
    assert_ne!(text, closed);
    for text in [text, &closed] {
        let schema: Value = serde_json::from_str(text).unwrap();
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        let errors = validator.iter_errors(answer);
        let errors: Vec<_> = errors
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{path}: {errors:#?}");
    }
}

#[tokio::test]
async fn every_answer_is_as_its_schema_says() {
    let [first, later] = <[_; 2]>::try_from(snapshots()).unwrap();
    let mut without = fixture::snapshot();
    without.flows.clear();
    without.status.flow_pairs = None;
    for snapshots in [vec![first, later], vec![fixture::hostile()], vec![without]] {
        for path in PATHS {
            let app = app(TrackerHandle::answering_each(snapshots.clone(), places(), true));
            for _ in &snapshots {
                let (_status, _headers, body) = call(&app, Method::GET, path).await;
                holds(path, &serde_json::from_slice(&body).unwrap());
            }
        }
    }
}

#[test]
fn every_example_is_as_its_schema_says() {
    for path in PATHS {
        let (_before, section) = DOCUMENTATION.split_once(&format!("## `GET {path}`")).unwrap();
        let (_before, example) = section.split_once("```json\n").unwrap();
        let (example, _after) = example.split_once("```").unwrap();
        holds(path, &serde_json::from_str(example).unwrap());
    }
}

#[test]
fn every_object_allows_new_fields_and_requires_those_it_has() {
    fn check(schema: &Value) {
        if schema["type"] == "object" || schema["properties"].is_object() {
            assert_eq!(schema["additionalProperties"], true, "{schema}");
            let mut names: Vec<_> = schema["properties"].as_object().unwrap().keys().collect();
            let required = schema["required"].as_array().unwrap().iter();
            let mut required: Vec<_> = required.map(|name| name.as_str().unwrap()).collect();
            names.sort_unstable();
            required.sort_unstable();
            assert_eq!(names, required);
            for name in names {
                assert!(
                    DOCUMENTATION.contains(&format!("`{name}`")),
                    "{name} is not described"
                );
            }
        }
        match schema {
            Value::Object(fields) => fields.values().for_each(check),
            Value::Array(values) => values.iter().for_each(check),
            _ => (),
        }
    }
    for path in PATHS {
        let schema: Value = serde_json::from_str(schema(path)).unwrap();
        assert!(jsonschema::meta::is_valid(&schema), "{path}");
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        check(&schema);
    }
}
