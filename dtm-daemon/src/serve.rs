//! The daemon's life: load, attach, watch, serve, and take everything off again.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use aya_log::EbpfLogger;
use tokio::{
    io::unix::AsyncFd,
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    bpf::{Bpffs, Kept, Kernel, Limits, has_left, tcx_is_supported},
    config::{AttachMode, Config, HostConfig, Paths},
    docker, memory,
    single::Single,
    tracker::{Settings, Tracker},
    uplinks::Uplinks,
    web,
};

/// Room for what Docker says while the tracker is busy; the watcher waits when it is full.
const DOCKER_UPDATES: usize = 256;

/// How long a stop may take: two RCU grace periods for each of a thousand TCX links, and as much again.
const STOP_WITHIN: Duration = Duration::from_mins(1);

/// Runs the daemon until SIGTERM or SIGINT, or until a part of it fails.
///
/// # Errors
///
/// What made it impossible to start or to go on. What is pinned stays attached for the next start.
pub async fn run(config: Config) -> anyhow::Result<()> {
    // Signals first: one that comes during the start still ends in an orderly stop.
    let cancel = CancellationToken::new();
    let mut tasks = JoinSet::new();
    watch_signals(&cancel, &mut tasks)?;
    docker::preflight(&config.host.docker_host)?;
    // Held until everything is taken off again.
    let single = tokio::select! {
        single = Single::claim(&config.host.paths.procfs) => single?,
        () = cancel.cancelled() => return wait(tasks, cancel).await,
    };
    // Addresses next: that one is in use should not cost an attach to every container.
    let listeners = web::bind(&config).await?;
    refuse_what_cannot_work(&config)?;
    // Docker is asked while the kernel side is loaded.
    let (updates, docker_updates) = mpsc::channel(DOCKER_UPDATES);
    let unknown_networks = Arc::new(Notify::new());
    let watching = docker::watch(
        config.host.docker_host.clone(),
        updates,
        Arc::clone(&unknown_networks),
        cancel.clone(),
    );
    tasks.spawn(async move {
        watching.await;
        Ok(())
    });
    let limits = Limits {
        slots: config.max_interfaces,
        scopes: !config.no_scopes,
        pairs: if config.no_flows { 0 } else { config.max_pairs },
        tcp: !config.no_tcp,
        round_trips: !config.no_tcp && !config.no_tcp_rtt,
    };
    let (host, no_pin) = (config.host.clone(), config.no_pin);
    let (mut kernel, kept) = tokio::task::spawn_blocking(move || load(&host, limits, no_pin))
        .await
        .context("load the kernel side")??;
    forward_diagnostics(&mut kernel, &cancel, &mut tasks);
    // The kernel's type information takes more for a moment than dtm does ever after.
    memory::give_back();

    let uplinks = Uplinks::start(
        &kernel,
        kept.as_ref(),
        no_pin,
        &config.host.uplinks,
        config.host.paths.docker_netns.clone(),
    )?;
    let (uplinks, view) = uplinks.unzip();
    let settings = Settings {
        attach_mode: config.host.attach_mode,
        linger: config.linger,
        procfs: config.host.paths.procfs.clone(),
        docker_netns: config.host.paths.docker_netns.clone(),
        no_pin,
        uplinks: view,
    };
    let (tracker, handle) = Tracker::start(
        kernel,
        kept,
        settings,
        docker_updates,
        Arc::clone(&unknown_networks),
    )?;
    tasks.spawn(tracker.run(cancel.clone()));
    if let Some(uplinks) = uplinks {
        tasks.spawn(uplinks.run(cancel.clone()));
    }
    tasks.spawn(web::serve(listeners, handle, config, cancel.clone()));
    let result = wait(tasks, cancel).await;
    drop(single);
    result
}

