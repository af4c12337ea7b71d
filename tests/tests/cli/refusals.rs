//! Hosts on which dtm cannot work: 1, one line that says what to do, and nothing attached.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        net::UnixListener,
    },
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use dtm_tests::daemon::binary;
use xtask::host::Running;

use dtm_tests::attached;

use crate::scene::Scene;

/// The user that may nothing.
const NOBODY: &str = "65534";

/// How long dtm may take to find out that it cannot work.
const REFUSES_WITHIN: Duration = Duration::from_secs(20);

/// Runs dtm as `command` says: it ends with `code` and says one line with all of `expected` in it.
pub(crate) fn check(command: &mut Command, code: i32, expected: &[&str]) -> Result<()> {
    // Whoever asks for backtraces of panics gets none of plain errors.
    command
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = Running::spawn(command)?;
    let status = process.wait(REFUSES_WITHIN)?;
    let mut said = [String::new(), String::new()];
    let (output, errors) = (process.child().stdout.take(), process.child().stderr.take());
    std::io::Read::read_to_string(&mut output.context("no output")?, &mut said[0])?;
    std::io::Read::read_to_string(&mut errors.context("no errors")?, &mut said[1])?;
    let [output, errors] = said;
    assert_eq!(status.code(), Some(code), "{command:?}: {errors}");
    assert_eq!(output, "", "{command:?}");
    assert_eq!(errors.lines().count(), 1, "{command:?}: {errors}");
    assert!(errors.starts_with("dtm: "), "{command:?}: {errors}");
    for text in expected {
        assert!(errors.contains(text), "{text:?} is not in {errors}");
    }
    for text in ["panicked", "backtrace"] {
        assert!(!errors.contains(text), "{errors}");
    }
    Ok(())
}

/// As [`check`], with dtm in a host whose interfaces stay as they are.
fn refused(scene: &Scene, arguments: &[&str], expected: &[&str]) -> Result<()> {
    refused_after(scene, &[], arguments, expected)
}

/// As [`refused`], started through another program.
fn refused_after(scene: &Scene, through: &[&str], arguments: &[&str], expected: &[&str]) -> Result<()> {
    let dtm = binary("dtm")?;
    let dtm = dtm.to_str().context("a path that is UTF-8")?;
    let words: Vec<&str> = through.iter().copied().chain([dtm]).collect();
    let mut command = scene.host.command(words[0]);
    check(command.args(&words[1..]).args(arguments), 1, expected)?;
    nothing_is_attached(scene)
}

fn nothing_is_attached(scene: &Scene) -> Result<()> {
    assert_eq!(attached::to_interfaces(&scene.host)?, []);
    Ok(())
}

#[test]
fn what_is_no_socket_is_not_taken_for_dockers() -> Result<()> {
    let scene = Scene::new()?;
    let (directory, file) = (
        scene.host.outside("/run/directory"),
        scene.host.outside("/run/file"),
    );
    fs::create_dir(directory).context("make a directory")?;
    fs::write(file, "").context("make a file")?;
    refused(
        &scene,
        &["--docker.host=unix:///run/directory"],
        &["/run/directory is a directory", "remove it on the host"],
    )?;
    refused(
        &scene,
        &["--docker.host=unix:///run/file"],
        &["/run/file is not a socket", "name the one"],
    )
}

#[test]
fn a_socket_it_may_not_use_is_named() -> Result<()> {
    let scene = Scene::new()?;
    let socket = scene.host.directory().join("somebodys.sock");
    let _listener = UnixListener::bind(&socket).context("listen on a socket")?;
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).context("close the socket")?;
    chown(&socket, NOBODY.parse().ok(), None).context("give the socket away")?;
    let url = format!("--docker.host=unix://{}", socket.display());
    // root that may not read what is not its own: as user namespaces and containers have it.
    let through = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"];
    refused_after(
        &scene,
        &through,
        &[&url],
        &["somebodys.sock may not be used", "run dtm as root"],
    )
}

#[test]
fn an_address_in_use_is_named() -> Result<()> {
    let scene = Scene::new()?;
    let listener = scene
        .host
        .network()?
        .enter(|| std::net::TcpListener::bind("0.0.0.0:10048"))?;
    let _listener = listener.context("listen in the host")?;
    refused(
        &scene,
        &[],
        &[":10048", "--web.listen-address", "choose another port"],
    )?;
    refused(
        &scene,
        &["--web.listen-address=192.0.2.1:10048"],
        &["192.0.2.1:10048", "no address of this host"],
    )
}

#[test]
fn without_root_it_says_what_it_needs() -> Result<()> {
    let scene = Scene::new()?;
    let user = format!("--reuid={NOBODY}");
    let group = format!("--regid={NOBODY}");
    refused_after(
        &scene,
        &["setpriv", &user, &group, "--clear-groups", "--"],
        &[],
        &[
            "not permitted",
            "root",
            "CAP_BPF",
            "CAP_NET_ADMIN",
            "--privileged",
        ],
    )
}

#[test]
fn paths_that_lead_nowhere_are_named() -> Result<()> {
    let scene = Scene::new()?;
    refused(
        &scene,
        &["--path.btf=/run/nothing"],
        &["--path.btf", "/run/nothing", "leave the flag out"],
    )?;
    refused(
        &scene,
        &["--path.procfs=/run"],
        &["--path.procfs", "/run", "where the host's /proc is"],
    )
}

#[test]
fn a_kernel_without_bpf_is_named() -> Result<()> {
    let scene = Scene::new()?;
    let answers = [
        (libc::ENOSYS, ["no bpf(2)", "CONFIG_BPF_SYSCALL"]),
        (libc::EPERM, ["not permitted", "CAP_BPF"]),
    ];
    for (errno, expected) in answers {
        let mut command = scene.host.command(binary("dtm")?);
        // A thread of its own: what it forbids itself holds for its children and for ever.
        std::thread::scope(|scope| {
            let work = scope.spawn(|| {
                refuse_bpf(errno)?;
                check(&mut command, 1, &expected)
            });
            match work.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })?;
        nothing_is_attached(&scene)?;
    }
    Ok(())
}

/// Makes every bpf(2) of this thread and its children fail, as a kernel does that has none, or a container's profile.
fn refuse_bpf(errno: i32) -> Result<()> {
    let refuse = libc::SECCOMP_RET_ERRNO | errno.cast_unsigned();
    let statement = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    // The number of the system call is the first word of what the filter sees.
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            libc::SYS_bpf as u32,
        ),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, refuse),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    rustix::thread::set_no_new_privs(true).context("give up new privileges")?;
    #[expect(unsafe_code, reason = "seccomp filters have no wrapper here")]
    // SAFETY: the program and its instructions live through the call, which copies them.
    let result = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    anyhow::ensure!(
        result == 0,
        "install the filter: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}
