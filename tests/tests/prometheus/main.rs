//! A real Prometheus, a real engine, and dtm between them: what is scraped is right in form, and every query of the
//! dashboards answers.
//!
//! Needs root, an engine, Prometheus with promtool, and iptables.

mod exposition;
mod judges;
mod queries;
mod scene;
mod server;
mod strange;

use anyhow::Result;

use queries::{ALL, Choice};
use scene::{CLIENT, DROPPED, FRONT, SERVER, Scene};
use server::Prometheus;

#[test]
fn every_scraper_gets_what_it_can_read() -> Result<()> {
    let scene = Scene::start()?;
    let dtm = scene.dtm();
    exposition::each_scraper_gets_its_format(dtm)?;
    exposition::gzip_goes_to_who_takes_it(dtm)?;
    exposition::nothing_in_it_kills_a_scrape(dtm)?;
    exposition::promtool_finds_nothing(dtm)?;
    exposition::the_strict_parser_finds_nothing(dtm)
}

#[test]
fn every_query_of_the_dashboards_answers() -> Result<()> {
    let scene = Scene::start()?;
    let address = scene.dtm().address();
    let prometheus = Prometheus::start(scene.host(), address)?;

    queries::all_answer(&prometheus, &ALL)?;

    queries::edges_have_both_their_nodes(&prometheus, &ALL)?;
    queries::the_variables_offer(&prometheus, "job", &["dtm"])?;
    queries::the_variables_offer(&prometheus, "instance", &[&address.to_string()])?;
    queries::the_variables_offer(&prometheus, "network", &[FRONT])?;
    queries::the_variables_offer(&prometheus, "container", &[SERVER, CLIENT, DROPPED])?;

    // As Grafana writes one value, and several.
    let container = format!("({CLIENT}|{DROPPED})");
    let some = Choice {
        job: "dtm",
        instance: &address.to_string(),
        network: FRONT,
        container: &container,
    };
    queries::all_answer(&prometheus, &some)
}

/// Between two scrapes it was born, sent, and died: no `rate()` over its own series can have it.
#[test]
fn a_container_that_no_scrape_sees_grow_is_in_its_networks_rate() -> Result<()> {
    let scene = Scene::start()?;
    let prometheus = Prometheus::start(scene.host(), scene.dtm().address())?;
    queries::all_answer(&prometheus, &ALL)?;
    queries::short_lived_containers_show(&prometheus, FRONT, || scene.run_a_short_lived_container())
}
