use bollard::models::EventActor;

use super::*;
use crate::docker::fixture::network;

fn id() -> ContainerId {
    ContainerId::parse(&"a".repeat(64)).unwrap()
}

fn event(typ: EventMessageTypeEnum, action: &str, id: &str, attributes: &[(&str, &str)]) -> EventMessage {
    let attributes = attributes
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    EventMessage {
        typ: Some(typ),
        action: Some(action.to_owned()),
        actor: Some(EventActor {
            id: Some(id.to_owned()),
            attributes: Some(attributes.collect()),
        }),
        time_nano: Some(5_500_000_000),
        ..EventMessage::default()
    }
}

fn of_container(action: &str, name: &str) -> EventMessage {
    event(
        EventMessageTypeEnum::CONTAINER,
        action,
        id().full(),
        &[("name", name), ("image", "nginx"), ("tier", "front")],
    )
}

fn of_network(action: &str, network: &str) -> EventMessage {
    event(
        EventMessageTypeEnum::NETWORK,
        action,
        &format!("{network}-id"),
        &[("container", id().full()), ("name", network), ("type", "bridge")],
    )
}

fn told(update: Option<DockerUpdate>) -> Container {
    match update {
        Some(DockerUpdate::Container(container)) => container,
        other => panic!("no container but {other:?}"),
    }
}

