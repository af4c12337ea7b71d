//! Filters and qdiscs of others.

use anyhow::Result;
use dtm_tests::{
    attached,
    daemon::Dtm,
    foreign::{DROP, Foreign, NEXT, PASS, Side},
};
use xtask::host::EngineKind;

use crate::scene::{Company, EXACT, Grown, MOVED, PACKETS, SOON};

/// A program of somebody else's, on both sides of the host's end.
struct Neighbour {
    programs: [Foreign; 2],
    words: String,
}

impl Neighbour {
    /// Adds filters that end with this verdict, at this priority.
    fn move_in(company: &Company, name: &str, priority: u32, verdict: i32) -> Result<Self> {
        let words = format!("prio {priority} handle 0x{name} protocol all bpf");
        let programs = [Foreign::classifier(verdict)?, Foreign::classifier(verdict)?];
        for (program, side) in programs.iter().zip(Side::BOTH) {
            let pin = program.pin(company.scene.host(), &format!("{name}-{}", side.as_str()))?;
            company.filter("add", side, &format!("{words} da object-pinned {pin}"))?;
        }
        Ok(Self { programs, words })
    }

    fn move_out(self, company: &Company) -> Result<()> {
        Side::BOTH
            .into_iter()
            .try_for_each(|side| company.filter("delete", side, &self.words))
    }

    /// How often its programs have run: (on what the container received, on what it sent).
    fn runs(&self) -> Result<(u64, u64)> {
        let [ingress, egress] = &self.programs;
        Ok((egress.runs()?, ingress.runs()?))
    }

    /// How often they run for one exchange, and what is counted of it.
    fn during_an_exchange(&self, company: &Company) -> Result<((u64, u64), Grown)> {
        let before = self.runs()?;
        let grown = company.exchange()?;
        let after = self.runs()?;
        Ok(((after.0 - before.0, after.1 - before.1), grown))
    }
}

fn beside_filters_of_others(kind: EngineKind, mode: &str) -> Result<()> {
    let mut company = Company::new(kind)?;
    company.tc(&format!("qdisc add dev {} clsact", company.host_end))?;
    let early = Neighbour::move_in(&company, "a", 1, NEXT)?;
    let last = Neighbour::move_in(&company, "b", 9, PASS)?;
    let before = company.furniture()?;
    company.watch(mode)?;
    assert_eq!(company.named(mode)?, 1);
    assert_eq!(early.during_an_exchange(&company)?, (PACKETS, EXACT));
    assert_eq!(last.during_an_exchange(&company)?, (PACKETS, EXACT));
    company.wait_preceded(mode, 0, SOON)?;

    // One that drops, after dtm's: offered is counted, and what came in was counted by the device before.
    let dropping = Neighbour::move_in(&company, "c", 2, DROP)?;
    let partly_lost = Grown {
        kernel: (0, MOVED.1),
        dtm: MOVED,
    };
    assert_eq!(dropping.during_an_exchange(&company)?, (PACKETS, partly_lost));
    dropping.move_out(&company)?;

    // Whoever comes later to the same priority is first, and is not fought.
    let preceded = u64::from(mode == "clsact");
    let passing = Neighbour::move_in(&company, "d", 1, NEXT)?;
    company.wait_preceded(mode, preceded, SOON)?;
    assert_eq!(passing.during_an_exchange(&company)?, (PACKETS, EXACT));
    passing.move_out(&company)?;
    company.wait_preceded(mode, 0, SOON)?;

    // One that ends the run of filters hides packets from those after it, but not from TCX.
    let ending = Neighbour::move_in(&company, "e", 1, PASS)?;
    company.wait_preceded(mode, preceded, SOON)?;
    let hidden = Grown {
        kernel: MOVED,
        dtm: if mode == "clsact" { (0, 0) } else { MOVED },
    };
    assert_eq!(ending.during_an_exchange(&company)?, (PACKETS, hidden));
    ending.move_out(&company)?;
    company.wait_preceded(mode, 0, SOON)?;
    assert_eq!(early.during_an_exchange(&company)?, (PACKETS, EXACT));

    let log = company.dtm()?.log();
    let said = log
        .lines()
        .filter(|line| line.contains("runs before dtm's: what it ends"))
        .count();
    assert_eq!(said as u64, 2 * preceded, "{log}");
    company.scene.stop_dtm()?;
    assert_eq!(company.furniture()?, before);
    let runs = last.runs()?;
    company.send()?;
    assert_eq!(last.runs()?, (runs.0 + PACKETS.0, runs.1 + PACKETS.1));
    assert_eq!(attached::to_interfaces(company.scene.host())?, []);
    Ok(())
}

