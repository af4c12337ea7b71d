//! What is attached to a host's interfaces, by the kernel's own word.

use anyhow::{Context as _, Result};
use aya::programs::{SchedClassifier, TcAttachType};
use xtask::host::{Host, Network};

/// dtm's programs: the interface, and how and which.
pub fn to_interfaces(host: &Host) -> Result<Vec<(String, String)>> {
    let network = host.network()?;
    let mut found = Vec::new();
    for link in host.links()? {
        for side in ["ingress", "egress"] {
            let filters = filters(host, &link.name, side)?;
            let ours = filters.lines().filter(|line| line.contains("dtm_"));
            found.extend(ours.map(|line| (link.name.clone(), line.to_owned())));
        }
        let links = tcx_programs(&network, &link.name)?;
        let ours = links.into_iter().filter(|program| program.starts_with("dtm_"));
        found.extend(ours.map(|program| (link.name.clone(), format!("tcx {program}"))));
    }
    Ok(found)
}

/// What tc shows of one side of an interface.
pub fn filters(host: &Host, interface: &str, side: &str) -> Result<String> {
    host.run("tc", ["filter", "show", "dev", interface, side])
}

/// The programs of TCX links, in the order in which they run.
fn tcx_programs(network: &Network, interface: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for side in [TcAttachType::Ingress, TcAttachType::Egress] {
        let (_revision, programs) = network
            .enter(|| SchedClassifier::query_tcx(interface, side))?
            .with_context(|| format!("ask for the TCX programs of {interface}"))?;
        let name =
            |program: &aya::programs::ProgramInfo| program.name_as_str().unwrap_or_default().to_owned();
        names.extend(programs.iter().map(name));
    }
    Ok(names)
}