/// What the engine says of the container while it runs on `front`.
fn answer(name: &str) -> Container {
    Container {
        id: id(),
        name: name.into(),
        image: "nginx".into(),
        labels: [("tier".to_owned(), "front".to_owned())].into(),
        network_mode: "front".into(),
        state: ContainerState::Running,
        started_at: Some(5.25),
        endpoints: vec![Endpoint {
            network: "front".into(),
            network_id: "front-id".into(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            addresses: vec!["10.0.0.2".parse().unwrap()],
        }],
    }
}

/// A registry that was told that the container runs on `front`, and has asked about it since.
fn asked() -> Registry {
    let mut registry = Registry::default();
    registry.on_event(of_container("create", "web"));
    registry.on_event(of_network("connect", "front"));
    registry.on_event(of_container("start", "web"));
    assert_eq!(registry.next_question(), Some(Question::Container(id())));
    assert_eq!(registry.next_question(), None);
    registry
}

#[test]
fn events_alone_name_a_container() {
    let mut registry = Registry::default();
    let created = told(registry.on_event(of_container("create", "web")));
    assert_eq!(
        (&*created.name, &*created.image, created.state),
        ("web", "nginx", ContainerState::Created)
    );
    assert_eq!(created.labels, answer("web").labels);
    assert_eq!(&*created.network_mode, "");
    let connected = told(registry.on_event(of_network("connect", "front")));
    assert_eq!(&*connected.endpoints[0].network, "front");
    let started = told(registry.on_event(of_container("start", "web")));
    assert_eq!(
        (started.state, started.started_at),
        (ContainerState::Running, Some(5.5))
    );
}

#[test]
fn a_current_answer_is_taken_as_it_is() {
    let mut registry = asked();
    assert_eq!(
        told(registry.on_container_answer(&id(), Some(answer("web")))),
        answer("web")
    );
    assert_eq!(registry.next_question(), None);
}

#[test]
fn an_answer_without_news_is_no_update() {
    let mut registry = asked();
    registry.on_container_answer(&id(), Some(answer("web")));
    assert_eq!(registry.on_event(of_container("update", "web")), None);
    assert_eq!(registry.next_question(), Some(Question::Container(id())));
    assert_eq!(registry.on_container_answer(&id(), Some(answer("web"))), None);
}

#[test]
fn a_death_is_not_undone_by_the_answer_to_an_earlier_question() {
    let mut registry = asked();
    assert_eq!(
        registry.on_event(of_container("die", "web")),
        Some(DockerUpdate::Died(id()))
    );
    let late = told(registry.on_container_answer(&id(), Some(answer("web"))));
    assert_eq!(
        (late.state, &*late.network_mode),
        (ContainerState::Exited, "front")
    );
    assert_eq!(
        registry.next_question(),
        Some(Question::Container(id())),
        "it may be about to start again"
    );
    let restarting = Container {
        state: ContainerState::Restarting,
        endpoints: Vec::new(),
        ..answer("web")
    };
    let now = told(registry.on_container_answer(&id(), Some(restarting.clone())));
    assert_eq!(now, restarting);
    assert_eq!(registry.next_question(), None);
}

#[test]
fn a_new_name_is_not_undone_by_the_answer_to_an_earlier_question() {
    let mut registry = asked();
    assert_eq!(
        &*told(registry.on_event(of_container("rename", "shop"))).name,
        "shop"
    );
    let late = told(registry.on_container_answer(&id(), Some(answer("web"))));
    assert_eq!((&*late.name, late.endpoints), ("shop", answer("web").endpoints));
    assert_eq!(
        registry.next_question(),
        Some(Question::Container(id())),
        "asked again"
    );
}

#[test]
fn a_network_left_meanwhile_does_not_come_back() {
    let mut registry = asked();
    assert!(
        told(registry.on_event(of_network("disconnect", "front")))
            .endpoints
            .is_empty()
    );
    assert!(
        told(registry.on_container_answer(&id(), Some(answer("web"))))
            .endpoints
            .is_empty()
    );
}

#[test]
fn a_start_after_a_death_keeps_its_own_time() {
    let mut registry = asked();
    registry.on_event(of_container("die", "web"));
    let started = told(registry.on_event(of_container("start", "web")));
    assert_eq!(
        (started.state, started.started_at),
        (ContainerState::Running, Some(5.5))
    );
    let late = told(registry.on_container_answer(&id(), Some(answer("web"))));
    assert_eq!(late.started_at, Some(5.5));
    assert_eq!(registry.next_question(), Some(Question::Container(id())));
    let current = registry.on_container_answer(&id(), Some(answer("web")));
    assert_eq!(told(current).started_at, Some(5.25));
}

#[test]
fn a_start_that_an_answer_told_of_first_keeps_the_exact_time() {
    let mut registry = Registry::default();
    registry.on_event(of_container("create", "web"));
    assert_eq!(registry.next_question(), Some(Question::Container(id())));
    registry.on_container_answer(&id(), Some(answer("web")));
    assert_eq!(registry.on_event(of_container("start", "web")), None);
}

#[test]
fn an_answer_about_a_removed_container_is_dropped() {
    let mut registry = asked();
    assert_eq!(
        registry.on_event(of_container("destroy", "web")),
        Some(DockerUpdate::Destroyed(id()))
    );
    assert_eq!(registry.on_container_answer(&id(), Some(answer("web"))), None);
    assert_eq!(registry.next_question(), None);
}

#[test]
fn no_answer_leaves_what_the_events_said_and_is_not_asked_for_ever() {
    let mut registry = asked();
    assert_eq!(registry.on_container_answer(&id(), None), None);
    assert_eq!(registry.next_question(), None);
    let renamed = told(registry.on_event(of_container("rename", "shop")));
    assert_eq!((&*renamed.name, renamed.state), ("shop", ContainerState::Running));
}

#[test]
fn an_answer_for_another_container_is_none() {
    let mut registry = asked();
    let other = Container {
        id: ContainerId::parse(&"b".repeat(64)).unwrap(),
        ..answer("other")
    };
    assert_eq!(registry.on_container_answer(&id(), Some(other)), None);
}

#[test]
fn many_events_make_one_question() {
    let mut registry = Registry::default();
    for action in ["create", "start", "pause", "unpause", "restart", "update"] {
        registry.on_event(of_container(action, "web"));
    }
    assert_eq!(registry.next_question(), Some(Question::Container(id())));
    assert_eq!(registry.next_question(), None);
}

#[test]
fn what_happens_is_asked_about_before_what_was_there() {
    let other = Container {
        id: ContainerId::parse(&"b".repeat(64)).unwrap(),
        ..answer("other")
    };
    let mut registry = Registry::default();
    registry.listed(&mut [other.clone()], &[]);
    registry.on_event(of_container("create", "web"));
    assert_eq!(registry.next_question(), Some(Question::Container(id())));
    assert_eq!(registry.next_question(), Some(Question::Container(other.id)));
}

#[test]
fn a_list_does_not_undo_what_it_does_not_say() {
    let mut registry = Registry::default();
    registry.listed(&mut [answer("web")], &[]);
    let mut again = [Container {
        image: "sha256:0123".into(),
        started_at: None,
        ..answer("web")
    }];
    registry.listed(&mut again, &[]);
    assert_eq!((&*again[0].image, again[0].started_at), ("nginx", Some(5.25)));
    let renamed = told(registry.on_event(of_container("rename", "shop")));
    assert_eq!(renamed.started_at, Some(5.25));
}

#[test]
fn a_network_removed_meanwhile_does_not_come_back() {
    let network = Network {
        id: "front-id".into(),
        name: "front".into(),
        driver: "bridge".into(),
        bridge: None,
        subnets: Vec::new(),
    };
    let mut registry = Registry::default();
    let announced = Network {
        bridge: Some("br-front-id".into()),
        ..network.clone()
    };
    assert_eq!(
        registry.on_event(of_network("create", "front")),
        Some(DockerUpdate::Network(announced)),
        "its event says enough for a start"
    );
    assert_eq!(
        registry.next_question(),
        Some(Question::Network("front-id".into()))
    );
    let update = registry.on_network_answer(network.clone());
    assert_eq!(update, Some(DockerUpdate::Network(network.clone())));
    let removed = registry.on_event(of_network("destroy", "front"));
    assert_eq!(removed, Some(DockerUpdate::NetworkRemoved("front-id".into())));
    assert_eq!(registry.on_network_answer(network), None);
}

#[test]
fn what_is_no_news_has_no_consequence() {
    let mut registry = Registry::default();
    for action in [
        "exec_start: sh",
        "top",
        "health_status: healthy",
        "attach",
        "die",
        "destroy",
    ] {
        assert_eq!(registry.on_event(of_container(action, "web")), None, "{action}");
    }
    let strange = [
        EventMessage::default(),
        event(EventMessageTypeEnum::CONTAINER, "start", "../../etc/passwd", &[]),
        event(EventMessageTypeEnum::NETWORK, "connect", "front-id", &[]),
        event(
            EventMessageTypeEnum::NETWORK,
            "connect",
            "front-id",
            &[("container", "web")],
        ),
        event(EventMessageTypeEnum::VOLUME, "create", "data", &[]),
    ];
    for event in strange {
        assert_eq!(registry.on_event(event), None);
    }
    assert_eq!(registry.next_question(), None);
}

#[test]
fn of_networks_that_are_told_at_once_only_the_news_are_told() {
    let network = |name, bridge| network(name, "bridge", Some(bridge));
    let mut registry = Registry::default();
    let (front, back) = (network("front", "podman1"), network("back", "podman2"));
    registry.listed(&mut [], &[front.clone(), back.clone()]);
    assert_eq!(registry.on_all_networks(&[back.clone(), front]), []);
    let moved = network("back", "podman1");
    assert_eq!(
        registry.on_all_networks(std::slice::from_ref(&moved)),
        [
            DockerUpdate::NetworkRemoved("front".into()),
            DockerUpdate::Network(moved)
        ]
    );
    assert_eq!(
        registry.on_all_networks(&[]),
        [DockerUpdate::NetworkRemoved("back".into())]
    );
}

#[test]
fn a_network_mode_is_not_forgotten_for_an_answer_without_one() {
    let mut registry = asked();
    registry.on_container_answer(&id(), Some(answer("web")));
    registry.on_event(of_container("update", "web"));
    registry.next_question();
    let listed = Container {
        network_mode: "".into(),
        ..answer("web")
    };
    assert_eq!(registry.on_container_answer(&id(), Some(listed)), None);
}