#[test]
fn beside_filters_of_others_clsact_counts_what_they_let_it_see() -> Result<()> {
    beside_filters_of_others(EngineKind::Old, "clsact")
}

#[test]
fn beside_filters_of_others_tcx_counts_everything() -> Result<()> {
    beside_filters_of_others(EngineKind::Current, "tcx")
}

/// A priority belongs to one protocol: dtm's filters for all of them cannot be there.
#[test]
fn where_a_filter_cannot_be_first_it_counts_by_tcx() -> Result<()> {
    let mut company = Company::new(EngineKind::newest()?)?;
    company.tc(&format!("qdisc add dev {} clsact", company.host_end))?;
    let ending = Foreign::classifier(PASS)?;
    let pin = ending.pin(company.scene.host(), "ending")?;
    company.filter(
        "add",
        Side::Ingress,
        &format!("prio 1 protocol ip bpf da object-pinned {pin}"),
    )?;
    let before = company.furniture()?;
    company.watch("auto")?;
    assert_eq!((company.named("tcx")?, company.named("clsact")?), (1, 0));
    assert_eq!(company.exchange()?, EXACT);
    assert_eq!(ending.runs()?, PACKETS.1);
    company.scene.stop_dtm()?;
    assert_eq!(company.furniture()?, before);

    // Told to use nothing else, it takes the next best place and says so.
    company.watch("clsact")?;
    company.wait_preceded("clsact", 1, SOON)?;
    let unseen = Grown {
        kernel: MOVED,
        dtm: (MOVED.0, 0),
    };
    assert_eq!(company.exchange()?, unseen);
    let log = company.dtm()?.log();
    assert!(
        log.contains("bpf filter") && log.contains("of priority 1"),
        "{log}"
    );
    company.scene.stop_dtm()?;
    assert_eq!(company.furniture()?, before);
    Ok(())
}

#[test]
fn beside_an_ingress_qdisc_it_counts_by_tcx() -> Result<()> {
    let mut company = Company::new(EngineKind::newest()?)?;
    company.tc(&format!("qdisc add dev {} ingress", company.host_end))?;
    let before = company.furniture()?;
    company.watch("auto")?;
    assert_eq!(company.exchange()?, EXACT);
    assert_eq!(company.named("tcx")?, 1);
    assert_eq!(company.furniture()?, before);
    company.scene.stop_dtm()?;
    assert_eq!(company.furniture()?, before);

    // Told to use nothing else, it says that it cannot, and leaves no half of it.
    let host = company.scene.host();
    let dtm = Dtm::start(host, &["--attach-mode", "clsact"])?;
    let failed = || {
        dtm.samples()?
            .get("dtm_interfaces", &[("state", "failed"), ("mode", "none")])
    };
    assert_eq!(failed()?, 1);
    let errors = dtm
        .samples()?
        .get("dtm_attach_errors_total", &[("reason", "clsact")])?;
    assert!(errors >= 1);
    assert!(dtm.log().contains(&company.host_end), "{}", dtm.log());
    assert_eq!(company.furniture()?, before);

    // Once it is out of the way, dtm does not wait for its next round.
    company.tc(&format!("qdisc delete dev {} ingress", company.host_end))?;
    xtask::host::eventually(SOON, "the interface is attached to", || {
        Ok((failed()? == 0 && company.attached()?.len() == 2).then_some(()))
    })?;
    dtm.stop()
}
