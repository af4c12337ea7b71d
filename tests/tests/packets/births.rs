//! What the kernel side tells of control groups that are made and removed.

use std::{path::PathBuf, time::Duration};

use dtm_daemon::bpf::{CgroupEvent, CgroupWatch};

use crate::{
    groups::{Hierarchy, own_name},
    instances::load,
};

/// The running kernel's type information.
const BTF: &str = "/sys/kernel/btf/vmlinux";

const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `test` where there is a runtime, with the events from now on.
fn watch(test: impl AsyncFnOnce(CgroupWatch)) {
    watch_with(BTF, test);
}

fn watch_with(btf: &str, test: impl AsyncFnOnce(CgroupWatch)) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let mut kernel = load(btf);
    runtime.block_on(async {
        let watch = kernel.watch_cgroups().expect("the kernel takes the tracepoints");
        test(watch).await;
    });
}

/// The events below `parent` up to the birth of `last`, with what comes before `parent` left out.
async fn until(watch: &mut CgroupWatch, parent: &str, last: &str) -> Vec<CgroupEvent> {
    let last = CgroupEvent::Made(PathBuf::from(format!("/{parent}/{last}")));
    let mut events = Vec::new();
    while !events.contains(&last) {
        let next = tokio::time::timeout(PATIENCE, watch.next());
        for event in next.await.expect("events come").expect("the ring can be read") {
            // Other groups of the machine come and go meanwhile.
            let own = |path: PathBuf| {
                let text = path.to_str()?;
                Some(PathBuf::from(&text[text.find(&format!("/{parent}/"))?..]))
            };
            events.extend(match event {
                CgroupEvent::Made(path) => own(path).map(CgroupEvent::Made),
                CgroupEvent::Removed(path) => own(path).map(CgroupEvent::Removed),
                CgroupEvent::Lost => Some(CgroupEvent::Lost),
            });
        }
    }
    events
}

fn id(digit: char) -> String {
    String::from(digit).repeat(64)
}

#[test]
fn a_containers_group_is_told_of_when_it_is_made_and_when_it_is_removed() {
    watch(async |mut watch| {
        let hierarchy = Hierarchy::unified();
        let parent = own_name("births");
        let _parent = hierarchy.make(&parent);
        let scope = format!("docker-{}.scope", id('b'));
        for name in [&id('a'), &scope] {
            hierarchy.make(&format!("{parent}/{name}")).remove();
        }
        let _last = hierarchy.make(&format!("{parent}/{}", id('f')));
        let path = |name: &str| PathBuf::from(format!("/{parent}/{name}"));
        assert_eq!(
            until(&mut watch, &parent, &id('f')).await,
            [
                CgroupEvent::Made(path(&id('a'))),
                CgroupEvent::Removed(path(&id('a'))),
                CgroupEvent::Made(path(&scope)),
                CgroupEvent::Removed(path(&scope)),
                CgroupEvent::Made(path(&id('f'))),
            ]
        );
    });
}

#[test]
fn groups_that_are_no_containers_are_not_told_of() {
    watch(async |mut watch| {
        let hierarchy = Hierarchy::unified();
        let parent = own_name("others");
        let _parent = hierarchy.make(&parent);
        let container = format!("{parent}/{}", id('c'));
        let _container = hierarchy.make(&container);
        for name in [
            format!("{parent}/system.slice"),
            format!("{container}/init.scope"),
            format!("{parent}/{}", "not-hexadecimal-".repeat(6)),
            format!("{parent}/{}0", id('a')),
        ] {
            hierarchy.make(&name).remove();
        }
        let _last = hierarchy.make(&format!("{parent}/{}", id('f')));
        let path = |name: &str| PathBuf::from(format!("/{parent}/{name}"));
        assert_eq!(
            until(&mut watch, &parent, &id('f')).await,
            [
                CgroupEvent::Made(path(&id('c'))),
                CgroupEvent::Made(path(&id('f'))),
            ]
        );
    });
}

