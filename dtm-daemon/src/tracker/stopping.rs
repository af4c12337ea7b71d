//! How the tracker ends: what it attached is left for the next process, or taken off.

use crate::bpf::Attachment;

use super::{
    Tracker,
    attaching::{AttachJob, Attached, Report},
    groups::GroupJob,
    interfaces::{AttachmentState, DEVICES, Interface},
};

impl Tracker {
    /// Takes every program off and waits until that is done, or leaves them for the next process.
    pub(super) async fn stop(mut self) {
        self.record();
        if let Some(mut recorder) = self.recorder.take() {
            recorder.see();
            Box::pin(self.leave_for_the_next()).await;
        } else {
            Box::pin(self.take_off()).await;
        }
    }

    async fn leave_for_the_next(self) {
        let Self {
            kernel,
            interfaces,
            mut namespaces,
            groups,
            spares,
            mut reports,
            ..
        } = self;
        // What was attached and not taken in yet is found by its name, or replaced where it is.
        reports.close();
        while let Some(report) = reports.recv().await {
            if let Report::Attached(Attached { result, .. }) = report {
                result.into_iter().for_each(Attachment::keep);
            }
        }
        for interface in interfaces.into_values() {
            if let AttachmentState::Attached(attachment) = interface.attachment {
                attachment.keep();
            }
        }
        spares.keep();
        kernel.keep();
        groups.finish();
        while let Some((_netns, namespace)) = namespaces.pop_first() {
            namespace.finish();
        }
    }

    async fn take_off(self) {
        let Self {
            interfaces,
            mut namespaces,
            groups,
            mut devices,
            mut reports,
            ..
        } = self;
        // Births under way find nobody to report to and are taken off by the thread; those that were reported and not
        // taken in yet are known to nobody else.
        reports.close();
        let mut attachments = Vec::new();
        while let Some(report) = reports.recv().await {
            if let Report::Attached(Attached { generation, result }) = report {
                attachments.extend(result.ok().map(|attachment| (generation, attachment)));
            }
        }
        attachments.extend(interfaces.into_values().filter_map(|interface| {
            let Interface {
                generation,
                attachment,
                ..
            } = interface;
            match attachment {
                AttachmentState::Attached(attachment) => Some((generation, attachment)),
                AttachmentState::Attaching | AttachmentState::Failed { .. } => None,
            }
        }));
        let mut ends = Vec::new();
        for (generation, attachment) in attachments {
            let key = generation.key;
            if let Some(namespace) = namespaces.get(&key.netns) {
                namespace.order(AttachJob::Detach(attachment));
            } else if key.netns == DEVICES {
                ends.extend(devices.detach(key, attachment));
            } else {
                groups.order(GroupJob::Detach(attachment));
            }
        }
        groups.finish();
        for end in ends {
            // What a thread of one device could not do, it has said.
            drop(end.join());
        }
        while let Some((_netns, namespace)) = namespaces.pop_first() {
            namespace.finish();
        }
    }
}
