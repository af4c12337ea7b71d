//! Programs that somebody else took off are put back.

use super::{Tracker, attaching::AttachJob, interfaces::AttachmentState};

impl Tracker {
    /// Attaches again where somebody has taken a program off. What passed meanwhile was not counted.
    pub(super) fn mend(&mut self) {
        let mut missing = Vec::new();
        let Self {
            interfaces, requests, ..
        } = self;
        for interface in interfaces.values() {
            let AttachmentState::Attached(attachment) = &interface.attachment else {
                continue;
            };
            match attachment.is_attached(requests) {
                Ok(true) => {}
                Ok(false) => missing.push(interface.link.ifindex),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(
                        interface = &*interface.link.name,
                        error,
                        "cannot look at what is attached"
                    );
                }
            }
        }
        for ifindex in missing {
            let Some(interface) = self.interfaces.get_mut(&ifindex) else {
                continue;
            };
            tracing::warn!(
                interface = &*interface.link.name,
                "somebody has taken a program off, attaching again"
            );
            let generation = interface.generation;
            let state = std::mem::replace(&mut interface.attachment, AttachmentState::Attaching);
            if let AttachmentState::Attached(rest) = state {
                self.counts.reattached += 1;
                self.order(AttachJob::Mend { generation, rest });
            }
        }
    }
}
