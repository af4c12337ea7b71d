//! What is attached to a host's interfaces, by the kernel's own word.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType};
use xtask::host::{Host, Network};

use crate::foreign::{Side, tcx_links};

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
        for program in tcx_programs(&network, &link.name)? {
            let name = program.name_as_str().filter(|name| name.starts_with("dtm_"));
            found.extend(name.map(|name| (link.name.clone(), format!("tcx {name}"))));
        }
    }
    Ok(found)
}

/// What holds programs at each interface, dtm's and others': filters as tc shows them, and links by their numbers. An
/// interface without any is left out.
pub fn holders(host: &Host) -> Result<BTreeMap<String, Vec<String>>> {
    let network = host.network()?;
    let mut all = BTreeMap::new();
    for link in host.links()? {
        let mut here = Vec::new();
        for side in Side::BOTH {
            let filters = filters(host, &link.name, side.as_str())?;
            here.extend(filters.lines().map(|line| format!("{} {line}", side.as_str())));
            let links = tcx_links(&network, link.ifindex, side)?;
            here.extend(links.iter().map(|id| format!("{} link {id}", side.as_str())));
        }
        if !here.is_empty() {
            all.insert(link.name, here);
        }
    }
    Ok(all)
}

/// The tags of dtm's programs at an interface: what the kernel makes of their instructions.
pub fn tags(host: &Host, interface: &str) -> Result<BTreeSet<String>> {
    let mut tags = BTreeSet::new();
    for side in Side::BOTH {
        let filters = filters(host, interface, side.as_str())?;
        for line in filters.lines().filter(|line| line.contains("dtm_")) {
            let mut words = line.split_whitespace().skip_while(|word| *word != "tag");
            let tag = words.nth(1).with_context(|| format!("no tag in {line:?}"))?;
            tags.insert(tag.to_owned());
        }
    }
    let programs = tcx_programs(&host.network()?, interface)?.into_iter();
    let ours = programs.filter(|program| program.name_as_str().is_some_and(|name| name.starts_with("dtm_")));
    tags.extend(ours.map(|program| format!("{:016x}", program.tag())));
    Ok(tags)
}

/// What tc shows of one side of an interface.
pub fn filters(host: &Host, interface: &str, side: &str) -> Result<String> {
    host.run("tc", ["filter", "show", "dev", interface, side])
}

/// The programs of TCX links, in the order in which they run.
fn tcx_programs(network: &Network, interface: &str) -> Result<Vec<ProgramInfo>> {
    let mut all = Vec::new();
    for side in [TcAttachType::Ingress, TcAttachType::Egress] {
        let (_revision, programs) = network
            .enter(|| SchedClassifier::query_tcx(interface, side))?
            .with_context(|| format!("ask for the TCX programs of {interface}"))?;
        all.extend(programs);
    }
    Ok(all)
}
