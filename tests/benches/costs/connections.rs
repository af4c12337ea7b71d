//! What TCP and drops cost: throughput and turns of connections between two containers beside a dtm and without one, and
//! nanoseconds of a drop, of a round-trip sample and of a retransmission by the kernel's own account of programs.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    programs::loaded_programs,
    sys::{Stats, enable_stats},
};
use dtm_tests::scene::{BACK, Scene};
use rustix::thread::{CpuSet, sched_setaffinity};
use xtask::host::{EngineKind, EngineOptions, Network, eventually};

use crate::{
    programs::{BPF_PROG_TYPE_SCHED_CLS, empty_program, nanoseconds},
    spread,
};

/// What is measured side by side, by name: nobody, and dtm with arguments.
const SETTINGS: [(&str, Option<&[&str]>); 4] = [
    ("no dtm", None),
    ("all of it but TCP and round trips", Some(&["--no-tcp"])),
    ("all of it but round trips", Some(&["--no-tcp-rtt"])),
    ("all of it", Some(&[])),
];

/// Each setting is measured so often, all of them by turns.
const ROUNDS: usize = 7;

/// One measurement.
const SECONDS: u64 = 2;

const PORT: u16 = 5001;
const PATIENCE: Duration = Duration::from_secs(20);

/// Packets that are dropped, turns of a conversation, and bytes sent where every so many-th segment is lost.
const DROPS: u64 = 200_000;
const TURNS: u64 = 100_000;
const LOSSY_BYTES: u64 = 60_000_000;
const LOSS: &str = "table inet loss { chain in { type filter hook input priority 0; \
                    tcp dport 5001 numgen inc mod 8 == 7 drop; }; }";
const BARRED: &str =
    "table inet barred { chain in { type filter hook input priority 0; udp dport 9 drop; }; }";

/// The kernel keeps fifteen letters of a program's name.
const DROP: &str = "dtm_kfree_skb";
const SOCK_OPS: &str = "dtm_sock_ops";

/// Two containers, and addresses of the one that serves.
struct Stage {
    scene: Scene,
    client: Network,
    server: Network,
    address: String,
}

impl Stage {
    fn new() -> Result<Self> {
        let scene = Scene::new(EngineOptions::new(EngineKind::newest()?))?;
        for name in ["server", "client"] {
            scene.run(name, BACK, &["sleep", "3600"])?;
        }
        Ok(Self {
            client: scene.engine.inside("client")?,
            server: scene.engine.inside("server")?,
            address: scene.address("server", BACK, false)?,
            scene,
        })
    }

    /// Gbit/s of one connection of iperf3's.
    fn throughput(&self) -> Result<f64> {
        let mut server = self.server.enter(|| {
            Command::new("iperf3")
                .args(["-s", "-1", "-p", &PORT.to_string()])
                .stdout(Stdio::null())
                .spawn()
        })??;
        let measure = || -> Result<f64> {
            let output = self.client.run(
                "iperf3",
                [
                    "-c",
                    &self.address,
                    "-p",
                    &PORT.to_string(),
                    "-t",
                    &SECONDS.to_string(),
                    "-A",
                    "0,1",
                    "-J",
                ],
            )?;
            let result: serde_json::Value = serde_json::from_str(&output)?;
            let rate = result["end"]["sum_received"]["bits_per_second"].as_f64();
            Ok(rate.context("a rate")? / 1e9)
        };
        // Until it listens.
        let rate = eventually(PATIENCE, "iperf3", || Ok(measure().ok()));
        server.kill().ok();
        server.wait()?;
        rate
    }

    /// A connection with a thread at each end, both on one processor: on two of a virtual machine's, most of a turn is the
    /// time in which the other one wakes up.
    fn connected<T>(
        &self,
        serve: impl FnOnce(TcpStream) -> std::io::Result<()> + Send,
        ask: impl FnOnce(TcpStream) -> std::io::Result<T> + Send,
    ) -> Result<T>
    where
        T: Send,
    {
        let listener = self.server.enter(|| TcpListener::bind(("0.0.0.0", PORT + 1)))??;
        let address = (self.address.as_str(), PORT + 1);
        let stream = self.client.enter(|| TcpStream::connect(address))??;
        let (served, result) = std::thread::scope(|scope| {
            let serving = scope.spawn(move || {
                pin()?;
                serve(listener.accept()?.0)
            });
            let asking = scope.spawn(move || {
                pin()?;
                stream.set_nodelay(true)?;
                ask(stream)
            });
            (serving.join(), asking.join())
        });
        let (Ok(served), Ok(result)) = (served, result) else {
            bail!("one of both panicked")
        };
        served?;
        Ok(result?)
    }

    /// Thousands of turns in a second: a byte there and a byte back, as `TCP_RR` of netperf's.
    fn turns(&self) -> Result<f64> {
        self.connected(echo, |mut stream| {
            let start = Instant::now();
            let mut turns = 0_u32;
            while start.elapsed() < Duration::from_secs(SECONDS) {
                turn(&mut stream)?;
                turns += 1;
            }
            Ok(f64::from(turns) / start.elapsed().as_secs_f64() / 1e3)
        })
    }
}

/// Keeps the calling thread on the first processor.
fn pin() -> std::io::Result<()> {
    let mut first = CpuSet::new();
    first.set(0);
    Ok(sched_setaffinity(None, &first)?)
}

fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut byte = [0];
    while stream.read(&mut byte)? > 0 {
        stream.write_all(&byte)?;
    }
    Ok(())
}

fn turn(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut byte = [0];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)
}

