//! TCX and XDP programs of others.

use anyhow::Result;
use dtm_tests::{
    attached,
    foreign::{Foreign, ForeignLink, NEXT, PASS, Position, Side, XDP_PASS},
};
use xtask::host::{EngineKind, Network};

use crate::scene::{Company, EXACT, Grown, LATER, MOVED, PACKETS};

/// Programs at both hooks of the host's end, and what holds them there.
struct Neighbour {
    programs: [Foreign; 2],
    links: [ForeignLink; 2],
}

impl Neighbour {
    fn move_in(company: &Company, verdict: i32, position: Position) -> Result<Self> {
        let network = company.scene.host().network()?;
        let programs = [Foreign::classifier(verdict)?, Foreign::classifier(verdict)?];
        let at = |index: usize, side| {
            programs[index].attach_tcx(&network, company.endpoint.host_end, side, position)
        };
        let links = [at(0, Side::Ingress)?, at(1, Side::Egress)?];
        Ok(Self { programs, links })
    }

    fn move_out(self) {
        drop(self.links);
    }

    /// How often its programs run for one exchange, and what is counted of it.
    fn during_an_exchange(&self, company: &Company) -> Result<((u64, u64), Grown)> {
        let runs = || -> Result<_> { Ok((self.programs[1].runs()?, self.programs[0].runs()?)) };
        let before = runs()?;
        let grown = company.exchange()?;
        let after = runs()?;
        Ok(((after.0 - before.0, after.1 - before.1), grown))
    }
}

/// All of TCX runs before all filters: one that ends a packet's way would hide it from those.
#[test]
fn beside_a_tcx_program_it_counts_by_tcx_and_before_it() -> Result<()> {
    let mut company = Company::new(EngineKind::Current)?;
    let ending = Neighbour::move_in(&company, PASS, Position::Last)?;
    let furniture = company.furniture()?;
    company.watch("auto")?;
    assert_eq!((company.named("tcx")?, company.named("clsact")?), (1, 0));
    assert_eq!(ending.during_an_exchange(&company)?, (PACKETS, EXACT));
    company.wait_preceded("tcx", 0, LATER)?;
    assert_eq!(company.furniture()?, furniture, "no qdisc was made");

    // One that comes later and puts itself first is shown, and not fought.
    let first = Neighbour::move_in(&company, NEXT, Position::First)?;
    company.wait_preceded("tcx", 1, LATER)?;
    assert_eq!(first.during_an_exchange(&company)?, (PACKETS, EXACT));
    first.move_out();
    company.wait_preceded("tcx", 0, LATER)?;
    let hiding = Neighbour::move_in(&company, PASS, Position::First)?;
    let hidden = Grown {
        kernel: MOVED,
        dtm: (0, 0),
    };
    assert_eq!(hiding.during_an_exchange(&company)?, (PACKETS, hidden));
    hiding.move_out();
    assert_eq!(company.exchange()?, EXACT);

    company.scene.stop_dtm()?;
    assert_eq!(attached::to_interfaces(company.scene.host())?, []);
    let network = company.scene.host().network()?;
    for side in Side::BOTH {
        let links = dtm_tests::foreign::tcx_links(&network, company.endpoint.host_end, side)?;
        assert_eq!(links.len(), 1, "the neighbour's stays");
    }
    Ok(())
}

#[test]
fn filters_that_tcx_programs_run_before_are_shown() -> Result<()> {
    let mut company = Company::new(EngineKind::Old)?;
    company.watch("clsact")?;
    assert_eq!(company.exchange()?, EXACT);
    let passing = Neighbour::move_in(&company, NEXT, Position::Last)?;
    company.wait_preceded("clsact", 1, LATER)?;
    assert_eq!(passing.during_an_exchange(&company)?, (PACKETS, EXACT));
    passing.move_out();
    company.wait_preceded("clsact", 0, LATER)?;

    let ending = Neighbour::move_in(&company, PASS, Position::Last)?;
    company.wait_preceded("clsact", 1, LATER)?;
    let hidden = Grown {
        kernel: MOVED,
        dtm: (0, 0),
    };
    assert_eq!(ending.during_an_exchange(&company)?, (PACKETS, hidden));
    let log = company.dtm()?.log();
    assert!(log.contains("the TCX program "), "{log}");
    ending.move_out();
    company.wait_preceded("clsact", 0, LATER)?;
    assert_eq!(company.exchange()?, EXACT);
    company.scene.stop_dtm()
}

/// Where the other end has an XDP program, a veth counts what it sends there without its link-layer header.
#[test]
fn an_xdp_program_on_the_containers_end_changes_the_kernels_count_only() -> Result<()> {
    let without_headers = Grown {
        kernel: (MOVED.0 - 14 * PACKETS.0, MOVED.1),
        dtm: MOVED,
    };
    for (kind, mode) in [(EngineKind::Old, "clsact"), (EngineKind::Current, "tcx")] {
        let mut company = Company::new(kind)?;
        company.watch(mode)?;
        let network = Network::of_process(company.process()?)?;
        let container = company
            .scene
            .engine
            .container_link(&company.endpoint.container, &company.endpoint.network)?;
        let program = Foreign::xdp(XDP_PASS)?;
        let link = program.attach_xdp(&network, container.ifindex)?;
        assert_eq!(company.exchange()?, without_headers, "{mode}");
        assert_eq!(program.runs()?, PACKETS.0, "it sees what the container receives");
        drop(link);
        assert_eq!(company.exchange()?, EXACT, "{mode}");
        assert_eq!(company.scene.samples()?.get("dtm_reattached_total", &[])?, 0);
    }
    Ok(())
}