/// Loads the kernel side, over what an earlier process has left. Without a place to pin it, it ends with this process, and
/// the log says so.
fn load(host: &HostConfig, limits: Limits, no_pin: bool) -> anyhow::Result<(Kernel, Option<Kept>)> {
    let Paths { procfs, bpffs, .. } = &host.paths;
    if no_pin && !has_left(bpffs) {
        return Ok((Kernel::load(&host.btf, limits)?, None));
    }
    let path = bpffs.display();
    let taken = Bpffs::mount(bpffs, procfs)
        .with_context(|| format!("no BPF file system at {path}"))
        .and_then(|found| Ok((Kernel::take_over(&host.btf, limits, bpffs)?, found)));
    match taken {
        Ok(((kernel, kept), found)) => {
            if found == Bpffs::InContainer {
                tracing::warn!(
                    "what is attached is pinned in this container and ends with it: start the container with \
                     -v {path}:{path}, and have a BPF file system mounted there on the host"
                );
            }
            Ok((kernel, Some(kept)))
        }
        Err(error) => {
            let kernel = Kernel::load(&host.btf, limits)?;
            let error = format_args!("{error:#}");
            tracing::warn!(error, "not pinned: what is attached ends with this process");
            Ok((kernel, None))
        }
    }
}

/// Waits for the tasks. The first that ends, ends the others; the first error is the daemon's.
async fn wait(mut tasks: JoinSet<anyhow::Result<()>>, cancel: CancellationToken) -> anyhow::Result<()> {
    let mut result = Ok(());
    let mut deadline = None;
    loop {
        let next = match deadline {
            None => tasks.join_next().await,
            Some(deadline) => match tokio::time::timeout_at(deadline, tasks.join_next()).await {
                Ok(next) => next,
                Err(_elapsed) => bail!("not everything stopped within {} s", STOP_WITHIN.as_secs()),
            },
        };
        let Some(ended) = next else { return result };
        if !cancel.is_cancelled() {
            cancel.cancel();
        }
        deadline.get_or_insert_with(|| tokio::time::Instant::now() + STOP_WITHIN);
        let ended = ended.context("a part of the daemon panicked").flatten();
        if result.is_ok() {
            result = ended;
        }
    }
}

fn watch_signals(cancel: &CancellationToken, tasks: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
    let cancel = cancel.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            _signal = terminate.recv() => tracing::info!(signal = "SIGTERM", "stopping"),
            _signal = interrupt.recv() => tracing::info!(signal = "SIGINT", "stopping"),
        }
        cancel.cancel();
        Ok(())
    });
    Ok(())
}

/// Says in one line what is missing, before anything is loaded.
fn refuse_what_cannot_work(config: &Config) -> anyhow::Result<()> {
    let default_btf = Path::new(crate::config::DEFAULT_BTF);
    if config.host.btf != default_btf && !config.host.btf.exists() {
        bail!(
            "--path.btf: there is no {}; name the running kernel's type information, or leave the flag out",
            config.host.btf.display()
        );
    }
    if !config.host.paths.procfs.join("stat").exists() {
        bail!(
            "--path.procfs: {} is no procfs; name where the host's /proc is mounted",
            config.host.paths.procfs.display()
        );
    }
    if config.host.attach_mode == AttachMode::Tcx && !tcx_is_supported() {
        bail!(
            "--attach-mode tcx: this kernel has no TCX (it needs 6.6 or later), or dtm may not use it; use auto"
        );
    }
    Ok(())
}

/// Passes the kernel side's rare diagnostics on to the log.
fn forward_diagnostics(
    kernel: &mut Kernel,
    cancel: &CancellationToken,
    tasks: &mut JoinSet<anyhow::Result<()>>,
) {
    let logger = match EbpfLogger::init(kernel.ebpf_mut()) {
        Ok(logger) => logger,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, "no diagnostics from the kernel side");
            return;
        }
    };
    #[expect(
        unsafe_code,
        reason = "the promise that the descriptor stays open is the caller's"
    )]
    // SAFETY: the logger owns its ring buffer's descriptor and nothing closes it before it is dropped.
    let registered = unsafe { AsyncFd::register(logger) };
    let mut logger = match registered {
        Ok(logger) => logger,
        Err(error) => {
            tracing::debug!(%error, "no diagnostics from the kernel side");
            return;
        }
    };
    let cancel = cancel.clone();
    tasks.spawn(async move {
        loop {
            let mut ready = tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                ready = logger.readable_mut() => ready.context("wait for the kernel side's diagnostics")?,
            };
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
}