/// Runs and nanoseconds of all programs with this name, up to now.
fn account(name: &str) -> Result<(u64, u64)> {
    let mut sums = (0, 0);
    for program in loaded_programs() {
        // One may be gone meanwhile.
        let Ok(program) = program else { continue };
        if program.name_as_str() == Some(name) {
            sums.0 += program.run_count();
            sums.1 += u64::try_from(program.run_time().as_nanos())?;
        }
    }
    ensure!(
        sums.0 > 0 || program_is_there(name),
        "no program {name} is loaded"
    );
    Ok(sums)
}

fn program_is_there(name: &str) -> bool {
    loaded_programs()
        .flatten()
        .any(|program| program.name_as_str() == Some(name))
}

/// Nanoseconds of a run of a program while something happens, and how many there were.
fn cost(name: &str, action: impl FnOnce() -> Result<()>) -> Result<(f64, u64)> {
    let before = account(name)?;
    action()?;
    let after = account(name)?;
    let runs = after.0 - before.0;
    ensure!(runs > 0, "{name} did not run");
    Ok(((after.1 - before.1) as f64 / runs as f64, runs))
}

/// What the account itself adds: a program that does nothing has as much.
fn floor() -> Result<f64> {
    let program = empty_program(BPF_PROG_TYPE_SCHED_CLS, -1)?;
    // A frame of no interface's is one of the loopback's.
    nanoseconds(&program, 1, &[0; 64], None)?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?;
    let of = |key: &str| -> Result<f64> {
        let found = info.lines().find_map(|line| line.strip_prefix(key));
        Ok(found
            .with_context(|| format!("no {key} in {info}"))?
            .trim()
            .parse()?)
    };
    let runs = of("run_cnt:")?;
    ensure!(runs > 0.0, "the kernel keeps no account");
    Ok(of("run_time_ns:")? / runs)
}

pub(crate) fn run() -> Result<()> {
    let mut stage = Stage::new()?;
    ratios(&mut stage)?;
    costs(&mut stage)?;
    stage.scene.stop_dtm()
}

fn ratios(stage: &mut Stage) -> Result<()> {
    println!(
        "\none connection between two containers, {ROUNDS} rounds of {SECONDS} s by turns: min / median / max, and the ratio of \
         medians to no dtm"
    );
    let mut rates: [[Vec<f64>; 2]; SETTINGS.len()] = Default::default();
    for _round in 0..ROUNDS {
        for ((_name, arguments), rates) in SETTINGS.into_iter().zip(&mut rates) {
            if let Some(arguments) = arguments {
                stage.scene.start_dtm(&[&["--no-pin"], arguments].concat())?;
                for name in ["server", "client"] {
                    stage.scene.wait_named(&stage.scene.endpoint(name, BACK)?)?;
                }
            }
            rates[0].push(stage.throughput()?);
            rates[1].push(stage.turns()?);
            if arguments.is_some() {
                stage.scene.stop_dtm()?;
            }
        }
    }
    let mut none = [0.0; 2];
    for ((name, arguments), mut rates) in SETTINGS.into_iter().zip(rates) {
        println!("  {name}:");
        for (at, what) in ["iperf3, Gbit/s", "thousands of turns in a second"]
            .into_iter()
            .enumerate()
        {
            let spread = spread(&mut rates[at]);
            let median = rates[at][ROUNDS / 2];
            if arguments.is_none() {
                none[at] = median;
            }
            println!("    {what}: {spread}; {:.3}", median / none[at]);
        }
    }
    Ok(())
}

fn costs(stage: &mut Stage) -> Result<()> {
    println!(
        "\nns by the kernel's own account of programs (BPF_STATS_RUN_TIME), whose clocks are among them"
    );
    let _account = enable_stats(Stats::RunTime)?;
    println!("  a program that does nothing: {:.0}", floor()?);
    stage.scene.start_dtm(&["--no-pin"])?;
    for name in ["server", "client"] {
        stage.scene.wait_named(&stage.scene.endpoint(name, BACK)?)?;
    }
    stage.server.run("nft", [BARRED])?;
    let to = format!("{}:9", stage.address);
    let (lost, runs) = cost(DROP, || {
        stage.client.enter(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            (0..DROPS).try_for_each(|_number| socket.send_to(&[0; 64], &to).map(drop))
        })??;
        Ok(())
    })?;
    println!("  a drop: {lost:.0} ({runs} runs of {DROPS} drops)");
    let converse = || {
        stage.connected(echo, |mut stream| {
            (0..TURNS).try_for_each(|_number| turn(&mut stream))
        })
    };
    let (sample, runs) = cost(SOCK_OPS, converse)?;
    println!("  a round-trip sample: {sample:.0} ({runs} runs of {TURNS} turns)");
    stage.scene.stop_dtm()?;

    stage.scene.start_dtm(&["--no-pin", "--no-tcp-rtt"])?;
    for name in ["server", "client"] {
        stage.scene.wait_named(&stage.scene.endpoint(name, BACK)?)?;
    }
    stage
        .server
        .run("nft", [LOSS.replace("5001", &(PORT + 1).to_string())])?;
    let lossy = || {
        let drain = |mut stream: TcpStream| std::io::copy(&mut stream, &mut std::io::sink()).map(drop);
        stage.connected(drain, |mut stream| {
            let chunk = vec![0; 1 << 16];
            let mut left = LOSSY_BYTES;
            while left > 0 {
                stream.write_all(&chunk)?;
                left = left.saturating_sub(chunk.len() as u64);
            }
            Ok(())
        })
    };
    let (again, runs) = cost(SOCK_OPS, lossy)?;
    println!("  a retransmission: {again:.0} ({runs} runs)");
    Ok(())
}