#[test]
fn groups_of_cgroup_v1_are_not_told_of() {
    watch(async |mut watch| {
        let parent = own_name("legacy");
        let unified = Hierarchy::unified();
        let _parent = unified.make(&parent);
        {
            let name = std::ffi::CString::new(parent.clone()).expect("no zero in it");
            let legacy = Hierarchy::legacy(&name);
            let _parent = legacy.make(&parent);
            legacy.make(&format!("{parent}/{}", id('a'))).remove();
        }
        let _last = unified.make(&format!("{parent}/{}", id('f')));
        let last = PathBuf::from(format!("/{parent}/{}", id('f')));
        assert_eq!(
            until(&mut watch, &parent, &id('f')).await,
            [CgroupEvent::Made(last)]
        );
    });
}

#[test]
fn without_type_information_groups_of_every_hierarchy_are_told_of() {
    watch_with("/nowhere", async |mut watch| {
        let parent = own_name("untyped");
        let unified = Hierarchy::unified();
        let _parent = unified.make(&parent);
        {
            let name = std::ffi::CString::new(parent.clone()).expect("no zero in it");
            let legacy = Hierarchy::legacy(&name);
            let _parent = legacy.make(&parent);
            legacy.make(&format!("{parent}/{}", id('a'))).remove();
            legacy.make(&format!("{parent}/init.scope")).remove();
        }
        let _last = unified.make(&format!("{parent}/{}", id('f')));
        let path = |name: &str| PathBuf::from(format!("/{parent}/{name}"));
        assert_eq!(
            until(&mut watch, &parent, &id('f')).await,
            [
                CgroupEvent::Made(path(&id('a'))),
                CgroupEvent::Removed(path(&id('a'))),
                CgroupEvent::Made(path(&id('f'))),
            ]
        );
    });
}

#[test]
fn events_that_found_no_room_are_told_of_as_lost() {
    watch(async |mut watch| {
        let hierarchy = Hierarchy::unified();
        let parent = own_name("flood");
        let _parent = hierarchy.make(&parent);
        let crowd = |number: usize| format!("{number:064x}");
        // Twice as many as there is room for, and nobody reads.
        for number in 0..500 {
            hierarchy.make(&format!("{parent}/{}", crowd(number))).remove();
        }
        let events = until(&mut watch, &parent, &crowd(0)).await;
        let told = events.iter().filter(|event| **event != CgroupEvent::Lost);
        let told = told.count();
        assert_eq!(events.len() - told, 1, "it is told once that events were lost");
        assert!(told > 400, "what found room is there: {told}");
        // And then everything is as before.
        let _last = hierarchy.make(&format!("{parent}/{}", id('f')));
        let last = PathBuf::from(format!("/{parent}/{}", id('f')));
        assert_eq!(
            until(&mut watch, &parent, &id('f')).await,
            [CgroupEvent::Made(last)]
        );
    });
}

#[test]
fn a_path_too_long_for_a_record_is_lost() {
    watch(async |mut watch| {
        let hierarchy = Hierarchy::unified();
        let parent = own_name("deep");
        let _parent = hierarchy.make(&parent);
        let (mut path, mut groups) = (parent.clone(), Vec::new());
        for digit in "0123456789".chars() {
            path = format!("{path}/{}", id(digit));
            groups.push(hierarchy.make(&path));
        }
        let _last = hierarchy.make(&format!("{parent}/{}", id('f')));
        let events = until(&mut watch, &parent, &id('f')).await;
        let lost = events.iter().filter(|event| **event == CgroupEvent::Lost).count();
        // Of ten components of 65 bytes, seven fit.
        assert_eq!((events.len() - lost, lost), (7 + 1, 3), "{events:?}");
        while let Some(group) = groups.pop() {
            group.remove();
        }
    });
}

#[test]
fn waiting_can_be_given_up_and_taken_up_again() {
    watch(async |mut watch| {
        let hierarchy = Hierarchy::unified();
        let parent = own_name("waiting");
        let _parent = hierarchy.make(&parent);
        let soon = tokio::time::timeout(Duration::from_millis(1), watch.next());
        drop(soon.await);
        let _group = hierarchy.make(&format!("{parent}/{}", id('a')));
        let events = until(&mut watch, &parent, &id('a')).await;
        let path = PathBuf::from(format!("/{parent}/{}", id('a')));
        assert_eq!(events, [CgroupEvent::Made(path)]);
    });
}
